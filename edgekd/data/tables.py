"""``.csv``, ``.jsonl`` and ``.parquet`` data: a column per input, plus ``label``, ``id`` and ``slice_<name>``."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array, Example
from edgekd.errors import DataError
from edgekd.files import digest_of, sha256_file
from edgekd.lazy import require


def _array(value: Any, where: str) -> Array:
    """A cell as an array: numbers and nested lists of numbers become float32, text stays text."""
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            try:
                value = json.loads(text)
            except ValueError as e:
                raise DataError(
                    f"{where}: {text[:40]!r} is not a JSON list ({e})", "write numbers as [1, 2, 3]"
                ) from e
        else:
            try:
                value = float(text)
            except ValueError:
                return np.asarray(text)
    try:
        array = np.asarray(value)
    except ValueError as e:
        raise DataError(f"{where}: a ragged list ({e})", "every row needs one shape") from e
    return array.astype(np.float32) if array.dtype.kind in "fiub" else array


def _label(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return value
    return value


@dataclass(frozen=True)
class TableSource:
    """Rows of a table, streamed."""

    path: Path

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        suffix = self.path.suffix.lower()
        if suffix == ".parquet":
            parquet = require("pyarrow.parquet", extra="data", purpose="reading .parquet")
            for batch in parquet.ParquetFile(self.path).iter_batches():
                yield from batch.to_pylist()
            return
        # utf-8-sig: spreadsheets write a byte order mark, which would become part of the first column's name.
        with self.path.open(encoding="utf-8-sig", newline="") as f:
            if suffix == ".csv":
                yield from csv.DictReader(f)
                return
            for number, line in enumerate(f, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as e:
                    raise DataError(
                        f"{self.path}:{number} is not JSON ({e})", "write one object per line"
                    ) from e
                if not isinstance(row, dict):
                    raise DataError(f"{self.path}:{number} is not an object", "write one object per line")
                yield row

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
                        n: _array(v, f"{where}, column '{n}'")
                        for n, v in row.items()
                        if n not in ("id", "label") and not n.startswith("slice_")
                    },
                    label=_label(row.get("label")),
                    slices={
                        n.removeprefix("slice_"): str(v) for n, v in row.items() if n.startswith("slice_")
                    },
                )
        except (OSError, ValueError, csv.Error) as e:  # pyarrow's ArrowInvalid is a ValueError
            raise DataError(f"cannot read {self.path} ({e})", "check the file") from e

    @property
    def digest(self) -> str:
        return digest_of([self.path.suffix.lower(), sha256_file(self.path)])
