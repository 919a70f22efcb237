"""``.npz`` data: arrays named after the model's inputs, plus ``label``, optional ``id`` and ``slice_<name>``.

Rows of different lengths (recordings) are stored end to end, with an array ``<name>_offsets`` of where each begins.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array, Example
from edgekd.errors import DataError
from edgekd.files import digest_of, sha256_file

_LABELS = ("label", "labels")
_IDS = ("id",)
_OFFSETS = "_offsets"


def _map_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array | None:
    """Memory-map a stored (uncompressed) member; None where it is compressed or holds objects."""
    if info.compress_type != zipfile.ZIP_STORED:
        return None
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(member)
        header = member.tell()
    if dtype.hasobject or 0 in shape:
        return None
    with path.open("rb") as f:
        f.seek(info.header_offset)
        local = f.read(30)
    # The local header's own name and extra lengths decide where the data starts (APPNOTE 4.3.7).
    name_len, extra_len = struct.unpack("<HH", local[26:30])
    offset = info.header_offset + 30 + name_len + extra_len + header
    order = "F" if fortran else "C"
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order=order)  # type: ignore[call-overload,no-any-return]


def load_arrays(path: Path) -> dict[str, Array]:
    """Every array of an .npz, memory-mapped where the member is not compressed.

    Raises:
        DataError: not a readable .npz, or one that holds pickled objects.
    """
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as loaded:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                mapped = _map_member(path, archive, info)
                arrays[name] = loaded[name] if mapped is None else mapped
    except (
        OSError,
        ValueError,
        zipfile.BadZipFile,
        KeyError,
        EOFError,
        struct.error,
        RuntimeError,  # an encrypted member, a compression that zipfile does not know
        MemoryError,  # a header that claims more than there is
    ) as e:
        reason = "it holds pickled objects" if "pickle" in str(e) else str(e)
        raise DataError(f"cannot read {path} as .npz ({reason})", "write it again with numpy.savez") from e
    except zipfile.zlib.error as e:  # type: ignore[attr-defined]
        raise DataError(f"cannot read {path} as .npz ({e})", "the file is damaged: write it again") from e
    return arrays


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths, end to end along the first dimension.

    Args:
        values: (total, ...).
        offsets: int64 (rows + 1,); row i is ``values[offsets[i]:offsets[i + 1]]``.
    """

    values: Array
    offsets: Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Array:
        return self.values[int(self.offsets[row]) : int(self.offsets[row + 1])]


def _fold(arrays: Mapping[str, Array], path: Path) -> dict[str, Array | Ragged]:
    """The arrays, each with ``<name>_offsets`` taken apart by them.

    Raises:
        DataError: offsets that do not rise from 0 to the array's length, in whole numbers.
    """
    # As many offsets as rows, or of more dimensions, are an input of that name.
    offsets_of = {
        name: arrays[name + _OFFSETS]
        for name, array in arrays.items()
        if name + _OFFSETS in arrays and array.ndim and arrays[name + _OFFSETS].ndim == 1
        and len(arrays[name + _OFFSETS]) != len(array)
    }  # fmt: skip
    folded: dict[str, Array | Ragged] = {}
    for name, array in arrays.items():
        if name.removesuffix(_OFFSETS) in offsets_of and name.endswith(_OFFSETS):
            continue
        offsets = offsets_of.get(name)
        if offsets is None:
            folded[name] = array
            continue
        fits = len(offsets) > 0 and offsets.dtype.kind in "iu" and offsets[0] == 0
        if not fits or offsets[-1] != len(array) or (offsets[1:] < offsets[:-1]).any():
            raise DataError(
                f"{path}: '{name}{_OFFSETS}' does not cut '{name}' {array.shape} into rows",
                f"save rows + 1 whole numbers that rise from 0 to {len(array)}",
            )
        folded[name] = Ragged(array, offsets)
    return folded


def _label(value: Array) -> Any:
    return value if value.ndim else value.item()


@dataclass(frozen=True)
class NpzSource:
    """Rows of an .npz file."""

    path: Path

    @cached_property
    def arrays(self) -> Mapping[str, Array | Ragged]:
        arrays = _fold(load_arrays(self.path), self.path)
        sizes = {n: len(a) if isinstance(a, Ragged) or a.ndim else None for n, a in arrays.items()}
        if not arrays:
            raise DataError(
                f"{self.path} holds no arrays", "save arrays named after the model's inputs, plus label"
            )
        if len(set(sizes.values())) != 1 or None in sizes.values():
            detail = ", ".join(f"{name}: {size}" for name, size in sizes.items())
            raise DataError(
                f"{self.path}: arrays differ in their number of rows ({detail})", "save one row per example"
            )
        return arrays

    def __iter__(self) -> Iterator[Example]:
        arrays = self.arrays
        label = next((arrays[n] for n in _LABELS if n in arrays), None)
        ids = next((arrays[n] for n in _IDS if n in arrays), None)
        slices = {n.removeprefix("slice_"): a for n, a in arrays.items() if n.startswith("slice_")}
        special = {*_LABELS, *_IDS}
        inputs = {n: a for n, a in arrays.items() if n not in special and not n.startswith("slice_")}
        for row in range(len(next(iter(arrays.values())))):
            yield Example(
                id=str(row) if ids is None else str(ids[row]),
                inputs={n: a[row] for n, a in inputs.items()},
                label=None if label is None else _label(label[row]),
                slices={n: str(a[row]) for n, a in slices.items()},
            )

    @property
    def digest(self) -> str:
        return digest_of(["npz", sha256_file(self.path)])
