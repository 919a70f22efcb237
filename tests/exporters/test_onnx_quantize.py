from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.errors import DataError, ModelError, UsageError
from edgekd.quantize.config import QuantConfig
from edgekd.target import SessionOptions
from edgekd_onnx import quantizing
from edgekd_onnx.calibrating import least_error_range
from edgekd_onnx.exporter import OnnxExporter
from edgekd_onnx.runtime import OnnxRuntime


def _feeds(count: int, batch: int = 1) -> Iterator[dict[str, Array]]:
    rng = np.random.default_rng(3)
    for _ in range(count):
        yield {"image": rng.uniform(0, 1, (batch, 1, 8, 8)).astype(np.float32)}


def _quantize(source: Artifact, out: Path, config: QuantConfig, feeds: Any = None) -> Artifact:
    out.mkdir(exist_ok=True)
    return OnnxExporter().quantize(source, config, _feeds(8) if feeds is None else feeds, out)


def _graph(artifact: Artifact) -> tuple[Any, dict[str, Array]]:
    model = onnx.load(str(artifact.path))
    return model, {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def _zero_points(artifact: Artifact) -> list[Array]:
    model, tensors = _graph(artifact)
    return [tensors[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear"]


def test_cpu_wants_unsigned_activations_and_signed_weights(digits_onnx: Artifact, tmp_path: Path) -> None:
    made = _quantize(digits_onnx, tmp_path / "q", QuantConfig(variant="cpu"))
    assert {z.dtype for z in _zero_points(made)} == {np.dtype("uint8")}
    model, tensors = _graph(made)
    weights = [
        n for n in model.graph.node if n.op_type == "DequantizeLinear" and tensors.get(n.input[0], np.empty(0)).ndim > 1
    ]  # fmt: skip
    assert weights
    assert all(tensors[n.input[0]].dtype == np.int8 and not tensors[n.input[2]].any() for n in weights)
    assert all(tensors[n.input[1]].size == tensors[n.input[0]].shape[0] for n in weights if "conv" in n.name)
    assert made.dtype == OnnxExporter().read(made.path).dtype == "int8"
    assert made.size_bytes < digits_onnx.size_bytes * 0.6


def test_tensorrt_wants_symmetric_int8_and_float_biases(digits_onnx: Artifact, tmp_path: Path) -> None:
    made = _quantize(digits_onnx, tmp_path / "q", QuantConfig(variant="tensorrt"))
    points = _zero_points(made)
    assert points
    assert all(z.dtype == np.int8 and not z.any() for z in points)
    model, tensors = _graph(made)
    dequantized = [n for n in model.graph.node if n.op_type == "DequantizeLinear"]
    assert not any(tensors[n.input[2]].any() for n in dequantized)
    assert not any(t.dtype == np.int32 for t in tensors.values())


def test_granularity(digits_onnx: Artifact, tmp_path: Path) -> None:
    def scales(name: str, granularity: str) -> set[int]:
        made = _quantize(digits_onnx, tmp_path / name, QuantConfig(granularity=granularity))
        model, tensors = _graph(made)
        return {
            tensors[n.input[1]].size
            for n in model.graph.node
            if n.op_type == "DequantizeLinear" and tensors.get(n.input[0], np.empty(0)).ndim == 4
        }

    assert scales("channel", "channel") == {12}
    assert scales("tensor", "tensor") == {1}


def test_batch_norms_are_folded_before_quantizing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "w": rng.normal(size=(4, 1, 3, 3)), "scale": np.full(4, 2.0), "bias": np.zeros(4),
        "mean": rng.normal(size=4), "var": np.ones(4),
    }  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w"], ["c"]),
            helper.make_node("BatchNormalization", ["c", "scale", "bias", "mean", "var"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, 6, 6])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in tensors.items()],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    made = _quantize(OnnxExporter().read(path), tmp_path / "q", QuantConfig())
    operators = {n.op_type for n in _graph(made)[0].graph.node}
    assert "Conv" in operators
    assert "BatchNormalization" not in operators
    assert made.lineage["sqnr_db"]["y"] > 25


@pytest.mark.parametrize("calibration", ["minmax", "entropy", "percentile", "mse"])
def test_answers_stay_near_the_original(digits_onnx: Artifact, tmp_path: Path, calibration: str) -> None:
    made = _quantize(digits_onnx, tmp_path / "q", QuantConfig(calibration=calibration))
    assert made.lineage["sqnr_db"]["logits"] > 15
    assert [p.name for p in (tmp_path / "q").iterdir()] == ["model.onnx"]
    session = OnnxRuntime().open(made.path, SessionOptions())
    for batch in (1, 2, 5):
        assert session.run(next(_feeds(1, batch)))["logits"].shape == (batch, 10)


def test_histograms_hold_one_batch_at_a_time(
    digits_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime.quantization.calibrate import HistogramCollector

    sizes: list[int] = []
    real = HistogramCollector.collect

    def collect(self: Any, name_to_arr: dict[str, list[Array]]) -> Any:
        sizes.append(max(len(v) for v in name_to_arr.values()))
        return real(self, name_to_arr)

    monkeypatch.setattr(HistogramCollector, "collect", collect)
    _quantize(digits_onnx, tmp_path / "q", QuantConfig(calibration="percentile"))
    assert sizes == [1] * 8


def test_least_squared_error_clips_an_outlier() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=100_000), [60.0]])
    counts, edges = np.histogram(values, 2048, range=(-60, 60))
    low, high = least_error_range(counts, edges, float(values.min()), 60.0, symmetric=False)

    def error(bottom: float, top: float) -> float:
        scale = (top - bottom) / 255
        zero = np.round(-bottom / scale)
        seen = (np.clip(np.round(values / scale) + zero, 0, 255) - zero) * scale
        return float(((seen - values) ** 2).sum())

    assert low == values.min()
    assert high < 60
    assert error(low, high) < error(float(values.min()), 60.0)
    # No threshold on the grid is better, but for the histogram's own coarseness.
    assert error(low, high) < 1.05 * min(error(max(low, -t), t) for t in np.linspace(0.6, 60, 100))
    assert least_error_range(counts, edges, low, 60.0, symmetric=True)[0] < 0
    assert least_error_range(np.ones(4), np.linspace(0, 0, 5), 0.0, 0.0, symmetric=False) == (0.0, 0.0)


def test_mse_ranges_reach_the_file(digits_onnx: Artifact, tmp_path: Path) -> None:
    """One bright pixel among many dim ones: its range is clipped, and min-max keeps it."""
    rng = np.random.default_rng(0)
    dim = rng.uniform(0, 0.1, (4096, 1, 8, 8)).astype(np.float32)
    dim[0, 0, 0, 0] = 5.0
    scales = {}
    for method in ("minmax", "mse"):
        made = _quantize(
            digits_onnx, tmp_path / method, QuantConfig(calibration=method, examples=4096), [{"image": dim}]
        )
        _, tensors = _graph(made)
        scales[method] = float(tensors["image_scale"])
    assert scales["minmax"] == pytest.approx(5 / 255, rel=1e-3)
    assert scales["mse"] < 0.8 * scales["minmax"]


def test_lineage_says_what_was_done(digits_onnx: Artifact, tmp_path: Path) -> None:
    config = QuantConfig(examples=5)
    made = _quantize(digits_onnx, tmp_path / "a", config, _feeds(3, batch=2))
    lineage = made.lineage
    assert lineage["quantized_from"] == digits_onnx.digest
    assert lineage["quantization"] == config.to_json()
    assert lineage["calibration"]["examples"] == 5
    assert lineage["calibration"]["batches"] == 3
    assert lineage["tools"]["onnxruntime"]
    assert lineage["tools"]["torch"]
    other = _quantize(digits_onnx, tmp_path / "b", config, _feeds(2, batch=2))
    assert other.lineage["calibration"]["digest"] != lineage["calibration"]["digest"]


def test_no_more_feeds_are_read_than_asked_for(digits_onnx: Artifact, tmp_path: Path) -> None:
    read = []

    def endless() -> Iterator[dict[str, Array]]:
        while True:
            read.append(1)
            yield next(_feeds(1))

    made = _quantize(digits_onnx, tmp_path / "q", QuantConfig(examples=3), endless())
    assert made.lineage["calibration"]["examples"] == 3
    assert len(read) <= 4


def test_constant_integers_are_reported(tmp_path: Path) -> None:
    """A mask of texts of one length is constant, and no mistake."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["x", "m"], ["z"]),
            helper.make_node("MatMul", ["z", "w"], ["y"]),
        ],
        "g",
        [value("x", TensorProto.FLOAT, ["batch", 4]), value("mask", TensorProto.INT64, ["batch", 4])],
        [value("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    rng = np.random.default_rng(0)
    feeds = [
        {"x": rng.normal(size=(2, 4)).astype(np.float32), "mask": np.ones((2, 4), np.int64)} for _ in range(2)
    ]
    made = _quantize(OnnxExporter().read(path), tmp_path / "q", QuantConfig(), feeds)
    assert made.lineage["calibration"]["constant_inputs"] == ["mask"]


def test_bytes_do_not_depend_on_the_process(digits_onnx: Artifact, tmp_path: Path) -> None:
    digits_onnx.save()
    code = (
        "import numpy as np; from pathlib import Path; from edgekd.artifact import load_artifact\n"
        "from edgekd.quantize.config import QuantConfig; from edgekd_onnx.exporter import OnnxExporter\n"
        "rng = np.random.default_rng(3)\n"
        "feeds = [{'image': rng.uniform(0, 1, (1, 1, 8, 8)).astype(np.float32)} for _ in range(8)]\n"
        f"a = load_artifact(Path({str(digits_onnx.folder)!r}))\n"
        f"print(OnnxExporter().quantize(a, QuantConfig(), feeds, Path({str(tmp_path)!r})).digest)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "999"},
    )  # fmt: skip
    here = _quantize(digits_onnx, tmp_path / "here", QuantConfig())
    assert done.stdout.split() == [here.digest]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ([], "empty"),
        ([{"image": np.zeros((0, 1, 8, 8), np.float32)}], "empty"),
        ([{"image": np.full((1, 1, 8, 8), np.inf, np.float32)}], "NaN or infinity"),
        ([{"image": np.zeros((1, 1, 8, 8), np.float64)}], "float64"),
        ([{"image": np.zeros((1, 1, 9, 8), np.float32)}], "shape"),
        ([{"picture": np.zeros((1, 1, 8, 8), np.float32)}], "missing"),
    ],
)
def test_calibration_feeds_that_are_refused(
    digits_onnx: Artifact, tmp_path: Path, feeds: Any, words: str
) -> None:
    before = tempfile.tempdir
    with pytest.raises(DataError, match=words):
        OnnxExporter().quantize(digits_onnx, QuantConfig(), feeds, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert tempfile.tempdir == before


def test_what_cannot_be_quantized(digits_onnx: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="only float32"):
        _quantize(replace(digits_onnx, dtype="int8"), tmp_path, QuantConfig())
    with pytest.raises(UsageError, match="variant"):
        _quantize(digits_onnx, tmp_path, QuantConfig(variant="abacus"))
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["y"])],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1, 8, 8])],
    )
    path = tmp_path / "identity.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    with pytest.raises(ModelError, match="no operator"):
        _quantize(OnnxExporter().read(path), tmp_path / "q", QuantConfig())
    assert list((tmp_path / "q").iterdir()) == []


def test_a_quantized_model_that_gives_nan_is_refused(
    digits_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = quantizing._quantize

    def spoiled(*args: Any) -> Any:
        proto, masks = real(*args)
        scale = next(t for t in proto.graph.initializer if t.name == "logits_scale")
        bad = np.full_like(numpy_helper.to_array(scale), np.nan)
        scale.CopyFrom(numpy_helper.from_array(bad, scale.name))
        return proto, masks

    monkeypatch.setattr(quantizing, "_quantize", spoiled)
    with pytest.raises(ModelError, match="NaN"):
        _quantize(digits_onnx, tmp_path / "q", QuantConfig())
    assert list((tmp_path / "q").iterdir()) == []


def test_yunet_of_an_old_opset(data_root: Path, tmp_path: Path) -> None:
    source = OnnxExporter().read(data_root / "onnx" / "yunet_n_320_320.onnx")
    rng = np.random.default_rng(0)
    feeds = [{"input": rng.uniform(0, 255, (1, 3, 320, 320)).astype(np.float32)} for _ in range(2)]
    made = _quantize(source, tmp_path / "q", QuantConfig(), feeds)
    assert (made.lineage["opset_before"], made.lineage["opset"]) == (11, 13)
    assert made.lineage["calibration"]["examples"] == 2
    assert made.size_bytes < source.size_bytes
