"""One tensor of an ONNX file: its data is as long as its shape and type say, wherever it lies.

Field numbers, element types and which field holds which type: onnx/onnx.proto, ``TensorProto``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgekd.inspect import wire
from edgekd.inspect.names import count_text
from edgekd.inspect.wire import LENGTH, VARINT, WireError

#: Element type -> (name, bits of one element, field of its data, elements that one entry of that field holds).
#: A complex number takes two entries.
_FLOATS, _INT32S, _STRINGS, _INT64S, _RAW, _DOUBLES, _UINT64S = 4, 5, 6, 7, 9, 10, 11
TYPES: Mapping[int, tuple[str, int, int, float]] = {
    1: ("float32", 32, _FLOATS, 1),
    2: ("uint8", 8, _INT32S, 1),
    3: ("int8", 8, _INT32S, 1),
    4: ("uint16", 16, _INT32S, 1),
    5: ("int16", 16, _INT32S, 1),
    6: ("int32", 32, _INT32S, 1),
    7: ("int64", 64, _INT64S, 1),
    8: ("string", 0, _STRINGS, 1),
    9: ("bool", 8, _INT32S, 1),
    10: ("float16", 16, _INT32S, 1),
    11: ("float64", 64, _DOUBLES, 1),
    12: ("uint32", 32, _UINT64S, 1),
    13: ("uint64", 64, _UINT64S, 1),
    14: ("complex64", 64, _FLOATS, 0.5),
    15: ("complex128", 128, _DOUBLES, 0.5),
    16: ("bfloat16", 16, _INT32S, 1),
    17: ("float8e4m3fn", 8, _INT32S, 1),
    18: ("float8e4m3fnuz", 8, _INT32S, 1),
    19: ("float8e5m2", 8, _INT32S, 1),
    20: ("float8e5m2fnuz", 8, _INT32S, 1),
    21: ("uint4", 4, _INT32S, 2),
    22: ("int4", 4, _INT32S, 2),
    23: ("float4e2m1", 4, _INT32S, 2),
    24: ("float8e8m0", 8, _INT32S, 1),
    25: ("uint2", 2, _INT32S, 4),
    26: ("int2", 2, _INT32S, 4),
}
#: Field of data -> bytes of one entry; None for varints, whose ends are counted.
_ENTRY_BYTES: Mapping[int, int | None] = {
    _FLOATS: 4,
    _INT32S: None,
    _INT64S: None,
    _DOUBLES: 8,
    _UINT64S: None,
}
#: Dims, data type, segment, name, data location: of the rest, external_data is walked and prose is stepped over.
_DIMS, _TYPE, _SEGMENT, _NAME, _EXTERNAL, _LOCATION = 1, 2, 3, 8, 13, 14
_HIGH = bytes(range(0x80, 0x100))
_CHUNK = 1 << 20
#: Entries of a run that cost as much as looking at one field.
_PER_FIELD = 32


@dataclass(slots=True)
class Tensor:
    """What a TensorProto says.

    Attributes:
        name: where it is in the file, (first byte, end).
        dims: its shape.
        type: element type, its number.
        entries: field of data -> how many entries it holds; bytes for raw data.
        external: keys and values of ``external_data``.
        is_external: whether the data is in another file.
    """

    name: tuple[int, int] = (0, 0)
    dims: list[int] = field(default_factory=list)
    type: int = 0
    entries: dict[int, int] = field(default_factory=dict)
    external: list[tuple[str, str]] = field(default_factory=list)
    is_external: bool = False

    @property
    def elements(self) -> int:
        """Product of the dims."""
        return math.prod(self.dims)

    @property
    def needed_bytes(self) -> int | None:
        """Bytes that shape and type take; None for strings. Elements of fewer than 8 bits are packed."""
        bits = TYPES[self.type][1]
        return (self.elements * bits + 7) // 8 if bits else None

    def shortfall(self) -> str:
        """How the data in the file differs from shape and type; empty where it does not. Not for external data."""
        dtype, _, its_field, per_entry = TYPES[self.type]
        held = {f: n for f, n in self.entries.items() if n}
        if len(held) > 1:
            return "has data of two kinds"
        if _RAW in held:
            if self.needed_bytes is None:
                return "holds strings as raw data"
            has, needs, unit = held[_RAW], self.needed_bytes, "bytes"
        else:
            if held and its_field not in held:
                return f"keeps {dtype} in a field of another type"
            has, needs, unit = held.get(its_field, 0), math.ceil(self.elements / per_entry), "entries"
        return (
            ""
            if has == needs
            else f"holds {has} {unit}, its shape {shape_text(self.dims)} takes {count_text(needs)}"
        )


def shape_text(dims: list[int]) -> str:
    """A shape for a message, shortened."""
    return f"[{','.join(map(str, dims[:8]))}{',…' if len(dims) > 8 else ''}]"


def read(data: memoryview, start: int, end: int, budget: wire.Budget, dimensions: int) -> Tensor:
    """Walk the TensorProto in ``data[start:end]``.

    Raises:
        WireError: not a message, or the budget is spent.
    """
    made = Tensor()
    at = start
    while at < end and len(made.dims) <= dimensions:
        run = match_run(_RUNS, data, at, end, budget)
        if run is not None:
            number, count, at = run
            made.entries[number] = made.entries.get(number, 0) + count
            continue
        for number, kind, a, b in wire.fields(data, at, end, budget):
            at = b
            _take(made, data, number, kind, a, b, budget)
            if (at < end and data[at] in _RUNS) or len(made.dims) > dimensions:
                break
    return made


def _take(
    made: Tensor, data: memoryview, number: int, kind: int, a: int, b: int, budget: wire.Budget
) -> None:
    if number in _ENTRY_BYTES and kind == LENGTH:
        size = _ENTRY_BYTES[number]
        if size and (b - a) % size:
            raise WireError("malformed", f"the packed numbers at byte {a} are cut off")
        made.entries[number] = made.entries.get(number, 0) + (
            (b - a) // size if size else _varints(data, a, b)
        )
    elif number == _RAW and kind == LENGTH:
        if _RAW in made.entries:
            raise WireError("malformed", f"a tensor at byte {a} has raw data twice")
        made.entries[_RAW] = b - a
    elif number == _STRINGS and kind == LENGTH:
        made.entries[_STRINGS] = made.entries.get(_STRINGS, 0) + 1
    elif number == _DIMS and kind == VARINT:
        made.dims.append(wire.signed(a))
    elif number == _DIMS and kind == LENGTH:
        while a < b and len(made.dims) < 100:
            value, a = wire.varint(data, a, b)
            made.dims.append(wire.signed(value))
    elif number == _TYPE and kind == VARINT:
        made.type = a
    elif number == _NAME and kind == LENGTH:
        made.name = (a, b)
    elif number == _LOCATION and kind == VARINT:
        made.is_external = a == 1
    elif number == _EXTERNAL and kind == LENGTH:
        if len(made.external) < 8:  # more than there are keys, so refused
            made.external.append(read_entry(data, a, b, budget))
    elif number == _SEGMENT or number in (
        *_ENTRY_BYTES,
        _RAW,
        _STRINGS,
        _DIMS,
        _TYPE,
        _NAME,
        _EXTERNAL,
        _LOCATION,
    ):
        raise WireError(
            "malformed", f"field {number} of a tensor before byte {b} is of a kind that ONNX does not use"
        )


def read_entry(data: memoryview, start: int, end: int, budget: wire.Budget) -> tuple[str, str]:
    """Key and value of the StringStringEntryProto in ``data[start:end]``; of each no more than 4 KiB.

    Raises:
        WireError: not a message, or the budget is spent.
    """
    texts = {1: "", 2: ""}
    for number, kind, a, b in wire.fields(data, start, end, budget):
        if number in texts and kind == LENGTH:
            texts[number] = bytes(data[a : min(b, a + 4097)]).decode(errors="surrogateescape")
    return texts[1], texts[2]


def _varints(data: memoryview, start: int, end: int) -> int:
    """How many varints are packed in ``data[start:end]``: each ends with the one byte below 128."""
    if end > start and data[end - 1] >= 0x80:
        raise WireError("truncated", f"the packed numbers at byte {start} are cut off")
    return sum(
        len(bytes(data[at : min(at + _CHUNK, end)]).translate(None, _HIGH))
        for at in range(start, end, _CHUNK)
    )


def runs_of(entry_bytes: Mapping[int, int | None]) -> Mapping[int, tuple[int, re.Pattern[bytes], int | None]]:
    """Patterns of numbers that are not packed, one field each, by the first byte of such a field.

    Args:
        entry_bytes: field number below 16 -> bytes of one number, 4 or 8; None for varints.
    """
    found: dict[int, tuple[int, re.Pattern[bytes], int | None]] = {}
    for number, size in entry_bytes.items():
        tag = bytes([number << 3 | {4: wire.FOUR, 8: wire.EIGHT, None: VARINT}[size]])
        value = b".{%d}" % size if size else rb"[\x80-\xff]{0,9}[\x00-\x7f]"
        # Bounded, because the matcher keeps a note of every repetition.
        found[tag[0]] = number, re.compile(b"(?:" + re.escape(tag) + value + b"){1,4096}", re.DOTALL), size
    return found


def match_run(
    runs: Mapping[int, tuple[int, re.Pattern[bytes], int | None]],
    data: memoryview,
    at: int,
    end: int,
    budget: wire.Budget,
) -> tuple[int, int, int] | None:
    """(field number, how many, end) of the run of numbers at ``at``; None where there is none.

    Raises:
        WireError: the budget is spent.
    """
    if data[at] not in runs:
        return None
    number, pattern, size = runs[data[at]]
    match = pattern.match(data, at, end)
    if match is None:
        return None
    last = match.end()
    # Of a varint's field the tag is below 128, and its last byte.
    count = (last - at) // (1 + size) if size else _varints(data, at, last) // 2
    budget.take(1 + count // _PER_FIELD)
    return number, count, last


_RUNS = runs_of(_ENTRY_BYTES)
