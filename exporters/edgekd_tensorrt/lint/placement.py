"""Which nodes Q/DQ pairs stand between: TRT030 to TRT034, TRT044."""

from __future__ import annotations

from collections.abc import Iterator

from edgekd_tensorrt.lint.context import Context
from edgekd_tensorrt.lint.findings import Finding
from edgekd_tensorrt.lint.graph import Node
from edgekd_tensorrt.lint.quantization import FP8, LOW_TYPES, WEIGHTED, Step

#: Weights alone in these types are a scheme of their own: the product runs in floating point.
_WEIGHT_ONLY = ("INT4", "FLOAT4E2M1")


def pair_findings(context: Context) -> Iterator[Finding]:
    """TRT030, TRT044: every Q and DQ."""
    quantized: dict[tuple[int, str], list[Step]] = {}
    for step in context.steps.values():
        if step.is_quantize:
            yield from _readers_of_quantize(context, step)
            quantized.setdefault((id(step.graph), step.data), []).append(step)
        else:
            yield from _source_of_dequantize(context, step)
    for steps in quantized.values():
        if len(steps) > 1:
            first, *others = steps
            names = ", ".join(f"'{s.node.label}'" for s in others)
            yield context.find(
                "TRT044", first.node, f"'{first.data}' is also quantized by {names}", tensor=first.data
            )


def _readers_of_quantize(context: Context, step: Step) -> Iterator[Finding]:
    for node, _ in step.graph.read_by(step.result):
        reader = context.steps.get(node)
        if reader is None or reader.is_quantize or reader.data != step.result:
            yield context.find(
                "TRT030", step.node, f"{node.op_type} '{node.label}' reads the quantized '{step.result}'", tensor=step.result
            )  # fmt: skip
    if step.graph.is_output(step.result):
        yield context.find(
            "TRT030",
            step.node,
            f"the quantized '{step.result}' is an output of the graph",
            tensor=step.result,
        )


def _source_of_dequantize(context: Context, step: Step) -> Iterator[Finding]:
    maker = step.graph.made_by(step.data)
    if context.quantize_of(step) is not None or step.graph.constant(step.data) is not None:
        return
    if (maker is not None and maker in context.steps) or step.graph.is_fixed(step.data):
        return
    what = "an input of the graph" if maker is None else f"made by {maker.op_type} '{maker.label}'"
    yield context.find("TRT030", step.node, f"'{step.data}' is {what}", tensor=step.data)


def weighted_findings(context: Context) -> Iterator[Finding]:
    """TRT031 to TRT034: every Conv, ConvTranspose, Gemm, MatMul."""
    first_fp8: Node | None = None
    int8 = False
    for step in context.steps.values():
        int8 = int8 or step.low == "INT8"
        if step.low == FP8 and first_fp8 is None:
            first_fp8 = step.node
    told = False
    for node in context.nodes:
        if node.op_type not in WEIGHTED or node.domain != "":
            continue
        data, weight = (context.dequantized(node.graph, node.input(i)) for i in (0, 1))
        types = {s.low for s in (data, weight) if s is not None}
        if types >= {"INT8", FP8}:
            told = True
            yield context.find("TRT032", node, "one input is INT8, the other FP8", tensor=node.input(0))
        yield from _half(context, node, data, weight)
        yield from _bias(context, node)
    if int8 and first_fp8 is not None and not told:
        yield context.find(
            "TRT032", first_fp8, "the model holds INT8 and FP8", severity="warning",
            fix="quantize the whole model to one type, or try this mix on the target first",
        )  # fmt: skip
    yield from _quantized_constants(context)


def _half(context: Context, node: Node, data: Step | None, weight: Step | None) -> Iterator[Finding]:
    if (data is None) == (weight is None) or not (node.input(0) and node.input(1)):
        return
    one = data or weight
    if one is None or one.low in _WEIGHT_ONLY:
        return
    bare = node.input(1 if weight is None else 0)
    yield context.find(
        "TRT031", node, f"'{bare}' is floating point, the other input is dequantized from {one.low or 'UINT8'}", tensor=bare
    )  # fmt: skip


def _bias(context: Context, node: Node) -> Iterator[Finding]:
    if node.op_type == "MatMul":
        return
    step = context.dequantized(node.graph, node.input(2))
    if step is not None and step.low in LOW_TYPES:  # other types are TRT012
        yield context.find("TRT033", node, f"the bias '{node.input(2)}' is dequantized from {step.low}", tensor=node.input(2))  # fmt: skip


def _quantized_constants(context: Context) -> Iterator[Finding]:
    for step in context.dequantizes():
        if step.graph.constant(step.data) is not None and step.low in ("INT8", FP8):
            yield context.find("TRT034", step.node, f"'{step.data}' is stored quantized", tensor=step.data)
