"""Additive masks of attention: no 8-bit grid holds them beside the scores, so they stay in float."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.quantize.config import QuantConfig
from edgekd_onnx.exporter import OnnxExporter
from edgekd_onnx.ranges import activation_ranges

_VALUE = helper.make_tensor_value_info
_NODE = helper.make_node
_LOWEST = float(np.finfo(np.float32).min)
_METHODS = ("minmax", "entropy", "percentile", "mse")


def _attention(path: Path, mask: list[Any], value: float, kind: int = TensorProto.INT64) -> Artifact:
    """Attention over 6 positions of 16 values; ``mask`` makes ``bias`` of ``keep``, shape (n, 1, 6), and ``low``."""
    rng = np.random.default_rng(0)
    constants = {n: rng.normal(0, 0.3, (16, 16)).astype(np.float32) for n in ("wq", "wk", "wv")}
    constants |= {"zero": np.float32(0), "low": np.float32(value)}
    nodes = [
        _NODE("MatMul", ["x", "wq"], ["q"], name="query"), _NODE("MatMul", ["x", "wk"], ["k"], name="key"),
        _NODE("MatMul", ["x", "wv"], ["v"], name="value"), _NODE("Transpose", ["k"], ["kt"], perm=[0, 2, 1], name="turn"),
        _NODE("MatMul", ["q", "kt"], ["s"], name="scores"), *mask, _NODE("Add", ["s", "bias"], ["sum"], name="add"),
        _NODE("Softmax", ["sum"], ["p"], axis=-1, name="softmax"), _NODE("MatMul", ["p", "v"], ["y"], name="mix"),
    ]  # fmt: skip
    inputs = [_VALUE("x", TensorProto.FLOAT, ["n", 6, 16]), _VALUE("keep", kind, ["n", 1, 6])]
    graph = helper.make_graph(
        nodes, "g", inputs, [_VALUE("y", TensorProto.FLOAT, ["n", 6, 16])],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return OnnxExporter().read(path)


def _where(path: Path, value: float) -> Artifact:
    mask = [_NODE("Cast", ["keep"], ["on"], to=TensorProto.BOOL), _NODE("Where", ["on", "zero", "low"], ["bias"], name="where")]  # fmt: skip
    return _attention(path, mask, value)


def _feeds(short: bool = True, dtype: type = np.int64) -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    keep = np.ones((4, 1, 6), dtype)
    if short:
        keep[1::2, :, 3:] = 0
    # The first batch holds no padding, later ones do: histograms then have to grow.
    return [
        {"x": rng.normal(0, 2, (4, 6, 16)).astype(np.float32), "keep": keep if i else np.ones_like(keep)}
        for i in range(4)
    ]


def _quantize(source: Artifact, out: Path, config: QuantConfig, feeds: list[dict[str, Array]]) -> Artifact:
    out.mkdir()
    return OnnxExporter().quantize(source, config, iter(feeds), out)


@pytest.mark.parametrize("method", _METHODS)
@pytest.mark.parametrize("value", [_LOWEST, -np.inf, -10000.0])
def test_a_mask_stays_in_float(value: float, method: str, tmp_path: Path) -> None:
    config = QuantConfig(calibration=method, examples=16)
    made = _quantize(_where(tmp_path / "m.onnx", value), tmp_path / "q", config, _feeds())
    assert made.lineage["quantization"]["left_in_float"] == ["add", "softmax", "where"]
    assert made.lineage["sqnr_db"]["y"] > 10
    ranges = activation_ranges(made.path)
    assert {"x", "s", "p", "v"} <= set(ranges)
    assert max(max(-low, high) for low, high in ranges.values()) < 1e4


def test_a_mask_that_no_calibration_example_has_stays_in_float(tmp_path: Path) -> None:
    """Its range would be [0, 0], and padding would count in full."""
    source = _where(tmp_path / "m.onnx", _LOWEST)
    made = _quantize(source, tmp_path / "q", QuantConfig(examples=16), _feeds(short=False))
    assert made.lineage["quantization"]["left_in_float"] == ["add", "softmax", "where"]


@pytest.mark.parametrize("method", _METHODS)
def test_a_mask_without_a_great_constant_is_known_by_its_range(method: str, tmp_path: Path) -> None:
    source = _attention(tmp_path / "m.onnx", [_NODE("Log", ["keep"], ["bias"], name="log")], 0, TensorProto.FLOAT)  # fmt: skip
    config = QuantConfig(calibration=method, examples=16)
    made = _quantize(source, tmp_path / "q", config, _feeds(dtype=np.float32))
    assert made.lineage["quantization"]["left_in_float"] == ["add", "softmax"]
    assert made.lineage["sqnr_db"]["y"] > 10


def test_scores_with_an_ordinary_bias_are_quantized(tmp_path: Path) -> None:
    mask = [_NODE("Cast", ["keep"], ["on"], to=TensorProto.BOOL), _NODE("Where", ["on", "zero", "low"], ["bias"], name="where")]  # fmt: skip
    source = _attention(tmp_path / "m.onnx", mask, -2.0)
    made = _quantize(source, tmp_path / "q", QuantConfig(examples=16), _feeds())
    assert "left_in_float" not in made.lineage["quantization"]
    assert "sum" in activation_ranges(made.path)
