"""How an ONNX file is quantized: its Q/DQ nodes, its weight-only products, and which node is fused into which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from edgekd.artifact import Artifact
from edgekd.lazy import require
from edgekd.quantize.facts import GraphFacts, WeightOnly, kept_float
from edgekd_onnx.reading import load_graph

_PRODUCTS = frozenset({
    "Conv", "ConvTranspose", "MatMul", "Gemm", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul",
    "MatMulNBits",
})  # fmt: skip
#: Operators that a runtime may do while the product before them writes (onnxruntime, "Graph optimizations", extended).
_FOLLOWING = frozenset({
    "Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "Tanh", "BatchNormalization", "Add", "Identity",
    "QuantizeLinear", "DequantizeLinear",
})  # fmt: skip
_CODES = ("QuantizeLinear", "DequantizeLinear")


def graph_facts(artifact: Artifact) -> GraphFacts:
    """See :class:`edgekd.quantize.facts.DescribingExporter`. Nodes inside If, Loop and Scan are not looked at.

    Raises:
        ModelError: it cannot be read.
    """
    graph = load_graph(artifact.path).graph
    nodes = list(graph.node)
    counts = Counter(n.op_type for n in nodes)
    return GraphFacts(
        quantize=counts["QuantizeLinear"],
        dequantize=counts["DequantizeLinear"],
        activations=_activation_types(nodes, _dtypes(graph)),
        weight_only=tuple(_weight_only(nodes)),
        depthwise=frozenset(_depthwise(nodes, _shapes(graph))),
        keep_float=kept_float(artifact),
        anchors=_anchors(nodes),
        products=frozenset(_name(n) for n in nodes if n.op_type in _PRODUCTS),
        beside=_beside(nodes),
    )


def _dtypes(graph: Any) -> Mapping[str, str]:
    onnx = require("onnx", extra="ort", purpose="reading ONNX files")
    return {t.name: onnx.TensorProto.DataType.Name(t.data_type).lower() for t in graph.initializer}


def _shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of constants, also of those that come out of a DequantizeLinear."""
    found = {t.name: tuple(t.dims) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def _activation_types(nodes: Iterable[Any], dtypes: Mapping[str, str]) -> tuple[str, ...]:
    """Of the zero points of QuantizeLinear; without one it writes uint8 (onnx, Operators.md)."""
    found = set()
    for node in nodes:
        if node.op_type == "QuantizeLinear" and node.input[0] not in dtypes:
            point = node.input[2] if len(node.input) > 2 else ""
            found.add(dtypes.get(point, "") if point else "uint8")
    return tuple(sorted(t for t in found if t))


def _weight_only(nodes: Iterable[Any]) -> Iterator[WeightOnly]:
    for node in nodes:
        if node.op_type == "MatMulNBits":
            values = {a.name: int(a.i) for a in node.attribute}
            # onnxruntime, ContribOperators.md: bits default to 4, accuracy_level to 0.
            yield WeightOnly(
                name=node.name or node.output[0],
                bits=values.get("bits", 4),
                accuracy_level=values.get("accuracy_level", 0),
            )


def _depthwise(nodes: Iterable[Any], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    for node in nodes:
        if node.op_type == "Conv":
            groups = next((int(a.i) for a in node.attribute if a.name == "group"), 1)
            weight = shapes.get(node.input[1], ())
            if groups > 1 and len(weight) > 1 and weight[1] == 1:
                yield node.name or node.output[0]


def _anchors(nodes: Iterable[Any]) -> dict[str, str]:
    """Names of nodes and of their outputs -> the product that they are fused into, else the node itself."""
    ordered = list(nodes)
    uses = Counter(name for node in ordered for name in node.input)
    place: dict[str, int] = {}  # of a product, by the tensors that it is fused up to
    found: dict[str, str] = {}
    for index, node in enumerate(ordered):
        own = index if node.op_type in _PRODUCTS else -1
        if own < 0 and node.op_type in _FOLLOWING:
            # Of two branches that meet, the one that ends later is fused into.
            own = max((place.get(name, -1) for name in node.input if uses[name] == 1), default=-1)
        name = _name(ordered[own] if own >= 0 else node)
        for known in (_name(node), *node.output):
            found[known] = name
        if own >= 0:
            place.update(dict.fromkeys(node.output, own))
    return found


def _beside(nodes: Iterable[Any]) -> dict[str, str]:
    """Q/DQ node -> the first operator before or after it that is none."""
    ordered = list(nodes)
    makers = {name: node for node in ordered for name in node.output}
    users: dict[str, Any] = {}
    for node in ordered:
        for name in node.input:
            users.setdefault(name, node)
    found = {}
    for node in ordered:
        if node.op_type not in _CODES:
            continue
        ways = (makers.get(node.input[0]), users.get(node.output[0]))
        order = ways if node.op_type == "QuantizeLinear" else ways[::-1]
        near = next((n for n in order if n is not None and n.op_type not in _CODES), None)
        if near is not None:
            found[_name(node)] = str(near.op_type)
    return found


def _name(node: Any) -> str:
    return str(node.name or node.output[0])
