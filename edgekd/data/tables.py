"""``.csv``, ``.tsv``, ``.jsonl`` and ``.parquet`` data: a column per input, plus ``label``, ``id``, ``slice_<name>``.

What a column holds is decided once, for all its rows: whole numbers (int64), numbers (float32) or text. A file whose
values carry no types (``.csv``, ``.tsv``) is therefore read twice, and so is ``.jsonl``, where 3 may stand for 3.0.
"""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from edgekd.data.example import Array, Example
from edgekd.errors import DataError
from edgekd.files import digest_of, sha256_file
from edgekd.inspect import refuse
from edgekd.lazy import require

_WHOLE, _NUMBER, _TEXT = "whole", "number", "text"
_WHOLE_CELL = re.compile(r"[+-]?\d{1,18}")
#: Beyond int64 a whole number is kept as a float, as any other number is.
_INT64 = range(-(2**63), 2**63)


def _wider(a: str | None, b: str | None) -> str | None:
    """What a column holds that holds both."""
    if a is None or b is None or a == b:
        return a if b is None else b
    return _TEXT if _TEXT in (a, b) else _NUMBER


@dataclass(slots=True)
class _Column:
    """What the cells of one column have in common.

    Attributes:
        kind: whole, number or text; None where no cell decides it.
        lists, single: whether some cells look like lists, and whether some look like anything else.
    """

    kind: str | None = None
    lists: bool = False
    single: bool = False

    def add_value(self, value: Any) -> None:
        """A value with a type of its own."""
        if self.kind != _TEXT:
            self.kind = _wider(self.kind, _value_kind(value))

    def add_cell(self, cell: str) -> None:
        """A cell of a table without types; an empty one decides nothing."""
        text = cell.strip()
        if text.startswith("["):
            self.lists = True
            with contextlib.suppress(ValueError, RecursionError):  # reported when its row is read
                self.add_value(json.loads(text))
        elif text:
            self.single = True
            if self.kind != _TEXT:
                self.kind = _wider(self.kind, _text_kind(text))

    @property
    def is_text(self) -> bool:
        """Whether the cells of a table without types are kept as they are."""
        return self.single if self.lists else self.kind in (_TEXT, None)


def _text_kind(text: str) -> str:
    if _WHOLE_CELL.fullmatch(text):
        return _WHOLE
    try:
        float(text)
    except ValueError:
        return _TEXT
    return _TEXT if "_" in text else _NUMBER


def _value_kind(value: Any) -> str | None:
    """What a typed value holds; None where that decides nothing (an empty list) or is refused later."""
    if isinstance(value, list):
        kind = None
        for item in value:
            kind = _wider(kind, _value_kind(item))
            if kind == _NUMBER and not isinstance(item, list):
                return kind
        return kind
    if isinstance(value, str):
        return _TEXT
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return _WHOLE if isinstance(value, int) and value in _INT64 else _NUMBER


def _is_input(name: str) -> bool:
    return name not in ("id", "label") and not name.startswith("slice_")


def _any(value: Any, found: Callable[[Any], bool]) -> bool:
    """Whether a value, or any in its nested lists, is found to be something."""
    return any(_any(v, found) for v in value) if isinstance(value, list) else found(value)


def _parsed(cell: str, column: _Column, where: str) -> Any:
    """A cell of a table without types as text, a number or a list."""
    if column.is_text:
        return cell
    text = cell.strip()
    if not text:
        raise DataError(f"{where}: a value is missing", "mend the row")
    if not column.lists:
        return int(text) if column.kind == _WHOLE else float(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise DataError(
            f"{where}: {text[:40]!r} is not a JSON list ({e})", "write numbers as [1, 2, 3]"
        ) from e


def _label(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return value
    return value


@dataclass(frozen=True)
class TableSource:
    """Rows of a table, streamed.

    Args:
        path: the file.
        columns: names of the columns of a ``.csv`` or ``.tsv`` without a header; empty where its first line is one.
    """

    path: Path
    columns: tuple[str, ...] = ()

    @property
    def _suffix(self) -> str:
        return self.path.suffix.lower()

    @property
    def _typed(self) -> bool:
        return self._suffix in (".jsonl", ".parquet")

    def _separated(self, f: TextIO) -> Iterator[Mapping[str, Any]]:
        names = list(self.columns) or None
        if self._suffix == ".tsv":  # quotes are part of the text (IANA text/tab-separated-values)
            reader = csv.DictReader(f, names, delimiter="\t", quoting=csv.QUOTE_NONE)
        else:
            reader = csv.DictReader(f, names)
        found = list(reader.fieldnames or ())
        if twice := [n for n in found if found.count(n) > 1]:
            raise DataError(f"{self.path} has two columns '{twice[0]}'", "name every column once")
        for number, row in enumerate(reader):
            if number == 0 and list(row.values()) == list(self.columns):
                raise DataError(
                    f"{self.path} has a header that names its columns",
                    "leave out ?columns=, which names them too",
                )
            yield row

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """A JSON object; of one key twice, readers take different values."""
        made = dict(pairs)
        if len(made) < len(pairs):
            keys = [k for k, _ in pairs]
            twice = next(k for k in keys if keys.count(k) > 1)
            raise refuse(
                "json-keys", self.path, f"an object has the key {twice[:40]!r} twice", "mend the row"
            )
        return made

    def _lines(self, f: TextIO) -> Iterator[Mapping[str, Any]]:
        for number, line in enumerate(f, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, object_pairs_hook=self._object)
            except (ValueError, RecursionError) as e:
                raise DataError(f"{self.path}:{number} is not JSON ({e})", "write one object per line") from e
            if not isinstance(row, dict):
                raise DataError(f"{self.path}:{number} is not an object", "write one object per line")
            yield row

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        if self._suffix == ".parquet":
            parquet = require("pyarrow.parquet", extra="data", purpose="reading .parquet")
            for batch in parquet.ParquetFile(self.path).iter_batches():
                yield from batch.to_pylist()
            return
        # utf-8-sig: spreadsheets write a byte order mark, which would become part of the first column's name.
        with self.path.open(encoding="utf-8-sig", newline="") as f:
            yield from self._lines(f) if self._suffix == ".jsonl" else self._separated(f)

    @cached_property
    def _columns(self) -> Mapping[str, _Column]:
        """What every input column holds, over all rows; parquet columns have one type each."""
        found: dict[str, _Column] = {}
        if self._suffix == ".parquet":
            return found
        # The rows before a damaged one are good, and it is reported when its turn comes.
        with contextlib.suppress(DataError, OSError, ValueError, RecursionError, csv.Error):
            for row in self._rows():
                for name, value in row.items():
                    if name is None or not _is_input(name):
                        continue
                    column = found.setdefault(name, _Column())
                    if self._typed:
                        column.add_value(value)
                    elif isinstance(value, str):
                        column.add_cell(value)
        return found

    def _array(self, value: Any, name: str, where: str) -> Array:
        """A cell as an array: text, or numbers of the column's own type."""
        column = self._columns.get(name, _Column())
        if isinstance(value, str) and not self._typed:
            value = _parsed(value, column, where)
        if isinstance(value, str):
            return np.asarray(value)
        if _any(value, lambda v: isinstance(v, bool)):
            raise DataError(f"{where}: {str(value)[:40]} is boolean", "write 0 and 1, or text")
        if _any(value, lambda v: isinstance(v, dict)):
            raise DataError(
                f"{where}: {str(value)[:40]} is an object", "write numbers, text or lists of them"
            )
        if _any(value, lambda v: v is None):
            raise DataError(f"{where}: a value is missing in {str(value)[:40]}", "mend the row")
        try:
            array = np.asarray(value)
        except ValueError as e:
            raise DataError(f"{where}: a ragged list ({e})", "every row needs one shape") from e
        if array.dtype.kind in "iu" and column.kind in (_WHOLE, None):
            return array.astype(np.int64)
        # Beyond int64 numpy makes objects of whole numbers.
        number = array.dtype.kind in "fiu" or (array.dtype.kind == "O" and column.kind == _NUMBER)
        return array.astype(np.float32) if number else array

    def __iter__(self) -> Iterator[Example]:
        try:
            for index, row in enumerate(self._rows()):
                where = f"{self.path}, row {index + 1}"
                if None in row or None in row.values():
                    raise DataError(
                        f"{where}: a value is missing, or there are more of them than columns", "mend the row"
                    )
                yield Example(
                    id=str(row.get("id", index)),
                    inputs={
                        n: self._array(v, n, f"{where}, column '{n}'") for n, v in row.items() if _is_input(n)
                    },
                    label=_label(row.get("label")),
                    slices={
                        n.removeprefix("slice_"): str(v) for n, v in row.items() if n.startswith("slice_")
                    },
                )
        # pyarrow's ArrowInvalid is a ValueError.
        except (OSError, ValueError, OverflowError, RecursionError, csv.Error) as e:
            raise DataError(f"cannot read {self.path} ({e})", "check the file") from e

    @property
    def digest(self) -> str:
        named = [list(self.columns)] if self.columns else []
        return digest_of([self._suffix, sha256_file(self.path), *named])
