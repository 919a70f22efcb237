"""Weights outside the folder of an ``.onnx`` file: found in its bytes, and refused by whoever opens it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgekd.errors import PolicyError
from edgekd.target import SessionOptions
from edgekd_onnx.runtime import OnnxRuntime
from edgekd_openvino.probe import OpenVinoProbe
from edgekd_openvino.runtime import OpenVinoRuntime


def _external(name: str, location: str) -> Any:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def _model(*weights: Any, nodes: tuple[Any, ...] = ()) -> Any:
    shape = {"x": [4], "y": [4]}
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shape.items())
    graph = helper.make_graph(
        nodes or (helper.make_node("Add", ["x", "w"], ["y"]),), "g", [x], [y], list(weights)
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    made.ir_version = 9
    return made


def _saved(folder: Path, model: Any) -> Path:
    path = folder / "model.onnx"
    folder.mkdir(exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    "opening",
    [
        lambda path: OnnxRuntime().open(path, SessionOptions()),
        lambda path: OpenVinoRuntime().open(path, SessionOptions()),
        OpenVinoProbe,
    ],
    ids=["onnxruntime", "openvino", "probe"],
)
@pytest.mark.parametrize("location", ["../secret.bin", "absolute", "linked.bin"])
def test_weights_outside_the_folder_are_refused(
    tmp_path: Path, opening: Callable[[Path], Any], location: str
) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones(4, np.float32).tobytes())
    path = _saved(
        tmp_path / "model", _model(_external("w", str(secret) if location == "absolute" else location))
    )
    if location == "linked.bin":
        (path.parent / location).symlink_to(secret)
    with pytest.raises(
        PolicyError, match=r"tensor 'w' keeps its data at .*outside the model's folder"
    ) as caught:
        opening(path)
    assert caught.value.exit_code == 5


def test_weights_beside_it_are_opened_even_where_they_are_a_hard_link(tmp_path: Path) -> None:
    """A board's files are links to its store."""
    stored = tmp_path / "stored.bin"
    stored.write_bytes(np.ones(4, np.float32).tobytes())
    path = _saved(tmp_path / "model", _model(_external("w", "weights.bin")))
    os.link(stored, path.parent / "weights.bin")
    feeds = {"x": np.zeros(4, np.float32)}
    for runtime in (OnnxRuntime(), OpenVinoRuntime()):
        assert runtime.open(path, SessionOptions()).run(feeds)["y"].tolist() == [1, 1, 1, 1]
