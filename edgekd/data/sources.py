"""From a data reference to a stream of examples.

References: a path (``.npz``, ``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``, or a folder of images by class),
``coco:annotations.json:images``, ``sklearn:digits``, ``python:package.module:factory``. A suffix picks rows: ``#START:STOP[:STEP]`` of any source,
``#train`` (``#select``, ``#calibration``, ``#test``) of one that names splits. ``?columns=NAME,NAME`` before it names
the columns of a ``.csv`` or ``.tsv`` without a header.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.data.example import Example, Source
from edgekd.errors import DataError, ModelError, UsageError
from edgekd.files import digest_of
from edgekd.inspect import inspect_file
from edgekd.lfs_pointer import refuse_pointer_file
from edgekd.pythonpath import python_source_digest, resolve_python


@dataclass(frozen=True)
class Rows:
    """Some rows of another source."""

    source: Source
    rows: slice

    def __iter__(self) -> Iterator[Example]:
        return itertools.islice(iter(self.source), self.rows.start, self.rows.stop, self.rows.step)

    @property
    def digest(self) -> str:
        return digest_of([self.source.digest, self.rows.start, self.rows.stop, self.rows.step])


def _parse_rows(text: str, reference: str) -> slice:
    try:
        parts = [int(p) if p else None for p in text.split(":")]
    except ValueError:
        parts = []
    if (
        len(parts) not in (2, 3)
        or any(p is not None and p < 0 for p in parts)
        or (len(parts) == 3 and parts[2] == 0)
    ):
        raise UsageError(
            f"data {reference!r}: '#{text}' is neither rows nor a split of this source",
            "write #START:STOP or #START:STOP:STEP, for example #0:500",
        )
    return slice(*parts)


@dataclass(frozen=True)
class PythonSource:
    """A source made by the user's own factory."""

    reference: str
    made: Any
    search: Path | None

    def __iter__(self) -> Iterator[Example]:
        if not isinstance(self.made, Iterable):
            raise DataError(
                f"{self.reference} gave a {type(self.made).__name__}, which has no rows",
                "return something that can be iterated over",
            )
        for row, item in enumerate(self.made):
            if not isinstance(item, Example):
                raise DataError(
                    f"{self.reference} yielded a {type(item).__name__} at row {row}",
                    "yield edgekd.data.Example objects",
                )
            yield item

    @property
    def digest(self) -> str:
        own = getattr(self.made, "digest", None)
        if own is None:
            # The code alone does not tell the rows: a file that it reads may have changed.
            rows = hashlib.sha256()
            for example in self:
                rows.update(repr((example.id, example.label, sorted(example.slices.items()))).encode())
                for name, array in sorted(example.inputs.items()):
                    rows.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
            own = rows.hexdigest()
        return digest_of([self.reference, python_source_digest(self.reference, self.search), own])


def share_rows(a: str, b: str) -> bool:
    """Whether two references surely name some row in common: those of one source, by their ``#START:STOP:STEP``.

    >>> share_rows("d.npz#0:60", "d.npz#40:100"), share_rows("d.npz#0:50", "d.npz#50:100"), share_rows("d.npz", "d.npz")
    (True, False, True)
    """
    (body, _, mine), (other, _, theirs) = _split(a), _split(b)
    if body != other:
        return False
    if mine == theirs:
        return True
    if mine.isalpha() or theirs.isalpha():
        return not (mine.isalpha() and theirs.isalpha())
    rows = []
    for text, reference in ((mine, a), (theirs, b)):
        chosen = _parse_rows(text, reference) if text else slice(0, None, 1)
        rows.append(range(chosen.start or 0, _MANY if chosen.stop is None else chosen.stop, chosen.step or 1))
    return _meet(*rows)


#: A stop that no source has.
_MANY = 1 << 62


def _meet(a: range, b: range) -> bool:
    """Whether two rising ranges have a number in common, without walking through them."""
    common = math.gcd(a.step, b.step)
    if not a or not b or (b.start - a.start) % common:
        return False
    # a.start + k a.step = b.start (mod b.step) for one k below b.step / common, and from there every lcm.
    period = b.step // common
    k = (b.start - a.start) // common * pow(a.step // common, -1, period) % period
    first, every = a.start + k * a.step, math.lcm(a.step, b.step)
    first += max(0, -(-(b.start - first) // every)) * every
    return first < min(a.stop, b.stop)


def pick_rows(reference: str, rows: slice, base: Path | None = None) -> str:
    """A reference to some of the rows that another names.

    >>> pick_rows("d.npz", slice(1, None, 2)), pick_rows("d.npz#100:200:2", slice(0, 20, 2))
    ('d.npz#1::2', 'd.npz#100:140:4')

    Args:
        rows: positions within ``reference``, from 0 on, none negative.

    Raises:
        UsageError: a reference that ends in the name of a split.
    """
    whole = Path(reference) if base is None else base / reference
    body, _, selection = (reference, "", "") if whole.exists() else _split(reference)
    if selection.isalpha():
        raise UsageError(
            f"data {reference!r} is a named split, whose rows cannot be picked", "name rows: #START:STOP"
        )
    chosen = _parse_rows(selection, reference) if selection else slice(0, None, 1)
    begin, step = chosen.start or 0, chosen.step or 1
    stops = [
        s for s in (chosen.stop, None if rows.stop is None else begin + rows.stop * step) if s is not None
    ]
    start, every = begin + (rows.start or 0) * step, step * (rows.step or 1)
    return f"{body}#{start}:{min(stops, default='')}" + (f":{every}" if every != 1 else "")


def _split(reference: str) -> tuple[str, str, str]:
    body, hash_, selection = reference.rpartition("#")
    return (body, hash_, selection) if hash_ else (reference, "", "")


def open_source(reference: str, base: Path | None = None) -> Source:
    """Open a data set by reference; nothing is read but headers until it is iterated.

    Args:
        reference: see the module's docstring.
        base: the folder that relative paths and ``python:`` modules are looked for in.

    Raises:
        UsageError: a reference of no known form; DataError: a file that is missing or damaged.
    """
    whole = Path(reference) if base is None else base / reference
    # A file may have a # in its name; otherwise the last one starts the selection.
    body, hash_, selection = (reference, "", "") if whole.exists() else _split(reference)
    if body.startswith("python:"):
        factory = resolve_python(body, base)
        made = factory() if callable(factory) else factory
        source: Source = PythonSource(body, made, base)
    elif body.startswith("coco:"):
        from edgekd.data.coco import open_coco

        source = open_coco(body, base)
    elif body.startswith("sklearn:"):
        from edgekd.data.digits import open_sklearn

        return _select(open_sklearn(body, selection), "" if selection.isalpha() else selection, reference)
    else:
        source = _open_path(body, base)
    return _select(source, selection if hash_ else "", reference)


def _select(source: Source, selection: str, reference: str) -> Source:
    return Rows(source, _parse_rows(selection, reference)) if selection else source


def _columns(body: str, whole: Path) -> tuple[str, tuple[str, ...]]:
    """The path, and the names that ``?columns=`` gives the columns of a table without a header."""
    path, mark, query = body.rpartition("?")
    if not mark or whole.exists():
        return body, ()
    key, _, value = query.partition("=")
    names = tuple(n.strip() for n in value.split(","))
    if key != "columns" or not all(names) or Path(path).suffix.lower() not in (".csv", ".tsv"):
        raise UsageError(
            f"data {body!r}: '?{query}' names no columns of a .csv or .tsv", "write ?columns=text,label"
        )
    return path, names


#: Endings of files that hold rows.
_FILES = (".npz", ".csv", ".tsv", ".jsonl", ".parquet")


def _inspect(path: Path) -> None:
    """Look into a file before a library opens it.

    Raises:
        PolicyError: a rule is broken; DataError: empty or unreadable.
    """
    try:
        inspect_file(path, digest=False)
    except ModelError as e:
        raise DataError(e.what, e.fix) from e


def _open_path(body: str, base: Path | None) -> Source:
    body, columns = _columns(body, Path(body) if base is None else base / body)
    path = Path(body) if base is None else base / body
    if not path.exists():
        raise DataError(
            f"data {path} does not exist", "check the path (relative paths start at the recipe, else here)"
        )
    if path.is_dir():
        from edgekd.data.audio import AudioFolder, holds_recordings
        from edgekd.data.images import ImageFolder

        return AudioFolder(path) if holds_recordings(path) else ImageFolder(path)
    refuse_pointer_file(path)
    suffix = path.suffix.lower()
    if suffix in _FILES:
        _inspect(path)
    if suffix == ".npz":
        from edgekd.data.npz import NpzSource

        return NpzSource(path)
    if suffix in _FILES:
        from edgekd.data.tables import TableSource

        return TableSource(path, columns)
    raise UsageError(
        f"data {path} has the unknown ending {suffix!r}",
        "use .npz, .csv, .tsv, .jsonl, .parquet, a folder by class, coco:, sklearn:digits or python:module:factory",
    )
