"""Candidates: the plot of accuracy against latency, and the table that holds its figures."""

from __future__ import annotations

from collections.abc import Sequence

from edgekd.gates.verdict import Decision, Gate
from edgekd.report import words
from edgekd.report.html.gates import is_slice
from edgekd.report.html.markup import Child, Html, el
from edgekd.report.html.parts import chip, section, table
from edgekd.report.html.scatter import pareto_figure
from edgekd.report.pareto import ParetoChart
from edgekd.report.view import CandidateRow, View

_ORDER: tuple[Decision, ...] = ("pass", "inconclusive", "reject", "error", "not_run")
_TIMES = ("latency", "regression", "tail", "latency_absolute")
HEADER = ("candidate", "decision", "accuracy", "latency", "size", "not passed", "judged on", "target")


def ordered(candidates: Sequence[CandidateRow]) -> list[CandidateRow]:
    """Selected first, then by decision, then by time."""

    def key(row: CandidateRow) -> tuple[bool, int, float]:
        gate = _first(row, _TIMES)
        time = gate.estimate if gate is not None and gate.estimate is not None else float("inf")
        return (not row.selected, _ORDER.index(row.verdict.decision), time)

    return sorted(candidates, key=key)


def _first(row: CandidateRow, names: Sequence[str]) -> Gate | None:
    return next((g for name in names if (g := row.gate(name)) is not None), None)


def candidates_section(view: View) -> Html:
    """Plots first, one per target; then the table."""
    rows = ordered(view.candidates)
    parts: list[Child] = []
    for i, chart in enumerate(view.pareto):
        numbers = {r.verdict.artifact: n for n, r in enumerate(rows, 1) if r.verdict.target == chart.target}
        names = {r.verdict.artifact: r.name for r in rows}
        if len(view.pareto) > 1:
            parts.append(el("h3", chart.target))
        parts.append(pareto_figure(chart, names, numbers, index=i, note=_note(chart, names)))
    caption = (
        "Every candidate, the selected one first, then by decision and time. Figures in brackets are the two "
        "one-sided bounds that decide; those not selected were looked at on the selection split."
    )
    # One target needs no column of its own.
    columns = len(HEADER) - (len({r.verdict.target for r in rows}) < 2)
    parts.append(
        table(
            caption,
            HEADER[:columns],
            [_row(r, n)[:columns] for n, r in enumerate(rows, 1)],
            name="Candidates",
            marked=[r.selected for r in rows],
            left=(1, 5, 6, 7),
        )
    )
    return section(
        "candidates", "Candidates: accuracy against latency" if view.pareto else "Candidates", *parts
    )


def _note(chart: ParetoChart, names: dict[str, str]) -> str:
    own = (
        "; upright, the 95 % interval of its own score, which pairing by example takes out of the differences"
        if chart.reference.accuracy.lower is not None
        else ""
    )
    said = [
        "Numbers are those of the table below; on a narrow page marks that stand too close have none. Bars are the bounds that decide, on both axes. The bars of the "
        f"{chart.against}: across, its hidden second copy against itself, which is what this machine can tell apart{own}."
    ]
    if chart.reference_value is not None:
        value = words.metric_value(chart.reference_value, chart.unit)
        said.append(f"The {chart.against}'s {chart.metric} is {value}.")
    if chart.missing:
        shown = ", ".join(names.get(m, m[:19]) for m in chart.missing[:5])
        more = f" and {len(chart.missing) - 5} more" if len(chart.missing) > 5 else ""
        said.append(f"Not drawn, for they lack timings or scores: {shown}{more}.")
    return " ".join(said)


def _row(row: CandidateRow, place: int) -> list[Child]:
    kind = el("small", f"{row.verdict.dtype}, {row.format}")
    failed = dict.fromkeys(
        g.gate.partition(":")[0] if is_slice(g) else g.gate
        for g in row.verdict.gates
        if g.decision not in ("pass", "not_run")
    )
    return [
        [f"{place}. {row.name} ", el("b", "selected", class_="tag") if row.selected else None, kind],
        chip(row.verdict.decision),
        _figure(row.gate("accuracy")),
        _figure(_first(row, _TIMES)),
        words.mebibytes(row.size_bytes),
        ", ".join(failed) or words.DASH,
        "test" if row.selected else "selection split",
        row.verdict.target,
    ]


def _figure(gate: Gate | None) -> Child:
    if gate is None or gate.estimate is None:
        return words.DASH
    bounds = el("small", words.bounds(gate)) if gate.interval is not None else None
    return [words.figure(gate, gate.estimate), bounds]
