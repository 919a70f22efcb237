"""Small ONNX models with a known accuracy and a known cost, for gates on planted faults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES, WIDTH = 10, 16


def classifier(
    path: Path, *, wrong_classes: tuple[int, ...] = (), layers: int = 4, input_name: str = "x"
) -> Path:
    """Answers with the class of the largest of ten inputs, through ``layers`` products with the identity.

    ``wrong_classes`` are never answered: a planted loss of exactly their share of the examples.
    """
    identity = np.eye(CLASSES, dtype=np.float32)
    wide = np.zeros((CLASSES, 256), np.float32)
    wide[:, :CLASSES] = identity
    nodes = [helper.make_node("MatMul", [input_name, "widen"], ["h0"])]
    weights = [numpy_helper.from_array(wide, "widen")]
    for i in range(layers):
        # A rotation of the padding keeps the optimiser from folding the chain into one product.
        weights.append(
            numpy_helper.from_array(np.eye(256, dtype=np.float32) * np.float32(1 + i * 1e-6), f"w{i}")
        )
        nodes += [
            helper.make_node("MatMul", [f"h{i}", f"w{i}"], [f"m{i}"]),
            helper.make_node("Relu", [f"m{i}"], [f"h{i + 1}"]),
        ]
    last = np.zeros((256, CLASSES), np.float32)
    for c in range(CLASSES):
        last[c, c] = 0.0 if c in wrong_classes else 1.0
    weights.append(numpy_helper.from_array(last, "head"))
    nodes.append(helper.make_node("MatMul", [f"h{layers}", "head"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, ["batch", CLASSES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def examples(n: int = 2000, *, rare: int | None = None, share: float = 0.05) -> dict[str, np.ndarray]:
    """Inputs whose largest entry is the label; ``rare`` makes that class exactly ``share`` of them."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, n)
    if rare is not None:
        label = rng.integers(0, CLASSES - 1, n)
        label[label >= rare] += 1
        label[: round(n * share)] = rare
    x = rng.random((n, CLASSES)).astype(np.float32)
    x[np.arange(n), label] += 1.0
    return {"x": x, "label": label.astype(np.int64)}
