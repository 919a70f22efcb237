"""Constants that several nodes read, where the quantizers take each for one node's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgekd.lazy import require
from edgekd_onnx.reading import DEFAULT_DOMAIN

_PURPOSE = "quantizing"
#: Operator -> the axis of output channels in its weights (the second input); a Gemm's depends on ``transB``.
_AXES = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1}


def transpose_shared(graph: Any) -> bool:
    """Give Gemms with ``transB``, whose constant has other readers, a transposed one and no ``transB``, in place.

    ``ONNXModel.replace_gemm_with_matmul`` transposes such a constant where it is, whoever else reads it. Gemms that
    share one share the transposed one too.

    Returns:
        Whether anything changed.
    """
    onnx = require("onnx", extra="ort", purpose=_PURPOSE)
    constants = {t.name: t for t in graph.initializer}
    readers = _count_readers(graph)
    made: dict[str, str] = {}
    for node in graph.node:
        flag = next((a for a in node.attribute if a.name == "transB" and a.i), None)
        name = node.input[1] if node.op_type == "Gemm" and flag is not None else ""
        if name not in constants or (name not in made and readers[name] < 2):
            continue
        if name not in made:
            made[name] = _free(f"{name}_transposed", constants)
            array = onnx.numpy_helper.to_array(constants[name])
            graph.initializer.append(onnx.numpy_helper.from_array(array.T.copy(), made[name]))
        node.input[1] = made[name]
        node.attribute.remove(flag)
    _drop_unread(graph, made)
    return bool(made)


def separate_axes(graph: Any) -> bool:
    """Give nodes that quantize one constant along different axes, or as a table, a constant each, in place.

    Per channel, ONNX Runtime's quantizer stores it with the scales of the last of them.

    Returns:
        Whether anything changed.
    """
    constants = {t.name: t for t in graph.initializer}
    kinds: dict[str, dict[object, str]] = {}
    for node, place, name in _reads(graph):
        if name not in constants or len(constants[name].dims) < 2:
            continue
        axis = _axis(node, len(constants[name].dims)) if place == 1 else None
        known = kinds.setdefault(name, {})
        if axis not in known:
            known[axis] = _free(f"{name}_{node.op_type}", constants) if known else name
            if known[axis] != name:
                graph.initializer.add().CopyFrom(constants[name])
                graph.initializer[-1].name = known[axis]
                constants[known[axis]] = graph.initializer[-1]
        node.input[place] = known[axis]
    return any(len(known) > 1 for known in kinds.values())


def _reads(graph: Any) -> Iterator[tuple[Any, int, str]]:
    for node in graph.node:
        for place, name in enumerate(list(node.input)):
            yield node, place, name


def _count_readers(graph: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for _, _, name in _reads(graph):
        counts[name] = counts.get(name, 0) + 1
    for output in graph.output:
        counts[output.name] = counts.get(output.name, 0) + 1
    return counts


def _axis(node: Any, rank: int) -> int | None:
    if node.domain not in DEFAULT_DOMAIN:
        return None
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return _AXES[node.op_type] % rank if node.op_type in _AXES else None


def _free(name: str, taken: dict[str, Any]) -> str:
    while name in taken:
        name += "_"
    return name


def _drop_unread(graph: Any, names: dict[str, str]) -> None:
    readers = _count_readers(graph)
    for tensor in [t for t in graph.initializer if t.name in names and not readers.get(t.name)]:
        graph.initializer.remove(tensor)
