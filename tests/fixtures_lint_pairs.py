"""Graphs with a fault in one Q/DQ pair: its zero point, its type, its scale, its axis."""

from __future__ import annotations

from typing import Any

import numpy as np
from fixtures_lint_graphs import FP8, INT4, INT8, UINT8, Build, conv_net
from onnx import TensorProto, helper


def with_zero(zero: int) -> Build:
    g = Build()
    g.input("x", [1, 32])
    g.pair("x", "x", zero=zero)
    g.channel(g.weights("w", 32, 32), "w", 32, axis=1)
    g.node("MatMul", ["x_dq", "w_dq"], "y")
    g.output("y")
    g.inputs.clear()
    g.input("x", [4, 32])
    return g


def zero_point() -> Build:
    return with_zero(3)


def too_few_zero_points() -> Build:
    g = product()
    g.constants = [c for c in g.constants if c.name != "w_zero"]
    g.constant("w_zero", 0, INT8)
    return g


def product(**options: Any) -> Build:
    """A quantized MatMul; options are those of the pair on its data."""
    g = Build(options.pop("opset", 19))
    g.input("x", [4, 32])
    g.pair("x", "x", **options)
    g.channel(g.weights("w", 32, 32), "w", 32, axis=1)
    g.node("MatMul", ["x_dq", "w_dq"], "y")
    g.output("y", [4, 32])
    return g


def unsigned() -> Build:
    return product(kind=UINT8)


def no_zero_point() -> Build:
    g = Build()
    g.input("x", [4, 32])
    g.pair("x", "x", with_zero=False)
    g.node("Relu", ["x_dq"], "y")
    g.output("y")
    return g


def int32_constant() -> Build:
    g = Build()
    g.input("x", [4, 32])
    g.constant("c", np.ones(32), TensorProto.INT32)
    g.constant("c_scale", 0.1)
    g.node("DequantizeLinear", ["c", "c_scale"], "c_dq")
    g.node("Add", ["x", "c_dq"], "y")
    g.output("y")
    return g


def negative_scale() -> Build:
    return product(scale=-0.5)


def infinite_scale() -> Build:
    return product(scale=float("inf"))


def computed_scale() -> Build:
    g = product()
    g.constants = [c for c in g.constants if c.name != "x_scale"]
    g.input("s", [])
    g.nodes.insert(0, helper.make_node("Relu", ["s"], ["x_scale"], name="make_scale"))
    return g


def half_scale() -> Build:
    return product(scale_kind=TensorProto.FLOAT16, opset=23)


def fp8_too_early() -> Build:
    return conv_net(17, FP8)


def activation_per_channel() -> Build:
    return product(scale=[0.1] * 32, axis=1)


def wrong_axis() -> Build:
    g = product()
    for node in g.nodes:
        if node.name in ("w_q", "w_dq"):
            node.attribute[0].i = 0
    return g


def wrong_length() -> Build:
    g = conv_net()
    g.constants = [c for c in g.constants if c.name not in ("w1_scale", "w1_zero")]
    g.constant("w1_scale", [0.1] * 7)
    g.constant("w1_zero", [0] * 7, INT8)
    return g


def pair_disagrees() -> Build:
    g = Build()
    g.input("x", [4, 32])
    g.quantize("x", "x")
    g.constant("o_scale", 0.7)
    g.constant("o_zero", 0, INT8)
    g.dequantize("x_q", "x", like="o")
    g.channel(g.weights("w", 32, 32), "w", 32, axis=1)
    g.node("MatMul", ["x_dq", "w_dq"], "y")
    g.output("y")
    return g


def no_axis() -> Build:
    g = product()
    for node in g.nodes:
        if node.name in ("w_q", "w_dq"):
            del node.attribute[:]
    return g


def weights_int4(rows: int, columns: int, **options: Any) -> Build:
    g = Build(21)
    g.input("x", [4, rows])
    g.pair(g.weights("w", rows, columns), "w", kind=INT4, **options)
    g.node("MatMul", ["x", "w_dq"], "y")
    g.output("y")
    return g


def odd_int4() -> Build:
    return weights_int4(17, 33)


def blocks_do_not_divide() -> Build:
    return weights_int4(32, 34, block_size=10, axis=0, scale=np.full((4, 34), 0.1))


def int4_net() -> Build:
    return weights_int4(32, 34)


def outlier() -> Build:
    g = product()
    g.constants = [c for c in g.constants if c.name != "w_scale"]
    g.constant("w_scale", [100.0] + [0.01] * 31)
    return g
