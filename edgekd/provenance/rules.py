"""May this teacher teach, and from this data? Pure: a declaration and the records that were stored with it in, findings out.

The strictest layer wins: a weight licence, the terms of the API or host, what the teacher derives from, and what a name
gives away are each asked, and one that refuses is enough. EdgeKD states what the terms say, with the source.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Literal, Protocol

from edgekd.provenance.declared import Declaration, Role, Subject, Waiver, from_run, parse_declaration
from edgekd.provenance.layers import (
    NONE_STATED,
    OWN,
    Layer,
    is_own,
    is_unstated,
    lacks_api_terms,
    layers_of,
)
from edgekd.provenance.obligations import Obligation
from edgekd.provenance.rulebook import RULES, Rule
from edgekd.provenance.terms import TermsRecord, TermsTable, normalised, record_from_json

__all__ = [
    "NONE_STATED",
    "OWN",
    "RULES",
    "Assessment",
    "Finding",
    "Layer",
    "Policy",
    "Rule",
    "assess",
    "from_run",
    "layers_of",
    "normalised",
    "parse_declaration",
    "resolve",
]

FindingDecision = Literal["pass", "reject"]


class Policy(Protocol):
    """What ``gates.provenance`` asks; see :class:`edgekd.policy.ProvenanceGate`."""

    @property
    def max_age_days(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one rule found about one layer of one subject.

    Attributes:
        rule: a key of :data:`RULES`.
        subject: the teacher's or the data's name; empty where none is declared.
        record: id of the terms record that answered; empty where there is none.
        decision: ``reject`` needs a human; else ``pass``, which a waived rejection is too.
        sentence: what was found, in words, with the source where a record answered.
        waived_by: the waiver that counted.
    """

    rule: str
    subject: str
    record: str
    decision: FindingDecision
    sentence: str
    waived_by: Waiver | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "rule": self.rule,
            "subject": self.subject,
            "record": self.record,
            "decision": self.decision,
            "sentence": self.sentence,
            "waived_by": None if self.waived_by is None else self.waived_by.to_json(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What the rules found.

    Attributes:
        decision: ``reject`` where a finding is one.
    """

    findings: tuple[Finding, ...]
    obligations: tuple[Obligation, ...]

    @property
    def decision(self) -> FindingDecision:
        return "reject" if self.refusals else "pass"

    @property
    def refusals(self) -> tuple[Finding, ...]:
        """Findings that need a human, in the rulebook's order."""
        order = list(RULES)
        found = [f for f in self.findings if f.decision == "reject"]
        return tuple(sorted(found, key=lambda f: order.index(f.rule)))

    @property
    def waived(self) -> tuple[Finding, ...]:
        """Findings that a person took upon themselves."""
        return tuple(f for f in self.findings if f.waived_by is not None)

    def to_json(self) -> dict[str, Any]:
        return {
            "decision": self.decision,
            "findings": [f.to_json() for f in self.findings],
            "obligations": [o.to_json() for o in self.obligations],
        }


def resolve(declaration: Declaration, table: TermsTable) -> list[dict[str, Any]]:
    """The terms records that a declaration rests on, as plain JSON: what is stored with a run.

    Args:
        table: of this EdgeKD; judging later needs the stored records alone.
    """
    used = {
        layer.record.id: layer.record
        for top in declaration.subjects
        for layer in layers_of(top, table.records)
        if layer.record is not None
    }
    return [record.to_json() for record in used.values()]


def assess(
    declaration: Declaration,
    records: Sequence[Mapping[str, Any]],
    *,
    as_of: date,
    policy: Policy,
    stored_on: date | None = None,
) -> Assessment:
    """Judge a declaration by the records that were stored with it.

    Args:
        records: from :func:`resolve`.
        as_of: the day on which the run was collected; ages and expiries are counted to it, never to today.
        stored_on: the day on which the run says that the records were stored with it: none can be of a later one, but
            for a day between two time zones. None where they were looked up later, at release.

    Raises:
        EvidenceError: a record that is not whole.
    """
    known = [record_from_json(r) for r in records]
    found: list[Finding] = []
    asked: dict[tuple[str, str, str, str], Obligation] = {}
    roles: tuple[tuple[Role, tuple[Subject, ...]], ...] = (
        ("teacher", declaration.teachers),
        ("data", declaration.data),
    )
    for role, subjects in roles:
        if not subjects:
            what = "No teacher is declared" if role == "teacher" else "No data is declared"
            found.append(
                _finding(f"{role}-undeclared", "", f"{what}: whose knowledge is in the student is not known")
            )
        for top in subjects:
            found += _asked_of(top, known)
            for layer in layers_of(top, known):
                found += _judge_layer(layer, declaration, as_of, policy)
                found += _from_the_future(layer, stored_on)
                for obligation in _obligations(layer):
                    key = (obligation.kind, obligation.value, obligation.record, obligation.subject)
                    asked.setdefault(key, obligation)
    return Assessment(
        findings=_waived(found, declaration.waivers, as_of), obligations=_numbered(asked.values())
    )


def _finding(rule: str, subject: str, sentence: str, record: str = "") -> Finding:
    outcome = RULES[rule].outcome
    return Finding(
        rule=rule, subject=subject, record=record, decision="reject" if outcome == "reject" else "pass", sentence=sentence
    )  # fmt: skip


def _asked_of(top: Subject, records: Sequence[TermsRecord]) -> Iterator[Finding]:
    """What is lacking, and what is a claim, whatever the records answer."""
    for subject in top.walk():
        if lacks_api_terms(subject, records):
            yield _finding(
                "api-terms-missing", top.name, f"{subject.name} was asked through an API, and no terms of that API are declared"
            )  # fmt: skip
        if is_own(subject):
            yield _finding("own-work", top.name, f"{subject.name} is declared as made in-house")
        elif subject.access != "api-outputs" and is_unstated(subject):
            said = (
                "is declared without a licence"
                if not subject.licence
                else "is given without a stated licence"
            )
            yield _finding(f"{subject.role}-licence-unknown", top.name, f"{subject.name} {said}")
        if subject.role == "teacher" and subject is top and not subject.access and not is_own(subject):
            yield _finding(
                "access-unstated", top.name, f"How the knowledge of {subject.name} was reached is not said; weights were taken"
            )  # fmt: skip


def _judge_layer(layer: Layer, declaration: Declaration, as_of: date, policy: Policy) -> Iterator[Finding]:
    record, top = layer.record, layer.top.name
    answer = None if record is None else record.train.get(layer.subject.role)
    if record is None or answer is None:
        yield _finding("no-record", top, f"The terms table has no record of the {layer.what}")
        return

    def finding(rule: str, sentence: str) -> Finding:
        return _finding(rule, top, sentence, record.id)

    if layer.kind == "name":
        yield finding(
            "terms-by-name",
            f"{layer.subject.name} is a name to which {record.name} applies; it was not declared",
        )
    age = (as_of - record.captured).days
    if age > policy.max_age_days:
        yield finding(
            "record-stale",
            f"The record of {record.name} is from {record.captured}, {age} days before {as_of} (limit {policy.max_age_days})",
        )
    if record.evidence == "unverified":
        yield finding(
            "grade-unverified", f"The record of {record.name} is {record.evidence}: {record.source}"
        )
    what = "data" if layer.subject.role == "data" else "teacher"
    said = f"{record.name} ({layer.what})"
    cited = f"[{record.evidence}, {record.captured}: {record.source}]"
    if answer == "no":
        yield finding("training-forbidden", f"{said} forbids training another model with this {what} {cited}")
    elif answer == "unclear":
        yield finding(
            "record-unclear", f"{said} does not say clearly whether another model may be trained {cited}"
        )
    elif answer == "no_if_competing":
        if declaration.competing is False:
            yield finding(
                "not-competing",
                f"{said} forbids a competing model; the declaration claims that this is none {cited}",
            )
        else:
            claim = (
                "the student is declared to compete"
                if declaration.competing
                else "it is not declared that the student does not compete"
            )
            yield finding("training-forbidden-competing", f"{said} forbids training a competing model, and {claim} {cited}")  # fmt: skip
    elif answer == "yes_with_conditions":
        yield finding(
            "permitted-with-conditions",
            f"{said} allows it under conditions: {'; '.join(record.conditions)} {cited}",
        )
    else:
        yield finding("permitted", f"{said} allows it {cited}")
    if not record.commercial:
        if declaration.use == "commercial":
            yield finding(
                "non-commercial",
                f"{said} allows non-commercial use only, and the student is for commercial use {cited}",
            )
        else:
            yield finding(
                "research-only",
                f"{said} allows non-commercial use only; the student is declared to be for research {cited}",
            )


def _from_the_future(layer: Layer, stored_on: date | None) -> Iterator[Finding]:
    record = layer.record
    if record is not None and stored_on is not None and (record.captured - stored_on).days > 1:
        yield _finding(
            "record-later", layer.top.name, f"The record of {record.name} is from {record.captured}, and the run that it was stored with from {stored_on}: one of the days is wrong", record.id
        )  # fmt: skip


def _obligations(layer: Layer) -> Iterator[Obligation]:
    record, subject = layer.record, layer.subject
    if record is None:
        return
    for asked in record.obligations:
        if asked.when == "weights" and subject.access in ("api-outputs", "outputs-of-weights", "dataset"):
            continue  # what holds for copies of the weights does not hold for answers
        value = _filled(asked.value, subject)
        yield Obligation(
            id=f"{subject.role}/{record.id}/{asked.kind}", kind=asked.kind, value=value, subject=subject.name, record=record.id
        )  # fmt: skip


def _filled(template: str, subject: Subject) -> str:
    """An obligation's words for one subject; replaced, never formatted: stored records come from outside too."""
    said = {
        "name": subject.name,
        "credit": subject.attribution or subject.name,
        "source": subject.source or "no source stated",
    }
    return re.sub(r"\{(name|credit|source)\}", lambda found: said[found.group(1)], template)


def _numbered(asked: Iterable[Obligation]) -> tuple[Obligation, ...]:
    """Obligations with ids that differ: a second of a kind from the same record is ``…-2``."""
    seen: dict[str, int] = {}
    made = []
    for obligation in asked:
        seen[obligation.id] = count = seen.get(obligation.id, 0) + 1
        made.append(obligation if count == 1 else replace(obligation, id=f"{obligation.id}-{count}"))
    return tuple(made)


def _waived(found: Sequence[Finding], waivers: Sequence[Waiver], as_of: date) -> tuple[Finding, ...]:
    """The findings with the waivers that count, then what is to be said of those that do not."""
    used: set[int] = set()
    made = []
    for finding in found:
        fitting = [
            k for k, w in enumerate(waivers)
            if finding.decision == "reject" and w.rule == finding.rule and w.subject in ("", finding.subject)
        ]  # fmt: skip
        used.update(fitting)
        counted = next((waivers[k] for k in fitting if waivers[k].expires >= as_of), None)
        made.append(finding if counted is None else replace(finding, decision="pass", waived_by=counted))
    for k, waiver in enumerate(waivers):
        if waiver.expires < as_of:
            made.append(
                _finding("waiver-expired", waiver.subject, f"The waiver of {waiver.rule} by {waiver.by} expired on {waiver.expires}, before {as_of}; it was not counted")
            )  # fmt: skip
        elif k not in used:
            made.append(_finding("waiver-unused", waiver.subject, f"The waiver of {waiver.rule} by {waiver.by} was not needed: that rule found nothing"))  # fmt: skip
    return tuple(made)
