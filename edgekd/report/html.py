"""The release engineer's view: one self-contained file, readable in light and dark, without scripts or network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from edgekd.gates.verdict import Gate
from edgekd.report import words
from edgekd.report.view import View, flatten, ledger_ranges

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5c6570; --line: #d9dee3; --paper: #fff; --card: #f6f7f9;
  --pass: #15703a; --reject: #b3261e; --inconclusive: #8a5a00; --error: #b3261e; --not_run: #5c6570; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #9aa4af; --line: #343b43; --paper: #14171a;
  --card: #1c2126; --pass: #5fcf8b; --reject: #ff8a80; --inconclusive: #f0b94d; --error: #ff8a80; --not_run: #9aa4af; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 64rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
p { margin: .5rem 0; max-width: 46rem; } .soft { color: var(--soft); }
.verdict { border: 1px solid var(--line); border-left: .5rem solid currentColor; background: var(--card);
  border-radius: .4rem; padding: 1rem 1.25rem; margin: 1rem 0; }
.verdict strong { font-size: 1.5rem; letter-spacing: .02em; } .verdict span { color: var(--ink); }
.pass { color: var(--pass); } .reject { color: var(--reject); } .inconclusive { color: var(--inconclusive); }
.error { color: var(--error); } .not_run { color: var(--not_run); }
ul { padding-left: 1.2rem; } li { margin: .3rem 0; } li b { white-space: nowrap; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding: .4rem 0; }
th, td { padding: .4rem .7rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); font-weight: 600; font-size: .85rem; }
tbody tr.chosen { background: var(--card); } td.word { font-weight: 600; }
td:not(:first-child) { white-space: nowrap; }
details { margin: .75rem 0; } summary { cursor: pointer; color: var(--soft); }
.facts td, .facts td:not(:first-child) { text-align: left; white-space: normal; overflow-wrap: anywhere; } .facts td:first-child { color: var(--soft); width: 18rem; }
svg { width: 100%; height: 2.6rem; display: block; }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
@media print { details { display: block; } body { max-width: none; } }
"""


def render_html(view: View) -> str:
    """A whole HTML document."""
    verdict = view.verdict
    parts = [
        f"<h1>{escape(view.run.name)}</h1>",
        f'<div class="verdict {verdict.decision}"><strong>{words.DECISION_WORDS[verdict.decision]}</strong>'
        f"<br><span>{words.HEADLINES[verdict.decision]}</span></div>",
        "<ul>",
        *(_sentence(g, optional=g.target in verdict.optional) for g in verdict.gates),
        "</ul>",
        "<h2>Gates</h2>",
        _table(
            words.GATE_HEADER,
            [words.gate_row(g) for g in verdict.gates],
            word_classes=[g.decision for g in verdict.gates],
        ),
        *(_scale(g) for g in verdict.gates),
    ]
    if view.chain is not None:
        header = (words.CHAIN_HEADER[0], view.chain.metric, *words.CHAIN_HEADER[2:])
        parts += [
            f"<h2>Chain, on the {escape(view.chain.split)} split</h2>",
            _table(header, words.chain_rows(view.chain)),
            "<ul>",
            *(f"<li>{escape(s)}</li>" for s in words.chain_sentences(view.chain)),
            "</ul>",
        ]
    parts += [
        "<h2>Candidates</h2>",
        _table(
            words.CANDIDATE_HEADER,
            [words.candidate_row(c) for c in view.candidates],
            word_classes=[c.verdict.decision for c in view.candidates],
            chosen=[c.selected for c in view.candidates],
        ),
    ]
    parts += _timings(view)
    if view.notes:
        parts += ["<h2>Notes</h2><ul>", *(f"<li>{escape(n)}</li>" for n in view.notes), "</ul>"]
    parts += _environment(view)
    parts.append(
        f"<footer>Collected at {escape(verdict.collected_at)}, judged by EdgeKD {escape(verdict.edgekd)}. "
        "This page is a view; <code>verdict.json</code> beside it is the truth.</footer>"
    )
    title = f"{view.run.name}: {words.DECISION_WORDS[verdict.decision]}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(p for p in parts if p)
        + "\n</body>\n</html>\n"
    )


def _sentence(gate: Gate, *, optional: bool) -> str:
    more = " <span class='soft'>(optional target, does not decide)</span>" if optional else ""
    return (
        f'<li><b class="{gate.decision}">{words.DECISION_WORDS[gate.decision]}</b> {escape(gate.gate)}: '
        f"{escape(gate.reason)}{more}</li>"
    )


def _table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    word_classes: Sequence[str] = (),
    chosen: Sequence[bool] = (),
    caption: str = "",
) -> str:
    """A table; ``word_classes`` colours the second column, ``chosen`` marks rows."""
    lines = ['<div class="scroll"><table>']
    if caption:
        lines.append(f"<caption>{escape(caption)}</caption>")
    lines.append(
        "<thead><tr>" + "".join(f'<th scope="col">{escape(h)}</th>' for h in header) + "</tr></thead><tbody>"
    )
    for i, row in enumerate(rows):
        cells = [
            f'<td class="word {word_classes[i]}">{escape(c)}</td>'
            if word_classes and j == 1
            else f"<td>{escape(c)}</td>"
            for j, c in enumerate(row)
        ]
        lines.append(f"<tr{' class=chosen' if chosen and chosen[i] else ''}>{''.join(cells)}</tr>")
    lines.append("</tbody></table></div>")
    return "\n".join(lines)


def _scale(gate: Gate) -> str:
    """The interval of a gate beside its limit, drawn to scale."""
    if gate.interval is None or gate.estimate is None or gate.limit is None:
        return ""
    neutral = {"fraction": 0.0, "ratio": 1.0}.get(gate.unit, gate.limit)
    if any(x is None or not math.isfinite(x) for x in gate.interval):
        return ""  # too few calls for a bound
    marks = [*gate.interval, gate.estimate, gate.limit, neutral]
    low, high = min(marks), max(marks)
    span = (high - low) or 1.0

    def x(value: float) -> str:
        return f"{60 + 780 * (value - low) / span:.1f}"

    limit = escape(f"limit {words.figure(gate, gate.limit)}")
    label = escape(
        f"{gate.gate}: {words.figure(gate, gate.estimate)} {words.bounds(gate)}, limit {words.figure(gate, gate.limit)}"
    )
    a, b = gate.interval
    return (
        f'<svg class="{gate.decision}" viewBox="0 0 900 44" role="img" aria-label="{label}">'
        f'<line x1="60" x2="840" y1="16" y2="16" stroke="var(--line)"/>'
        f'<line x1="{x(neutral)}" x2="{x(neutral)}" y1="9" y2="23" stroke="var(--soft)"/>'
        f'<line x1="{x(a)}" x2="{x(b)}" y1="16" y2="16" stroke="currentColor" stroke-width="6" stroke-linecap="round"/>'
        f'<circle cx="{x(gate.estimate)}" cy="16" r="6" fill="currentColor"/>'
        f'<line x1="{x(gate.limit)}" x2="{x(gate.limit)}" y1="4" y2="28" stroke="var(--ink)" stroke-width="2" '
        f'stroke-dasharray="4 3"/>'
        f'<text x="{x(gate.limit)}" y="41" font-size="12" fill="var(--soft)" text-anchor="middle">{limit}</text>'
        f'<text x="0" y="20" font-size="12" fill="var(--soft)">{escape(gate.gate)}</text></svg>'
    )


def _timings(view: View) -> list[str]:
    if not view.latencies:
        return []
    parts = ["<h2>Timings</h2>", f'<p class="soft">{escape(words.LATENCY_NOTE)}</p>']
    for timings in view.latencies:
        parts.append(
            _table(words.LATENCY_HEADER, words.latency_rows(timings), caption=words.latency_title(timings))
        )
        if timings.ledgers:
            rows = [
                *ledger_ranges(timings.ledgers),
                *((f"redrawn {i + 1}", reason) for i, reason in enumerate(timings.redrawn)),
                *flatten(timings.environment),
            ]
            parts.append(
                f"<details><summary>What the machine did meanwhile</summary>{_facts(rows)}</details>"
            )
    return parts


def _environment(view: View) -> list[str]:
    verdict = view.verdict
    parts = ["<h2>Environment</h2>", _facts(flatten(verdict.environment))]
    digests = [(path, digest) for path, digest in verdict.evidence.items()]
    artifacts = [(str(r.get("name", "")), digest) for digest, r in view.run.artifacts.items()]
    parts.append(
        f"<details><summary>Artifacts and evidence, by digest</summary>{_facts(artifacts)}{_facts(digests)}</details>"
    )
    return parts


def _facts(rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in rows)
    return f'<div class="scroll"><table class="facts"><tbody>{body}</tbody></table></div>' if rows else ""
