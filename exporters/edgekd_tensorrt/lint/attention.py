"""Quantized attention (TRT053): a Softmax between two matrix products, and the pairs around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgekd_tensorrt.lint.context import Context
from edgekd_tensorrt.lint.findings import Finding
from edgekd_tensorrt.lint.graph import Graph, Node
from edgekd_tensorrt.lint.limits import LIMITS
from edgekd_tensorrt.lint.quantization import FP8, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Attributes:
    scores: the product before the Softmax; mix: the one behind it.
    straight: whether nothing but scale, mask, cast and Q/DQ stands between them, in that order.
    """

    scores: Node
    softmax: Node
    mix: Node
    straight: bool


def attention_findings(context: Context) -> Iterator[Finding]:
    for node in context.nodes:
        if node.op_type == "Softmax" and node.domain == "":
            found = _attention(context, node)
            if found is not None:
                yield from _judge(context, found)


def _attention(context: Context, softmax: Node) -> Attention | None:
    graph = softmax.graph
    scores, before = _up(context, graph, softmax.input(0))
    mix, behind = _down(context, graph, softmax.output(0))
    if scores is None or mix is None:
        return None
    order = [{"Div": "Mul"}.get(op, op) for op in before]
    straight = order in ([], ["Mul"], ["Add"], ["Mul", "Add"]) and behind in ([], ["Cast"])
    return Attention(scores=scores, softmax=softmax, mix=mix, straight=straight)


def _up(context: Context, graph: Graph, name: str) -> tuple[Node | None, list[str]]:
    """The MatMul before a Softmax, and the operators between them, in the order of the graph."""
    between: list[str] = []
    for _ in range(6):
        node = graph.made_by(name)
        if node is None:
            return None, []
        if node.op_type == "MatMul":
            return node, between[::-1]
        step = context.steps.get(node)
        if step is None and node.op_type not in ("Mul", "Div", "Add", "Sub", "Where", "Cast"):
            return None, []
        between.append(node.op_type)
        name = node.input(1 if node.op_type == "Where" else 0)
        if step is None and graph.is_fixed(name):
            name = node.input(1)
    return None, []


def _down(context: Context, graph: Graph, name: str) -> tuple[Node | None, list[str]]:
    """The MatMul behind a Softmax, and what stands between them except Q and DQ."""
    between: list[str] = []
    for _ in range(6):
        readers = [n for n, _ in graph.read_by(name)]
        if len(readers) != 1:
            return None, []
        node = readers[0]
        if node.op_type == "MatMul":
            return node, between
        if node not in context.steps:
            if node.op_type not in ("Cast", "Dropout"):
                return None, []
            between.append(node.op_type)
        name = node.output(0)
    return None, []


def _judge(context: Context, found: Attention) -> Iterator[Finding]:
    graph = found.softmax.graph
    pairs = {
        (node.label, i): context.dequantized(graph, node.input(i))
        for node in (found.scores, found.mix)
        for i in (0, 1)
    }
    types = {s.low for s in pairs.values() if s is not None}
    if "INT8" in types:
        shape = graph.shape(found.softmax.output(0)) or ()
        longest = max((d for d in shape[-2:] if isinstance(d, int)), default=0)
        if longest > LIMITS.int8_attention_sequence:
            yield context.find(
                "TRT053", found.scores, f"INT8 attention over {longest} positions, it pays up to {LIMITS.int8_attention_sequence}",
                tensor=found.softmax.output(0), fix="leave this attention in floating point, or use FP8",
            )  # fmt: skip
    if FP8 in types:
        problem = _fp8(context, found, pairs)
        if problem:
            yield context.find("TRT053", found.scores, f"FP8 attention: {problem}", tensor=found.scores.output(0))  # fmt: skip


def _fp8(context: Context, found: Attention, pairs: dict[tuple[str, int], Step | None]) -> str:
    """What keeps FP8 attention from being fused; empty where nothing does."""
    graph = found.softmax.graph
    bare = next((k for k, s in pairs.items() if s is None or s.low != FP8), None)
    if bare is not None:
        return f"input {bare[1]} of MatMul '{bare[0]}' is not dequantized from FP8"
    if not found.straight:
        return f"more than scale, mask and cast stands between '{found.scores.label}' and '{found.mix.label}'"
    shape = graph.shape(found.scores.input(0)) or (None,)
    low, high = LIMITS.fp8_head
    head = shape[-1]
    if isinstance(head, int) and not low < head <= high:
        return f"the head size is {head}, expected above {low} and up to {high}"
    readers = [context.steps.get(n) for n, _ in graph.read_by(found.mix.output(0))]
    if not readers or any(s is None or not s.is_quantize or s.low != FP8 for s in readers):
        return f"the output of MatMul '{found.mix.label}' is not quantized to FP8"
    return ""
