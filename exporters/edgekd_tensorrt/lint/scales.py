"""Scales: their type, their axis, and that a pair agrees: TRT014, TRT016 to TRT020."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgekd_tensorrt.lint.context import Context, shape_text
from edgekd_tensorrt.lint.findings import Finding
from edgekd_tensorrt.lint.quantization import WEIGHTED, Step, volume, weight_axis

_SIXTEEN = ("FLOAT16", "BFLOAT16")
_FOUR_BIT = ("INT4", "FLOAT4E2M1")


def scale_findings(context: Context) -> Iterator[Finding]:
    """Every Q and DQ, and each DQ with its Q."""
    for step in context.steps.values():
        yield from _float_type(context, step)
        yield from _granularity(context, step)
        yield from _four_bits(context, step)
        if not step.is_quantize:
            yield from _agreement(context, step)


def _float_type(context: Context, step: Step) -> Iterator[Finding]:
    scale = step.graph.elem(step.scale) if step.scale else ""
    other, what = (step.data, "reads") if step.is_quantize else (step.result, "gives")
    elem = step.graph.elem(other)
    if not step.is_quantize and step.node.attribute("output_dtype"):
        return
    if elem and scale and elem != scale and (scale in _SIXTEEN or not step.is_quantize):
        yield context.find(
            "TRT014", step.node, f"{what} {elem} ('{other}') with a {scale} scale", tensor=step.scale
        )


def _is_constant(context: Context, step: Step) -> bool:
    """Whether what is (de)quantized is fixed when the engine is built."""
    quantize = None if step.is_quantize else context.quantize_of(step)
    return step.graph.is_fixed(step.data if quantize is None else quantize.data)


def _granularity(context: Context, step: Step) -> Iterator[Finding]:
    size = step.scale_size
    if size is None or size <= 1 or step.block:
        if step.block:
            yield from _blocks(context, step)
        return
    if not _is_constant(context, step):
        if step.is_quantize or context.quantize_of(step) is None:
            yield context.find(
                "TRT016",
                step.node,
                f"activation '{step.data}' has {size} scales, expected 1",
                tensor=step.scale,
            )
        return
    if not step.axis_written:
        yield context.find(
            "TRT019", step.node, f"{size} scales and no axis: {step.axis} by this opset's default", tensor=step.scale
        )  # fmt: skip
    shape, scales = step.graph.shape(step.data), step.graph.shape(step.scale)
    if scales is not None and len(scales) != 1:
        yield context.find(
            "TRT017", step.node, f"scales have the shape {shape_text(scales)}, expected one dimension", tensor=step.scale
        )  # fmt: skip
    elif shape is not None and not (0 <= step.axis < len(shape) and shape[step.axis] in (size, None)):
        where = shape[step.axis] if 0 <= step.axis < len(shape) else "nothing"
        yield context.find(
            "TRT017", step.node, f"{size} scales along axis {step.axis} of {shape_text(shape)}, which has {where}",
            tensor=step.scale,
        )  # fmt: skip
    elif not step.is_quantize:
        yield from _output_channels(context, step)


def _output_channels(context: Context, step: Step) -> Iterator[Finding]:
    for node, index in step.graph.read_by(step.result):
        axis, at = step.axis, node
        if node.op_type == "Transpose" and node.domain == "":
            perm = node.attribute("perm")
            readers = node.graph.read_by(node.output(0))
            if not isinstance(perm, list) or axis not in perm or len(readers) != 1:
                continue
            (at, index), axis = readers[0], perm.index(axis)
        if at.op_type not in WEIGHTED or at.domain != "" or index != 1:
            continue
        wanted = weight_axis(at)
        if wanted is not None and axis != wanted:
            yield context.find(
                "TRT017", step.node, f"scales lie along axis {axis}, {at.op_type} '{at.label}' has its output channels along {wanted}",
                tensor=step.scale,
            )  # fmt: skip


def _blocks(context: Context, step: Step) -> Iterator[Finding]:
    shape = step.graph.shape(step.data)
    if shape is None:
        return
    size = shape[step.axis] if 0 <= step.axis < len(shape) else None
    if step.block < 0 or (isinstance(size, int) and size % step.block):
        yield context.find(
            "TRT020", step.node, f"blocks of {step.block} do not divide dimension {step.axis} of {shape_text(shape)}",
            tensor=step.data,
        )  # fmt: skip


def _four_bits(context: Context, step: Step) -> Iterator[Finding]:
    if step.low not in _FOUR_BIT or (not step.is_quantize and context.quantize_of(step) is not None):
        return
    count = volume(step.graph.shape(step.data))
    if count is not None and count % 2:
        yield context.find(
            "TRT020", step.node, f"'{step.data}' has {count} elements of 4 bits, expected an even number", tensor=step.data
        )  # fmt: skip


def _agreement(context: Context, step: Step) -> Iterator[Finding]:
    quantize = context.quantize_of(step)
    if quantize is None:
        return
    differs = []
    if quantize.low and step.low and quantize.low != step.low:
        differs.append(f"type {quantize.low} and {step.low}")
    if quantize.zero and step.zero:
        one, two = quantize.graph.elem(quantize.zero), step.graph.elem(step.zero)
        if one and two and one != two and not differs:
            differs.append(f"zero points of {one} and {two}")
    if quantize.scale != step.scale:
        one_scale, two_scale = quantize.scales, step.scales
        if one_scale is None or two_scale is None:
            known = quantize.graph.constant(quantize.scale) is None or step.graph.constant(step.scale) is None
            differs += [f"scales '{quantize.scale}' and '{step.scale}'"] if known else []
        elif one_scale.shape != two_scale.shape or not np.array_equal(
            one_scale.astype(np.float64), two_scale.astype(np.float64)
        ):
            differs.append(f"scales '{quantize.scale}' and '{step.scale}'")
    if (quantize.per_axis or quantize.block) and quantize.axis != step.axis:
        differs.append(f"axis {quantize.axis} and {step.axis}")
    if quantize.block != step.block:
        differs.append(f"block_size {quantize.block} and {step.block}")
    if differs:
        yield context.find(
            "TRT018",
            step.node,
            f"differs from '{quantize.node.label}': {', '.join(differs)}",
            tensor=step.data,
        )
