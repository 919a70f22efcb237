"""``.safetensors`` files: a header that says where every tensor lies, checked as the format's own reader checks it, and more.

Layout: 8 bytes, little-endian, the header's length; the header, one JSON object that begins with ``{`` and may end with
spaces; the data, which the tensors cover without holes (github.com/huggingface/safetensors, README, "Format").
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from edgekd.inspect.limits import Limits
from edgekd.inspect.names import count_text, fault, printable
from edgekd.inspect.rules import refuse

#: Element type -> bits (safetensors, ``Dtype::bitsize``).
DTYPES: Mapping[str, int] = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_ENTRY = {"dtype", "shape", "data_offsets"}
_AGAIN = "save or copy it again"


class _TwiceError(ValueError):
    """A key of a JSON object that is there twice."""


def inspect(path: Path, data: memoryview, limits: Limits) -> Mapping[str, Any]:
    """Check a header; see :mod:`edgekd.inspect.formats`.

    The facts: ``tensors`` (how many), ``dtypes`` (element type -> tensors), ``parameters`` (elements),
    ``initializer_bytes``, ``metadata``, ``listed`` (name -> ``{"dtype", "shape"}``, the first ones by place in the file).

    Raises:
        PolicyError: a rule is broken.
    """
    header, start = _header(path, data, limits)
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise refuse("header-metadata", path, f"{_METADATA} does not map text to text", _AGAIN)
    for key in metadata:
        _name(path, key, limits)
    if len(header) > limits.tensors:
        raise refuse("tensors", path, f"it has {len(header)} tensors, at most {limits.tensors} are read")
    placed = sorted((*_entry(path, name, entry, limits), name) for name, entry in header.items())
    at = 0
    for first, last, name in placed:
        if first != at:
            what = (
                "overlaps the one before it" if first < at else f"leaves {first - at} bytes before it unused"
            )
            raise refuse("data-offsets", path, f"tensor '{name}' starts at byte {first} and {what}", _AGAIN)
        at = last
    held = len(data) - start
    if at > held:
        raise refuse(
            "truncated", path, f"its tensors take {at} bytes, {held} follow its header", "copy it again"
        )
    if at < held:
        raise refuse("trailing-bytes", path, f"{held - at} bytes follow its last tensor", "copy it again")
    if at > limits.initializer_bytes:
        raise refuse(
            "initializer-bytes", path, f"its tensors take {at} bytes, at most {limits.initializer_bytes}"
        )
    return {
        "tensors": len(header),
        "dtypes": dict(sorted(Counter(e["dtype"] for e in header.values()).items())),
        "parameters": sum(math.prod(e["shape"]) for e in header.values()),
        "initializer_bytes": at,
        "metadata": {k: printable(v[:1000]) for k, v in sorted(metadata.items())[: limits.names]},
        "listed": {
            name: {"dtype": header[name]["dtype"], "shape": header[name]["shape"]}
            for _, _, name in placed[: limits.names]
        },
    }


def _header(path: Path, data: memoryview, limits: Limits) -> tuple[dict[str, Any], int]:
    if len(data) < _LENGTH_BYTES:
        raise refuse(
            "truncated", path, f"it has {len(data)} bytes, its header's length takes 8", "copy it again"
        )
    size = int.from_bytes(data[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + size
    if size > limits.safetensors_header_bytes:
        raise refuse(
            "header-length", path, f"its header has {size} bytes, at most {limits.safetensors_header_bytes}"
        )
    if start > len(data):
        raise refuse(
            "header-length", path, f"its header reaches to byte {start} of {len(data)}", "copy it again"
        )
    text = bytes(data[_LENGTH_BYTES:start])
    if text[:1] != b"{":
        raise refuse("header-json", path, "its header does not begin with {", _AGAIN)
    # Counted before they are parsed, when each becomes an object: five commas and two lists or so make a tensor.
    if text.count(b"[") + text.count(b"{") > 16 * limits.tensors or text.count(b",") > 80 * limits.tensors:
        raise refuse("tensors", path, f"its header lists more than {limits.tensors} tensors could need")
    body = text.rstrip(b" ")
    if not body.endswith(b"}"):
        raise refuse("header-json", path, "its header does not end with } and spaces", _AGAIN)
    try:
        header = json.loads(body.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    except _TwiceError as e:
        raise refuse(
            "header-json", path, f"its header has the key {printable(str(e))[:200]!r} twice", _AGAIN
        ) from e
    except RecursionError as e:
        raise refuse("nesting", path, "its header nests lists in lists", _AGAIN) from e
    except ValueError as e:
        raise refuse(
            "header-json", path, f"its header is not JSON ({printable(str(e))[:100]})", _AGAIN
        ) from e
    return dict(header), start


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        raise _TwiceError(next(k for k, _ in pairs if k in seen or seen.add(k)))  # type: ignore[func-returns-value]
    return made


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _name(path: Path, name: str, limits: Limits) -> None:
    raw = name.encode(errors="surrogatepass")
    what = fault(raw, 0, len(raw), limits.name_bytes)
    if what:
        raise refuse("name-text", path, what, "save it again with plain names")


def _entry(path: Path, name: str, entry: Any, limits: Limits) -> tuple[int, int]:
    """First byte and end of a tensor's data."""
    _name(path, name, limits)
    if not isinstance(entry, dict) or set(entry) != _ENTRY:
        raise refuse(
            "header-entry", path, f"tensor '{name}' does not have just {', '.join(sorted(_ENTRY))}", _AGAIN
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise refuse(
            "tensor-type", path, f"tensor '{name}' has the unknown type {printable(str(dtype))[:40]!r}"
        )
    if not isinstance(shape, list) or any(type(d) is not int for d in shape):
        raise refuse(
            "header-entry", path, f"tensor '{name}' has a shape that is no list of whole numbers", _AGAIN
        )
    if len(shape) > limits.dimensions or any(not 0 <= d < 1 << 64 for d in shape):
        raise refuse(
            "tensor-shape",
            path,
            f"tensor '{name}' has {len(shape)} dimensions, {min(shape)} to {max(shape)}",
        )
    if not isinstance(offsets, list) or len(offsets) != 2 or any(type(o) is not int for o in offsets):
        raise refuse(
            "header-entry", path, f"tensor '{name}' has data_offsets that are no two whole numbers", _AGAIN
        )
    first, last = offsets
    if not 0 <= first <= last:
        raise refuse("data-offsets", path, f"tensor '{name}' lies from byte {first} to {last}", _AGAIN)
    bits = math.prod(shape) * DTYPES[dtype]
    if last - first != bits // 8 or bits % 8:
        raise refuse(
            "tensor-data",
            path,
            f"tensor '{name}' has {last - first} bytes, its shape and type take {count_text((bits + 7) // 8)}",
            _AGAIN,
        )
    return first, last
