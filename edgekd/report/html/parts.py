"""Parts that every section is made of: tables in their scroll box, facts, decisions, small drawings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from edgekd.gates.verdict import Decision
from edgekd.report.html.markup import Child, Html, el, join, number
from edgekd.report.html.scale import Scale
from edgekd.report.words import DECISION_WORDS

#: A sign beside the word, so that neither colour nor reading is needed alone.
SIGNS: dict[Decision, str] = {"pass": "✓", "reject": "✕", "inconclusive": "?", "error": "!", "not_run": "–"}


def chip(decision: Decision) -> Html:
    """A decision as sign and word."""
    sign = el("span", SIGNS[decision], aria_hidden="true", class_="sign")
    return el("span", sign, DECISION_WORDS[decision], class_=f"chip {decision}")


def section(anchor: str, title: str, *children: Child) -> Html:
    """A titled section that the contents can lead to."""
    heading = el("h2", title, id=f"{anchor}-title")
    return el("section", heading, *children, id=anchor, aria_labelledby=f"{anchor}-title")


def scroll(label: str, child: Html) -> Html:
    """A box that scrolls sideways by itself, with the keyboard too, so that the page never does."""
    return el("div", child, class_="scroll", role="group", aria_label=f"{label} (scrolls)", tabindex="0")


def table(
    note: str,
    header: Sequence[Child],
    rows: Iterable[Sequence[Child]],
    *,
    name: str,
    marked: Sequence[bool] = (),
    left: Sequence[int] = (),
) -> Html:
    """A table with header cells in a scroll box, and a note above it that does not scroll away.

    Args:
        note: what it holds; may be empty.
        name: its caption, for assistive technology.
        marked: rows to set off.
        left: columns besides the first that hold words rather than figures.
    """
    heads = [el("th", h, scope="col", class_="left" if i in left else None) for i, h in enumerate(header)]
    lines = []
    for i, row in enumerate(rows):
        cells = [
            el("th", c, scope="row") if j == 0 else el("td", c, class_="left" if j in left else None)
            for j, c in enumerate(row)
        ]
        lines.append(el("tr", *cells, class_="marked" if marked and marked[i] else None))
    grid = el(
        "table", el("caption", name, class_="unseen"), el("thead", el("tr", *heads)), el("tbody", *lines)
    )
    return join(el("p", note, class_="soft note") if note else None, scroll(name, grid))


def facts(rows: Sequence[tuple[str, str]], *, name: str, mono: bool = False) -> Html:
    """Readings and their values; nothing where there are none."""
    if not rows:
        return Html("")
    body = [el("tr", el("th", k, scope="row"), el("td", v)) for k, v in rows]
    kind = "facts mono" if mono else "facts"
    return el("table", el("caption", name, class_="unseen"), el("tbody", body), class_=kind)


def fold(summary: Child, *children: Child) -> Html:
    """Contents behind a summary, closed; printed in full all the same."""
    return el("details", el("summary", summary), el("div", *children))


def share(value: float) -> str:
    """A position on an axis, 0 to 1, as SVG writes it: drawings grow with the page, their text does not."""
    return f"{number(100 * value)}%"


def anchored(position: float, edge: float = 0.12) -> str:
    """How text is anchored so that it stays inside the drawing."""
    return "start" if position < edge else "end" if position > 1 - edge else "middle"


def interval_marks(
    scale: Scale,
    estimate: float | None,
    interval: tuple[float | None, float | None] | None,
    *,
    y: float,
    r: float = 5,
) -> Html:
    """A dot with its interval; a bound that does not exist ends in an arrow at the edge."""
    marks: list[Html] = []
    if interval is not None:
        low, high = interval
        a = scale.at(low) if low is not None and math.isfinite(low) else 0.0
        b = scale.at(high) if high is not None and math.isfinite(high) else 1.0
        marks.append(el("line", x1=share(a), x2=share(b), y1=y, y2=y, class_="bar"))
        for position, bound, arrow in ((a, low, "‹"), (b, high, "›")):
            if bound is not None and math.isfinite(bound):
                marks.append(
                    el("line", x1=share(position), x2=share(position), y1=y - 5, y2=y + 5, class_="cap")
                )
            else:
                where = "start" if arrow == "‹" else "end"
                marks.append(el("text", arrow, x=share(position), y=y + 5, text_anchor=where, class_="arrow"))
    if estimate is not None and math.isfinite(estimate):
        marks.append(el("circle", cx=share(scale.at(estimate)), cy=y, r=r, class_="dot"))
    return join(marks)


def small_plot(
    scale: Scale,
    estimate: float | None,
    interval: tuple[float | None, float | None] | None,
    *,
    kind: str,
    limit: float | None = None,
    neutral: float | None = None,
    above: bool = True,
) -> Html:
    """A table cell's drawing; the figures stand in the cells beside it, so it is hidden from assistive technology."""
    marks: list[Html] = []
    if limit is not None:
        marks.append(allowed(scale, limit, above=above, y=0, height=22))
        marks.append(
            el("line", x1=share(scale.at(limit)), x2=share(scale.at(limit)), y1=0, y2=22, class_="limit")
        )
    if neutral is not None:
        marks.append(
            el(
                "line",
                x1=share(scale.at(neutral)),
                x2=share(scale.at(neutral)),
                y1=0,
                y2=22,
                class_="neutral",
            )
        )
    marks.append(interval_marks(scale, estimate, interval, y=11, r=4.5))
    return el("svg", *marks, class_=f"cell {kind}", width="100%", height="22", aria_hidden="true")


def allowed(scale: Scale, limit: float, *, above: bool, y: float, height: float) -> Html:
    """The side of the limit that passes."""
    at = scale.at(limit)
    start, width = (at, 1 - at) if above else (0.0, at)
    return el("rect", x=share(start), width=share(width), y=y, height=height, class_="allowed")


def axis_cell(scale: Scale, written: Callable[[float], str], wanted: int = 3) -> Html:
    """Ticks for the header of a column of drawings."""
    marks = []
    for tick in scale.ticks(wanted):
        at = scale.at(tick)
        marks.append(el("text", written(tick), x=share(at), y=11, text_anchor=anchored(at)))
        marks.append(el("line", x1=share(at), x2=share(at), y1=15, y2=20, class_="tick"))
    return el("svg", *marks, class_="cell axis", width="100%", height="20", aria_hidden="true")
