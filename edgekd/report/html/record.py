"""What a verdict rests on: notes, provenance, policy, environment, digests, and how to judge again."""

from __future__ import annotations

import json
from collections.abc import Sequence

from edgekd.report import words
from edgekd.report.amounts import plural
from edgekd.report.html.markup import Child, Html, el
from edgekd.report.html.parts import facts, fold, scroll, section, table
from edgekd.report.html.provenance import declared_part, lineage_part
from edgekd.report.view import View, flatten

_AGAIN = "edgekd gate RUN --policy policy.yaml"


def notes_section(view: View) -> Html | None:
    """Sentences of the run, and what could not be read; absent targets."""
    said = [*view.notes]
    said += [
        f"{a.get('target')} is not here ({'required' if a.get('required') else 'optional'}): {a.get('reason')}"
        for a in view.verdict.not_run
    ]
    return section("notes", "Notes", el("ul", *(el("li", n) for n in said))) if said else None


def provenance_section(view: View) -> Html:
    """Where what ships comes from, what the rules found, and the digests that pin artifacts and evidence."""
    rows: Sequence[Sequence[Child]] = [
        [
            str(record.get("name", words.DASH)),
            str(record.get("dtype", words.DASH)),
            str(record.get("format", words.DASH)),
            words.mebibytes(int(record.get("size_bytes", 0))),
            el("code", digest),
        ]
        for digest, record in view.run.artifacts.items()
    ]
    evidence = list(view.verdict.evidence.items())
    return section(
        "provenance",
        "Provenance",
        declared_part(view),
        lineage_part(view.lineage),
        fold(
            f"{plural(len(rows), 'artifact')}, by digest",
            table(
                "",
                ("artifact", "precision", "format", "size", "digest"),
                rows,
                name="Artifacts",
                left=(1, 2, 4),
            ),
        ),
        fold(
            f"{plural(len(evidence), 'evidence document')}, by digest",
            scroll("Evidence", facts(evidence, name="Evidence", mono=True)),
        )
        if evidence
        else None,
    )


def environment_section(view: View) -> Html | None:
    """The machine that collected the evidence."""
    rows = flatten(view.verdict.environment)
    return section("environment", "Environment", facts(rows, name="Environment")) if rows else None


def again_section(view: View) -> Html:
    """The policy as a file, and the command that judges the stored evidence by it."""
    policy = json.dumps(dict(view.verdict.policy), indent=2, ensure_ascii=False)
    return section(
        "again",
        "Judge again",
        el(
            "p",
            "Evidence and judgement are apart: the stored evidence is judged again, bit for bit and without any "
            "runtime, by this policy or another. RUN is the folder of this page; policy.yaml holds limits such as those below.",
        ),
        scroll("Command", el("pre", el("code", _AGAIN))),
        fold("The policy of this verdict, as policy.yaml", scroll("Policy", el("pre", el("code", policy)))),
    )
