"""Zip containers and .npy headers: each rule, broken once, on files that are made here."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekd.errors import DamagedFileError, PolicyError
from edgekd.inspect import LIMITS, inspect_file


def npy(array: np.ndarray, **header: object) -> bytes:
    """An .npy, with a header that says something else where ``header`` does."""
    told = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    text = repr({**told, **header})
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + array.tobytes()


X = np.arange(12, dtype=np.float32).reshape(4, 3)


def packed(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def refused(tmp_path: Path, data: bytes, name: str = "d.npz") -> str:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises((PolicyError, DamagedFileError), match=r"\(rule [a-z-]+\)") as caught:
        inspect_file(path)
    assert "\n" not in str(caught.value)
    return caught.value.rule


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_taken(tmp_path: Path, save: Callable[..., None]) -> None:
    arrays = {
        "x": X, "label": np.arange(4), "id": np.array(["ä", "bc"]), "flag": np.ones(3, bool),
        "f": np.asfortranarray(X), "scalar": np.float64(1), "none": np.zeros((0, 7), np.int8),
        "time": np.array(["2026-01-01"], "datetime64[D]"), "raw": np.zeros(2, "V2"),
    }  # fmt: skip
    save(tmp_path / "d.npz", **arrays)
    facts = inspect_file(tmp_path / "d.npz").facts
    told = {a["name"]: (tuple(a["shape"]), np.dtype(a["dtype"])) for a in facts["arrays"]}
    assert told == {n: (np.shape(a), np.asarray(a).dtype) for n, a in arrays.items()}
    assert facts["array_bytes"] == sum(np.asarray(a).nbytes for a in arrays.values())


def test_an_empty_archive_and_a_plain_npy(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz")
    assert inspect_file(tmp_path / "e.npz").facts["arrays"] == []
    np.save(tmp_path / "x.npy", X)
    assert inspect_file(tmp_path / "x.npy").facts["shape"] == [4, 3]


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (npy(X) + b"\0", "tensor-data"),
        (npy(X)[:-1], "tensor-data"),
        (npy(X, shape=(2**30, 3)), "tensor-data"),
        (npy(X, shape=(2**62, 2**62)), "initializer-bytes"),
        (npy(X, shape=(-4, 3)), "tensor-shape"),
        (npy(X, shape=(1,) * 40), "tensor-shape"),
        (npy(X, shape=12), "malformed"),
        (npy(X, descr="|O"), "pickled-array"),
        (npy(X, descr=[("a", "<f4"), ("b", "|O")]), "pickled-array"),
        (npy(X, descr=[("a", "<f4")]), "tensor-type"),
        (npy(X, descr="no such"), "tensor-type"),
        (npy(X, fortran_order=0), "malformed"),
        (npy(X).replace(b"'descr'", b"'other'"), "malformed"),
        (npy(X).replace(b"{'descr'", b"print(1)"), "malformed"),
        (b"\x93NUMPY\x09\x00" + npy(X)[8:], "malformed"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 30) + b"{}", "header-length"),
        (npy(X)[:40], "truncated"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_npy_headers(tmp_path: Path, data: bytes, rule: str) -> None:
    assert refused(tmp_path, data, "x.npy") == rule
    assert refused(tmp_path, packed({"x.npy": data})) == rule
    assert refused(tmp_path, packed({"x.npy": data}, zipfile.ZIP_DEFLATED)) == rule


GOOD = packed({"x.npy": npy(X), "y.npy": npy(X)})
CENTRAL = GOOD.index(b"PK\1\2")


def _set(offset: int, value: bytes, data: bytes = GOOD) -> bytes:
    return data[:offset] + value + data[offset + len(value) :]


def _link() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("x.npy")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return out.getvalue()


def _twice() -> bytes:
    # zipfile itself only warns of it: written under another name, which is changed in both headers.
    return GOOD.replace(b"y.npy", b"x.npy")


def _overlapping() -> bytes:
    """Both entries of the directory lead to the first member (Fifield 2019, *A better zip bomb*)."""
    second = GOOD.index(b"PK\1\2", CENTRAL + 4)
    data = _set(second + 42, struct.pack("<I", 0))
    return data[: second + 46] + b"x" + data[second + 47 :]


def _many_disks() -> bytes:
    return _set(len(GOOD) - 18, b"\1\0")


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (packed({"../x.npy": npy(X)}), "archive-path"),
        (packed({"/x.npy": npy(X)}), "archive-path"),
        (packed({"a/../../x.npy": npy(X)}), "archive-path"),
        (packed({"a\\..\\x.npy": npy(X)}), "archive-path"),
        (packed({"C:x.npy": npy(X)}), "archive-path"),
        (packed({"x\x1b[2J.npy": npy(X)}), "name-text"),
        (packed({"n" * 5000: npy(X)}), "name-text"),
        (_link(), "archive-link"),
        (_twice(), "archive-duplicate"),
        (packed({"x": npy(X), "x.npy": npy(X)}), "archive-duplicate"),
        (_set(CENTRAL + 8, b"\1"), "archive-encrypted"),
        (packed({"x.npy": npy(X)}, zipfile.ZIP_BZIP2), "archive-method"),
        (GOOD[: len(GOOD) // 2], "truncated"),
        (GOOD + b"more", "trailing-bytes"),
        (b"PK\x03\x04" + GOOD, "archive-header"),
        (GOOD.replace(b"x.npy", b"z.npy", 1), "archive-header"),
        (_set(22, struct.pack("<I", 7)), "archive-header"),
        (_set(CENTRAL + 24, struct.pack("<I", 10**6)), "archive-header"),
        (_set(len(GOOD) - 12, b"\3"), "archive-header"),
        (_set(len(GOOD) - 14, b"\1\0\1\0"), "archive-header"),
        (_many_disks(), "archive-header"),
        (packed({"inner.npz": GOOD}), "content-mismatch"),
        (packed({"readme.txt": b"hello"}), "content-mismatch"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_archives(tmp_path: Path, data: bytes, rule: str) -> None:
    assert refused(tmp_path, data) == rule


def test_members_that_share_bytes(tmp_path: Path) -> None:
    data = _overlapping()
    # Under one name they are duplicates, so the second entry gets a local header of its own name.
    assert refused(tmp_path, data) in ("archive-duplicate", "archive-overlap")
    out = packed({"a.npy": npy(X), "b.npy": npy(X)})
    second = out.index(b"PK\3\4", 4)
    # The first member claims to reach into the second: as long as both together.
    grown = second + 8
    for offset in (18, 22):
        out = out[:offset] + struct.pack("<I", grown) + out[offset + 4 :]
    central = out.index(b"PK\1\2")
    for offset in (central + 20, central + 24):
        out = out[:offset] + struct.pack("<I", grown) + out[offset + 4 :]
    assert refused(tmp_path, out) == "archive-overlap"


def test_zip64_that_contradicts_itself(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, archive.open("x.npy", "w", force_zip64=True) as member:
        member.write(npy(X))
    data = out.getvalue()
    (tmp_path / "ok.npz").write_bytes(data)
    assert inspect_file(tmp_path / "ok.npz").facts["array_bytes"] == X.nbytes
    # The directory says 0xFFFFFFFF and has no zip64 field that would say more.
    central = data.index(b"PK\1\2")
    assert refused(tmp_path, data[: central + 24] + b"\xff" * 4 + data[central + 28 :]) == "archive-header"


def test_zip64_field_without_the_size(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("x.npy")
        info.extra = struct.pack("<HH", 1, 0)
        archive.writestr(info, npy(X))
    data = out.getvalue()
    central = data.index(b"PK\1\2")
    assert refused(tmp_path, data[: central + 24] + b"\xff" * 4 + data[central + 28 :]) == "archive-header"


def test_something_before_the_first_member(tmp_path: Path) -> None:
    """All offsets are right, and a second archive, or a program, hides before them."""
    out = io.BytesIO(b"PK\x03\x04 and more")
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("x.npy", npy(X))
    assert refused(tmp_path, out.getvalue()) == "archive-header"


def test_bombs(tmp_path: Path) -> None:
    zeros = np.zeros((1 << 20,), np.float32)
    assert refused(tmp_path, packed({"x.npy": npy(zeros)}, zipfile.ZIP_DEFLATED)) == "archive-ratio"
    small = {f"{i}.npy": npy(np.zeros(16000, np.float32)) for i in range(40)}
    assert refused(tmp_path, packed(small, zipfile.ZIP_DEFLATED)) == "archive-ratio"
    # One bomb among much that does not shrink: the archive as a whole looks harmless.
    noise = np.frombuffer(np.random.default_rng(0).bytes(1 << 21), np.uint8)
    assert (
        refused(tmp_path, packed({"n.npy": npy(noise), "x.npy": npy(zeros)}, zipfile.ZIP_DEFLATED))
        == "archive-ratio"
    )
    path = tmp_path / "stored.npz"
    np.savez(path, x=zeros)
    assert inspect_file(path).facts["array_bytes"] == zeros.nbytes
    with pytest.raises((PolicyError, DamagedFileError), match="rule archive-size"):
        inspect_file(path, limits=replace(LIMITS, zip_bytes=1 << 20))
    with pytest.raises((PolicyError, DamagedFileError), match="rule archive-entries"):
        inspect_file(path, limits=replace(LIMITS, zip_members=0))
