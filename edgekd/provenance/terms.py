"""The terms table: what licences and terms say about training another model, in our own words, with source and date."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal, cast, get_args

from edgekd.errors import EvidenceError
from edgekd.provenance.obligations import ObligationKind

TERMS_SCHEMA = "edgekd.terms/1"

Answer = Literal["yes", "yes_with_conditions", "no", "no_if_competing", "unclear"]
Grade = Literal["verified", "secondary", "unverified"]
RecordKind = Literal["licence", "terms"]
When = Literal["always", "weights"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedFor:
    """An obligation as the table has it.

    Attributes:
        value: may name ``{name}``, ``{credit}`` and ``{source}`` of the subject.
        when: ``always``, or only where the weights themselves were taken.
    """

    kind: ObligationKind
    value: str
    when: When = "always"


@dataclass(frozen=True, slots=True, kw_only=True)
class TermsRecord:
    """What one licence or set of terms says.

    Attributes:
        id: its name in declarations; aliases: others.
        models: patterns of model names to which it applies (:func:`records_by_name`).
        kind: ``licence`` comes with weights or data; ``terms`` with an API, a host or an account.
        train: role -> may another model be trained with it? A role that is absent is not spoken of.
        commercial: whether commercial use is allowed.
        conditions: what is asked of those who train, in our own words.
        evidence: ``verified`` (read in the licensor's own text), ``secondary`` (a named third party), ``unverified``.
        brings: ids of further records that apply with this one.
        source: where that was read; url: the licensor's page.
        captured: the day on which it was last looked at; sha256: of the text that was read, empty where none was.
    """

    id: str
    name: str
    kind: RecordKind
    train: Mapping[str, Answer]
    commercial: bool
    conditions: tuple[str, ...]
    obligations: tuple[AskedFor, ...]
    evidence: Grade
    source: str
    captured: date
    aliases: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    url: str = ""
    sha256: str = ""
    brings: tuple[str, ...] = ()
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "aliases": list(self.aliases),
            "models": list(self.models),
            "name": self.name,
            "kind": self.kind,
            "train": dict(self.train),
            "commercial": self.commercial,
            "conditions": list(self.conditions),
            "obligations": [{"kind": o.kind, "value": o.value, "when": o.when} for o in self.obligations],
            "brings": list(self.brings),
            "evidence": self.evidence,
            "source": self.source,
            "url": self.url,
            "captured": self.captured.isoformat(),
            "sha256": self.sha256,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TermsTable:
    """All records.

    Attributes:
        captured: the latest day of any; sha256: of the file, 64 hex digits.
    """

    records: tuple[TermsRecord, ...]
    captured: str
    sha256: str


def record_from_json(value: Mapping[str, Any]) -> TermsRecord:
    """Read a record of the table, or one that was stored with a run.

    Raises:
        EvidenceError: a key is missing, or an answer or grade unknown.
    """
    try:
        answers = dict(value["train"])
        if not set(answers.values()) <= set(get_args(Answer)) or value["evidence"] not in get_args(Grade):
            raise EvidenceError(
                f"terms record {value['id']!r} has an unknown answer or grade", "judge it with a newer EdgeKD"
            )
        return TermsRecord(
            id=str(value["id"]),
            name=str(value["name"]),
            kind=cast(RecordKind, value["kind"]),
            train=answers,
            commercial=value["commercial"] is True,
            conditions=tuple(map(str, value["conditions"])),
            obligations=tuple(
                AskedFor(kind=o["kind"], value=str(o["value"]), when=o.get("when", "always"))
                for o in value["obligations"]
            ),
            evidence=value["evidence"],
            source=str(value["source"]),
            captured=date.fromisoformat(value["captured"]),
            aliases=tuple(map(str, value.get("aliases", ()))),
            models=tuple(map(str, value.get("models", ()))),
            url=str(value.get("url", "")),
            sha256=str(value.get("sha256", "")),
            brings=tuple(map(str, value.get("brings", ()))),
            note=str(value.get("note", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise EvidenceError(f"a terms record is not whole ({e!r})", "collect the run again") from e


@lru_cache(maxsize=1)
def load_terms() -> TermsTable:
    """The table that ships with this EdgeKD.

    Raises:
        EvidenceError: it was damaged.
    """
    raw = files("edgekd.provenance").joinpath("terms.json").read_bytes()
    records = tuple(record_from_json(r) for r in json.loads(raw)["records"])
    latest = max(r.captured for r in records).isoformat()
    return TermsTable(records=records, captured=latest, sha256=hashlib.sha256(raw).hexdigest())


def normalised(text: str) -> str:
    """An id as it is compared: without case, and without the characters that people put between its parts.

    >>> normalised("Llama-3.1"), normalised("apache_2.0"), normalised("CC BY 4.0")
    ('llama3.1', 'apache2.0', 'ccby4.0')
    """
    return re.sub(r"[\s_-]+", "", text.casefold())


def find_record(records: Sequence[TermsRecord], name: str, role: str) -> TermsRecord | None:
    """The record that a licence or terms id means, one that speaks of the role first; None where there is none."""
    wanted = normalised(name)
    found = [r for r in records if wanted in map(normalised, (r.id, *r.aliases))]
    return next((r for r in found if role in r.train), found[0] if found else None)


def records_by_name(records: Sequence[TermsRecord], name: str, role: str) -> Iterator[TermsRecord]:
    """Records that apply to a model of that name, whatever licence it is declared with."""
    for record in records:
        if role in record.train and any(_matches(pattern, name) for pattern in record.models):
            yield record


#: A size (``7b``, ``350m``), a number with its points (``3.1``), or letters; of a pattern with its star.
_PART = re.compile(r"\d+(?:\.\d+)*[bm](?![a-z0-9])\*?|\d+(?:\.\d+)*\*?|[^\W\d_]+\*?")


def _matches(pattern: str, name: str) -> bool:
    """Whether one part of a name between slashes is of the pattern, by whatever organisation and separators.

    ``Llama-3-*`` is ``llama3:8b`` and not ``Llama-3.1-8B``: numbers are whole, unless a star follows one. A pattern that
    begins with a star is found within a name too.
    """
    wanted = _parts(pattern.rpartition("/")[2])
    return any(_is_of(wanted, pattern.startswith("*"), _parts(text)) for text in name.split("/"))


@lru_cache(maxsize=4096)
def _parts(text: str) -> tuple[str, ...]:
    plain = unicodedata.normalize("NFKC", text).casefold()
    return tuple(_PART.findall(re.sub(r"(?<![a-z])v(?=\d)", "", plain)))


def _is_of(wanted: tuple[str, ...], within: bool, parts: tuple[str, ...]) -> bool:
    starts = range(len(parts) - len(wanted) + 1) if within else range(int(len(parts) >= len(wanted)))
    return any(all(map(_same, wanted, parts[k:])) for k in starts)


def _same(wanted: str, part: str) -> bool:
    return part.startswith(wanted[:-1]) if wanted.endswith("*") else part == wanted
