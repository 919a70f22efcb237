"""``.pte``: a FlatBuffer of ExecuTorch's schema (executorch/schema/program.fbs), with segments of data behind it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.inspect.flatbuffer import FlatBuffer, Table
from edgekd.inspect.limits import Limits
from edgekd.inspect.rules import refuse

_IDENTIFIERS = (b"ET12", b"ET13")
#: The extended header (executorch/schema/extended_header.h): magic, its length u32, then three u64.
_EXTENDED, _HEADER = b"eh00", struct.Struct("<IQQQ")
_PLANS, _CONSTANTS, _SEGMENTS, _NAMED = 1, 2, 4, 7
_PLAN_NAME, _PLAN_VALUES, _PLAN_INPUTS, _PLAN_OUTPUTS, _PLAN_CHAINS, _PLAN_OPERATORS, _PLAN_DELEGATES = (
    0, 2, 3, 4, 5, 6, 7,
)  # fmt: skip
_CHAIN_INSTRUCTIONS = 2


def inspect(path: Path, data: memoryview, limits: Limits) -> Mapping[str, Any]:
    """Header, segments, methods, operators and backends of a ``.pte``."""
    if bytes(data[4:8]) not in _IDENTIFIERS:
        raise refuse("malformed", path, "it has no ET12 or ET13 at byte 4", "export it again")
    size, base, segment_bytes = _header(path, data)
    flat = FlatBuffer(path, data[:size], limits)
    program = flat.root()
    segments = _check_segments(flat, program, base, segment_bytes)
    for index, named in enumerate(flat.tables(program, _NAMED, "named data")):
        flat.text(named, 0, "the key of named data")
        at = named.at(1)
        segment = flat.u32(at, "named data") if at else 0
        if segment >= segments:
            raise flat.malformed(f"named data {index} names segment {segment}, there are {segments}")
    for index, constant in enumerate(flat.tables(program, _CONSTANTS, "constant")):
        flat.vector(constant, 0, 1, f"constant {index}")
    plans = flat.tables(program, _PLANS, "method")
    if not plans:
        raise flat.malformed("it has no method")
    operators: set[str] = set()
    backends: set[str] = set()
    instructions = 0
    for plan in plans:
        instructions += _check_plan(flat, plan, limits)
        for operator in flat.tables(plan, _PLAN_OPERATORS, "operator"):
            overload = flat.text(operator, 1, "an overload")
            operators.add(flat.text(operator, 0, "an operator") + (f".{overload}" if overload else ""))
        backends.update(flat.text(d, 0, "a backend") for d in flat.tables(plan, _PLAN_DELEGATES, "delegate"))
    return {
        "methods": [flat.text(p, _PLAN_NAME, "a method") for p in plans][: limits.names],
        "instructions": instructions,
        "operators": sorted(operators)[: limits.names],
        "backends": sorted(backends)[: limits.names],
        "segments": segments,
        "segment_bytes": segment_bytes,
    }


def _header(path: Path, data: memoryview) -> tuple[int, int, int]:
    """Bytes of the program, where its segments start, and their bytes."""
    if data[8:12] != _EXTENDED:
        return len(data), 0, 0
    if len(data) < 12 + _HEADER.size:
        raise refuse("truncated", path, "it ends within its header", "copy it again")
    length, size, base, segments = _HEADER.unpack_from(data, 12)
    if length < 32:
        segments = 0  # an older header, without their size
    end = max(size, base + segments)
    if size < 12 + _HEADER.size or end > len(data):
        raise refuse("truncated", path, f"it has {len(data)} bytes, its header says {end}", "copy it again")
    if base and base < size:
        raise refuse(
            "malformed", path, f"its segments start at byte {base}, within the program of {size} bytes"
        )
    return size, base, segments or len(data) - base if base else 0


def _check_segments(flat: FlatBuffer, program: Table, base: int, available: int) -> int:
    segments = flat.tables(program, _SEGMENTS, "segment")
    for index, segment in enumerate(segments):
        at, size = segment.at(0), segment.at(1)
        offset, length = flat.u64(at, "segment") if at else 0, flat.u64(size, "segment") if size else 0
        if length and not base:
            raise flat.malformed(f"segment {index} has {length} bytes, and its header names no segments")
        if offset + length > available:
            raise refuse(
                "truncated",
                flat.path,
                f"segment {index} ends at byte {offset + length} of {available}",
                "copy it again",
            )
    return len(segments)


def _check_plan(flat: FlatBuffer, plan: Table, limits: Limits) -> int:
    values = flat.vector(plan, _PLAN_VALUES, 4, "values")[1]
    if values > limits.tensors:
        raise refuse("tensors", flat.path, f"a method has {values} values, at most {limits.tensors} are read")
    for slot in (_PLAN_INPUTS, _PLAN_OUTPUTS):
        for number in flat.numbers(plan, slot, "an input or output"):
            if not 0 <= number < values:
                raise flat.malformed(f"an input or output is value {number}, there are {values}")
    chains = flat.tables(plan, _PLAN_CHAINS, "chain")
    instructions = sum(flat.vector(c, _CHAIN_INSTRUCTIONS, 4, "instructions")[1] for c in chains)
    if instructions > limits.nodes:
        raise refuse(
            "nodes", flat.path, f"a method has {instructions} instructions, at most {limits.nodes} are read"
        )
    return instructions
