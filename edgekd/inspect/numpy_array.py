"""``.npy``: a header that is Python text, read without evaluating it, and the array's bytes (NEP 1)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.inspect.limits import Limits
from edgekd.inspect.rules import Refusal, refuse

_MAGIC = b"\x93NUMPY"
#: NumPy refuses longer ones too (``numpy.lib.format._MAX_HEADER_SIZE``).
MAX_HEADER_BYTES = 10_000
_ITEM = re.compile(
    r"\s*(['\"])(\w+)\1\s*:\s*(?:(['\"])([^'\"\\]*)\3|(True|False)|\(([-\d\s,]*)\)|(\[).*)\s*(,|$)"
)
_DTYPE = re.compile(r"[<>|=]?([?biufcSUVmMO])(\d{0,9})(?:\[[\w/]{1,16}\])?")
_UNITS = {"U": 4}
#: A field of a structure that holds objects.
_OBJECT_FIELD = re.compile(r"['\"][<>|=]?O\d*['\"]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayHeader:
    """What an ``.npy`` says of itself: dtype as NumPy spells it, shape, order, and where its data starts."""

    dtype: str
    shape: tuple[int, ...]
    fortran_order: bool
    header_bytes: int
    data_bytes: int


def inspect(path: Path, data: memoryview, limits: Limits) -> Mapping[str, Any]:
    """Dtype and shape of an ``.npy``, whose bytes must be as many as they say."""
    header = read_header(path, data, "the array", limits)
    check_length(path, header, len(data), "the array", limits)
    return {"dtype": header.dtype, "shape": list(header.shape), "fortran_order": header.fortran_order}


def check_length(path: Path, header: ArrayHeader, size: int, what: str, limits: Limits) -> None:
    """Refuse data that are not as long as shape and dtype say.

    Args:
        size: bytes of header and data together.
    """
    if header.data_bytes > limits.initializer_bytes:
        raise refuse("initializer-bytes", path, f"{what} has {header.data_bytes} bytes of data")
    if header.header_bytes + header.data_bytes != size:
        raise refuse(
            "tensor-data",
            path,
            f"{what} has {size - header.header_bytes} bytes of data, {header.dtype} {list(header.shape)} takes "
            f"{header.data_bytes}",
            "write it again with numpy",
        )


def read_header(path: Path, data: memoryview | bytes, what: str, limits: Limits) -> ArrayHeader:
    """The header of an ``.npy`` from its first bytes (at most :data:`MAX_HEADER_BYTES` and 12 are needed).

    Raises:
        PolicyError: damaged, of Python objects, or of a type that holds several fields.
    """
    if bytes(data[:6]) != _MAGIC or len(data) < 10:
        raise refuse("content-mismatch", path, f"{what} is not an .npy", "write it again with numpy")
    version = (data[6], data[7])
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise refuse(
            "malformed", path, f"{what} has .npy version {version[0]}.{version[1]}, 1.0 to 3.0 are read"
        )
    begin = 10 if version == (1, 0) else 12
    length = int.from_bytes(data[8:begin], "little")
    if length > MAX_HEADER_BYTES:
        raise refuse(
            "header-length",
            path,
            f"{what} has a header of {length} bytes, at most {MAX_HEADER_BYTES} are read",
        )
    raw = bytes(data[begin : begin + length])
    if len(raw) != length:
        raise refuse("truncated", path, f"{what} ends within its header", "copy it again")
    try:
        text = raw.decode("utf-8" if version == (3, 0) else "latin-1").strip()
    except UnicodeDecodeError as e:
        raise refuse("name-text", path, f"the header of {what} is not UTF-8") from e
    if not (text.startswith("{") and text.endswith("}")):
        raise refuse("malformed", path, f"the header of {what} is no dictionary", "write it again with numpy")
    values = _items(path, text[1:-1], what)
    if set(values) != {"descr", "fortran_order", "shape"}:
        raise refuse(
            "malformed",
            path,
            f"the header of {what} has the keys {sorted(values)}, not descr, fortran_order, shape",
        )
    shape = _shape(path, str(values["shape"]), what, limits)
    return ArrayHeader(
        dtype=str(values["descr"]), shape=shape, fortran_order=values["fortran_order"] == "True",
        header_bytes=begin + length, data_bytes=math.prod(shape) * _itemsize(path, str(values["descr"]), what),
    )  # fmt: skip


def _items(path: Path, text: str, what: str) -> dict[str, str]:
    found: dict[str, str] = {}
    position = 0
    kinds = {"descr": 4, "fortran_order": 5, "shape": 6}
    while text[position:].strip():
        match = _ITEM.match(text, position)
        if match is not None and match[7]:
            if _OBJECT_FIELD.search(text, match.start(7)):
                raise _pickled(path, what)
            raise refuse(
                "tensor-type",
                path,
                f"{what} has several fields per item (a structured dtype)",
                "save one array per field",
            )
        key = match[2] if match is not None else ""
        value = match[kinds[key]] if match is not None and key in kinds else None
        if match is None or value is None or key in found:
            raise refuse(
                "malformed",
                path,
                f"the header of {what} reads {text[position : position + 40]!r}",
                "write it again with numpy",
            )
        found[key] = value
        position = match.end()
    return found


def _pickled(path: Path, what: str) -> Refusal:
    return refuse(
        "pickled-array", path, f"{what} holds pickled objects", "save numbers or text, with numpy.savez"
    )


def _itemsize(path: Path, dtype: str, what: str) -> int:
    match = _DTYPE.fullmatch(dtype)
    if match is None:
        raise refuse("tensor-type", path, f"{what} has the dtype {dtype!r}, which NumPy does not have")
    if match[1] == "O":
        raise _pickled(path, what)
    return (int(match[2]) if match[2] else 1) * _UNITS.get(match[1], 1)


def _shape(path: Path, text: str, what: str, limits: Limits) -> tuple[int, ...]:
    parts = [p.strip() for p in text.split(",")]
    if parts and not parts[-1]:
        parts.pop()
    if len(parts) > limits.dimensions or not all(p.isdecimal() and len(p) <= 19 for p in parts):
        raise refuse("tensor-shape", path, f"{what} has the shape ({text[:40]})")
    if len(parts) == 1 and "," not in text:
        raise refuse("malformed", path, f"{what} has the shape ({text[:40]}), which is no tuple")
    return tuple(int(p) for p in parts)
