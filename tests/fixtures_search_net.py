"""A small network as an ONNX artifact, for what a search asks of real files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

from edgekd.artifact import Artifact
from edgekd_onnx.exporter import OnnxExporter

WIDTH, CLASSES = 16, 4


def small_net(folder: Path) -> Artifact:
    """Two products with a ReLU between: input ``x`` (N, 16), output ``y`` (N, 4)."""
    rng = np.random.default_rng(0)
    weights = {"w1": (WIDTH, WIDTH), "w2": (WIDTH, CLASSES)}
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w2"], ["y"], name="second"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(rng.normal(0, 0.3, s).astype(np.float32), n) for n, s in weights.items()],
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "student.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return OnnxExporter().read(path)
