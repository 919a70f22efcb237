"""From a data reference to examples."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from edgekd.data import Source, open_source
from edgekd.errors import DataError, UsageError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    np.savez(tmp_path / "d.npz", x=np.arange(10.0), label=np.arange(10))
    return tmp_path


def ids(source: Source) -> list[int]:
    return [int(e.id) for e in source]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("", range(10)),
        ("#", range(10)),
        ("#0:3", range(3)),
        ("#7:", range(7, 10)),
        ("#:2", range(2)),
        ("#:", range(10)),
        ("#1:8:3", range(1, 8, 3)),
        ("#::5", range(0, 10, 5)),
        ("#8:100", range(8, 10)),
        ("#5:5", []),
        ("#5:2", []),
    ],
)
def test_rows(folder: Path, rows: str, expected: object) -> None:
    source = open_source(f"d.npz{rows}", folder)
    assert ids(source) == list(expected)  # type: ignore[call-overload]
    assert ids(source) == list(expected), "a source can be read again"  # type: ignore[call-overload]


@pytest.mark.parametrize("rows", ["3", "1:2:3:4", "-1:3", "0:-1", "a:b", "1:5:0", "train", "0:1:-1", "1.5:2"])
def test_rows_refused(folder: Path, rows: str) -> None:
    with pytest.raises(
        UsageError, match=f"'#{rows}' is neither rows nor a split of this source; write #START:STOP"
    ):
        open_source(f"d.npz#{rows}", folder)


def test_digests_of_rows_differ(folder: Path) -> None:
    references = ["d.npz", "d.npz#0:5", "d.npz#0:5:2", "d.npz#1:5"]
    digests = {open_source(r, folder).digest for r in references}
    assert len(digests) == 4
    assert open_source("d.npz#0:5", folder).digest == open_source("d.npz#0:5", folder).digest


def test_absolute_and_relative_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(ids(open_source(str(folder / "d.npz"), Path("/elsewhere")))) == 10
    monkeypatch.chdir(folder)
    assert len(ids(open_source("d.npz"))) == 10


def test_missing_and_unknown(folder: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.npz does not exist; check the path"):
        open_source("absent.npz", folder)
    (folder / "d.xlsx").write_text("")
    with pytest.raises(UsageError, match=r"d\.xlsx has the unknown ending '\.xlsx'; use \.npz, \.csv"):
        open_source("d.xlsx", folder)


def test_columns_are_named(folder: Path) -> None:
    (folder / "d.tsv").write_text("good\t1\nbad\t0\nfine\t1\n")
    rows = list(open_source("d.tsv?columns=text,label#1:", folder))
    assert [(str(r.inputs["text"]), r.label, r.id) for r in rows] == [("bad", 0, "1"), ("fine", 1, "2")]
    (folder / "h.csv").write_text("text,label\ngood,1\n")
    with pytest.raises(DataError, match=r"h\.csv has a header that names its columns; leave out \?columns="):
        list(open_source("h.csv?columns=text,label", folder))
    (folder / "odd?columns=a.csv").write_text("x\n1\n")
    assert len(ids(open_source("odd?columns=a.csv", folder))) == 1
    for wrong in ("d.tsv?colums=a,b", "d.tsv?columns=a,", "d.npz?columns=a"):
        with pytest.raises(
            UsageError, match=r"names no columns of a \.csv or \.tsv; write \?columns=text,label"
        ):
            open_source(wrong, folder)


def test_every_ending_opens(folder: Path) -> None:
    frame = "PAR1" + "f" * 4 + "\4\0\0\0" + "PAR1"
    for name, text in (("a.csv", "x\n"), ("a.tsv", "x\n"), ("a.JSONL", "{}"), ("a.parquet", frame)):
        (folder / name).write_text(text)
        assert type(open_source(name, folder)).__name__ == "TableSource"
    (folder / "images").mkdir()
    assert type(open_source("images", folder)).__name__ == "ImageFolder"


PYTHON = """
from dataclasses import dataclass
import numpy as np
from edgekd.data import Example

@dataclass
class Mine:
    n: int
    digest: str = "v1"
    def __iter__(self):
        for i in range(self.n):
            yield Example(id=str(i), inputs={"x": np.zeros(2)}, label=i)

def three():
    return Mine(3)

def other_digest():
    return Mine(3, "v2")

def rows_of_something_else():
    return [Example(id="0", inputs={}), {"x": 1}]

def nothing():
    return None
"""


def test_python_sources(folder: Path) -> None:
    (folder / "ds_mine.py").write_text(PYTHON)
    source = open_source("python:ds_mine:three", folder)
    assert ids(source) == [0, 1, 2]
    assert ids(open_source("python:ds_mine:three#1:", folder)) == [1, 2]
    before = source.digest
    assert open_source("python:ds_mine:three", folder).digest == before
    assert open_source("python:ds_mine:other_digest", folder).digest != before
    (folder / "ds_mine.py").write_text(PYTHON + "\n# edited\n")
    assert open_source("python:ds_mine:three", folder).digest != before, "edited code is new input"


def test_python_sources_refused(folder: Path) -> None:
    (folder / "ds_wrong.py").write_text(PYTHON)
    with pytest.raises(DataError, match=r"python:ds_wrong:rows_of_something_else yielded a dict at row 1"):
        list(open_source("python:ds_wrong:rows_of_something_else", folder))
    with pytest.raises(DataError, match=r"python:ds_wrong:nothing gave a NoneType, which has no rows"):
        list(open_source("python:ds_wrong:nothing", folder))
    with pytest.raises(UsageError, match="has no 'absent'"):
        open_source("python:ds_wrong:absent", folder)
    with pytest.raises(UsageError, match="neither rows nor a split"):
        open_source("python:ds_wrong:three#train", folder)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 123\n".format("a" * 64)


@pytest.mark.parametrize("name", ["d.npz", "d.csv", "d.jsonl", "d.parquet", "coco:notes.json"])
def test_a_git_lfs_pointer_is_not_the_file(folder: Path, name: str) -> None:
    file = name.removeprefix("coco:")
    (folder / file).write_text(POINTER)
    with pytest.raises(DataError, match=rf"{file} is a Git LFS pointer, not the file; run `git lfs pull`"):
        open_source(name, folder)


@pytest.mark.parametrize(
    ("name", "module"), [("a.png", "PIL.Image"), ("a.wav", "scipy.io.wavfile"), ("a.jpg", "PIL.Image")]
)
def test_a_git_lfs_pointer_in_a_folder_of_classes(folder: Path, name: str, module: str) -> None:
    pytest.importorskip(module)
    (folder / "files" / "cat").mkdir(parents=True)
    (folder / "files" / "cat" / name).write_text(POINTER)
    with pytest.raises(DataError, match=rf"{name} is a Git LFS pointer, not the file"):
        list(open_source("files", folder))


def test_a_table_that_tells_of_git_lfs_is_a_table(folder: Path) -> None:
    (folder / "d.csv").write_text("text,label\n" + POINTER.splitlines()[0] + ",1\n")
    assert [e.label for e in open_source("d.csv", folder)] == [1]
