"""Slices: a row with its interval per part of the data, failing ones first, all on one axis."""

from __future__ import annotations

from collections.abc import Sequence

from edgekd.gates.verdict import Decision, Gate
from edgekd.report import words
from edgekd.report.amounts import plural, shortened
from edgekd.report.html.gates import gate_scale, is_slice, tick_words
from edgekd.report.html.markup import Child, Html, el
from edgekd.report.html.parts import axis_cell, chip, fold, section, small_plot, table
from edgekd.report.html.scale import Scale
from edgekd.report.view import View

_ORDER: tuple[Decision, ...] = ("error", "reject", "inconclusive", "pass", "not_run")
#: Rows that are open; beyond them passing slices are folded away, failing ones never.
OPEN_ROWS = 25


def slices_section(view: View) -> Html | None:
    """Every slice gate of the selected candidates; None where none was asked."""
    gates = [g for g in view.verdict.gates if is_slice(g) and g.artifact]
    if not gates:
        return None
    gates = sorted(gates, key=lambda g: (_ORDER.index(g.decision), _bound(g)))
    drawn = [g for g in gates if g.slice is not None and g.estimate is not None]
    plain = [g for g in gates if g not in drawn]
    parts: list[Child] = [
        el(
            "p",
            f"{_counts(gates)}. Failing slices first, then by their lower bound. The lower bound is one-sided 95 %: "
            f"all slices must pass, which needs no correction. The upper bound{_levels(gates)} is corrected for "
            "the number of slices, so that many do not reject by chance. What has too few examples is reported and not gated (not run).",
            class_="soft",
        )
    ]
    if plain:
        parts.append(
            el(
                "ul",
                *(el("li", chip(g.decision), " ", g.gate, ": ", words.reason(g)) for g in plain),
                class_="plain",
            )
        )
    if drawn:
        scale = gate_scale(drawn)
        bad = sum(g.decision in ("error", "reject", "inconclusive") for g in drawn)
        shown = max(OPEN_ROWS, bad)
        parts.append(_table(drawn[:shown], scale, "Slices"))
        if rest := drawn[shown:]:
            parts.append(fold(plural(len(rest), "more slice"), _table(rest, scale, "More slices")))
    return section("slices", "Slices", *parts)


def _bound(gate: Gate) -> float:
    if gate.interval is not None and gate.interval[0] is not None:
        return gate.interval[0]
    return 0.0 if gate.estimate is None else gate.estimate


def _levels(gates: Sequence[Gate]) -> str:
    """The levels of the upper bounds, in brackets; nothing where the gates do not say them."""
    levels = [x for g in gates if isinstance(x := g.detail.get("upper_confidence"), float)]
    if not levels:
        return ""
    # More digits than elsewhere: one of many slices is judged at 99.9 % and more.
    shown = dict.fromkeys(f"{100 * x:.6g}" for x in (min(levels), max(levels)))
    return f" (one-sided {' to '.join(shown)} %)"


def _counts(gates: Sequence[Gate]) -> str:
    found = [(d, sum(g.decision == d for g in gates)) for d in _ORDER]
    return ", ".join(f"{n} {words.DECISION_WORDS[d].lower()}" for d, n in found if n).capitalize()


def _table(gates: Sequence[Gate], scale: Scale, name: str) -> Html:
    several = len({g.target for g in gates}) > 1
    unit = "points" if gates[0].unit == "fraction" else gates[0].unit
    header: list[Child] = [
        "slice",
        "decision",
        [
            f"against the {gates[0].against}{f', {unit}' if unit else ''}",
            axis_cell(scale, lambda value: tick_words(gates[0], value)),
        ],
        "estimate",
        "bounds",
        "limit",
        "n",
    ]
    rows: list[list[Child]] = []
    for g in gates:
        row = words.gate_row(g)
        slice_name = g.gate.partition(":")[2]
        rows.append(
            [
                [f"{slice_name} = {shortened(g.slice or '')}", el("small", g.target) if several else None],
                chip(g.decision),
                small_plot(
                    scale, g.estimate, g.interval, kind=g.decision, limit=g.limit, neutral=0.0, above=True
                ),
                row[2],
                row[3],
                row[4],
                "" if g.n is None else f"{g.n:,}",
            ]
        )
    return table("", header, rows, name=name, left=(1, 2))
