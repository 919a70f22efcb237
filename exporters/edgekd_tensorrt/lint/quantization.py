"""QuantizeLinear and DequantizeLinear nodes, with what their inputs and attributes amount to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from edgekd_tensorrt.lint.graph import Dim, Graph, Node, type_name

#: Q and DQ by operator: ONNX's, and TensorRT's own for types that older opsets lack (onnx-tensorrt, TRT_custom_ops.md),
#: which have their type in their name.
_QUANTIZE: Mapping[str, str] = {
    "QuantizeLinear": "", "TRT_FP8QuantizeLinear": "FLOAT8E4M3FN", "TRT_INT4QuantizeLinear": "INT4",
}  # fmt: skip
_DEQUANTIZE: Mapping[str, str] = {
    "DequantizeLinear": "", "TRT_FP8DequantizeLinear": "FLOAT8E4M3FN", "TRT_INT4DequantizeLinear": "INT4",
}  # fmt: skip

#: Operators with weights, and the axis of their output channels in the second input.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")

#: Quantized types that TensorRT has.
LOW_TYPES = ("INT8", "FLOAT8E4M3FN", "INT4", "FLOAT4E2M1")
FP8 = "FLOAT8E4M3FN"

#: Operators that move values without changing them: a quantized tensor stays one behind them.
MOVES = (
    "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "Split", "Expand", "Gather",
    "DepthToSpace", "SpaceToDepth", "Tile", "Dropout",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """One Q or DQ.

    Attributes:
        data, scale, zero, result: names of tensors; zero may be empty.
        low: the quantized type in ONNX's words; empty where nothing tells.
        axis: as written or by default, not negative where the rank is known; axis_written: whether it is written.
        block: ``block_size``, 0 without.
    """

    node: Node
    is_quantize: bool
    data: str
    scale: str
    zero: str
    result: str
    low: str
    axis: int
    axis_written: bool
    block: int

    @property
    def graph(self) -> Graph:
        return self.node.graph

    @property
    def scale_size(self) -> int | None:
        """How many scales; None where that is not known."""
        return volume(self.graph.shape(self.scale)) if self.scale else None

    @property
    def per_axis(self) -> bool:
        return not self.block and (self.scale_size or 1) > 1

    @property
    def scales(self) -> NDArray[Any] | None:
        return self.graph.array(self.scale) if self.scale else None

    @property
    def zeros(self) -> NDArray[Any] | None:
        return self.graph.array(self.zero) if self.zero else None


def volume(shape: tuple[Dim, ...] | None) -> int | None:
    """Number of elements; None where a size is not known."""
    if shape is None or not all(isinstance(d, int) for d in shape):
        return None
    return math.prod(d for d in shape if isinstance(d, int))


def step_of(node: Node, opset: int) -> Step | None:
    """``node`` as a Q or DQ; None where it is another operator, or lacks what makes it one."""
    is_quantize = node.op_type in _QUANTIZE
    if not (is_quantize or node.op_type in _DEQUANTIZE) or not node.input(0) or not node.output(0):
        return None
    own = (_QUANTIZE if is_quantize else _DEQUANTIZE)[node.op_type]
    data, zero, graph = node.input(0), node.input(2), node.graph
    if own:
        low = own
    elif is_quantize:
        given = node.number("output_dtype", 0)
        low = graph.elem(zero) if zero else (type_name(given) if given else "")
    else:
        low = graph.elem(data) or (graph.elem(zero) if zero else "")
    # The default axis became 1 with opset 13, where it first could be written.
    axis = node.number("axis", 1 if opset >= 13 else 0)
    shape = graph.shape(data)
    if axis < 0 and shape is not None:
        axis += len(shape)
    return Step(
        node=node, is_quantize=is_quantize, data=data, scale=node.input(1), zero=zero, result=node.output(0), low=low,
        axis=axis, axis_written=node.attribute("axis") is not None, block=node.number("block_size", 0),
    )  # fmt: skip


def weight_axis(node: Node) -> int | None:
    """The axis of output channels in a weighted operator's second input; None where its rank is not known."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        return 0 if node.number("transB", 0) else 1
    shape = node.graph.shape(node.input(1))
    return None if shape is None else len(shape) - 1
