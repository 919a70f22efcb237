"""The pull request's view."""

from __future__ import annotations

from collections.abc import Sequence

from edgekd.report import words
from edgekd.report.view import View, flatten, ledger_ranges

_MARKS = {"pass": "✅", "reject": "❌", "inconclusive": "❔", "error": "⚠️", "not_run": "➖"}


def render_markdown(view: View) -> str:
    """GitHub-flavoured Markdown."""
    verdict = view.verdict
    lines = [
        f"# {_safe(view.run.name)}: {_MARKS[verdict.decision]} {words.DECISION_WORDS[verdict.decision]}",
        "",
        words.HEADLINES[verdict.decision],
        "",
        *(
            f"- {_MARKS[g.decision]} **{g.gate}** on `{g.target}`: {_safe(g.reason)}"
            + (" (optional target, does not decide)" if g.target in verdict.optional else "")
            for g in verdict.gates
        ),
        "",
        "## Gates",
        "",
        *_table(words.GATE_HEADER, [words.gate_row(g) for g in verdict.gates]),
    ]
    if view.chain is not None:
        header = (words.CHAIN_HEADER[0], view.chain.metric, *words.CHAIN_HEADER[2:])
        lines += ["", f"## Chain, on the {view.chain.split} split", ""]
        lines += _table(header, words.chain_rows(view.chain))
        lines += ["", *(f"- {_safe(s)}" for s in words.chain_sentences(view.chain))]
    lines += ["", "## Candidates", ""]
    lines += _table(words.CANDIDATE_HEADER, [words.candidate_row(c) for c in view.candidates])
    if view.latencies:
        lines += ["", "## Timings", "", words.LATENCY_NOTE]
    for timings in view.latencies:
        lines += ["", f"**{_safe(words.latency_title(timings))}**", ""]
        lines += _table(words.LATENCY_HEADER, words.latency_rows(timings))
        if timings.selected and timings.ledgers:
            readings = ", ".join(f"{k} {v}" for k, v in ledger_ranges(timings.ledgers) if v != "unavailable")
            lines += ["", f"Machine meanwhile (over the restarts): {_safe(readings) or 'no readings'}."]
    if view.notes:
        lines += ["", "## Notes", "", *(f"- {_safe(n)}" for n in view.notes)]
    environment = flatten(verdict.environment)
    if environment:
        lines += ["", "## Environment", "", *_table(("reading", "value"), environment)]
    lines += ["", f"Collected at {verdict.collected_at}, judged by EdgeKD {verdict.edgekd}."]
    return "\n".join(lines) + "\n"


def _safe(text: str) -> str:
    """Text that cannot open a tag, a table cell or another line."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return " ".join(plain.split())


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(_safe, cells)) + " |"

    rule = "|" + "|".join(["---", *["---:"] * (len(header) - 1)]) + "|"
    return [line(header), rule, *map(line, rows)]
