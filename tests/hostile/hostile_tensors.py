"""safetensors headers and .npy headers that lie."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from hostile_case import DATA, INSPECT, OPEN, Case, hostile, sparse

CASES: list[Case] = []


def _safetensors(folder: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def _entry(begin: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [(end - begin) // 4] if shape is None else shape,
        "data_offsets": [begin, end],
    }


@hostile(CASES, INSPECT, "a header of 2^63 bytes", rule="header-length")
def _header_2_63(folder: Path) -> Path:
    return _safetensors(folder, {"w": _entry(0, 8)}, bytes(8), length=1 << 63)


@hostile(CASES, INSPECT, "a header longer than the file", rule="header-length")
def _header_beyond_file(folder: Path) -> Path:
    return _safetensors(folder, {"w": _entry(0, 8)}, bytes(8), length=5000)


@hostile(CASES, INSPECT, "a header of 99 MB of `[`, within the format's own limit", names="model.safetensors")
def _header_99_mb(folder: Path) -> Path:
    return _safetensors(folder, b'{"a":' + b"[" * 99_000_000)


@hostile(CASES, INSPECT, "a header of 60 MB, one million tensors", names="model.safetensors")
def _header_million_tensors(folder: Path) -> Path:
    entries = b",".join(
        b'"%06d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(1_000_000)
    )
    return _safetensors(folder, b"{" + entries + b"}")


@hostile(CASES, INSPECT, "a header nested 50,000 deep")
def _header_nested(folder: Path) -> Path:
    return _safetensors(folder, b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}")


@hostile(CASES, INSPECT, "a header that is no object", rule="header-json")
def _header_list(folder: Path) -> Path:
    return _safetensors(folder, b"[1, 2]")


@hostile(CASES, INSPECT, "one tensor named twice, of which readers take different ones", rule="header-json")
def _header_key_twice(folder: Path) -> Path:
    entry = json.dumps(_entry(0, 8))
    return _safetensors(folder, f'{{"w":{entry},"w":{entry}}}'.encode(), bytes(8))


@hostile(CASES, INSPECT, "offsets beyond the file", names="model.safetensors", code=2)
def _offsets_beyond(folder: Path) -> Path:
    return _safetensors(folder, {"w": _entry(0, 1 << 40)}, bytes(8))


@hostile(CASES, INSPECT, "tensors that overlap", rule="data-offsets")
def _offsets_overlap(folder: Path) -> Path:
    return _safetensors(folder, {"a": _entry(0, 8), "b": _entry(4, 12)}, bytes(12))


@hostile(CASES, INSPECT, "a hole between tensors, room for a second file", rule="data-offsets")
def _offsets_hole(folder: Path) -> Path:
    return _safetensors(folder, {"a": _entry(0, 4), "b": _entry(8, 12)}, bytes(12))


@hostile(CASES, INSPECT, "bytes after the last tensor", names="model.safetensors")
def _trailing_bytes(folder: Path) -> Path:
    return _safetensors(folder, {"a": _entry(0, 4)}, bytes(4) + b"#!/bin/sh\n")


@hostile(CASES, INSPECT, "negative offsets")
def _offsets_negative(folder: Path) -> Path:
    return _safetensors(folder, {"a": _entry(-4, 4, [2])}, bytes(8))


@hostile(CASES, INSPECT, "offsets of 10^400")
def _offsets_10_400(folder: Path) -> Path:
    return _safetensors(
        folder, b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1' + b"0" * 400 + b"]}}", bytes(4)
    )


@hostile(CASES, INSPECT, "an offset of a million digits")
def _offsets_million_digits(folder: Path) -> Path:
    text = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,' + b"9" * 1_000_000 + b"]}}"
    return _safetensors(folder, text, bytes(4))


@hostile(CASES, INSPECT, "the shape [2^32, 2^32], whose product is 0 in 64 bits", rule="tensor-data")
def _safetensors_shape_overflows(folder: Path) -> Path:
    return _safetensors(folder, {"a": _entry(0, 8, [1 << 32, 1 << 32])}, bytes(8))


@hostile(CASES, INSPECT, "`true` as a dimension")
def _shape_true(folder: Path) -> Path:
    return _safetensors(folder, {"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, bytes(4))


@hostile(CASES, INSPECT, "an element type that nobody defined", rule="tensor-type")
def _dtype_unknown(folder: Path) -> Path:
    return _safetensors(folder, {"a": _entry(0, 4, [1], "object")}, bytes(4))


@hostile(CASES, INSPECT, "metadata that is no text", rule="header-metadata")
def _metadata_object(folder: Path) -> Path:
    return _safetensors(folder, {"__metadata__": {"a": {"b": 1}}, "w": _entry(0, 4)}, bytes(4))


@hostile(CASES, INSPECT, "a tensor's name with an escape sequence", rule="name-text")
def _safetensors_name(folder: Path) -> Path:
    return _safetensors(folder, {"\x1b[2J\x1b[H": _entry(0, 4)}, bytes(4))


@hostile(
    CASES,
    OPEN,
    "weights with a model.json whose `weights` leads outside",
    code=2,
    word="outside",
    names="model.json",
)
def _weights_outside(folder: Path) -> Path:
    (folder / "secret").write_bytes(b"x")
    own = folder / "model"
    own.mkdir()
    spec = {"name": "x", "dtype": "float32", "shape": [1]}
    document = {
        "schema": "edgekd.model/1", "name": "m", "factory": "zoo:digits-cnn", "weights": "../secret", "weights_sha256": "0" * 64,
        "parameters": 1, "inputs": [spec], "outputs": [spec], "prepare": {}, "output": {}, "lineage": {},
    }  # fmt: skip
    (own / "model.json").write_text(json.dumps(document))
    return own


def _npy(header: str, data: bytes = bytes(64), version: int = 1) -> bytes:
    text = header.encode("latin1") + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + data


def npz_of(folder: Path, member: bytes, name: str = "x.npy") -> Path:
    """An archive of one stored member."""
    import zipfile

    path = folder / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, member)
    return path


_PLAIN = "{'descr': '<f4', 'fortran_order': False, 'shape': (16,), }"


@hostile(CASES, DATA, "an array of Python objects, which is a pickle", rule="pickled-array")
def _npy_objects(folder: Path) -> Path:
    return npz_of(
        folder, _npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"cos\nsystem\n(S'id'\ntR.")
    )


@hostile(CASES, DATA, "a field of Python objects inside a structure", rule="pickled-array")
def _npy_objects_inside(folder: Path) -> Path:
    header = "{'descr': [('a', '<f4'), ('b', '|O')], 'fortran_order': False, 'shape': (1,), }"
    return npz_of(folder, _npy(header, b"cos\nsystem\n(S'id'\ntR."))


@hostile(CASES, DATA, "code where the header's dict should be", code=2)
def _npy_code(folder: Path) -> Path:
    return npz_of(folder, _npy("__import__('os').system('true') or " + _PLAIN))


@hostile(CASES, DATA, "a header of 60,000 nested brackets")
def _npy_brackets(folder: Path) -> Path:
    return npz_of(folder, _npy("(" * 60_000))


@hostile(CASES, DATA, "a header of 4 GiB by its length field")
def _npy_header_length(folder: Path) -> Path:
    return npz_of(folder, b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + _PLAIN.encode())


@hostile(CASES, DATA, "a shape of 2^60 numbers over 64 bytes")
def _npy_shape_huge(folder: Path) -> Path:
    return npz_of(folder, _npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({1 << 60},), }}"))


@hostile(CASES, DATA, "a shape whose product overflows to the right size")
def _npy_shape_overflows(folder: Path) -> Path:
    return npz_of(folder, _npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({1 << 62}, 16, 4), }}"))


@hostile(CASES, DATA, "a negative shape")
def _npy_shape_negative(folder: Path) -> Path:
    return npz_of(folder, _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-16,), }"))


@hostile(CASES, DATA, "an element of 2^31 bytes")
def _npy_element_huge(folder: Path) -> Path:
    return npz_of(folder, _npy("{'descr': '|V2147483647', 'fortran_order': False, 'shape': (16,), }"))


@hostile(CASES, DATA, "an array that ends before its shape does", word="data.npz")
def _npy_truncated(folder: Path) -> Path:
    return npz_of(folder, _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000,), }"))


@hostile(CASES, INSPECT, "a .npy of objects, on its own", rule="pickled-array")
def _npy_alone_objects(folder: Path) -> Path:
    path = folder / "x.npy"
    path.write_bytes(
        _npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"cos\nsystem\n(S'id'\ntR.")
    )
    return path


@hostile(CASES, INSPECT, "a .npy of 1 TiB, sparse, as its header says", names="x.npy")
def _npy_sparse_1_tib(folder: Path) -> Path:
    head = _npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({1 << 40},), }}", b"")
    return sparse(folder / "x.npy", len(head) + (1 << 40), head)
