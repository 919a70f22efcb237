"""FP8 graphs where nothing multiplies in FP8: found from a file's bytes, opened so that the emulation is right.

ONNX Runtime's CPU and CUDA providers run FP8 Q/DQ pairs by rounding and computing in float32. With ONNX Runtime 1.31.1 its
optimiser makes other graphs of them: the default level fuses pairs into INT8 operators and then refuses the types; the same
with ``session.disable_quant_qdq`` gives wrong answers; ``ORT_ENABLE_BASIC`` rounds the biases to multiples of the product of
the scales, which FP8 scales are too coarse for. Without optimisation the answers are those of ``onnx.reference``. Needs no
package, so that a board can run it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekd.errors import UsageError
from edgekd.inspect import wire
from edgekd.inspect.limits import LIMITS
from edgekd.target import SessionOptions

FLOAT8 = "float8e4m3fn"
#: The only level at which such a graph is opened.
LEVEL = "disable"

#: ``TensorProto.DataType.FLOAT8E4M3FN``, and field numbers, of onnx.proto.
_FLOAT8E4M3FN = 17
_INSIDE: Mapping[str, Mapping[int, str]] = {
    "Model": {7: "Graph", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor"},
    "Function": {7: "Node"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph"},
}
_DATA_TYPE, _ATTRIBUTE_NAME, _ATTRIBUTE_INT = 2, 1, 3
#: Attributes that name a type: of QuantizeLinear without a zero point, and of Cast.
_TYPE_NAMES = (b"output_dtype", b"to")


def holds_float8(path: Path) -> bool:
    """Whether an ``.onnx`` file has FP8 (E4M3) weights, zero points or casts; a damaged file has none."""
    try:
        with path.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            with memoryview(mapped) as data:
                return any(kind == _FLOAT8E4M3FN for kind in _types(data))
    except (OSError, ValueError):  # missing, empty or no protobuf: the runtime says so
        return False


def _types(data: memoryview) -> Iterator[int]:
    budget = wire.Budget(LIMITS.fields)
    waiting = [("Model", 0, len(data))]
    while waiting:
        kind, start, end = waiting.pop()
        name = number = None
        for field, wire_type, first, last in wire.fields(data, start, end, budget):
            if wire_type == wire.VARINT:
                if kind == "Tensor" and field == _DATA_TYPE:
                    yield first
                elif kind == "Attribute" and field == _ATTRIBUTE_INT:
                    number = first
            elif wire_type != wire.LENGTH:
                continue
            elif kind == "Attribute" and field == _ATTRIBUTE_NAME:
                name = bytes(data[first : min(last, first + 16)])
            elif field in (inside := _INSIDE.get(kind, {})):
                waiting.append((inside[field], first, last))
        if name in _TYPE_NAMES and number is not None:
            yield number


def emulating(options: SessionOptions, path: Path) -> SessionOptions:
    """``options`` with the level at which the emulation is right.

    Raises:
        UsageError: another level was asked for.
    """
    given: Mapping[str, Any] = options.settings or {}
    if given.get("graph_level", LEVEL) != LEVEL:
        raise UsageError(
            f"graph_level {given['graph_level']} was asked for {path}, which holds FP8: onnxruntime's optimiser refuses such "
            "graphs or changes their answers",
            f"leave graph_level out (it is opened with {LEVEL})",
        )
    return replace(options, settings={**given, "graph_level": LEVEL})
