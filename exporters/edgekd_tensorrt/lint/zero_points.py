"""Quantized types, zero points and scale values: TRT010 to TRT013, TRT015, TRT070."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd_tensorrt.lint.context import Context
from edgekd_tensorrt.lint.findings import Finding
from edgekd_tensorrt.lint.limits import BLOCKED_OPSET, FIRST_OPSET, LIMITS
from edgekd_tensorrt.lint.quantization import LOW_TYPES, Step


def value_findings(context: Context) -> Iterator[Finding]:
    """Every Q and DQ by itself."""
    for step in context.steps.values():
        yield from _zero_point(context, step)
        yield from _low_type(context, step)
        yield from _scale(context, step)
        yield from _opset(context, step)


def _numbers(array: NDArray[Any]) -> NDArray[Any]:
    """Small floating-point types as float32, 4-bit ones as int8: numpy compares neither."""
    kind = array.dtype.name
    if kind in ("int4", "uint4", "int2", "uint2"):
        return array.astype(np.int8)
    return array if kind in np.sctypeDict else array.astype(np.float32)


def _zero_point(context: Context, step: Step) -> Iterator[Finding]:
    if not step.zero:
        return
    values = step.zeros
    if values is None:
        if step.graph.constant(step.zero) is None and not step.graph.is_fixed(step.zero):
            yield context.find(
                "TRT010", step.node, f"zero point '{step.zero}' is computed, it has to be a constant 0", tensor=step.zero
            )  # fmt: skip
        return
    values = _numbers(values)
    if values.size and np.any(values != 0):
        first = values.reshape(-1)[np.flatnonzero(values != 0)[0]]
        yield context.find("TRT010", step.node, f"zero point is {first}, expected 0", tensor=step.zero)
    elif step.scale_size is not None and values.size != step.scale_size:
        yield context.find(
            "TRT010", step.node, f"{values.size} zero points for {step.scale_size} scales", tensor=step.zero
        )


def _low_type(context: Context, step: Step) -> Iterator[Finding]:
    if step.is_quantize:
        if step.low == "":
            yield context.find(
                "TRT011", step.node, "no zero point and no output_dtype: ONNX quantizes to UINT8, TensorRT to INT8",
                tensor=step.result,
            )  # fmt: skip
        elif step.low == "UINT8":
            yield context.find("TRT011", step.node, "quantizes to UINT8", tensor=step.result)
        elif step.low not in LOW_TYPES:
            yield context.find(
                "TRT012", step.node, f"quantizes to {step.low}, expected INT8, FP8, INT4 or FP4", tensor=step.result,
                fix="quantize to one of these",
            )  # fmt: skip
    elif step.low == "UINT8":
        yield context.find("TRT011", step.node, f"dequantizes UINT8 ('{step.data}')", tensor=step.data)
    elif step.low and step.low not in LOW_TYPES:
        yield context.find("TRT012", step.node, f"'{step.data}' is {step.low}", tensor=step.data)


def _scale(context: Context, step: Step) -> Iterator[Finding]:
    values = step.scales
    if values is None:
        if step.scale and step.graph.constant(step.scale) is None:
            yield context.find(
                "TRT013", step.node, f"scale '{step.scale}' is computed, expected a constant", tensor=step.scale,
                severity="warning", fix="calibrate, and store the scale",
            )  # fmt: skip
        return
    values = _numbers(values)
    if values.size == 0:
        yield context.find("TRT013", step.node, f"scale '{step.scale}' is empty", tensor=step.scale)
    elif not np.issubdtype(values.dtype, np.number) or not np.all(np.isfinite(values) & (values > 0)):
        bad = values.reshape(-1)[np.flatnonzero(~(np.isfinite(values) & (values > 0)))[0]]
        yield context.find(
            "TRT013", step.node, f"scale '{step.scale}' holds {bad}, expected finite values above 0", tensor=step.scale
        )  # fmt: skip
    elif not step.is_quantize and step.per_axis:
        ratio = float(values.max() / np.median(values))
        if ratio > LIMITS.channel_scale_ratio:
            yield context.find(
                "TRT070", step.node,
                f"the largest scale of '{step.scale}' is {ratio:.0f} times the median, limit {LIMITS.channel_scale_ratio:.0f}",
                tensor=step.scale,
            )  # fmt: skip


def _opset(context: Context, step: Step) -> Iterator[Finding]:
    if step.node.op_type not in ("QuantizeLinear", "DequantizeLinear") or context.opset == 0:
        return
    scale = step.graph.elem(step.scale) if step.scale else ""
    needed = FIRST_OPSET.get((step.low, scale), 0)
    what = f"{step.low} with a {scale} scale"
    if step.block and needed < BLOCKED_OPSET:
        needed, what = BLOCKED_OPSET, "block_size"
    if context.opset < needed:
        yield context.find(
            "TRT015", step.node, f"{what} needs opset {needed}, the model has {context.opset}", tensor=step.data,
            fix=f"export with --opset {needed} or later",
        )  # fmt: skip
