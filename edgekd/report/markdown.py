"""The pull request's view: report.md, also a comment. The verdict first, what holds it up next, all else folded away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgekd.gates.verdict import Decision, Gate
from edgekd.report import words
from edgekd.report.amounts import plural
from edgekd.report.fidelity import TITLES, figure_words
from edgekd.report.github import code, details, escape, table
from edgekd.report.grouped import ORDER, SHOWN, SliceGroup, group_slices
from edgekd.report.lineage import outline
from edgekd.report.provenance import (
    AT_RELEASE,
    FINDING_HEADER,
    finding_row,
    obligation_sentence,
    waiver_sentence,
)
from edgekd.report.speedup import HEADER as FASTER_HEADER
from edgekd.report.speedup import TITLE, WORDS, speedup_row, told
from edgekd.report.view import View, flatten, ledger_ranges

_MARKS: dict[Decision, str] = {
    "pass": "✅",
    "reject": "❌",
    "inconclusive": "❔",
    "error": "⚠️",
    "not_run": "➖",
}
_MAY: dict[Decision, str] = {
    "pass": "may ship",
    "reject": "may not ship",
    "inconclusive": "not decided",
    "error": "could not be judged",
    "not_run": "nothing was judged",
}


def render_markdown(view: View) -> str:
    """GitHub-flavoured Markdown."""
    verdict = view.verdict
    gates, groups = group_slices(verdict.gates)
    parts = [
        [_first_line(view)],
        _gates(view, gates, groups),
        _reasons(view, gates, groups),
        _chain(view),
        _faster(view),
        _provenance(view),
        [f"- {escape(n)}" for n in view.notes],
        _folded(view),
        [_last_line(view)],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def _worst(view: View) -> Gate | None:
    """The first gate of a required target that is as bad as the run; None of a run that passed."""
    verdict = view.verdict
    if verdict.decision == "pass":
        return None
    deciding = (g for g in verdict.gates if g.target not in verdict.optional)
    return next((g for g in deciding if g.decision == verdict.decision), None)


def _first_line(view: View) -> str:
    """Verdict, run and the reason of the worst gate; of a run that passed, how many gates did."""
    verdict = view.verdict
    mark, word = _MARKS[verdict.decision], words.DECISION_WORDS[verdict.decision]
    head = f"{mark} **{word}: {escape(view.run.name)} {_MAY[verdict.decision]}.**"
    if verdict.decision == "pass":
        passed = [g for g in verdict.gates if g.decision == "pass" and g.target not in verdict.optional]
        targets = list(dict.fromkeys(g.target for g in passed if g.target))
        where = _on(targets[0] if targets else "") if len(targets) < 2 else f" on {len(targets)} targets"
        return f"{head} {plural(len(passed), 'gate')} passed{where}."
    worst = _worst(view)
    if worst is None:
        return f"{head} {words.HEADLINES[verdict.decision]}"
    return f"{head} {escape(words.gate_name(worst))}{_on(worst.target)}: {escape(words.reason(worst))}"


def _on(target: str) -> str:
    """Where a gate was judged; provenance is the run's, and nowhere."""
    return f" on {code(target)}" if target else ""


def _gates(view: View, gates: Sequence[Gate], groups: Sequence[SliceGroup]) -> list[str]:
    """One row per gate, and per slice that holds the run up; the other slices are counted."""
    shown = [*gates, *(g for group in groups for g in group.failing[:SHOWN])]
    # What did not run has no figures; its reason is told below.
    shown = [g for g in shown if g.decision != "not_run" or g.estimate is not None]
    targets = {g.target for g in (*shown, *(g for group in groups for g in group.gates)) if g.target}
    header = words.GATE_HEADER if len(targets) > 1 else words.GATE_HEADER[:-1]
    rows = []
    for gate in shown:
        name, word, *figures, target = map(escape, words.gate_row(gate))
        rows.append([name, f"{_MARKS[gate.decision]} {word}", *figures, code(gate.target) if target else ""])
    said = []
    for group in groups:
        where = f" on {code(group.target)}" if len(targets) > 1 else ""
        more = len(group.failing) - SHOWN
        rest = f"; {more:,} more of them are in verdict.json" if more > 0 else ""
        said.append(f"- {_MARKS[group.decision]} {escape(group.gate)}{where}: {escape(group.told)}{rest}.")
    lines = table(header, [r[: len(header)] for r in rows], left=words.GATE_WORDS) if rows else []
    return [*lines, *([""] if lines and said else []), *said]


def _reasons(view: View, gates: Sequence[Gate], groups: Sequence[SliceGroup]) -> list[str]:
    """Why each gate that did not pass did not, the worst first; each reason once, the first line's not again."""
    worst = _worst(view)
    shown = [*gates, *(g for group in groups for g in group.failing[:SHOWN])]
    reasons: dict[tuple[str, str], list[Gate]] = {}
    for gate in sorted(shown, key=lambda g: ORDER.index(g.decision)):
        if gate.decision != "pass" and gate is not worst:
            reasons.setdefault((gate.target, words.reason(gate)), []).append(gate)
    return [
        f"- {_MARKS[own[0].decision]} **{', '.join(escape(words.gate_name(g)) for g in own)}**{_on(target)}: "
        f"{escape(reason)}"
        + (" (optional target, does not decide)" if target in view.verdict.optional else "")
        for (target, reason), own in reasons.items()
    ]


def _chain(view: View) -> list[str]:
    chain = view.chain
    if chain is None:
        return []
    header = (words.CHAIN_HEADER[0], words.metric_header(chain), *words.CHAIN_HEADER[2:])
    rows = [[escape(c) for c in row] for row in words.chain_rows(chain)]
    said = [f"- {escape(s)}" for s in words.chain_sentences(chain)]
    unit = "points" if chain.unit == "fraction" else escape(chain.unit)
    title = f"**The chain on the {escape(chain.split)} split**" + (f", differences in {unit}" if unit else "")
    return [title, "", *table([escape(h) for h in header], rows), *(["", *said] if said else [])]


def _faster(view: View) -> list[str]:
    """Quantized candidates beside their float twins; the reasons of those that are no faster are folded away."""
    if not view.speedups:
        return []
    rows = [[escape(c) for c in speedup_row(s)] for s in view.speedups]
    lines = [f"**{TITLE}**", "", *table(FASTER_HEADER, rows, left=WORDS)]
    for found, sentences in told(view.speedups):
        title = f"Why {escape(found.label)} is not faster on {code(found.target)}"
        lines += ["", *details(title, [f"- {escape(line)}" for line in sentences])]
    return lines


def _provenance(view: View) -> list[str]:
    """Waivers where nobody can miss them; findings, what a bundle has to carry, and the lineage folded away."""
    lines: list[str] = []
    if (found := view.provenance) is not None:
        lines += [f"- ✋ {escape(waiver_sentence(w))}" for w in found.waivers]
        rows = [[escape(c) for c in finding_row(f)] for f in found.findings]
        told = [AT_RELEASE, ""] if found.at_release else []
        told += table(FINDING_HEADER, rows, left=(1, 2, 3)) if rows else []
        asked = [f"- {escape(obligation_sentence(found, o))}" for o in found.obligations]
        more = ["", "Asked of those who pass the model on:", "", *asked] if asked else []
        lines += ([""] if lines else []) + details("Provenance", [*told, *more])
    if view.lineage is not None:
        lines += details("Where it comes from", outline(view.lineage, escape))
    return lines


def _folded(view: View) -> list[str]:
    """Candidates, timings and the machine."""
    lines: list[str] = []
    if len(view.candidates) > 1:
        rows = [[escape(c) for c in words.candidate_row(row)] for row in view.candidates]
        lines += details(
            f"{len(rows)} candidates", table(words.CANDIDATE_HEADER, rows, left=words.CANDIDATE_WORDS)
        )
    for found in view.fidelity:
        rows = [[TITLES[f.name], *figure_words(f)] for f in found.figures]
        lines += details(
            escape(f"Fidelity of '{found.label}' to '{found.against}', {found.n:,} examples"),
            table(
                ("figure", "estimate", "one-sided 95 % bounds"), [[escape(c) for c in row] for row in rows]
            ),
        )
    for flips in view.flips:
        rows = [[escape(c) for c in row] for row in words.flip_rows(flips)]
        header = [escape(h) for h in words.flip_header(flips)]
        said = [escape(words.flip_sentence(flips)), "", *table(header, rows, left=words.FLIP_WORDS)]
        on = f" on {code(flips.target)}" if len(view.flips) > 1 else ""
        lines += details(words.flip_title(flips) + on, said if rows else said[:1])
    if view.latencies:
        lines += details("Timings", [words.LATENCY_NOTE, *_timings(view)])
    environment = [[escape(c) for c in row] for row in flatten(view.verdict.environment)]
    if environment:
        lines += details("Machine", table(("reading", "value"), environment, left=(1,)))
    return lines


def _timings(view: View) -> Iterator[str]:
    for timings in view.latencies:
        yield from ("", f"**{escape(words.latency_title(timings))}**", "")
        yield from table(words.LATENCY_HEADER, [[escape(c) for c in r] for r in words.latency_rows(timings)])
        if timings.selected and timings.ledgers:
            readings = ", ".join(f"{k} {v}" for k, v in ledger_ranges(timings.ledgers) if v != "unavailable")
            yield from ("", f"Machine meanwhile (over the restarts): {escape(readings) or 'no readings'}.")


def _last_line(view: View) -> str:
    """What was judged, when and by what, small."""
    verdict = view.verdict
    judged = [f"{view.name_of(a)} {a[:19]}" for a in dict.fromkeys(verdict.selected.values())]
    said = [*judged, f"collected at {verdict.collected_at}", f"judged by EdgeKD {verdict.edgekd}"]
    return f"<sub>{escape(', '.join(said))}</sub>"
