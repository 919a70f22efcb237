from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.quantize.config import QuantConfig, config_of
from edgekd.quantize.layers import SearchableExporter
from edgekd_onnx.exporter import OnnxExporter


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Three convolutions; the second has an outlier, which per-tensor weights suffer from."""
    rng = np.random.default_rng(0)
    shapes = {"a": (8, 3, 3, 3), "b": (8, 8, 3, 3), "c": (4, 8, 3, 3)}
    weights = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    weights["b"][0] *= 40
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["p"], name="one"),
        helper.make_node("Relu", ["p"], ["pr"], name="relu"),
        helper.make_node("Conv", ["pr", "b"], ["q"], name="two"),
        helper.make_node("Conv", ["q", "c"], ["y"], name="three"),
    ]
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, ["batch", 3, 9, 9])], [value("y", TensorProto.FLOAT, ["batch", 4, 3, 3])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )  # fmt: skip
    path = tmp_path_factory.mktemp("layers") / "m.onnx"
    onnx.save_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path)
    )
    return OnnxExporter().read(path)


def _feeds() -> list[dict[str, Array]]:
    rng = np.random.default_rng(4)
    return [{"x": rng.normal(size=(2, 3, 9, 9)).astype(np.float32)} for _ in range(4)]


def _quantize(net: Artifact, out: Path, config: QuantConfig) -> Artifact:
    out.mkdir(exist_ok=True)
    return OnnxExporter().quantize(net, config, _feeds(), out)


def _values(path: Path, names: list[str]) -> list[list[Array]]:
    """Inner tensors, by hand: as the paired pass must see them."""
    import onnxruntime as ort

    model = onnx.load(str(path))
    there = {o.name for o in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in there)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    return [session.run(names, f) for f in _feeds()]


def test_the_error_is_that_of_what_the_consumers_see(net: Artifact, tmp_path: Path) -> None:
    made = _quantize(net, tmp_path / "q", QuantConfig())
    errors = OnnxExporter().layer_errors(net, made, _feeds())
    assert [(e.name, e.op_type) for e in errors] == [("one", "Conv"), ("two", "Conv"), ("three", "Conv")]
    before = _values(net.path, ["pr", "q", "y"])
    after = _values(made.path, ["pr_DequantizeLinear_Output", "q_DequantizeLinear_Output", "y"])
    for i, error in enumerate(errors):
        signal = sum(float((b[i] ** 2).sum()) for b in before)
        noise = sum(float(((b[i] - a[i]) ** 2).sum()) for a, b in zip(after, before, strict=True))
        assert error.sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=0.02)
    assert [e.macs for e in errors] == [7 * 7 * 8 * 27, 5 * 5 * 8 * 72, 3 * 3 * 4 * 72]


def test_an_own_error_is_without_what_came_before(net: Artifact, tmp_path: Path) -> None:
    made = _quantize(net, tmp_path / "q", QuantConfig(granularity="tensor"))
    one, two, three = OnnxExporter().layer_errors(net, made, _feeds())
    # Nothing was quantized before the first.
    assert one.sqnr_db == one.own_sqnr_db
    assert all(e.own_sqnr_db > e.sqnr_db for e in (two, three))  # type: ignore[operator]
    # Kept float, the layer with the outlier is not listed, and what follows hears less noise.
    kept = _quantize(net, tmp_path / "k", QuantConfig(granularity="tensor", keep_float=("two",)))
    left = OnnxExporter().layer_errors(net, kept, _feeds())
    assert left[0] == one
    assert left[-1].sqnr_db > three.sqnr_db  # type: ignore[operator]


@pytest.mark.parametrize(
    "config",
    [QuantConfig(variant="tensorrt"), config_of("int8-weights"), replace(config_of("int4"), granularity="channel")],
    ids=["tensorrt", "int8-weights", "int4"],
)  # fmt: skip
def test_every_mode_names_the_same_layers(net: Artifact, config: QuantConfig, tmp_path: Path) -> None:
    made = _quantize(net, tmp_path / "q", config)
    errors = OnnxExporter().layer_errors(net, made, _feeds())
    assert [e.name for e in errors] == ["one", "two", "three"]
    assert all(e.sqnr_db is not None and 3 < e.sqnr_db < 80 for e in errors)


def test_files_that_do_not_belong_together_are_refused(
    net: Artifact, digits_onnx: Artifact, tmp_path: Path
) -> None:
    made = _quantize(net, tmp_path / "q", QuantConfig())
    with pytest.raises(ModelError, match="not quantized from"):
        OnnxExporter().layer_errors(digits_onnx, made, _feeds())


def test_choices_are_valid_and_fit_the_model(net: Artifact, tmp_path: Path) -> None:
    exporter: Any = OnnxExporter()
    assert isinstance(exporter, SearchableExporter)
    choices = exporter.quantization_choices(net, "cpu")
    assert [c.calibration for c in choices] == ["minmax", "percentile", "mse", "entropy"]
    assert {c.mode for c in choices} == {"static"}
    rng = np.random.default_rng(0)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [value("x", 1, ["batch", 1024])], [value("y", 1, ["batch", 1024])],
        [numpy_helper.from_array(rng.normal(size=(1024, 1024)).astype(np.float32), "w")],
    )  # fmt: skip
    path = tmp_path / "m.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(path))
    product = exporter.quantization_choices(OnnxExporter().read(path), "cpu")
    assert [(c.dtype, c.mode) for c in product[:4]] == [
        ("int8", "static"), ("int8", "dynamic"), ("int8", "weight-only"), ("int4", "weight-only"),
    ]  # fmt: skip
    for config in (*choices, *product, *exporter.quantization_choices(net, "cuda")):
        config.check()
    assert {c.variant for c in exporter.quantization_choices(net, "cuda")} == {"tensorrt"}
