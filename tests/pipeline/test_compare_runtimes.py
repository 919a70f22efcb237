"""Comparison across runtimes: outputs, then inner tensors, to the first that deviates and the module it came from."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgekd.cli import main

STUDENT = "zoo:digits-cnn-student"


def needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:  # importing openvino would start its telemetry
        pytest.skip(f"{package} is not installed")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert main(["export", STUDENT, "-o", "a"]) == 0
    return tmp_path


def compared(*args: str) -> dict[str, object]:
    assert main(["compare", *args, "--examples", "3", "--out", "c.json"]) == 0
    document: dict[str, object] = json.loads(Path("c.json").read_text())
    return document


def planted(source: Path, out: Path, weight: str) -> str:
    """Change one weight; the tensor that its node makes."""
    proto = onnx.load(source)
    found = next(w for w in proto.graph.initializer if w.name == weight)
    found.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(found) * np.float32(1.5), weight))
    onnx.save(proto, out)
    return next(str(n.output[0]) for n in proto.graph.node if weight in n.input)


def test_an_ir_is_compared_tensor_by_tensor(place: Path) -> None:
    needs("openvino")
    assert main(["export", "a", "--format", "openvino", "-o", "ir"]) == 0
    same = compared("a", "ir", "--target-b", "cpu:openvino")
    assert (same["target"], same["target_b"], same["first_deviation"]) == (
        "cpu:onnxruntime",
        "cpu:openvino",
        None,
    )
    assert len(same["tensors"]) > 5  # type: ignore[arg-type]
    made = planted(place / "a/model.onnx", place / "changed.onnx", "features.3.weight")
    assert main(["export", "changed.onnx", "--format", "openvino", "-o", "changed"]) == 0
    other = compared("a", "changed", "--target-b", "cpu:openvino")
    assert other["first_deviation"] == made
    # The convolution and the batch normalisation behind it are one node.
    assert other["first_module"] in ("features.3", "features.4")


def test_a_program_is_compared_with_its_module_step_by_step(place: Path) -> None:
    needs("executorch")
    assert main(["export", STUDENT, "--format", "executorch", "-o", "pte"]) == 0
    found = compared(STUDENT, "pte", "--target", "cpu:torch", "--target-b", "cpu:executorch")
    assert found["first_deviation"] is None
    assert "features.0" in {t["module"] for t in found["tensors"]}  # type: ignore[attr-defined]


def test_the_weight_that_lost_most_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    np.savez("c.npz", image=rng.random((20, 1, 8, 8)).astype(np.float32), label=np.zeros(20, np.int64))
    assert main(["quantize", "a", "--calibration", "c.npz", "-o", "b"]) == 0
    found = compared("a", "b")
    lost = found["weights"]
    assert isinstance(lost, list)
    assert {"features.0.weight", "head.weight"} <= {w["name"] for w in lost}
    decibels = [w["sqnr_db"] for w in lost if w["sqnr_db"] is not None]
    assert decibels == sorted(decibels)
    assert all(d > 20 for d in decibels)
    assert decibels[0] < 80
    assert f"weight that lost most: {lost[0]['name']}" in capsys.readouterr().out
    assert found["first_module"]


def test_outputs_alone_where_inner_tensors_share_no_name(place: Path) -> None:
    found = compared("a", STUDENT, "--target-b", "cpu:torch")
    assert found["tensors"] == []
    assert found["first_deviation"] is None
    assert found["outputs"][0]["max_abs"] < 1e-5  # type: ignore[index]
