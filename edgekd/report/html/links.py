"""The chain: each hop's score, its distance to the teacher drawn on one axis, and which hop is to blame."""

from __future__ import annotations

from collections.abc import Iterable

from edgekd.report import words
from edgekd.report.amounts import plural
from edgekd.report.blame import blame
from edgekd.report.chain import NAIVE, ChainRow, ChainTable, Difference
from edgekd.report.html.markup import Child, Html, el
from edgekd.report.html.parts import axis_cell, section, small_plot, table
from edgekd.report.html.scale import Scale, scale_over


def chain_section(chain: ChainTable) -> Html:
    """Blame first, then the table, then what each hop cost in words."""
    fraction = chain.unit == "fraction"
    unit = "points" if fraction else chain.unit or "difference"

    def tick(value: float) -> str:
        shown = 100 * value if fraction else value
        return f"{shown:+.3g}" if shown else "0"

    whole = _scale(r.to_teacher for r in chain.rows)
    hops = _scale(r.step for r in chain.rows if r.hop != NAIVE)
    counts = {r.n for r in chain.rows}
    header: list[Child] = [
        "hop",
        words.metric_header(chain),
        [f"against the teacher, {unit}", axis_cell(whole, tick)],
        "with bounds",
        [f"this hop, {unit}", axis_cell(hops, tick)],
        "with bounds",
        *(["n"] if len(counts) > 1 else []),
    ]
    rows = [[*_row(chain, r, whole, hops), *([f"{r.n:,}"] if len(counts) > 1 else [])] for r in chain.rows]
    on = f" on {plural(chain.rows[0].n, 'example')}" if len(counts) == 1 else ""
    told = blame(chain)
    sentences = [s for s in words.chain_sentences(chain) if s != told]
    return section(
        "chain",
        f"Chain, on the {chain.split} split",
        el("p", told, class_="lead") if told else None,
        table(
            f"Differences{on} with both one-sided 95 % bounds; a bar that does not reach the vertical line is told "
            "from zero.",
            header,
            rows,
            name="Chain",
            left=(2, 4),
        ),
        el("ul", *(el("li", s) for s in sentences)) if sentences else None,
    )


def _scale(differences: Iterable[Difference | None]) -> Scale:
    values: list[float | None] = [0.0]
    for found in differences:
        if found is not None:
            values += [found.estimate, *(found.interval or ())]
    return scale_over(values)


def _row(chain: ChainTable, row: ChainRow, whole: Scale, hops: Scale) -> list[Child]:
    hop = None if row.hop == NAIVE else row.step
    return [
        [row.label, el("small", row.what) if row.what else None],
        words.metric_cell(row.mean, chain.unit),
        _drawn(row.to_teacher, whole),
        _told(row.to_teacher),
        _drawn(hop, hops),
        _told(hop),
    ]


def _told(found: Difference | None) -> Child:
    """The figure, and its bounds below it: beside it they would not fit a page in every unit."""
    estimate, _, bounds = words.difference(found).partition(" ")
    return [estimate, el("small", bounds) if bounds else None]


def _drawn(found: Difference | None, scale: Scale) -> Child:
    if found is None:
        return None
    kind = "reject" if found.is_loss else "pass" if found.is_gain else "not_run"
    return small_plot(scale, found.estimate, found.interval, kind=kind, neutral=0.0)
