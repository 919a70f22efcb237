"""``quantize --max-accuracy-drop``: what it refuses, and a whole search on a small model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from edgekd.cli import main
from edgekd.quantize.searched import load_search

#: Rows of each half that are on the edge of a decision, so that rounding shows.
_ROWS = 1200


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose first hidden tensor holds one channel a thousand times the others, which decide."""
    folder = tmp_path_factory.mktemp("searching")
    rng = np.random.default_rng(0)
    first = rng.normal(0, 1, (16, 16)).astype(np.float32)
    second = np.zeros((16, 16), np.float32)
    second[1:] = rng.normal(0, 1, (15, 16))
    last = rng.normal(0, 1, (16, 4)).astype(np.float32)
    first[:, 0] *= 300
    weights = {"w1": first, "w2": second, "w3": last}
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["ra"], name="relu1"),
        helper.make_node("MatMul", ["ra", "w2"], ["b"], name="second"),
        helper.make_node("Relu", ["b"], ["rb"], name="relu2"),
        helper.make_node("MatMul", ["rb", "w3"], ["y"], name="third"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
        folder / "student.onnx",
    )
    x = rng.normal(0, 1, (2 * _ROWS, 16)).astype(np.float32)
    y = np.maximum(np.maximum(x @ first, 0) @ second, 0) @ last
    np.savez(folder / "data.npz", x=x, label=y.argmax(1))
    return folder


def _refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["quantize", "student.onnx", *args]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["--max-accuracy-drop", "0.01", "-o", "out"], "needs labelled data to choose by"),
        (["--data", "data.npz", "-o", "out"], "--data is for the search, which was not asked for"),
        (["--max-accuracy-drop", "0.01", "--data", "data.npz", "-o", "a.onnx"], "name a folder: -o a"),
        (
            [
                "--for",
                "cpu:onnxruntime",
                "--for",
                "cpu:openvino",
                "--calibration",
                "data.npz",
                "-o",
                "a.onnx",
            ],
            "--for is given 2 times",
        ),
        (
            ["--max-accuracy-drop", "0.01", "--data", "data.npz", "--test-data", "data.npz#0:5", "-o", "out"],
            "overlap",
        ),
        (
            ["--max-accuracy-drop", "0.01", "--data", "data.npz", "--for", "cpu:torch", "-o", "out"],
            "none of which can be searched",
        ),
        (
            ["--max-accuracy-drop", "0.01", "--data", "sklearn:digits#test", "-o", "out"],
            "named split, whose rows cannot be picked",
        ),
    ],
)
def test_refusals(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    what: str,
) -> None:
    monkeypatch.chdir(place)
    said = _refused(capsys, *args)
    assert what in said
    assert said.count("\n") == 1
    assert not (place / "out").exists()


def test_a_whole_search(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    args = ["quantize", "student.onnx", "--data", "data.npz", "--max-accuracy-drop", "0.02", "-o", "best"]
    code = main(args)
    found = load_search(place / "best/search.json")
    assert code == {"pass": 0, "reject": 1, "inconclusive": 3}[found.decision]
    assert found.splits["select"]["reference"] == "data.npz#0::2"
    assert found.splits["test"]["reference"] == "data.npz#1::2"
    assert found.gate.split == "test" and found.gate.n == _ROWS
    whole = [t for t in found.trials if t.mixture.config is not None and not t.mixture.kept]
    assert whole and not any(t.holds for t in whole if t.mixture.config and t.mixture.config.mode == "static")
    # What it wrote is what it chose, and never what its own rows reject.
    made = json.loads((place / "best/artifact.json").read_text())
    assert made["digest"] == found.artifacts[found.winner]
    assert found.chosen.holds
    page = (place / "best/search.md").read_text()
    assert page in capsys.readouterr().out
    before = [(t.mixture, t.difference, t.latency) for t in found.trials]
    # The second time everything is there: nothing runs.
    for name in ("evaluate", "measure_scenario"):
        monkeypatch.setattr(f"edgekd.pipeline.collect.{name}", None)
    assert main(args) == code
    again = load_search(place / "best/search.json")
    assert [(t.mixture, t.difference, t.latency) for t in again.trials] == before
