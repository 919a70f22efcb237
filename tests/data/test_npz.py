"""``.npz`` data: mapped where it can be, refused where it is damaged."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgekd.data.npz import NpzSource, load_arrays
from edgekd.errors import DataError

X = np.arange(24, dtype=np.float32).reshape(4, 2, 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "d.npz"


def test_stored_members_are_mapped(path: Path) -> None:
    arrays = {
        "x": X,
        "fortran": np.asfortranarray(X),
        "label": np.arange(4),
        "id": np.asarray(["a", "bc", "d", "e"]),
        "big_endian": X.astype(">f8"),
        "flags": np.asarray([True, False, True, True]),
    }
    np.savez(path, **arrays)
    loaded = load_arrays(path)
    assert list(loaded) == list(arrays)
    for name, array in arrays.items():
        assert isinstance(loaded[name], np.memmap), name
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)
    with pytest.raises(ValueError, match="read-only"):
        loaded["x"][0] = 1


def test_members_written_with_a_longer_zip_header_are_mapped(path: Path) -> None:
    """The local header's extra field may be longer than the central directory's (zip64)."""
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("x.npy")
        with archive.open(info, "w", force_zip64=True) as member:
            np.lib.format.write_array(member, X)
    loaded = load_arrays(path)["x"]
    assert isinstance(loaded, np.memmap)
    np.testing.assert_array_equal(loaded, X)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_header_version(path: Path, version: tuple[int, int]) -> None:
    with zipfile.ZipFile(path, "w") as archive, archive.open("x.npy", "w") as member:
        np.lib.format.write_array(member, X, version=version)
    np.testing.assert_array_equal(load_arrays(path)["x"], X)


def test_compressed_members_load(path: Path) -> None:
    np.savez_compressed(path, x=X, label=np.arange(4))
    loaded = load_arrays(path)
    assert not isinstance(loaded["x"], np.memmap)
    np.testing.assert_array_equal(loaded["x"], X)


def test_empty_and_scalar_members_load(path: Path) -> None:
    np.savez(path, none=np.zeros((0, 3), np.float32), scalar=np.float32(3))
    loaded = load_arrays(path)
    assert loaded["none"].shape == (0, 3)
    assert loaded["scalar"] == 3


def test_rows(path: Path) -> None:
    np.savez(
        path, image=X, extra=np.arange(4), label=np.asarray([3, 1, 0, 2]), id=np.asarray(["a", "b", "c", "d"]),
        slice_light=np.asarray(["day", "night", "day", "day"]), slice_class=np.asarray([3, 1, 0, 2]),
    )  # fmt: skip
    rows = list(NpzSource(path))
    assert [(r.id, r.label) for r in rows] == [("a", 3), ("b", 1), ("c", 0), ("d", 2)]
    assert type(rows[0].label) is int
    assert set(rows[0].inputs) == {"image", "extra"}
    np.testing.assert_array_equal(rows[1].inputs["image"], X[1])
    assert rows[1].slices == {"light": "night", "class": "1"}


def test_rows_without_ids_and_labels(path: Path) -> None:
    np.savez(path, image=X)
    assert [(r.id, r.label, r.slices) for r in NpzSource(path)] == [(str(i), None, {}) for i in range(4)]


def test_labels_of_more_dimensions_stay_arrays(path: Path) -> None:
    np.savez(path, image=X, labels=np.eye(4))
    np.testing.assert_array_equal(next(iter(NpzSource(path))).label, [1, 0, 0, 0])


def test_digest_is_of_the_bytes(path: Path, tmp_path: Path) -> None:
    np.savez(path, x=X)
    (tmp_path / "copy.npz").write_bytes(path.read_bytes())
    assert NpzSource(path).digest == NpzSource(tmp_path / "copy.npz").digest
    np.savez(path, x=X + 1)
    assert NpzSource(path).digest != NpzSource(tmp_path / "copy.npz").digest


def test_different_lengths_are_refused(path: Path) -> None:
    np.savez(path, x=X, label=np.arange(3))
    with pytest.raises(DataError, match=r"d\.npz: arrays differ in their number of rows \(x: 4, label: 3\)"):
        list(NpzSource(path))


def test_a_scalar_among_rows_is_refused(path: Path) -> None:
    np.savez(path, x=X, label=np.int64(3))
    with pytest.raises(DataError, match="label: None"):
        list(NpzSource(path))


def test_no_arrays(path: Path) -> None:
    np.savez(path)
    with pytest.raises(DataError, match="holds no arrays"):
        list(NpzSource(path))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_pickled_objects_are_refused(path: Path, save: object) -> None:
    save(path, x=np.asarray([{"a": 1}, None], dtype=object))  # type: ignore[operator]
    with pytest.raises(DataError, match=r"it holds pickled objects.*numpy\.savez"):
        list(NpzSource(path))


def _truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _encrypt(data: bytes) -> bytes:
    """Set bit 0 of the flags in both headers: the member claims to be encrypted."""
    changed = bytearray(data)
    changed[data.index(b"PK\x03\x04") + 6] |= 1
    changed[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(changed)


def _unknown_compression(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[data.index(b"PK\x03\x04") + 8] = 99
    changed[data.index(b"PK\x01\x02") + 10] = 99
    return bytes(changed)


def _flip(data: bytes) -> bytes:
    """Damage the middle of a compressed member."""
    changed = bytearray(data)
    for i in range(60, 90):
        changed[i] ^= 0xFF
    return bytes(changed)


@pytest.mark.parametrize(
    "damage",
    [lambda d: b"", lambda d: b"not a zip file", _truncate, _encrypt, _unknown_compression, _flip],
    ids=["empty", "text", "truncated", "encrypted", "unknown compression", "flipped"],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_files_are_refused(path: Path, damage: object, save: object) -> None:
    save(path, x=np.random.default_rng(0).standard_normal((4, 50)))  # type: ignore[operator]
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(DataError, match=r"cannot read .*d\.npz"):
        list(NpzSource(path))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("rows", [10**6, 10**14])
def test_a_header_that_claims_too_much_is_refused(path: Path, compression: int, rows: int) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (rows, 3)})
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x.npy", header.getvalue() + b"\0" * 64)
    with pytest.raises(DataError, match="cannot read"):
        list(NpzSource(path))


def test_members_that_are_not_arrays_are_refused(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello, this is not an array")
    with pytest.raises(DataError, match="cannot read"):
        list(NpzSource(path))
