"""Fidelity: what ships beside the teacher and beside its own float32, figure by figure."""

from __future__ import annotations

from collections.abc import Sequence

from edgekd.report.fidelity import TITLES, FidelityTable, figure_words
from edgekd.report.html.markup import Child, Html, el
from edgekd.report.html.parts import section, table


def fidelity_section(tables: Sequence[FidelityTable]) -> Html | None:
    """A table for each reference; None where there is none."""
    if not tables:
        return None
    parts: list[Child] = [
        el(
            "p",
            "How far the answers are displaced, whatever the labels say, with one-sided 95 % bounds; a gate only where "
            "the policy sets a limit.",
            class_="soft",
        )
    ]
    for found in tables:
        title = f"'{found.label}' beside '{found.against}', on {found.n:,} examples"
        rows = [(TITLES[f.name], *figure_words(f)) for f in found.figures]
        parts.append(
            table(title, ("figure", "estimate", "bounds"), rows, name=f"Fidelity to {found.against}")
        )
    return section("fidelity", "Fidelity", *parts)
