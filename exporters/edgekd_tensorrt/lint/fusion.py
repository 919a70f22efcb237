"""Pairs that keep TensorRT from fusing, or that gain nothing: TRT040 to TRT043, TRT045, TRT046."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgekd_tensorrt.lint.context import Context
from edgekd_tensorrt.lint.findings import Finding
from edgekd_tensorrt.lint.graph import Graph, Node
from edgekd_tensorrt.lint.quantization import FP8, MOVES, WEIGHTED, Step

_CONVOLUTIONS = ("Conv", "ConvTranspose")
#: What TensorRT fuses behind a convolution.
_ACTIVATIONS = (
    "BatchNormalization", "Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu",
    "PRelu", "Swish",
)  # fmt: skip
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_POINTWISE = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min")
_FLOATING = (
    "LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization", "Gelu", "Erf", "Softmax",
    "LogSoftmax",
)  # fmt: skip
#: Operators that compute on quantized inputs.
_QUANTIZED_READERS = (*WEIGHTED, *_POOLS, "Add", "Concat", "Attention", "Resize")


def fusion_findings(context: Context) -> Iterator[Finding]:
    for step in context.dequantizes():
        quantize = context.quantize_of(step)
        if quantize is not None:
            yield from _behind_weighted(context, quantize, step)
    for node in context.nodes:
        if node.domain != "":
            continue
        if node.op_type == "Add":
            yield from _residual(context, node)
        if node.op_type == "Concat":
            yield from _concat(context, node)
        if node.op_type in _POOLS:
            yield from _pool(context, node)
        if node.op_type in _POINTWISE:
            yield from _constant_operand(context, node)
        if node.op_type in _FLOATING:
            yield from _floating(context, node)


def readers_of(graph: Graph, name: str, *, through: Sequence[str] = MOVES) -> list[Node]:
    """Who reads a tensor, through operators that only move values; each once.

    Args:
        through: operators to look through: what they read is their first input.
    """
    found: dict[Node, None] = {}
    waiting, seen = [name], {name}
    while waiting:
        for node, index in graph.read_by(waiting.pop()):
            if node.op_type in through and index == 0:
                new = [o for o in node.outputs if o and o not in seen]
                seen.update(new)
                waiting += new
            else:
                found[node] = None
    return list(found)


def _moved_to_output(graph: Graph, name: str) -> bool:
    waiting, seen = [name], {name}
    while waiting:
        at = waiting.pop()
        if graph.is_output(at):
            return True
        for node, index in graph.read_by(at):
            if node.op_type in MOVES and index == 0:
                new = [o for o in node.outputs if o and o not in seen]
                seen.update(new)
                waiting += new
    return False


def _behind_weighted(context: Context, quantize: Step, step: Step) -> Iterator[Finding]:
    maker = quantize.graph.made_by(quantize.data)
    if _moved_to_output(step.graph, step.result):
        yield context.find(
            "TRT041", quantize.node, f"the model's output '{step.result}' is quantized and dequantized again",
            tensor=step.result,
        )  # fmt: skip
        return
    if maker is None or maker.op_type not in (*WEIGHTED, "BatchNormalization") or maker.domain != "":
        return
    direct = [n for n, _ in step.graph.read_by(step.result)]
    fused = [n for n in direct if n.op_type in _ACTIVATIONS]
    if maker.op_type in (*_CONVOLUTIONS, "BatchNormalization") and fused:
        yield context.find(
            "TRT040", quantize.node, f"Q/DQ between {maker.op_type} '{maker.label}' and {fused[0].op_type} '{fused[0].label}'",
            tensor=quantize.data,
        )  # fmt: skip
        return
    # A tensor that is moved is often quantized once more behind that, with the same scale.
    readers = readers_of(step.graph, step.result, through=(*MOVES, "QuantizeLinear", "DequantizeLinear"))
    if maker.op_type in WEIGHTED and readers and not any(n.op_type in _QUANTIZED_READERS for n in readers):
        names = ", ".join(f"{n.op_type} '{n.label}'" for n in readers[:3])
        yield context.find(
            "TRT041", quantize.node, f"the output of {maker.op_type} '{maker.label}' is quantized for {names}",
            tensor=quantize.data,
        )  # fmt: skip


def _is_quantized(context: Context, node: Node | None) -> bool:
    return node is not None and context.dequantized(node.graph, node.input(0)) is not None


def _conv_branch(context: Context, node: Node, name: str) -> bool:
    """Whether an input of an Add is a quantized convolution's output that goes nowhere else."""
    source = context.source(node.graph, name)
    maker = node.graph.made_by(source)
    if maker is None or maker.op_type not in _CONVOLUTIONS or not _is_quantized(context, maker):
        return False
    return len(node.graph.read_by(source)) == 1


def _residual(context: Context, node: Node) -> Iterator[Finding]:
    names = [node.input(0), node.input(1)]
    if any(not n or node.graph.is_fixed(context.source(node.graph, n)) for n in names):
        return
    branches = [n for n in names if _conv_branch(context, node, n)]
    if not branches:
        return
    pairs = {n: context.dequantized(node.graph, n) for n in names}
    if len(branches) == 1 or names[0] == names[1]:
        branch = branches[0]
        skip = names[1] if branch == names[0] else names[0]
        between = pairs[branch] is not None
        missing = pairs[skip] is None
    else:  # two convolutions meet: the pair may stand on either, on one of them
        branch = skip = names[0]
        between = all(p is not None for p in pairs.values())
        missing = all(p is None for p in pairs.values())
    if between:
        yield context.find(
            "TRT042", node, f"Q/DQ between the convolution and the Add ('{branch}')", tensor=branch
        )
    elif missing:
        yield context.find(
            "TRT042", node, f"no Q/DQ on the skip input '{skip}'", tensor=skip, fix="quantize the skip input of the Add"
        )  # fmt: skip


def _concat(context: Context, node: Node) -> Iterator[Finding]:
    steps = [s for n in node.inputs if (s := context.dequantized(node.graph, n)) is not None]
    behind = [
        s
        for n, _ in node.graph.read_by(node.output(0))
        if (s := context.steps.get(n)) is not None and s.is_quantize
    ]
    arrays = [s.scales for s in (*steps, *behind)]
    values = {a.astype(np.float64).tobytes() for a in arrays if a is not None}
    if len(steps) > 1 and len(values) > 1:
        yield context.find(
            "TRT043", node, f"{len(values)} scales among its inputs and output", tensor=node.output(0)
        )


def _pool(context: Context, node: Node) -> Iterator[Finding]:
    step = context.dequantized(node.graph, node.input(0))
    if step is None:
        return
    after = [n for n in readers_of(node.graph, node.output(0)) if n in context.steps]
    maker = node.graph.made_by(context.source(node.graph, node.input(0)))
    while maker is not None and maker.op_type in _ACTIVATIONS:
        maker = maker.graph.made_by(maker.input(0))
    beside = maker is not None and maker.op_type in (*WEIGHTED, "Add") and _is_quantized(context, maker)
    if not after and not beside:
        yield context.find(
            "TRT045",
            node,
            "its input is dequantized, and no quantized operator stands beside it",
            tensor=step.result,
        )


def _constant_operand(context: Context, node: Node) -> Iterator[Finding]:
    names = [n for n in node.inputs if n]
    sources = [node.graph.is_fixed(context.source(node.graph, n)) for n in names]
    steps = [context.dequantized(node.graph, n) for n in names]
    if any(sources) and not all(sources) and any(s is not None for s in steps):
        yield context.find(
            "TRT045",
            node,
            "element-wise with a constant, and its input is dequantized",
            tensor=node.output(0),
        )


def _floating(context: Context, node: Node) -> Iterator[Finding]:
    step = context.dequantized(node.graph, node.input(0))
    if step is None:
        return
    maker = node.graph.made_by(context.source(node.graph, node.input(0)))
    after_conv = maker is not None and maker.op_type == "Conv" and step.low != FP8
    if not (node.op_type == "LayerNormalization" and after_conv):
        yield context.find(
            "TRT046", node, f"'{node.input(0)}' is dequantized from {step.low}", tensor=step.result
        )
