"""Tables: lines, bytes and nesting; the frame of a .parquet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgekd.errors import DamagedFileError, PolicyError
from edgekd.inspect import LIMITS, inspect_file
from edgekd.inspect.text import _PIECE

DEEP = b"[" * 40 + b"]" * 40


@pytest.mark.parametrize(
    ("name", "data", "lines", "longest"),
    [
        ("a.csv", b"x,label\n1,0\n", 2, 7),
        ("a.tsv", 'text\tlabel\n"ä" open\t0'.encode(), 2, 11),
        ("a.csv", b'\xef\xbb\xbfx,label\r\n"1\n,2",0', 3, 11),
        ("a.jsonl", b'{"x": "' + DEEP + b'\\"' + DEEP + b'"}\n{}\n', 2, 171),
        ("a.jsonl", b'{"x": [' + b"[1]," * 50 + b"[2]]}\n", 1, 212),
        ("a.csv", b"1,2\n" * (_PIECE // 2), _PIECE // 2, 3),
    ],
)
def test_tables_that_are_taken(tmp_path: Path, name: str, data: bytes, lines: int, longest: int) -> None:
    (tmp_path / name).write_bytes(data)
    assert dict(inspect_file(tmp_path / name).facts) == {"lines": lines, "longest_line_bytes": longest}


@pytest.mark.parametrize(
    ("name", "data", "rule", "words"),
    [
        ("a.csv", b"x\n1\0\n", "text-bytes", "line 2 holds a NUL byte"),
        ("a.tsv", b"x\n1\n\xff\n", "text-bytes", "line 3 is not UTF-8"),
        ("a.jsonl", b"{}\n" * 5 + b'{"x": ' + DEEP + b"}\n", "nesting", "line 6 nests 41 deep"),
        ("a.jsonl", b'"\n{"x": ' + DEEP + b"}\n", "nesting", "line 2 nests 41 deep"),
        ("a.tsv", b"x\n" + b"1" * 3000 + b"\n", "line-length", "line 2 has more than 2000 bytes"),
        ("a.csv", b'x\n"' + b"1\n" * 1500, "line-length", "a quote .* is not closed"),
        ("a.parquet", b"PAR1" + bytes(20), "truncated", "PAR1 at its end"),
        ("a.parquet", b"PAR1" + bytes(4) + b"\x05\0\0\0PAR1", "header-length", "5 bytes of 16"),
    ],
)
def test_tables_that_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, rule: str, words: str
) -> None:
    monkeypatch.setattr("edgekd.inspect.text._PIECE", 1000)
    (tmp_path / name).write_bytes(data)
    with pytest.raises((PolicyError, DamagedFileError), match=rf"{words}.*\(rule {rule}\)"):
        inspect_file(tmp_path / name, limits=replace(LIMITS, text_line_bytes=2000))


def test_rows_behind_the_door(tmp_path: Path) -> None:
    from edgekd.data.sources import open_source

    (tmp_path / "a.csv").write_bytes(b"x,label\n1,\0\n")
    with pytest.raises(PolicyError, match="rule text-bytes"):
        open_source("a.csv", tmp_path)
    (tmp_path / "b.jsonl").write_text('{"x": 1, "x": 2}\n')
    with pytest.raises(PolicyError, match="the key 'x' twice"):
        list(open_source("b.jsonl", tmp_path))
