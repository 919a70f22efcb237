"""The safetensors inspector: real headers pass, and each unsound one is refused by its rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekd.errors import DamagedFileError, EdgeKDError, PolicyError
from edgekd.inspect import LIMITS, Limits, inspect_file
from edgekd.inspect.rules import DAMAGE
from edgekd.inspect.safetensors import DTYPES


def _entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def _saved(folder: Path, header: Any, data: bytes = bytes(8), length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "weights.safetensors"
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def _refusal(path: Path, limits: Limits = LIMITS) -> PolicyError | DamagedFileError:
    with pytest.raises((PolicyError, DamagedFileError)) as caught:
        inspect_file(path, limits=limits, digest=False)
    text = str(caught.value)
    assert caught.value.exit_code == (2 if caught.value.rule in DAMAGE else 5)
    assert str(path) in text
    assert text.isprintable()
    assert len(text) < 1000
    return caught.value


def test_the_facts(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"licence": "MIT"},
        "b": _entry("I8", [], [8, 9]),
        "a": _entry("F32", [2, 1], [0, 8]),
        "none": _entry("F16", [0, 7], [9, 9]),
    }
    found = inspect_file(_saved(tmp_path, json.dumps(header).encode() + b"   ", bytes(9)))
    assert (found.format, len(found.sha256), dict(found.files)) == ("safetensors", 64, {})
    assert found.facts == {
        "tensors": 3,
        "dtypes": {"F16": 1, "F32": 1, "I8": 1},
        "parameters": 3,
        "initializer_bytes": 9,
        "metadata": {"licence": "MIT"},
        "listed": {
            "a": {"dtype": "F32", "shape": [2, 1]},
            "b": {"dtype": "I8", "shape": []},
            "none": {"dtype": "F16", "shape": [0, 7]},
        },
    }


@pytest.mark.data
def test_the_real_files_are_sound(data_root: Path) -> None:
    files = sorted(data_root.glob("**/*.safetensors"))
    assert files
    for path in files:
        assert inspect_file(path, digest=False).facts["tensors"] > 100


def test_what_the_library_writes_is_sound(tmp_path: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    arrays = {f"layer.{i}": np.ones((i, 3), d) for i, d in enumerate(("f4", "f2", "f8", "i8", "u1", "?"))}
    path = tmp_path / "w.safetensors"
    numpy.save_file(arrays, path, metadata={"a": "b"})
    facts = inspect_file(path).facts
    assert facts["parameters"] == sum(a.size for a in arrays.values())
    assert {k: v["shape"] for k, v in facts["listed"].items()} == {
        k: list(a.shape) for k, a in arrays.items()
    }


def test_every_type_is_measured(tmp_path: Path) -> None:
    for dtype, bits in DTYPES.items():
        path = _saved(tmp_path, {"w": _entry(dtype, [8], [0, bits])}, bytes(bits))
        assert inspect_file(path).facts["initializer_bytes"] == bits
        path = _saved(tmp_path, {"w": _entry(dtype, [9], [0, bits])}, bytes(bits))
        assert _refusal(path).rule == "tensor-data"


_TWICE = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


@pytest.mark.parametrize(
    ("header", "rule"),
    [
        (_TWICE, "header-json"),
        (b'{"w":{"dtype":"F32","dtype":"I8","shape":[2],"data_offsets":[0,8]}}', "header-json"),
        (b' {"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "header-json"),
        (b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}\n', "header-json"),
        (b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}\0', "header-json"),
        (b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}', "header-json"),
        (b'{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', "header-json"),
        (b'{"w":"\xff"}', "header-json"),
        (b'{"w":' + b"9" * 5000 + b"}", "header-json"),
        (b"[]", "header-json"),
        (b"", "header-json"),
        (b'{"w":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "nesting"),
        (b'{"w":[' + b"[]," * 900_000 + b"[]]}", "tensors"),
        (b'{"w":[' + b"1," * 5_000_000 + b"1]}", "tensors"),
        ({"w": []}, "header-entry"),
        ({"w": {"dtype": "F32", "shape": [2]}}, "header-entry"),
        ({"w": {**_entry(), "more": 1}}, "header-entry"),
        ({"w": _entry(shape=2)}, "header-entry"),
        ({"w": _entry(shape=[2.0])}, "header-entry"),
        ({"w": _entry(shape=[True, 2])}, "header-entry"),
        ({"w": _entry(offsets=[0, 4, 8])}, "header-entry"),
        ({"w": _entry(offsets=[0, "8"])}, "header-entry"),
        ({"w": _entry("F33")}, "tensor-type"),
        ({"w": _entry(["F32"])}, "tensor-type"),
        ({"w": _entry(shape=[-2])}, "tensor-shape"),
        ({"w": _entry(shape=[1] * 33)}, "tensor-shape"),
        ({"w": _entry(shape=[1 << 64])}, "tensor-shape"),
        ({"w": _entry(shape=[1 << 38])}, "tensor-data"),
        ({"w": _entry(shape=[(1 << 64) - 1] * 32)}, "tensor-data"),
        ({"w": _entry("F4", [1], [0, 0])}, "tensor-data"),
        ({"w": _entry(offsets=[-8, 0])}, "data-offsets"),
        ({"w": _entry(offsets=[8, 0])}, "data-offsets"),
        ({"w": _entry(offsets=[4, 12])}, "data-offsets"),
        ({"w": _entry(), "v": _entry()}, "data-offsets"),
        ({"w": _entry(), "v": _entry("I8", [4], [4, 8])}, "data-offsets"),
        ({"w": _entry("I8", [3], [0, 3]), "v": _entry("I8", [4], [4, 8])}, "data-offsets"),
        ({"w": _entry(shape=[4], offsets=[0, 16])}, "truncated"),
        ({"w": _entry("I8", [7], [0, 7])}, "trailing-bytes"),
        ({}, "trailing-bytes"),
        ({"__metadata__": {"a": 1}, "w": _entry()}, "header-metadata"),
        ({"__metadata__": ["a"], "w": _entry()}, "header-metadata"),
        ({"__metadata__": {"a\n": "b"}, "w": _entry()}, "name-text"),
        ({"w\x1b[2J": _entry()}, "name-text"),
        ({"\ud800": _entry()}, "name-text"),
        ({"w" * 5000: _entry()}, "name-text"),
    ],
)  # fmt: skip
def test_an_unsound_header_is_refused(tmp_path: Path, header: Any, rule: str) -> None:
    assert inspect_file(_saved(tmp_path, {"w": _entry()})).facts["tensors"] == 1
    assert _refusal(_saved(tmp_path, header)).rule == rule


@pytest.mark.parametrize("length", [63, 1 << 20, LIMITS.safetensors_header_bytes + 1, (1 << 64) - 1])
def test_a_header_that_does_not_fit(tmp_path: Path, length: int) -> None:
    assert _refusal(_saved(tmp_path, {"w": _entry()}, b"", length)).rule == "header-length"


def test_a_file_of_less_than_a_length(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"\2\0\0")
    assert _refusal(path).rule == "truncated"


def test_the_limits(tmp_path: Path) -> None:
    path = _saved(tmp_path, {"w": _entry(), "v": _entry("I8", [1], [8, 9])}, bytes(9))
    inspect_file(path, limits=Limits(tensors=2, initializer_bytes=9))
    assert _refusal(path, Limits(tensors=1)).rule == "tensors"
    assert _refusal(path, Limits(initializer_bytes=8)).rule == "initializer-bytes"
    assert _refusal(path, Limits(safetensors_header_bytes=30)).rule == "header-length"


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 130), put=st.binary(min_size=1, max_size=6), cut=st.integers(0, 30))
def test_any_change_of_bytes_is_facts_or_one_line(tmp_path: Path, at: int, put: bytes, cut: int) -> None:
    header = {"__metadata__": {"a": "b"}, "w": _entry("I8", [4], [0, 4]), "v": _entry("I8", [4], [4, 8])}
    data = bytearray(_saved(tmp_path, header).read_bytes())
    data[at : at + len(put)] = put
    path = tmp_path / "changed.safetensors"
    path.write_bytes(data[: len(data) - cut])
    try:
        assert inspect_file(path).format == "safetensors"
    except EdgeKDError as e:
        assert str(e).isprintable()
