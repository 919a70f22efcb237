from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_quantizer", reason="ai-edge-quantizer is not installed")

import fixtures_tflite
from fixtures_tflite import BIAS, WEIGHT

from edgekd.artifact import Artifact
from edgekd.errors import DataError, ModelError, UsageError
from edgekd.quantize.config import QuantConfig
from edgekd.target import SessionOptions
from edgekd_litert.exporter import LiteRtExporter
from edgekd_litert.quantizing import quantize_artifact
from edgekd_litert.runtime import LiteRtRuntime


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return LiteRtExporter().read(fixtures_tflite.dense(tmp_path_factory.mktemp("tflite") / "dense.tflite"))


def _feeds(count: int = 8, name: str = "x") -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(5)
    return [{name: rng.uniform(-2, 2, (3, 4)).astype(np.float32)} for _ in range(count)]


def _out(tmp_path: Path, name: str = "out") -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


@pytest.mark.parametrize("boundary", ["float32", "int8"])
def test_it_computes_in_int8_and_answers_in_floats(boundary: str, dense: Artifact, tmp_path: Path) -> None:
    made = quantize_artifact(dense, QuantConfig(), _feeds(), _out(tmp_path), boundary=boundary)
    assert (made.dtype, made.inputs, made.outputs) == ("int8", dense.inputs, dense.outputs)
    assert (made.lineage["quantized_nodes"], made.lineage["float_operators"]) == (1, [])
    assert made.lineage["calibration"]["examples"] == 24
    assert sorted(made.lineage["stored_as"]) == (["logits", "x"] if boundary == "int8" else [])
    assert made.lineage["sqnr_db"]["logits"] > 25
    for provider in ("xnnpack", "builtin"):
        session = LiteRtRuntime().open(made.path, SessionOptions(provider=provider))
        x = _feeds(1)[0]["x"]
        error = session.run({"x": x})["logits"] - (x @ WEIGHT.T + BIAS)
        # Half a step of the input per product and half a step of the output.
        assert 0 < np.abs(error).max() < 0.1
    read = LiteRtExporter().read(made.path)
    assert (read.dtype, read.inputs, read.outputs) == (made.dtype, made.inputs, made.outputs)


@pytest.mark.parametrize("mode", ["dynamic", "weight-only"])
def test_integers_in_weights_without_calibrated_ranges(mode: str, dense: Artifact, tmp_path: Path) -> None:
    made = quantize_artifact(dense, QuantConfig(mode=mode), _feeds(), _out(tmp_path))
    assert (made.dtype, made.inputs, made.outputs) == ("int8", dense.inputs, dense.outputs)
    assert LiteRtExporter().read(made.path).dtype == "int8"
    assert made.lineage["quantized_nodes"] == 1
    # Far beyond anything calibrated: static ranges would clip it.
    session = LiteRtRuntime().open(made.path, SessionOptions(provider="builtin"))
    x = _feeds(1)[0]["x"] * 100
    expected = x @ WEIGHT.T + BIAS
    error = np.abs(session.run({"x": x})["logits"] - expected).max()
    assert 0 < error < 0.02 * np.abs(expected).max()
    with pytest.raises(UsageError, match=f"inputs of int8 {mode} are floats"):
        quantize_artifact(dense, QuantConfig(mode=mode), _feeds(), _out(tmp_path, "i"), boundary="int8")


@pytest.mark.parametrize("mode", ["dynamic", "weight-only"])
def test_without_data_drawn_inputs_check_the_answers(mode: str, dense: Artifact, tmp_path: Path) -> None:
    made = quantize_artifact(dense, QuantConfig(mode=mode), (), _out(tmp_path))
    assert (made.lineage["checked_on"], made.lineage["checked_examples"]) == ("drawn", 64)
    given = quantize_artifact(dense, QuantConfig(mode=mode), _feeds(), _out(tmp_path, "given"))
    assert (given.lineage["checked_on"], given.digest) == ("data", made.digest)


def test_ranges_are_those_of_all_examples_in_any_order(dense: Artifact, tmp_path: Path) -> None:
    """The quantizer's own calibration takes moving averages, which the last examples decide."""
    feeds = _feeds(4)
    feeds[0]["x"][0, 0] = 50.0
    made = [
        quantize_artifact(dense, QuantConfig(), order, _out(tmp_path, str(i)), boundary="int8")
        for i, order in enumerate((feeds, feeds[::-1]))
    ]
    stored = [m.lineage["stored_as"]["x"] for m in made]
    assert stored[0] == stored[1]
    assert stored[0]["scale"] == pytest.approx(52 / 255, rel=0.01)


def test_weights_per_tensor_are_another_file(dense: Artifact, tmp_path: Path) -> None:
    config = QuantConfig(granularity="tensor")
    made = quantize_artifact(dense, config, _feeds(), _out(tmp_path))
    other = quantize_artifact(dense, QuantConfig(), _feeds(), _out(tmp_path, "channel"))
    again = quantize_artifact(dense, QuantConfig(), _feeds(), _out(tmp_path, "again"))
    assert made.lineage["quantization"]["granularity"] == "tensor"
    assert made.digest != other.digest == again.digest


def test_a_file_without_a_signature_keeps_its_names(tmp_path: Path) -> None:
    source = LiteRtExporter().read(fixtures_tflite.dense(tmp_path / "m.tflite", named=False))
    made = LiteRtExporter().quantize(source, QuantConfig(), _feeds(name="tensor/x"), _out(tmp_path))
    assert [s.name for s in (*made.inputs, *made.outputs)] == ["tensor/x", "tensor/y"]
    assert made.inputs[0].dynamic_batch and made.outputs[0].dynamic_batch


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (QuantConfig(calibration="entropy"), "LiteRT has no calibration 'entropy'"),
        (QuantConfig(variant="tensorrt"), "LiteRT has no variant 'tensorrt'"),
        (QuantConfig(granularity="row"), "granularity 'row' is not known"),
        (QuantConfig(dtype="int4", mode="weight-only"), "LiteRT does not write int4 weight-only here"),
        (QuantConfig(dtype="float8e4m3fn"), "LiteRT does not write float8e4m3fn static here"),
        (QuantConfig(keep_float=("a", "b")), "LiteRT cannot keep single nodes in float, 'a', 'b' asked for"),
        (QuantConfig(mode="weight-only", granularity="block"), "LiteRT has no granularity 'block' here"),
    ],
)
def test_what_litert_does_not_have(config: QuantConfig, says: str, dense: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        LiteRtExporter().quantize(dense, config, _feeds(), _out(tmp_path))


def test_what_cannot_be_quantized_leaves_nothing(dense: Artifact, tmp_path: Path) -> None:
    out = _out(tmp_path)
    integers = LiteRtExporter().read(fixtures_tflite.integer_sum(tmp_path / "i.tflite"))
    with pytest.raises(ModelError, match=r"no operator that can be quantized"):
        LiteRtExporter().quantize(integers, QuantConfig(), [{"x": np.ones((1, 4), np.int32)}], out)
    several = LiteRtExporter().read(fixtures_tflite.two_signatures(tmp_path / "s.tflite"))
    with pytest.raises(ModelError, match="2 signatures and 1 graphs"):
        LiteRtExporter().quantize(several, QuantConfig(), [{"x": np.eye(1, 4, dtype=np.float32)}], out)
    with pytest.raises(DataError, match="calibration data is empty"):
        LiteRtExporter().quantize(dense, QuantConfig(), [], out)
    with pytest.raises(UsageError, match="boundary 'uint4' is not known"):
        quantize_artifact(dense, QuantConfig(), _feeds(), out, boundary="uint4")
    assert list(out.iterdir()) == []
    made = LiteRtExporter().quantize(dense, QuantConfig(), _feeds(), out)
    with pytest.raises(ModelError, match="litert of int8, only float32 litert can be quantized"):
        LiteRtExporter().quantize(made, QuantConfig(), _feeds(), _out(tmp_path, "twice"))
