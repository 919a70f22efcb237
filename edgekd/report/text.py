"""The terminal's view: verdict, gates, chain."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from edgekd.gates.verdict import Decision
from edgekd.report import words
from edgekd.report.grouped import SHOWN, group_slices
from edgekd.report.speedup import TITLE
from edgekd.report.speedup import sentence as faster_sentence
from edgekd.report.view import View

_COLOURS: dict[Decision, str] = {
    "pass": "32",
    "reject": "31",
    "inconclusive": "33",
    "error": "31",
    "not_run": "2",
}


def render_text(view: View, *, colour: bool = False) -> str:
    """Plain text of at most about 110 columns; escape codes only where ``colour`` is true."""

    def paint(text: str, decision: Decision) -> str:
        return f"\033[1;{_COLOURS[decision]}m{text}\033[0m" if colour else text

    verdict = view.verdict
    lines = [
        f"{_tame(view.run.name)}: {paint(words.DECISION_WORDS[verdict.decision], verdict.decision)}. "
        f"{words.HEADLINES[verdict.decision]}",
        "",
    ]
    gates, groups = group_slices(verdict.gates)
    gates += [g.gates[0] for g in groups if len(g.gates) == 1]
    groups = [g for g in groups if len(g.gates) > 1]
    names = [_tame(words.gate_name(gate)) for gate in gates]
    wide = max([10, *map(len, names), *(len(_tame(g.gate)) for g in groups)])

    def row(decision: Decision, name: str, target: str, said: str) -> str:
        word = words.DECISION_WORDS[decision]
        optional = " (optional target, does not decide)" if target in verdict.optional else ""
        where = f"{target}: " if target else ""  # provenance is the run's
        return f"  {paint(f'{word:12}', decision)}  {name:{wide}}  {where}{_tame(said)}{optional}"

    for name, gate in zip(names, gates, strict=True):
        lines.append(row(gate.decision, name, gate.target, words.reason(gate)))
    for group in groups:
        lines.append(
            row(group.decision, _tame(group.gate), group.target, f"{group.told} (against {group.against})")
        )
        for gate in group.failing[:SHOWN]:
            lines.append(
                f"    {paint(f'{words.DECISION_WORDS[gate.decision]:12}', gate.decision)}  {_tame(words.reason(gate))}"
            )
        if len(group.failing) > SHOWN:
            lines.append(f"    and {len(group.failing) - SHOWN:,} more, listed in verdict.json")
    if view.chain is not None:
        header = (
            words.CHAIN_HEADER[0],
            words.metric_header(view.chain),
            "against the teacher",
            *words.CHAIN_HEADER[3:],
        )
        unit = (
            "points, " if view.chain.unit == "fraction" else f"{view.chain.unit}, " if view.chain.unit else ""
        )
        lines += ["", f"Chain on the {view.chain.split} split ({unit}one-sided 95 % bounds)"]
        lines += table(header, words.chain_rows(view.chain))
        lines += ["", *(line for said in words.chain_sentences(view.chain) for line in _wrap(said))]
    if len(view.candidates) > 1:
        lines += ["", "Candidates"]
        lines += table(
            words.CANDIDATE_HEADER[:6],
            [words.candidate_row(c)[:6] for c in view.candidates],
            left=words.CANDIDATE_WORDS,
        )
    for timings in (t for t in view.latencies if t.selected):
        lines += ["", f"Timings: {words.latency_title(timings)}"]
        lines += table(words.LATENCY_HEADER, words.latency_rows(timings))
    if view.speedups:
        lines += ["", TITLE]
        lines += [line for s in view.speedups for line in _wrap(_tame(faster_sentence(s)))]
    if view.notes:
        lines += ["", *(line for n in view.notes for line in _wrap(f"Note: {_tame(n)}", indent=""))]
    tidy = [line for i, line in enumerate(lines) if line or (i and lines[i - 1])]
    return "\n".join(tidy).rstrip() + "\n"


def _tame(text: str) -> str:
    """One line without control characters: names and reasons hold what data and file names say."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _wrap(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(text, 108, initial_indent=indent, subsequent_indent="  ", break_long_words=False)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = ()) -> list[str]:
    """Aligned columns: the first and those of ``left`` to the left, the others to the right."""
    widths = [max(len(r[i]) for r in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            c.ljust(w) if i in (0, *left) else c.rjust(w)
            for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return ("  " + "  ".join(padded)).rstrip()

    return [line(header), "  " + "  ".join("-" * w for w in widths), *map(line, rows)]
