"""A small residual network that FP8 pays for: 32 channels, biases, a block whose input is read twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 32
_KERNEL = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}


def residual_net(path: Path, *, channels: int = CHANNELS, opset: int = 19, head: bool = True) -> Path:
    """``image`` (batch, 3, 16, 16) to ``logits`` (batch, 10), or without a head to the features before it."""
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {"w0": rng.normal(size=(channels, 3, 3, 3)) * 0.3}
    nodes = [
        helper.make_node("Conv", ["image", "w0", "b0"], ["c0"], "stem", **_KERNEL),
        helper.make_node("Relu", ["c0"], ["r0"], "relu0"),
    ]
    for i in (1, 3):
        for k in (i, i + 1):
            weights[f"w{k}"] = rng.normal(size=(channels, channels, 3, 3)) * np.sqrt(2 / (9 * channels))
        nodes += [
            helper.make_node("Conv", [f"r{i - 1}", f"w{i}", f"b{i}"], [f"c{i}"], f"conv{i}", **_KERNEL),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"], f"relu{i}"),
            helper.make_node("Conv", [f"r{i}", f"w{i + 1}", f"b{i + 1}"], [f"c{i + 1}"], f"conv{i + 1}", **_KERNEL),
            helper.make_node("Add", [f"c{i + 1}", f"r{i - 1}"], [f"a{i}"], f"add{i}"),
            helper.make_node("Relu", [f"a{i}"], [f"r{i + 1}"], f"relu{i + 1}"),
        ]  # fmt: skip
    for k in range(5):
        weights[f"b{k}"] = rng.normal(size=channels) * 0.3
    output = helper.make_tensor_value_info("r4", TensorProto.FLOAT, ["batch", channels, 16, 16])
    if head:
        weights |= {"w5": rng.normal(size=(10, channels)), "b5": rng.normal(size=10)}
        nodes += [
            helper.make_node("GlobalAveragePool", ["r4"], ["p"], "pool"),
            helper.make_node("Flatten", ["p"], ["f"], "flat"),
            helper.make_node("Gemm", ["f", "w5", "b5"], ["logits"], "head", transB=1),
        ]
        output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 16, 16])], [output],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), str(path)
    )
    return path


def images(count: int, batch: int = 8, seed: int = 1) -> list[dict[str, Any]]:
    """``count`` batches of feeds."""
    rng = np.random.default_rng(seed)
    return [{"image": rng.normal(size=(batch, 3, 16, 16)).astype(np.float32)} for _ in range(count)]
