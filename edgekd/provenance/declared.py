"""What a recipe, or a file of its own, declares of its teachers and its data: plain facts, and nothing judged.

``parse_declaration`` reads the block as it stands in YAML, and the same block back from a run's index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal, cast, get_args

from edgekd.documents import read_plain_file
from edgekd.errors import RecipeError
from edgekd.provenance.block import (
    Place,
    check_keys,
    quoted,
    read_choice,
    read_day,
    read_list,
    read_plain,
    read_text,
)
from edgekd.provenance.rulebook import RULES

Role = Literal["teacher", "data"]
Access = Literal["weights", "outputs-of-weights", "api-outputs", "dataset"]
Use = Literal["commercial", "research"]
TextKind = Literal["licence", "notice"]

#: A licence text has a page or ten.
MAX_TEXT_BYTES = 1 << 20
MAX_DEPTH = 8
MAX_SUBJECTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFile:
    """A licence or notice that came with a teacher or a data set, and goes into the bundle as it is.

    Attributes:
        kind: ``licence`` or ``notice``.
        name: the file as declared, relative to the recipe.
        text: its content; None until it was read.
    """

    kind: TextKind
    name: str
    text: str | None = None

    @property
    def sha256(self) -> str:
        """Of the text as UTF-8, 64 hex digits; empty until it was read."""
        return "" if self.text is None else hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A teacher, a data set, or what one of them derives from.

    Attributes:
        role: ``teacher`` or ``data``.
        name: what it is called: ``meta-llama/Llama-3.1-8B``, ``CIFAR-10``.
        version, digest: which one exactly; either may be empty.
        licence: an id of the terms table or SPDX, ``own`` for work made in-house, ``none-stated``.
        source: where it was got: an address, a paper, a dependency.
        access: how its knowledge was reached; empty for data, and where it was not said.
        terms: ids of further layers: of the API or the host that it came through.
        attribution: whom to credit, as its licence asks.
        derived_from: what it was made from, each with its own licence.
        texts: licence and notice files that came with it.
    """

    role: Role
    name: str
    version: str = ""
    digest: str = ""
    licence: str = ""
    source: str = ""
    access: Access | Literal[""] = ""
    terms: tuple[str, ...] = ()
    attribution: str = ""
    derived_from: tuple[Subject, ...] = ()
    texts: tuple[TextFile, ...] = ()

    def texts_of(self, kind: TextKind) -> tuple[TextFile, ...]:
        """Its licence files, or its notices."""
        return tuple(t for t in self.texts if t.kind == kind)

    def walk(self) -> Iterator[Subject]:
        """Itself, then everything that it derives from."""
        yield self
        for ancestor in self.derived_from:
            yield from ancestor.walk()


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """A person takes one rule upon themselves, with a reason, until a day.

    Attributes:
        rule: a key of :data:`edgekd.provenance.rules.RULES`.
        by: the person's name.
        expires: the last day on which it counts.
        subject: the teacher or data set that it is about; empty for all.
    """

    rule: str
    by: str
    reason: str
    expires: date
    subject: str = ""

    def to_json(self) -> dict[str, Any]:
        value = {"rule": self.rule, "by": self.by, "reason": self.reason, "expires": self.expires.isoformat()}
        return {**value, "subject": self.subject} if self.subject else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """Whose knowledge is in the student.

    Attributes:
        teachers, data: what was declared of each; empty where nothing was.
        use: what the student is for; ``commercial`` unless it was said to be research.
        competing: whether the student competes with those whose terms forbid that; None where it was not said.
    """

    teachers: tuple[Subject, ...] = ()
    data: tuple[Subject, ...] = ()
    use: Use = "commercial"
    competing: bool | None = None
    waivers: tuple[Waiver, ...] = ()

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """Teachers, then data, without what they derive from."""
        return (*self.teachers, *self.data)

    def to_json(self) -> dict[str, Any]:
        """The block again, whole: :func:`parse_declaration` reads it back."""
        value: dict[str, Any] = {
            "teacher": [_subject_json(s) for s in self.teachers],
            "data": [_subject_json(s) for s in self.data],
            "use": self.use,
            "waivers": [w.to_json() for w in self.waivers],
        }
        return value if self.competing is None else {**value, "competing": self.competing}


def _subject_json(subject: Subject) -> dict[str, Any]:
    value: dict[str, Any] = {"name": subject.name}
    for key in ("version", "digest", "licence", "source", "access", "attribution"):
        if text := getattr(subject, key):
            value[key] = text
    if subject.terms:
        value["terms"] = list(subject.terms)
    if subject.derived_from:
        value["derived_from"] = [_subject_json(s) for s in subject.derived_from]
    for kind in get_args(TextKind):
        if texts := subject.texts_of(kind):
            value[f"{kind}_file"] = [
                {"name": t.name} | ({} if t.text is None else {"text": t.text, "sha256": t.sha256})
                for t in texts
            ]
    return value


def parse_declaration(block: Mapping[str, Any], where: str = "") -> Declaration:
    """Read a ``provenance`` block: YAML's plain values, or what :meth:`Declaration.to_json` gave.

    Args:
        where: file (and line) that the message starts with.

    Raises:
        RecipeError: an unknown key, a wrong type, an empty name or reason, a date that is none.
    """
    place = Place(where)
    check_keys(block, ("teacher", "data", "use", "competing", "waivers"), place)
    competing = block.get("competing")
    if competing is not None and not isinstance(competing, bool):
        raise place.at("competing").refuse(f"is {quoted(competing)}, and only true or false tells")
    declaration = Declaration(
        teachers=_subjects(block.get("teacher"), "teacher", place.at("teacher")),
        data=_subjects(block.get("data"), "data", place.at("data")),
        use=cast(Use, read_choice(block.get("use", "commercial"), get_args(Use), place.at("use"))),
        competing=competing,
        waivers=tuple(_waiver(w, place.at("waivers").at(k)) for k, w in enumerate(read_list(block.get("waivers"), place.at("waivers")))),
    )  # fmt: skip
    if sum(1 for s in declaration.subjects for _ in s.walk()) > MAX_SUBJECTS:
        raise place.refuse(f"names more than {MAX_SUBJECTS} teachers and data sets", "shorten it")
    return declaration


def from_run(provenance: Mapping[str, Any]) -> tuple[Declaration, tuple[Mapping[str, Any], ...]] | None:
    """What was stored with a run: the declaration and the terms records used; None where nobody declared anything.

    Args:
        provenance: :attr:`edgekd.evidence.run.Run.provenance`.

    Raises:
        RecipeError: a stored block that is not whole.
    """
    declared, records = provenance.get("declared"), provenance.get("records")
    if not isinstance(declared, Mapping):
        return None
    if not isinstance(records, list) or not all(isinstance(r, Mapping) for r in records):
        raise RecipeError("run.json: provenance.records is no list of records", "make the run again")
    return parse_declaration(declared, "run.json"), tuple(records)


def read_texts(declaration: Declaration, base: Path) -> Declaration:
    """The declaration with the content of the licence and notice files that it names.

    Args:
        base: folder of the recipe; relative paths start there.

    Raises:
        RecipeError: a file that cannot be read, lies elsewhere than in that folder or below it (links are followed
            first), is no UTF-8 text or larger than 1 MiB. No waiver covers that.
    """

    def filled(subject: Subject) -> Subject:
        return replace(
            subject,
            texts=tuple(t if t.text is not None else _filled(t, base) for t in subject.texts),
            derived_from=tuple(map(filled, subject.derived_from)),
        )  # fmt: skip

    return replace(
        declaration,
        teachers=tuple(map(filled, declaration.teachers)),
        data=tuple(map(filled, declaration.data)),
    )


def _filled(file: TextFile, base: Path) -> TextFile:
    fix = "name a licence or notice text in the recipe's folder or below it"
    try:
        folder, path = base.resolve(), (base / file.name).resolve()
    except (OSError, ValueError, RuntimeError) as e:  # a loop of links is a RuntimeError until Python 3.13
        raise RecipeError(f"cannot read {file.name!r}: {e}", fix) from e
    if folder not in path.parents:
        # A declaration may come from somebody else, and what it names goes into a bundle.
        raise RecipeError(f"{file.name!r} is not below the folder {base} of what names it", fix)
    # Where it lay on this machine is nobody's business; what stands beside the recipe keeps its name.
    written = Path(file.name)
    plain = not written.is_absolute() and ".." not in written.parts
    return replace(file, name=file.name if plain else path.relative_to(folder).as_posix(), text=_read(path))


def _read(path: Path) -> str:
    fix = "name a readable licence or notice text, relative to the recipe"
    try:
        raw = read_plain_file(path, RecipeError, largest_bytes=MAX_TEXT_BYTES)
    except OSError as e:
        raise RecipeError(f"cannot read {path}: {e.strerror}", fix) from e
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as e:
        raise RecipeError(f"{path} is not UTF-8 text ({e.reason})", fix) from e


_SUBJECT_KEYS = (
    "name", "version", "digest", "licence", "source", "access", "terms", "attribution", "derived_from", "licence_file",
    "notice_file",
)  # fmt: skip


def _subjects(value: Any, role: Role, place: Place, depth: int = 0) -> tuple[Subject, ...]:
    if value is None:
        return ()
    if depth > MAX_DEPTH:
        raise place.refuse(f"derives from something more than {MAX_DEPTH} times over", "leave out the oldest")
    several = isinstance(value, Sequence) and not isinstance(value, str)
    entries = list(value) if several else [value]
    return tuple(_subject(e, role, place.at(k) if several else place, depth) for k, e in enumerate(entries))


def _subject(value: Any, role: Role, place: Place, depth: int) -> Subject:
    if not isinstance(value, Mapping):
        raise place.refuse(f"is {quoted(value)}, expected a block {{name, licence, source, …}}")
    check_keys(value, _SUBJECT_KEYS, place)
    access = read_text(value, "access", place)
    if access and role == "data":
        raise place.at("access").refuse("is for a teacher: how its knowledge was reached")
    name = read_text(value, "name", place)
    if not name:
        raise place.at("name").refuse("is missing or empty", "say what it is called")
    texts = [
        t
        for kind in get_args(TextKind)
        for t in _texts(value.get(f"{kind}_file"), kind, place.at(f"{kind}_file"))
    ]
    return Subject(
        role=role,
        name=name,
        access=cast(Access, read_choice(access, get_args(Access), place.at("access"))) if access else "",
        terms=tuple(read_plain(t, place.at("terms")) for t in read_list(value.get("terms"), place.at("terms"))),
        derived_from=_subjects(value.get("derived_from"), role, place.at("derived_from"), depth + 1),
        texts=tuple(texts),
        **{k: read_text(value, k, place) for k in ("version", "digest", "licence", "source", "attribution")},
    )  # fmt: skip


def _texts(value: Any, kind: TextKind, place: Place) -> Iterator[TextFile]:
    for entry in read_list(value, place):
        if isinstance(entry, Mapping):
            text = entry.get("text")
            made = TextFile(
                kind=kind, name=read_text(entry, "name", place), text=text if isinstance(text, str) else None
            )
            if entry.get("sha256", "") != made.sha256:
                raise place.refuse(
                    f"{made.name!r} does not have the SHA-256 that is written beside it", "do not use it"
                )
            yield made
        else:
            yield TextFile(kind=kind, name=read_plain(entry, place))


def _waiver(value: Any, place: Place) -> Waiver:
    if not isinstance(value, Mapping):
        raise place.refuse(f"is {quoted(value)}, expected {{rule, by, reason, expires}}")
    check_keys(value, ("rule", "by", "reason", "expires", "subject"), place)
    said = {k: read_text(value, k, place) for k in ("rule", "by", "reason", "expires", "subject")}
    for key, what in (("rule", "which rule it waives"), ("by", "the person who takes it upon themselves"), ("reason", "why"), ("expires", "the last day on which it counts")):  # fmt: skip
        if not said[key]:
            raise place.at(key).refuse("is missing or empty", f"a waiver needs {key}: {what}")
    if not any(c.isalpha() for c in said["by"]):
        raise place.at("by").refuse(f"is {quoted(said['by'])}, which is no person's name", "give a name")
    if said["rule"] not in RULES:
        import difflib

        near = difflib.get_close_matches(said["rule"], RULES, n=1)
        raise place.at("rule").refuse(
            f"is {quoted(said['rule'])}, and there is no such rule",
            f"did you mean '{near[0]}'?" if near else f"rules: {', '.join(RULES)}",
        )
    if not RULES[said["rule"]].waivable:
        raise place.at("rule").refuse(
            f"is {said['rule']}, which nobody needs to waive: it refuses nothing", "leave it out"
        )
    return Waiver(
        rule=said["rule"], by=said["by"], reason=said["reason"], expires=read_day(said["expires"], place.at("expires")),
        subject=said["subject"],
    )  # fmt: skip
