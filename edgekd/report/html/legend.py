"""The marks of the accuracy-versus-latency plot, and the list that explains them."""

from __future__ import annotations

from collections.abc import Sequence

from edgekd.gates.verdict import Decision
from edgekd.report.html.markup import Html, el
from edgekd.report.pareto import ParetoChart
from edgekd.report.words import DECISION_WORDS


def shape(decision: Decision, x: float, y: float, r: float, title: str | None = None) -> Html:
    """A mark whose form says the decision, as its colour does."""
    inner = el("title", title) if title else None
    kind = f"point {decision}"
    if decision == "pass":
        return el("circle", inner, cx=x, cy=y, r=r, class_=kind)
    corners: tuple[tuple[float, float], ...]
    if decision == "inconclusive":
        corners = ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0))
    elif decision == "error":
        corners = ((0, -1.25), (1.15, 0.9), (-1.15, 0.9))
    elif decision == "reject":
        a, b = 0.42, 1.15
        corners = (
            (0, -a), (b - a, -b), (b, a - b), (a, 0), (b, b - a), (b - a, b),
            (0, a), (a - b, b), (-b, b - a), (-a, 0), (-b, a - b), (a - b, -b),
        )  # fmt: skip
    else:
        corners = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    drawn = " ".join(f"{x + dx * r:.1f},{y + dy * r:.1f}" for dx, dy in corners)
    return el("polygon", inner, points=drawn, class_=kind)


def region_words(chart: ParetoChart) -> str:
    """What the gates allow, in words."""
    said = []
    if chart.max_ratio is not None:
        said.append(f"at most {chart.max_ratio:.4g}x the time")
    if chart.least_difference is not None:
        drop = -chart.least_difference
        amount = (
            f"{100 * drop:.4g} points" if chart.unit == "fraction" else f"{drop:.4g} {chart.unit}".strip()
        )
        said.append(f"at most {amount} lost")
    return "allowed: " + ", ".join(said)


def legend(chart: ParetoChart) -> Html:
    """Forms and their decisions, as a list."""
    seen: Sequence[Decision] = ("pass", "inconclusive", "reject", "error", "not_run")
    entries = [
        el(
            "li",
            el("svg", shape(d, 8, 8, 5), width="16", height="16", aria_hidden="true"),
            DECISION_WORDS[d].lower(),
        )
        for d in seen
        if any(p.decision == d for p in chart.points)
    ]
    if any(p.selected for p in chart.points):
        ring = el(
            "svg", el("circle", cx=8, cy=8, r=7, class_="ring"), width="16", height="16", aria_hidden="true"
        )
        entries.append(el("li", ring, "selected, judged on the test split"))
    square = el(
        "svg",
        el("rect", x=2, y=2, width=12, height=12, class_="origin"),
        width="16",
        height="16",
        aria_hidden="true",
    )
    entries.append(el("li", square, f"the {chart.against}"))
    if chart.max_ratio is not None or chart.least_difference is not None:
        area = el("rect", x=1, y=3, width=14, height=10, class_="allowed")
        swatch = el("svg", area, width="16", height="16", aria_hidden="true")
        entries.append(el("li", swatch, region_words(chart)))
    line = el(
        "svg", el("path", d="M0 12H8V4H16", class_="front"), width="16", height="16", aria_hidden="true"
    )
    entries.append(el("li", line, "not beaten in both"))
    return el("ul", *entries, class_="legend")
