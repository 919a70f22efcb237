"""What was declared and found of teacher and data, and the lineage, drawn and as a list."""

from __future__ import annotations

from collections.abc import Sequence

from edgekd.report.html.lineage import lineage_figure
from edgekd.report.html.markup import Child, Html, el, join
from edgekd.report.html.parts import facts, fold, table
from edgekd.report.lineage import Branch, Lineage, tree
from edgekd.report.provenance import (
    AT_RELEASE,
    FINDING_HEADER,
    ProvenanceView,
    finding_row,
    obligation_sentence,
    waiver_sentence,
)
from edgekd.report.view import View, flatten


def declared_part(view: View) -> Html:
    """Waivers first, as a reader must not miss them; then the findings, then what a bundle has to carry."""
    found = view.provenance
    if found is None:
        told = flatten(view.run.provenance)
        return facts(told, name="Provenance") if told else el("p", "Nobody declared whose knowledge is in the student.", class_="soft")  # fmt: skip
    return join(
        el("p", AT_RELEASE, class_="soft") if found.at_release else None,
        _waivers(found),
        table(
            "What the rules found, as of the day of the evidence; each finding names its source.",
            FINDING_HEADER,
            [_finding(finding_row(f)) for f in found.findings],
            name="Findings",
            left=(1, 2, 3),
        )
        if found.findings
        else None,
        _list(
            "Asked of those who pass the model on", [obligation_sentence(found, o) for o in found.obligations]
        ),
    )


def _finding(row: Sequence[str]) -> list[Child]:
    rule, word, about, sentence = row
    return [rule, word, el("span", about, class_="long"), el("span", sentence, class_="long told")]


def _waivers(found: ProvenanceView) -> Html | None:
    return _list("Waived by a person", [waiver_sentence(w) for w in found.waivers])


def _list(title: str, sentences: Sequence[str]) -> Html | None:
    if not sentences:
        return None
    return join(el("h3", title), el("ul", *(el("li", s) for s in sentences)))


def lineage_part(graph: Lineage | None) -> Html | None:
    """The drawing, and the same as a list; the list alone where a drawing would be a tangle."""
    if graph is None:
        return None
    drawn = lineage_figure(graph)
    listed = el("ul", *(_branch(b) for b in tree(graph)))
    return join(
        el("h3", "Where it comes from"),
        drawn,
        fold("The lineage as a list", listed) if drawn else listed,
    )


def _branch(branch: Branch) -> Html:
    start = f"{branch.how} from " if branch.how else ""
    below = el("ul", *(_branch(b) for b in branch.made_from)) if branch.made_from else None
    said = ", ".join((branch.node.kind, *branch.node.lines))
    return el("li", start, el("strong", branch.node.title), f" ({said})", below)
