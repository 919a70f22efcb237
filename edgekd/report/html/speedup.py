"""Is it faster? The table of quantized models beside their float twins, and the reasons of those that are not."""

from __future__ import annotations

from collections.abc import Sequence

from edgekd.evidence.speedup import Speedup
from edgekd.report.html.markup import Child, Html, el
from edgekd.report.html.parts import section, table
from edgekd.report.speedup import HEADER, NOTE, TITLE, WORDS, speedup_row, told


def speedup_section(speedups: Sequence[Speedup]) -> Html | None:
    """None where no candidate is quantized, or nothing was timed."""
    if not speedups:
        return None
    parts: list[Child] = [
        table(NOTE, HEADER, [list(speedup_row(s)) for s in speedups], name=TITLE, left=WORDS)
    ]
    for found, lines in told(speedups):
        parts.append(el("h3", f"Why '{found.label}' is not faster on {found.target}"))
        parts.append(el("ul", *(el("li", line) for line in lines)))
    return section("faster", TITLE, *parts)
