from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgekd import deviation as module
from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.deviation import Deviation
from edgekd.errors import DataError, ModelError
from edgekd.quantize.config import QuantConfig
from edgekd_onnx.exporter import OnnxExporter
from edgekd_onnx.probe import OnnxProbe


def first_deviation(a: Path, b: Path, feeds: list[dict[str, Array]], *, tolerance: float) -> Deviation:
    return module.first_deviation(OnnxProbe(a), OnnxProbe(b), feeds, tolerance=tolerance)


def _feeds(count: int = 2) -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    return [{"image": rng.uniform(0, 1, (3, 1, 8, 8)).astype(np.float32)} for _ in range(count)]


def _edit(source: Path, target: Path, tensor: str, change: Any) -> str:
    """Change one initializer; returns the tensor that the first node with it makes."""
    model = onnx.load(str(source))
    found = next(t for t in model.graph.initializer if tensor in t.name)
    found.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(found).copy()), found.name))
    onnx.save(model, str(target))
    return next(str(n.output[0]) for n in model.graph.node if found.name in n.input)


def test_equal_files_do_not_deviate(digits_onnx: Artifact) -> None:
    result = first_deviation(digits_onnx.path, digits_onnx.path, _feeds(), tolerance=0)
    assert result.first is None
    assert result.only_a == 0
    assert result.tensors[-1].name == "logits"
    assert result.tensors[-1].is_output
    assert all(t.max_abs_error == 0 and t.sqnr_db is None for t in result.tensors)


@pytest.mark.parametrize("per_pass", [1, 3, 100])
@pytest.mark.parametrize("weight", ["features.0.weight", "features.3.weight", "head.weight"])
def test_the_changed_layer_is_named(
    digits_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weight: str, per_pass: int
) -> None:
    monkeypatch.setattr(module, "TENSORS_PER_PASS", per_pass)
    changed = tmp_path / "changed.onnx"
    made = _edit(digits_onnx.path, changed, weight, lambda w: w * 1.5)
    result = first_deviation(digits_onnx.path, changed, _feeds(), tolerance=0.01)
    assert result.first is not None
    assert result.first.name == made
    names = [t.name for t in result.tensors]
    assert all(not t.deviates(0.01) for t in result.tensors[: names.index(made)])
    json.dumps(result.to_json(), allow_nan=False)


def test_figures_of_a_known_change(digits_onnx: Artifact, tmp_path: Path) -> None:
    changed = tmp_path / "changed.onnx"

    def shift(bias: Array) -> Array:
        bias[4] += np.float32(0.5)
        return bias

    _edit(digits_onnx.path, changed, "head.bias", shift)
    feeds = _feeds(1)
    last = first_deviation(digits_onnx.path, changed, feeds, tolerance=1e-6).tensors[-1]
    from edgekd.target import SessionOptions
    from edgekd_onnx.runtime import OnnxRuntime

    options = SessionOptions(settings={"graph_level": "disable"})
    logits = OnnxRuntime().open(digits_onnx.path, options).run(feeds[0])["logits"].astype(float)
    assert last.max_abs_error == pytest.approx(0.5, rel=1e-5)
    assert last.relative_error == pytest.approx(0.5 / np.abs(logits).max(), rel=1e-5)
    assert last.sqnr_db == pytest.approx(10 * np.log10((logits**2).sum() / (3 * 0.25)), rel=1e-5)


def test_nan_on_one_side_is_a_deviation(digits_onnx: Artifact, tmp_path: Path) -> None:
    changed = tmp_path / "nan.onnx"
    _edit(digits_onnx.path, changed, "head.bias", lambda b: np.full_like(b, np.nan))
    first = first_deviation(digits_onnx.path, changed, _feeds(1), tolerance=10).first
    assert first is not None
    assert (first.name, first.max_abs_error) == ("logits", None)
    assert "NaN" in first.problem


def test_a_quantized_twin_is_seen_as_its_consumers_see_it(digits_onnx: Artifact, tmp_path: Path) -> None:
    quantized = OnnxExporter().quantize(digits_onnx, QuantConfig(), _feeds(4), tmp_path)
    result = first_deviation(digits_onnx.path, quantized.path, _feeds(), tolerance=0.0)
    relus = [t for t in result.tensors if t.op_type == "Relu"]
    assert relus
    # Without looking behind Q/DQ these hold the values before the clipping: an SQNR of about 0 dB.
    assert all(t.sqnr_db is not None and t.sqnr_db > 20 for t in relus)


def test_what_cannot_be_compared(digits_onnx: Artifact, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no feeds"):
        first_deviation(digits_onnx.path, digits_onnx.path, [], tolerance=0)
    with pytest.raises(DataError, match="tolerance"):
        first_deviation(digits_onnx.path, digits_onnx.path, _feeds(), tolerance=float("nan"))
    (tmp_path / "cut.onnx").write_bytes(digits_onnx.path.read_bytes()[:500])
    with pytest.raises(ModelError, match=r"cut\.onnx"):
        first_deviation(digits_onnx.path, tmp_path / "cut.onnx", _feeds(), tolerance=0)
    model = onnx.load(str(digits_onnx.path))
    renamed = {o: f"other {o}" for n in model.graph.node for o in n.output}
    for node in model.graph.node:
        node.input[:] = [renamed.get(i, i) for i in node.input]
        node.output[:] = [renamed[o] for o in node.output]
    model.graph.output[0].name = renamed["logits"]
    onnx.save(model, str(tmp_path / "renamed.onnx"))
    with pytest.raises(ModelError, match="no tensor of the same name"):
        first_deviation(digits_onnx.path, tmp_path / "renamed.onnx", _feeds(), tolerance=0)


def test_yunet_against_itself(data_root: Path) -> None:
    path = data_root / "onnx" / "yunet_n_320_320.onnx"
    feeds = [{"input": np.random.default_rng(0).uniform(0, 255, (1, 3, 320, 320)).astype(np.float32)}]
    result = first_deviation(path, path, feeds, tolerance=0)
    assert sum(t.is_output for t in result.tensors) == 12
    assert result.first is None
