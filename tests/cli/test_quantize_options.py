from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.artifact import Artifact
from edgekd.cli import main
from edgekd.pipeline.artifacts import calibration_feeds
from edgekd.spec import TensorSpec
from edgekd.tasks import TaskSpec


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A perceptron of two products, ``m.onnx``, and 40 examples, ``data.npz``."""
    rng = np.random.default_rng(0)
    value = helper.make_tensor_value_info
    weights = {"w": rng.normal(size=(32, 32)), "v": rng.normal(size=(32, 4))}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
            helper.make_node("Relu", ["h"], ["r"], name="relu"),
            helper.make_node("MatMul", ["r", "v"], ["y"], name="second"),
        ],
        "g", [value("x", TensorProto.FLOAT, ["batch", 32])], [value("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, str(tmp_path / "m.onnx"))
    x = rng.normal(size=(40, 32)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, label=np.arange(40) % 4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    return tmp_path


def _made(place: Path, *options: str) -> dict[str, Any]:
    assert main(["quantize", "m.onnx", *options, "-o", "out"]) == 0
    value: dict[str, Any] = json.loads((place / "out" / "artifact.json").read_text())
    return dict(value["lineage"])


def test_every_option_reaches_the_configuration(place: Path) -> None:
    lineage = _made(
        place, "--dtype", "int4", "--block-size", "16", "--accuracy-level", "1", "--keep-float", "second",
        "--calibration", "data.npz", "--examples", "10", "--seed", "3",
    )  # fmt: skip
    asked = {k: v for k, v in lineage["quantization"].items() if k != "weights"}
    assert asked == {
        "dtype": "int4", "mode": "weight-only", "granularity": "block", "block_size": 16, "variant": "cpu", "examples": 10,
        "seed": 3, "accuracy_level": 1, "keep_float": ["second"],
    }  # fmt: skip
    assert lineage["calibration"]["examples"] == 10
    assert lineage["checked_on"] == "data"


def test_static_ranges_by_mse(place: Path) -> None:
    lineage = _made(place, "--calibration", "data.npz", "--method", "mse", "--granularity", "tensor")
    assert (lineage["quantization"]["calibration"], lineage["quantization"]["granularity"]) == (
        "mse",
        "tensor",
    )


def test_no_data_is_needed_for_weights(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lineage = _made(place, "--mode", "weight-only")
    assert lineage["checked_on"] == "drawn"
    assert "out: int8 (weight-only) for cpu" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "static int8 needs calibration data"),
        (["--dtype", "fp8"], "static float8e4m3fn needs calibration data"),
        (["--dtype", "int8-dynamic", "--method", "mse"], "--method means nothing for int8 dynamic"),
        (["--dtype", "int4", "--seed", "1"], "--seed means nothing"),
        (["--dtype", "int4", "--granularity", "channel", "--block-size", "32"], "--block-size means nothing"),
        (["--accuracy-level", "1", "--calibration", "data.npz"], "--accuracy-level means nothing"),
        (["--dtype", "int4", "--block-size", "17"], "block_size '17' is not known"),
        (["--dtype", "int4", "--mode", "static"], "mode 'static' of int4"),
        (["--dtype", "int8-weights", "--mode", "dynamic"], "is weight-only, asked for dynamic"),
        (["--dtype", "int4", "--keep-float", "frist"], "did you mean 'first'"),
        (["--calibration", "data.npz#0:0"], "is empty"),
        (["--calibration", "data.npz", "--smoothing", "0.5"], "has no smoothing, 0.5 was asked for"),
        (["--dtype", "int4", "--smoothing", "0.5"], "smoothing goes with static ranges"),
        (
            ["--calibration", "data.npz", "--activation-granularity", "channel"],
            "has one range for each activation, one for each channel was asked for",
        ),
        (
            ["--calibration", "data.npz", "--activation-granularity", "channel", "--granularity", "tensor"],
            "this is static by tensor",
        ),
    ],
)
def test_what_is_refused(
    place: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", "m.onnx", *options, "-o", "out"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("edgekd: error: ")
    assert words in error
    assert not (place / "out").exists()


def test_channels_are_smoothed_where_asked(place: Path) -> None:
    pytest.importorskip("nncf")
    assert main(["export", "m.onnx", "--format", "openvino", "-o", "ir"]) == 0
    made = []
    for smoothing in ([], ["--smoothing", "0.5"]):
        assert main(["quantize", "ir", "--calibration", "data.npz", *smoothing, "-o", "q"]) == 0
        made.append(json.loads((place / "q" / "artifact.json").read_text()))
    assert "smoothing" not in made[0]["lineage"]["quantization"]
    assert made[1]["lineage"]["quantization"]["smoothing"] == 0.5
    assert made[0]["files"] != made[1]["files"]


def test_int8_weights_are_per_channel_where_there_are_no_blocks(place: Path) -> None:
    pytest.importorskip("nncf")
    assert main(["export", "m.onnx", "--format", "openvino", "-o", "ir"]) == 0
    assert main(["quantize", "ir", "--dtype", "int8-weights", "-o", "q"]) == 0
    lineage = json.loads((place / "q" / "artifact.json").read_text())["lineage"]
    assert (lineage["quantization"]["granularity"], lineage["checked_on"]) == ("channel", "drawn")
    assert main(["quantize", "ir", "--dtype", "int8-weights", "--granularity", "block", "-o", "b"]) == 2
    assert main(["quantize", "m.onnx", "--dtype", "int8-weights", "-o", "o"]) == 0
    lineage = json.loads((place / "o" / "artifact.json").read_text())["lineage"]
    assert lineage["quantization"]["granularity"] == "block"


def test_a_seed_draws_from_all_examples(place: Path) -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", 32))
    artifact = Artifact(
        folder=place, entry="m.onnx", format="onnx", dtype="float32", files=(), inputs=(spec,),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 4)),),
    )  # fmt: skip
    task = TaskSpec(kind="classification", data={"calibration": "data.npz"}, base=str(place))
    rows = np.load(place / "data.npz")["x"]

    def drawn(seed: int | None) -> list[int]:
        found = [f["x"] for f in calibration_feeds(task, artifact, 8, {}, seed)]
        return [int(np.flatnonzero((rows == f).all(1))[0]) for f in found]

    assert drawn(None) == list(range(8))
    assert drawn(1) == drawn(1) == sorted(set(drawn(1)))
    assert len(drawn(1)) == 8
    assert max(drawn(1)) > 8
    assert drawn(1) != drawn(2)
