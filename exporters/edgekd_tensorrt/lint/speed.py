"""Quantized operators that run no faster: TRT050 to TRT052. Heuristics of Model-Optimizer; see ``limits``."""

from __future__ import annotations

import math
from collections.abc import Iterator

from edgekd_tensorrt.lint.context import Context, shape_text
from edgekd_tensorrt.lint.findings import Finding
from edgekd_tensorrt.lint.graph import Node
from edgekd_tensorrt.lint.limits import LIMITS
from edgekd_tensorrt.lint.quantization import FP8


def speed_findings(context: Context) -> Iterator[Finding]:
    for node in context.nodes:
        step = context.dequantized(node.graph, node.input(0)) if node.domain == "" else None
        if step is None:
            continue
        if node.op_type == "Conv":
            yield from _int8_conv(context, node) if step.low == "INT8" else ()
            yield from _fp8_conv(context, node) if step.low == FP8 else ()
        elif node.op_type in ("MatMul", "Gemm") and step.low in ("INT8", FP8):
            yield from _product(context, node)


def _weight(node: Node) -> tuple[int, int, list[int]] | None:
    """Input channels, output channels and kernel of a Conv; None where its weights' shape is not known."""
    shape = node.graph.shape(node.input(1))
    if shape is None or len(shape) < 3 or not all(isinstance(d, int) for d in shape):
        return None
    out, per_group, *kernel = (d for d in shape if isinstance(d, int))
    return per_group * max(1, node.number("group", 1)), out, kernel


def _int8_conv(context: Context, node: Node) -> Iterator[Finding]:
    sizes = _weight(node)
    if sizes is None:
        return
    into, out, kernel = sizes
    multiple, least = LIMITS.conv_multiple, LIMITS.conv_channels
    problem = ""
    if node.number("group", 1) > 1:
        if out % multiple or min(kernel) < LIMITS.grouped_kernel:
            problem = f"grouped, {out} output channels, kernel {_times(kernel)}"
            problem += f": expected a multiple of {multiple} and sides from {LIMITS.grouped_kernel} on"
    elif min(into, out) < least:
        first = context.source(node.graph, node.input(0)) in context.graph.inputs
        good = not (into % multiple and out % multiple) and len(set(kernel)) == 1
        if not good or not (first or max(into, out) >= least):
            problem = f"{into} input and {out} output channels, kernel {_times(kernel)}"
            problem += f": below {least} channels, expected a multiple of {multiple}, a square kernel, and {least} on the other side"
    if problem:
        yield context.find("TRT050", node, problem, tensor=node.input(1))


def _times(kernel: list[int]) -> str:
    return "x".join(map(str, kernel))


def _fp8_conv(context: Context, node: Node) -> Iterator[Finding]:
    sizes = _weight(node)
    if not node.graph.is_fixed(context.source(node.graph, node.input(1))):
        yield context.find("TRT051", node, "its weights are computed", tensor=node.input(1))
    elif sizes is not None:
        into, out, kernel = sizes
        limit = LIMITS.fp8_conv_channels
        if into <= limit or out <= limit or math.prod(kernel) > LIMITS.fp8_conv_kernel:
            yield context.find(
                "TRT051", node, f"{into} input and {out} output channels, kernel {_times(kernel)}: expected more than {limit}, "
                f"and at most {LIMITS.fp8_conv_kernel} elements", tensor=node.input(1),
            )  # fmt: skip


def _product(context: Context, node: Node) -> Iterator[Finding]:
    left, right = (node.graph.shape(node.input(i)) for i in (0, 1))
    if left is None or right is None or len(left) < 2 or len(right) < 2:
        return
    rows, depth = left[-2:] if not node.number("transA", 0) else (left[-1], left[-2])
    columns = right[-2] if node.number("transB", 0) else right[-1]
    if node.op_type == "MatMul" and len(right) == 2 and rows == 1 and len(left) > 2:
        rows = None  # the other leading dimensions are rows too
    small = [d for d in (depth, columns) if isinstance(d, int) and d < LIMITS.gemm_side]
    text = f"{shape_text(left)} by {shape_text(right)}"
    if 1 in (rows, columns):
        yield context.find("TRT052", node, f"{text} is a matrix-vector product", tensor=node.input(1))
    elif small:
        yield context.find(
            "TRT052", node, f"{text} has a side of {small[0]}, expected {LIMITS.gemm_side} or more", tensor=node.input(1)
        )  # fmt: skip
