"""Graphs whose Q/DQ pairs are right by themselves, and stand where TensorRT cannot use them or gains nothing."""

from __future__ import annotations

from typing import Any

import fixtures_lint_pairs as pairs
import numpy as np
from fixtures_lint_graphs import FP8, INT8, Build, attention_net, conv_net


def read_by_another() -> Build:
    g = Build()
    g.input("x", [4, 32])
    g.quantize("x", "x")
    g.node("Transpose", ["x_q"], "turned")
    g.dequantize("turned", "x")
    g.node("Relu", ["x_dq"], "y")
    g.output("y")
    return g


def quantized_input() -> Build:
    g = Build()
    g.input("x", [4, 32], INT8)
    g.constant("x_scale", 0.1)
    g.constant("x_zero", 0, INT8)
    g.dequantize("x", "x")
    g.node("Relu", ["x_dq"], "y")
    g.output("y")
    return g


def quantized_output() -> Build:
    g = Build()
    g.input("x", [4, 32])
    g.quantize("x", "x")
    g.output("x_q", None, INT8)
    return g


def weights_only() -> Build:
    g = Build()
    g.input("x", [4, 32])
    g.channel(g.weights("w", 32, 32), "w", 32, axis=1)
    g.node("MatMul", ["x", "w_dq"], "y")
    g.output("y")
    return g


def two_types() -> Build:
    g = Build()
    g.input("x", [4, 32])
    g.pair("x", "x", kind=FP8)
    g.channel(g.weights("w", 32, 32), "w", 32, axis=1)
    g.node("MatMul", ["x_dq", "w_dq"], "y")
    g.output("y")
    return g


def mixed_model() -> Build:
    g = two_types()
    g.nodes.clear()
    g.constants.clear()
    for name, kind in (("a", INT8), ("b", FP8)):
        g.pair("x", name, kind=kind)
        g.channel(g.weights(f"w{name}", 32, 32), f"w{name}", 32, axis=1, kind=kind)
        g.node("MatMul", [f"{name}_dq", f"w{name}_dq"], f"y{name}")
        g.output(f"y{name}")
    g.outputs = g.outputs[1:]
    return g


def quantized_bias() -> Build:
    g = conv_net()
    g.pair("b1", "b1")
    g.nodes.sort(key=lambda n: n.name not in ("b1_q", "b1_dq"))
    next(n for n in g.nodes if n.name == "conv1").input[2] = "b1_dq"
    return g


def stored_quantized() -> Build:
    g = pairs.product()
    g.nodes = [n for n in g.nodes if n.name != "w_q"]
    g.constants = [c for c in g.constants if c.name != "w"]
    g.constant("w_q", np.ones((32, 32)), INT8)
    return g


def inside_fusion() -> Build:
    g = conv_net()
    at = next(i for i, n in enumerate(g.nodes) if n.name == "relu1")
    tail, g.nodes = g.nodes[at:], g.nodes[:at]
    g.pair("conv1", "c")
    g.nodes += tail
    next(n for n in g.nodes if n.name == "relu1").input[0] = "c_dq"
    return g


def output_quantized() -> Build:
    g = pairs.product()
    g.nodes[-1].output[0] = "product"
    g.outputs.clear()
    g.pair("product", "y")
    g.output("y_dq")
    return g


def for_nobody() -> Build:
    g = output_quantized()
    g.outputs.clear()
    g.node("Tanh", ["y_dq"], "end")
    g.output("end")
    return g


def wrong_branch() -> Build:
    g = conv_net()
    at = next(i for i, n in enumerate(g.nodes) if n.name == "add")
    tail, g.nodes = g.nodes[at:], g.nodes[:at]
    g.pair("conv2", "c")
    g.nodes += tail
    next(n for n in g.nodes if n.name == "add").input[0] = "c_dq"
    return g


def bare_skip() -> Build:
    g = conv_net()
    next(n for n in g.nodes if n.name == "add").input[1] = "relu1"
    return g


def concat_scales() -> Build:
    g = Build()
    for name, scale in (("a", 0.1), ("b", 0.2)):
        g.input(name, [4, 32])
        g.pair(name, name, scale=scale)
    g.node("Concat", ["a_dq", "b_dq"], "y", axis=1)
    g.output("y")
    return g


def two_pairs() -> Build:
    g = Build()
    g.input("x", [4, 32])
    for name in ("a", "b"):
        g.pair("x", name)
        g.channel(g.weights(f"w{name}", 32, 32), f"w{name}", 32, axis=1)
        g.node("MatMul", [f"{name}_dq", f"w{name}_dq"], f"y{name}")
        g.output(f"y{name}")
    return g


def lonely_pool() -> Build:
    g = Build()
    g.input("x", [1, 4, 8, 8])
    g.pair("x", "x")
    g.node("MaxPool", ["x_dq"], "y", kernel_shape=[2, 2])
    g.output("y")
    return g


def constant_operand() -> Build:
    g = Build()
    g.input("x", [4, 32])
    g.pair("x", "x")
    g.constant("c", 2.0)
    g.node("Mul", ["x_dq", "c"], "y")
    g.output("y")
    return g


def quantized_softmax() -> Build:
    g = Build()
    g.input("x", [4, 32])
    g.pair("x", "x")
    g.node("Softmax", ["x_dq"], "y")
    g.output("y")
    return g


def small_conv(channels: int, kind: int = INT8, **attributes: Any) -> Build:
    g = Build()
    g.input("i", [1, channels, 8, 8])
    g.node("Relu", ["i"], "x")
    g.pair("x", "x", kind=kind)
    per_group = channels // attributes.get("group", 1)
    g.channel(g.weights("w", channels, per_group, 3, 3), "w", channels, kind=kind)
    g.node("Conv", ["x_dq", "w_dq"], "y", **attributes)
    g.output("y")
    return g


def odd_channels() -> Build:
    return small_conv(12)


def grouped() -> Build:
    return small_conv(12, group=12)


def small_fp8() -> Build:
    return small_conv(8, FP8)


def vector() -> Build:
    g = pairs.product()
    g.inputs.clear()
    g.input("x", [1, 32])
    return g


def narrow() -> Build:
    g = Build()
    g.input("x", [4, 32])
    g.pair("x", "x")
    g.channel(g.weights("w", 32, 10), "w", 10, axis=1)
    g.node("MatMul", ["x_dq", "w_dq"], "y")
    g.output("y")
    return g


def long_int8_attention() -> Build:
    return attention_net(INT8, sequence=640)


def small_head() -> Build:
    return attention_net(FP8, head=8)


def fp8_elsewhere() -> Build:
    g = Build()
    g.input("x", [4, 32])
    g.pair("x", "x", kind=FP8)
    g.node("Tanh", ["x_dq"], "y")
    g.output("y")
    return g


def fp8_net() -> Build:
    return conv_net(19, FP8)
