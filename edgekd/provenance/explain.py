"""The whole licence story in plain words: what was taken, from whom, what each layer says, what is not known, what to do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

from edgekd.provenance.declared import Declaration, Subject
from edgekd.provenance.rules import OWN, RULES, Assessment, Finding, Layer, layers_of, normalised
from edgekd.provenance.terms import record_from_json

#: Said once in the story; a bundle's NOTICES.md has words of its own.
DISCLAIMER = "EdgeKD repeats what was declared and what the named sources say. That is no legal advice."
SHORTEST = (
    "provenance:",
    "  teacher: {name: NAME, licence: LICENCE, source: ADDRESS, access: weights}  # licence: own, for your own work",
    "  data: {name: NAME, licence: LICENCE, source: ADDRESS}",
)

_WIDTH = 100
_ANSWERS = {
    "yes": "another model may be trained",
    "yes_with_conditions": "another model may be trained, under conditions",
    "no": "no other model may be trained",
    "no_if_competing": "no competing model may be trained",
    "unclear": "it is not clear whether another model may be trained",
}
_REACHED = {
    "weights": "its weights were at hand",
    "outputs-of-weights": "its weights were run, and only its answers were used",
    "api-outputs": "it was asked through an API",
    "dataset": "its answers came as a data set",
    "": "not said how; weights are assumed",
}
_GRADES = {
    "verified": "read in the licensor's own text",
    "secondary": "a third party repeats it",
    "unverified": "nobody read the text",
}


def explain(
    name: str,
    declaration: Declaration,
    records: Sequence[Mapping[str, Any]],
    assessment: Assessment,
    as_of: date,
    max_age_days: int,
) -> str:
    """The story as text, wrapped for a terminal.

    Args:
        name: of the recipe or run.
        as_of: the day that ages and expiries were counted to.
    """
    known = [record_from_json(r) for r in records]
    lines = [f"Provenance of {name}, as of {as_of}"]
    lines += ["", "What was taken, from whom, and how"]
    for role, subjects in (("teacher", declaration.teachers), ("data", declaration.data)):
        if not subjects:
            lines.append(f"  {role}: nothing is declared")
        for top in subjects:
            lines += _taken(top, role)
            for layer in layers_of(top, known):
                lines += _answer(layer, as_of)
    lines += _section("Claims of the declaration", _claims(declaration, assessment))
    lines += _section(
        f"What needs a human ({len(assessment.refusals)})",
        [(f"{f.rule}: {_short(f)}", RULES[f.rule].todo) for f in assessment.refusals],
    )
    waived = [
        (
            f"{f.rule}: {_short(f)}",
            f"Waived by {f.waived_by.by} until {f.waived_by.expires}: {f.waived_by.reason}",
        )
        for f in assessment.waived
        if f.waived_by is not None
    ]
    lines += _section("Waivers that count", waived)
    quiet = ("waiver-expired", "waiver-unused", "access-unstated", "terms-by-name", "grade-unverified")
    lines += _section(
        "Also", [(_short(f), RULES[f.rule].todo) for f in assessment.findings if f.rule in quiet]
    )
    lines += _section(
        "What the bundle has to carry", [(f"{o.sentence} ({o.record})", "") for o in assessment.obligations]
    )
    lines += ["", *_verdict(declaration, assessment, max_age_days), "", DISCLAIMER]
    return "\n".join(lines)


def _taken(top: Subject, role: str) -> Iterator[str]:
    for subject in top.walk():
        label = role if subject is top else f"which derives from {role}"
        version = f" {subject.version}" if subject.version else ""
        yield from _wrapped(f"{label} {subject.name}{version}", 2)
        yield from _wrapped(f"from: {subject.source or 'no source is stated'}", 4)
        if subject.digest:
            yield from _wrapped(f"digest: {subject.digest}", 4)
        if subject.attribution:
            yield from _wrapped(f"credit: {subject.attribution}", 4)
        own = normalised(subject.licence) in OWN
        if role == "teacher" and subject is top and (subject.access or not own):
            yield from _wrapped(f"reached: {_REACHED[subject.access]}", 4)
        if own:
            yield "    licence: own work"
        elif not subject.licence:
            yield "    licence: none is declared"
        else:
            yield from _wrapped(f"licence: {subject.licence}", 4)


def _answer(layer: Layer, as_of: date) -> Iterator[str]:
    record = layer.record
    answer = None if record is None else record.train.get(layer.subject.role)
    if record is None or answer is None:
        yield from _wrapped(f"- {layer.what}: not in the terms table", 4)
        return
    yield from _wrapped(
        f"- {record.name}: {_ANSWERS[answer]}" + ("" if record.commercial else "; non-commercial use only"), 4
    )
    if layer.kind != "licence" or layer.subject is not layer.top:
        yield from _wrapped(f"applies as the {layer.what}", 6)
    for condition in record.conditions:
        yield from _wrapped(f"* {condition}", 6)
    age = (as_of - record.captured).days
    yield from _wrapped(
        f"{record.evidence} ({_GRADES[record.evidence]}), {record.captured} ({age} days before): {record.source}",
        6,
    )
    if record.url:
        yield f"      {record.url}"
    if record.note:
        yield from _wrapped(f"note: {record.note}", 6)


def _claims(declaration: Declaration, assessment: Assessment) -> list[tuple[str, str]]:
    said = [f"The student is for {declaration.use} use."]
    if declaration.competing is not None:
        word = "competes" if declaration.competing else "does not compete"
        said.append(f"The student {word} with those whose terms forbid that.")
    said += [f.sentence + "." for f in assessment.findings if f.rule == "own-work"]
    return [(s, "") for s in said]


def _verdict(declaration: Declaration, assessment: Assessment, max_age_days: int) -> Iterator[str]:
    if not assessment.refusals:
        ending = " The bundle has to be signed, for a waiver counts." if assessment.waived else ""
        yield from _wrapped(
            f"Result: this would pass, with records up to {max_age_days} days old.{ending}", 0
        )
        return
    yield from _wrapped("Result: this would be refused (exit 5). What to do next:", 0)
    for k, todo in enumerate(dict.fromkeys(RULES[f.rule].todo for f in assessment.refusals), 1):
        yield from _wrapped(f"{k}. {todo}", 2)
    if not declaration.subjects:
        yield "  The shortest block that says all:"
        yield from (f"    {line}" for line in SHORTEST)
    elif all(f.rule not in ("teacher-undeclared", "data-undeclared") for f in assessment.refusals):
        first = assessment.refusals[0]
        yield "  A waiver is written so:"
        yield f'    waivers: [{{rule: {first.rule}, by: NAME, reason: "WHY", expires: YYYY-MM-DD}}]'


def _section(title: str, entries: Sequence[tuple[str, str]]) -> Iterator[str]:
    if not entries:
        return
    yield ""
    yield title
    for said, todo in entries:
        yield from _wrapped(f"- {said}", 2)
        if todo and todo != "Nothing.":
            yield from _wrapped(todo, 4)


def _short(finding: Finding) -> str:
    """A finding's sentence without the source in brackets, which stands where the layer does."""
    return finding.sentence.partition(" [")[0] if finding.record else finding.sentence


def _wrapped(text: str, indent: int) -> list[str]:
    margin = " " * indent
    return textwrap.wrap(
        text, _WIDTH, initial_indent=margin, subsequent_indent=margin + "  ", break_on_hyphens=False
    ) or [margin]
