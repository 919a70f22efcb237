"""Which terms apply to a teacher or data set: those declared, those that they bring, and those that a name gives away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from edgekd.provenance.declared import Subject
from edgekd.provenance.expressions import licences_in
from edgekd.provenance.terms import Answer, TermsRecord, find_record, normalised, records_by_name

#: A licence that says: this is ours. It needs no record.
OWN = frozenset({"own", "inhouse"})
#: What people write where nobody stated a licence.
NONE_STATED = frozenset(
    {"", "nonestated", "none", "unknown", "notstated", "noassertion", "unlicensed", "other"}
)
LayerKind = Literal["licence", "terms", "name"]

#: Answers from the mildest to the strictest; those from ``no_if_competing`` on may refuse, from ``unclear`` on they do.
_MILDEST_FIRST: tuple[Answer, ...] = ("yes", "yes_with_conditions", "no_if_competing", "unclear", "no")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One set of terms that applies to a subject.

    Attributes:
        top: the declared teacher or data set; subject: that or what it derives from.
        kind: ``licence``, ``terms`` (of a host or an API), ``name`` (given away by the subject's name).
        id: as it was declared; record: what the table says of it, None where it has nothing.
    """

    top: Subject
    subject: Subject
    kind: LayerKind
    id: str
    record: TermsRecord | None

    @property
    def what(self) -> str:
        """The layer in words: ``licence mit of DeepSeek-R1``."""
        words = {"licence": "licence", "terms": "terms", "name": "terms that its name gives away:"}
        part = self.kind == "licence" and self.id != self.subject.licence
        whole = f", of '{self.subject.licence}'," if part else ""
        origin = "" if self.subject is self.top else f", from which {self.top.name} derives"
        return f"{words[self.kind]} {self.id}{whole} of {self.subject.name}{origin}"


def layers_of(top: Subject, records: Sequence[TermsRecord]) -> Iterator[Layer]:
    """Every set of terms that applies to a teacher or data set, and to what it derives from, each once.

    What was declared comes first, with the terms that those bring; then what names give away and nobody declared.
    """
    seen: set[str] = set()

    def followed(subject: Subject, asked: list[tuple[LayerKind, str]]) -> Iterator[Layer]:
        while asked:
            kind, name = asked.pop(0)
            record = find_record(records, name, subject.role)
            key = f"{subject.name}/{record.id if record else normalised(name)}"
            if key not in seen:
                seen.update({key, record.id if record else key})
                asked += [] if record is None else [("terms", t) for t in record.brings]
                yield Layer(top=top, subject=subject, kind=kind, id=name, record=record)

    for subject in top.walk():
        declared: list[tuple[LayerKind, str]] = [("licence", name) for name in licences_of(subject, records)]
        yield from followed(subject, declared + [("terms", t) for t in subject.terms])
    for subject in top.walk():
        for record in records_by_name(records, subject.name, subject.role):
            if record.id not in seen:
                yield from followed(subject, [("name", record.id)])


def licences_of(subject: Subject, records: Sequence[TermsRecord]) -> tuple[str, ...]:
    """The licences that apply to a subject: of ``A OR B`` the milder, of ``A AND B`` both; none for own or unstated work."""
    if is_own(subject) or is_unstated(subject):
        return ()
    if find_record(records, subject.licence, subject.role) is not None:
        return (subject.licence,)

    def strictness(name: str) -> tuple[int, ...]:
        record = find_record(records, name, subject.role)
        answer = None if record is None else record.train.get(subject.role)
        if record is None or answer is None:
            return (3, len(_MILDEST_FIRST))
        rank = _MILDEST_FIRST.index(answer)
        refuses = 2 if rank >= 3 else 1 if rank == 2 or not record.commercial else 0
        return (refuses, rank)

    return licences_in(subject.licence, strictness)


def lacks_api_terms(subject: Subject, records: Sequence[TermsRecord]) -> bool:
    """Whether a subject was asked through an API and nobody declared terms of one.

    Terms that the table does not know count as declared: they are refused for that.
    """
    if subject.access != "api-outputs":
        return False
    named = [find_record(records, name, subject.role) for name in subject.terms]
    licensed = [find_record(records, name, subject.role) for name in licences_of(subject, records)]
    return not (
        any(record is None or record.kind == "terms" for record in named)
        or any(record is not None and record.kind == "terms" for record in licensed)
    )


def is_own(subject: Subject) -> bool:
    """Whether it is declared as made in-house."""
    return normalised(subject.licence) in OWN


def is_unstated(subject: Subject) -> bool:
    """Whether no licence is declared, or none was stated."""
    return normalised(subject.licence) in NONE_STATED
