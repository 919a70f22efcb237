"""Where TensorRT wants Q/DQ pairs: around weighted operators and on the skip input of a residual addition only.

The rules are those of edgekd_tensorrt.lint (TRT030 to TRT046). ONNX Runtime's quantizer puts a pair on every input of
an addition, and lets every reader of a tensor read it dequantized.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd_onnx.reading import load_graph

_CONVOLUTIONS = ("Conv", "ConvTranspose")
#: What is quantized; of additions only those behind a convolution.
TENSORRT_OPERATORS = ("Add", "Conv", "ConvTranspose", "Gemm", "MatMul")

#: Side of a matrix below which INT8 is no faster (Model-Optimizer, as in edgekd_tensorrt.lint.limits).
_SIDE = 16


def excluded_for_tensorrt(path: Path) -> list[str]:
    """Nodes of :data:`TENSORRT_OPERATORS` that are better left alone.

    Additions without a convolution before them, and products with a side too small to gain (TRT052), unless there is
    nothing but such products.
    """
    graph = load_graph(path).graph
    fixed = {t.name: tuple(t.dims) for t in graph.initializer}
    maker, readers = _links(graph)
    additions, small, others = [], [], 0
    for node in graph.node:
        if node.op_type == "Add":
            branches = [n for n in node.input if _only_from_convolution(n, maker, readers)]
            if not branches or any(n in fixed for n in node.input):
                additions.append(node.name)
        elif node.op_type in ("Gemm", "MatMul") and min(fixed.get(node.input[1], (_SIDE,))) < _SIDE:
            small.append(node.name)
        elif node.op_type in TENSORRT_OPERATORS:
            others += 1
    return [*additions, *(small if others else [])]


def place_for_tensorrt(proto: Any, kept: list[str]) -> None:
    """Remove pairs that hinder TensorRT, in place: between a convolution and its addition, and before float readers.

    Args:
        kept: nodes that stay in float.
    """
    graph = proto.graph
    maker, readers = _links(graph)
    source = _sources(graph)
    for node in graph.node:
        if node.op_type == "Add" and node.name not in kept:
            _free_branch(node, source, maker, readers)
        elif node.op_type != "QuantizeLinear" and (
            node.op_type not in TENSORRT_OPERATORS or node.name in kept
        ):
            for i, name in enumerate(node.input):
                node.input[i] = source.get(name, name)
    _drop_unread(graph)


def _links(graph: Any) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    maker = {o: n for n in graph.node for o in n.output if o}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return maker, readers


def _sources(graph: Any) -> dict[str, str]:
    """Dequantized tensor -> the float tensor that was quantized, of activations and of weights."""
    quantized = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "QuantizeLinear"}
    return {
        n.output[0]: quantized[n.input[0]]
        for n in graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] in quantized
    }


def _only_from_convolution(name: str, maker: dict[str, Any], readers: dict[str, list[Any]]) -> bool:
    made = maker.get(name)
    return made is not None and made.op_type in _CONVOLUTIONS and len(readers[name]) == 1


def _free_branch(
    node: Any, source: dict[str, str], maker: dict[str, Any], readers: dict[str, list[Any]]
) -> None:
    names = [source.get(n, n) for n in node.input]
    # The only reader of such a tensor is its QuantizeLinear, and the only reader of the pair this addition.
    branches = [
        i
        for i, (given, name) in enumerate(zip(node.input, names, strict=True))
        if _only_from_convolution(name, maker, readers)
        and len(readers.get(given, ())) == 1
        and maker[name].input[0] in source
    ]
    for i, name in enumerate(names):
        # Without a quantized convolution before it the addition stays in float.
        if not branches or i == branches[0]:
            node.input[i] = name


def _drop_unread(graph: Any) -> None:
    """Remove Q and DQ nodes that nothing reads, and the constants that only they read."""
    while True:
        read = {i for n in graph.node for i in n.input} | {o.name for o in graph.output}
        idle = [
            n
            for n in graph.node
            if n.op_type in ("QuantizeLinear", "DequantizeLinear") and n.output[0] not in read
        ]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    left = [t for t in graph.initializer if t.name in read]
    del graph.initializer[:]
    graph.initializer.extend(left)
