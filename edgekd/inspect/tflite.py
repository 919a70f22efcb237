"""``.tflite``: a FlatBuffer of LiteRT's schema (tensorflow/lite/schema/schema.fbs, version 3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.inspect.flatbuffer import FlatBuffer, Table
from edgekd.inspect.limits import Limits
from edgekd.inspect.rules import refuse

_IDENTIFIER = b"TFL3"
#: BuiltinOperator.CUSTOM: the operator is known by its name only.
_CUSTOM = 32
#: Slots of the tables, in the order of the schema.
_VERSION, _CODES, _GRAPHS, _BUFFERS = 0, 1, 2, 4
_CODE_CUSTOM, _CODE_BUILTIN = 1, 3
_TENSORS, _INPUTS, _OUTPUTS, _OPERATORS = 0, 1, 2, 3
_TENSOR_SHAPE, _TENSOR_BUFFER, _TENSOR_NAME = 0, 2, 3
_OP_CODE, _OP_INPUTS, _OP_OUTPUTS, _OP_LARGE_AT, _OP_LARGE_SIZE = 0, 1, 2, 9, 10
_BUFFER_DATA, _BUFFER_OFFSET, _BUFFER_SIZE = 0, 1, 2


def inspect(path: Path, data: memoryview, limits: Limits) -> Mapping[str, Any]:
    """Tables, vectors, buffers and indices of a ``.tflite``, and which custom operators it asks for."""
    flat = FlatBuffer(path, data, limits)
    if data[4:8] != _IDENTIFIER:
        raise flat.malformed(f"it has no {_IDENTIFIER.decode()} at byte 4")
    model = flat.root()
    at = model.at(_VERSION)
    version = flat.u32(at, "version") if at else 0
    if version != 3:
        raise flat.malformed(f"it has schema version {version}, 3 is read")
    custom = _custom_codes(flat, model)
    constant_bytes = _check_buffers(flat, model, limits)
    buffers = flat.vector(model, _BUFFERS, 4, "buffers")[1]
    graphs = flat.tables(model, _GRAPHS, "graph")
    if not graphs:
        raise flat.malformed("it has no graph")
    counts: Counter[int] = Counter()
    tensors = 0
    for graph in graphs:
        tensors += _check_graph(flat, graph, buffers, len(custom), counts, limits)
    if tensors > limits.tensors:
        raise refuse("tensors", path, f"it has {tensors} tensors, at most {limits.tensors} are read")
    return {
        "graphs": len(graphs),
        "operators": sum(counts.values()),
        "custom_operators": sorted({custom[i] for i in counts if custom[i]})[: limits.names],
        "tensors": tensors,
        "constant_bytes": constant_bytes,
    }


def _custom_codes(flat: FlatBuffer, model: Table) -> list[str]:
    """Per operator code its custom name, empty for built-in ones."""
    names = []
    for code in flat.tables(model, _CODES, "operator code"):
        at = code.at(_CODE_BUILTIN)
        # Files of before 2020 have the code in one byte (slot 0), where CUSTOM is the same number.
        old = code.at(0)
        kinds = {flat.i32(at, "operator code") if at else 0, flat.u8(old, "operator code") if old else 0}
        name = flat.text(code, _CODE_CUSTOM, "the name of a custom operator")
        names.append(name or ("(unnamed)" if _CUSTOM in kinds else ""))
    return names


def _check_buffers(flat: FlatBuffer, model: Table, limits: Limits) -> int:
    """Bytes of all buffers, each within the file: in the FlatBuffer, or behind it by offset and size."""
    total = 0
    for index, buffer in enumerate(flat.tables(model, _BUFFERS, "buffer")):
        total += flat.vector(buffer, _BUFFER_DATA, 1, f"buffer {index}")[1]
        at, size = buffer.at(_BUFFER_OFFSET), buffer.at(_BUFFER_SIZE)
        offset = flat.u64(at, f"buffer {index}") if at else 0
        length = flat.u64(size, f"buffer {index}") if size else 0
        # 0 and 1 are placeholders of the writer (schema.fbs, Buffer.offset).
        if offset > 1:
            _within(flat, offset, length, f"buffer {index}")
            total += length
    if total > limits.initializer_bytes:
        raise refuse(
            "initializer-bytes",
            flat.path,
            f"its buffers have {total} bytes, at most {limits.initializer_bytes} are read",
        )
    return total


def _within(flat: FlatBuffer, offset: int, length: int, what: str) -> None:
    if offset + length > len(flat.data):
        raise refuse(
            "truncated",
            flat.path,
            f"{what} ends at byte {offset + length} of {len(flat.data)}",
            "copy it again",
        )


def _check_graph(
    flat: FlatBuffer, graph: Table, buffers: int, codes: int, counts: Counter[int], limits: Limits
) -> int:
    tensors = flat.tables(graph, _TENSORS, "tensor")
    for index, tensor in enumerate(tensors):
        flat.text(tensor, _TENSOR_NAME, f"the name of tensor {index}")
        shape = flat.numbers(tensor, _TENSOR_SHAPE, f"the shape of tensor {index}")
        if len(shape) > limits.dimensions or any(d < -1 for d in shape):
            raise refuse("tensor-shape", flat.path, f"tensor {index} has the shape {list(shape[:8])}")
        at = tensor.at(_TENSOR_BUFFER)
        _below(flat, flat.u32(at, "buffer") if at else 0, buffers, f"tensor {index} names buffer")
    for slot, what in ((_INPUTS, "an input"), (_OUTPUTS, "an output")):
        for number in flat.numbers(graph, slot, what):
            _below(flat, number, len(tensors), f"{what} is tensor")
    operators = flat.tables(graph, _OPERATORS, "operator")
    if len(operators) > limits.nodes:
        raise refuse(
            "nodes", flat.path, f"it has {len(operators)} operators, at most {limits.nodes} are read"
        )
    for index, operator in enumerate(operators):
        at = operator.at(_OP_CODE)
        code = flat.u32(at, "operator code") if at else 0
        _below(flat, code, codes, f"operator {index} has code")
        counts[code] += 1
        for slot in (_OP_INPUTS, _OP_OUTPUTS):
            for number in flat.numbers(operator, slot, f"operator {index}"):
                # -1: an input that is left out.
                _below(flat, number, len(tensors), f"operator {index} takes tensor", least=-1)
        at, size = operator.at(_OP_LARGE_AT), operator.at(_OP_LARGE_SIZE)
        if at and size:
            _within(
                flat, flat.u64(at, "options"), flat.u64(size, "options"), f"the options of operator {index}"
            )
    return len(tensors)


def _below(flat: FlatBuffer, number: int, end: int, what: str, least: int = 0) -> None:
    if not least <= number < end:
        raise flat.malformed(f"{what} {number}, there are {end}")
