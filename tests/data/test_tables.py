"""``.csv``, ``.jsonl`` and ``.parquet`` rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.data import Example
from edgekd.data.tables import TableSource
from edgekd.errors import DataError

ROWS: list[dict[str, Any]] = [
    {"id": "a", "x": [1.0, 2.0], "y": 3.0, "label": 1, "slice_site": "north"},
    {"id": "b", "x": [4.0, 5.0], "y": 6.5, "label": 0, "slice_site": "south"},
]


def write_csv(folder: Path) -> Path:
    lines = ["id,x,y,label,slice_site"]
    lines += [f'{r["id"]},"{json.dumps(r["x"])}",{r["y"]},{r["label"]},{r["slice_site"]}' for r in ROWS]
    (folder / "d.csv").write_text("\n".join(lines) + "\n")
    return folder / "d.csv"


def write_jsonl(folder: Path) -> Path:
    (folder / "d.jsonl").write_text("\n\n".join(json.dumps(r) for r in ROWS) + "\n")
    return folder / "d.jsonl"


def write_parquet(folder: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "d.parquet")
    return folder / "d.parquet"


@pytest.mark.parametrize("write", [write_csv, write_jsonl, write_parquet])
def test_all_three_give_the_same_rows(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    source = TableSource(write(tmp_path))
    rows = list(source)
    assert [(r.id, r.label, r.slices) for r in rows] == [
        ("a", 1, {"site": "north"}),
        ("b", 0, {"site": "south"}),
    ]
    for row, raw in zip(rows, ROWS, strict=True):
        assert set(row.inputs) == {"x", "y"}
        for name in ("x", "y"):
            assert row.inputs[name].dtype == np.float32
            np.testing.assert_array_equal(row.inputs[name], raw[name])
    assert [r.id for r in source] == ["a", "b"], "a source can be read again"


TYPES: list[dict[str, Any]] = [
    {
        "ids": [101, 2**40],
        "count": 3,
        "share": 1.0,
        "mixed": 1,
        "text": "12",
        "words": ["a", "b"],
        "label": "good",
    },
    {
        "ids": [7, -1],
        "count": -4,
        "share": 0.5,
        "mixed": 2.5,
        "text": "[sic] x",
        "words": ["c", "d"],
        "label": 1,
    },
]


def write_types(folder: Path, suffix: str) -> Path:
    path = folder / f"types.{suffix}"
    if suffix == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        rows = [{**r, "mixed": float(r["mixed"]), "label": str(r["label"])} for r in TYPES]
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in TYPES))
    else:
        with path.open("w", newline="") as f:
            if suffix == "csv":
                writer = csv.DictWriter(f, list(TYPES[0]))
            else:
                writer = csv.DictWriter(
                    f, list(TYPES[0]), delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None
                )
            writer.writeheader()
            writer.writerows(
                [{k: json.dumps(v) if isinstance(v, list) else v for k, v in r.items()} for r in TYPES]
            )
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_a_column_has_one_type(tmp_path: Path, suffix: str) -> None:
    """Token ids stay whole, text stays text though it looks like a number, and one 2.5 makes a column of floats."""
    first, second = TableSource(write_types(tmp_path, suffix))
    for row, raw in zip((first, second), TYPES, strict=True):
        assert {n: a.dtype.kind for n, a in row.inputs.items()} == {
            "ids": "i", "count": "i", "share": "f", "mixed": "f", "text": "U", "words": "U",
        }  # fmt: skip
        assert {row.inputs[n].dtype for n in ("ids", "count")} == {np.dtype(np.int64)}
        assert {row.inputs[n].dtype for n in ("share", "mixed")} == {np.dtype(np.float32)}
        for name in ("ids", "count", "share", "mixed", "text", "words"):
            assert row.inputs[name].tolist() == raw[name]
    assert (first.label, second.label) == ("good", 1)


def test_tsv_without_a_header(tmp_path: Path) -> None:
    """Quotes belong to the text, as SST-2 has them."""
    (tmp_path / "d.tsv").write_text("\" it 's fine\t1\n42\t0\n")
    source = TableSource(tmp_path / "d.tsv", ("text", "label"))
    assert [(str(r.inputs["text"]), r.label) for r in source] == [("\" it 's fine", 1), ("42", 0)]
    assert source.digest != TableSource(tmp_path / "d.tsv", ("a", "label")).digest


def test_numbers_beyond_int64_are_floats(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("x\n1\n99999999999999999999\n")
    assert [r.inputs["x"].dtype for r in TableSource(tmp_path / "d.csv")] == [np.float32] * 2
    (tmp_path / "d.jsonl").write_text('{"x": 99999999999999999999}\n')
    assert next(iter(TableSource(tmp_path / "d.jsonl"))).inputs["x"].dtype == np.float32


def test_empty_text_is_text(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,label\nhello,1\n,0\n")
    assert [str(r.inputs["text"]) for r in TableSource(tmp_path / "d.csv")] == ["hello", ""]


def test_they_stream(tmp_path: Path) -> None:
    """The first row comes before a later, broken one is read."""
    (tmp_path / "d.jsonl").write_text('{"x": 1, "label": 0}\nbroken\n')
    rows = iter(TableSource(tmp_path / "d.jsonl"))
    first: Example = next(rows)
    assert first.id == "0"
    with pytest.raises(DataError, match=r"d\.jsonl:2 is not JSON"):
        next(rows)


def test_parquet_streams_by_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = write_parquet(tmp_path)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the whole table was read")

    monkeypatch.setattr(parquet.ParquetFile, "read", refuse)
    monkeypatch.setattr(parquet, "read_table", refuse)
    assert len(list(TableSource(path))) == 2


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes(b"\xef\xbb\xbflabel,x\r\n1,2\r\n")
    (row,) = TableSource(tmp_path / "d.csv")
    assert (row.label, set(row.inputs)) == (1, {"x"})


def test_text_stays_text(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,label\nhello there,good\n")
    (row,) = TableSource(tmp_path / "d.csv")
    assert str(row.inputs["text"]) == "hello there"
    assert row.label == "good", "the task says whether it can use it"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.csv", "x,label\n1\n", r"d\.csv, row 1: a value is missing"),
        ("d.csv", "x,label\n1,2\n1,2,3\n", r"d\.csv, row 2: .*more of them than columns"),
        ("d.csv", 'x,label\n"[1, 2",0\n', r"row 1, column 'x': '\[1, 2' is not a JSON list"),
        ("d.csv", 'x,label\n"[[1], [2, 3]]",0\n', "row 1, column 'x': a ragged list"),
        ("d.csv", b"x,label\n\xff,0\n", "cannot read"),
        ("d.csv", "x,label\n1,0\n,0\n", "row 2, column 'x': a value is missing"),
        ("d.csv", "x,x\n1,0\n", "has two columns 'x'"),
        ("d.tsv", "x\tlabel\n1\n", r"d\.tsv, row 1: a value is missing"),
        ("d.jsonl", '{"x": true}\n', "row 1, column 'x': True is boolean; write 0 and 1"),
        ("d.jsonl", '{"x": [1, false]}\n', r"column 'x': \[1, False\] is boolean"),
        ("d.jsonl", '{"x": [1, null]}\n', r"column 'x': a value is missing in \[1, None\]"),
        ("d.jsonl", "3\n", r"d\.jsonl:1 is not an object"),
        ("d.jsonl", '{"x": 1}\n{"x": null}\n', "row 2: a value is missing"),
        ("d.jsonl", b"\x80\n", "cannot read"),
        ("d.parquet", b"", "cannot read"),
        ("d.parquet", b"PAR1 this is not parquet PAR1", "cannot read"),
    ],
)
def test_refused(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        list(TableSource(tmp_path / name))


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot read"):
        list(TableSource(path))


@pytest.mark.parametrize("content", ["", "x,label\n"])
def test_no_rows(tmp_path: Path, content: str) -> None:
    (tmp_path / "d.csv").write_text(content)
    assert list(TableSource(tmp_path / "d.csv")) == []


def test_digest_is_of_kind_and_bytes(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv", "c.jsonl"):
        (tmp_path / name).write_text("x\n1\n")
    a, b, c = (TableSource(tmp_path / n).digest for n in ("a.csv", "b.csv", "c.jsonl"))
    assert a == b
    assert a != c
