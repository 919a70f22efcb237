"""What is right is not told off; what ONNX Runtime writes by default is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fixtures_lint_graphs import FP8, INT8, attention_net, conv_net
from onnx import helper, numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization.calibrate import CalibrationDataReader

from edgekd.artifact import Artifact
from edgekd.quantize.config import QuantConfig, config_of
from edgekd_onnx.exporter import OnnxExporter
from edgekd_onnx.writing import quiet
from edgekd_tensorrt.lint import LintReport, lint_file


def _rules(report: LintReport) -> Counter[str]:
    return Counter(f.rule for f in report.findings)


@pytest.mark.parametrize("opset", [13, 17, 19, 21, 24])
@pytest.mark.parametrize("version", ["10", "11"])
def test_a_right_int8_graph_is_silent(opset: int, version: str, tmp_path: Path) -> None:
    report = lint_file(conv_net(opset, INT8).save(tmp_path), target_sm=75, tensorrt=version)
    assert report.findings == (), report.to_text()
    assert (report.opset, report.tensorrt, report.target_sm) == (opset, version, 75)


@pytest.mark.parametrize("sm", [89, 90, 120])
def test_a_right_fp8_graph_is_silent(sm: int, tmp_path: Path) -> None:
    for made in (conv_net(19, FP8), attention_net(FP8)):
        report = lint_file(made.save(tmp_path), target_sm=sm)
        assert report.findings == (), report.to_text()


def test_right_int8_attention_is_silent(tmp_path: Path) -> None:
    report = lint_file(attention_net(INT8).save(tmp_path))
    assert report.findings == (), report.to_text()


def test_a_batch_that_varies_is_silent_with_its_profile(tmp_path: Path) -> None:
    path = conv_net(batch="batch").save(tmp_path)
    report = lint_file(path, shapes={"x": ((1, 32, 8, 8), (4, 32, 8, 8), (8, 32, 8, 8))})
    assert report.findings == (), report.to_text()


def test_an_exported_network_is_silent(digits_onnx: Artifact) -> None:
    (spec,) = digits_onnx.inputs
    shape = tuple(d if isinstance(d, int) else 1 for d in spec.shape)
    report = lint_file(digits_onnx.path, shapes={spec.name: (shape, shape, shape)}, target_sm=75)
    assert report.findings == (), report.to_text()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")

    class Encoder(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(50, 32)
            self.layer = torch.nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, activation="gelu")
            self.head = torch.nn.Linear(32, 3)

        def forward(self, ids: Any) -> Any:
            return self.head(self.layer(self.embed(ids)).mean(1))

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("encoder") / "encoder.onnx"
    varies = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    with quiet():
        torch.onnx.export(
            Encoder().eval(), (torch.randint(0, 50, (2, 8)),), str(path), dynamo=True, opset_version=18,
            input_names=["ids"], output_names=["y"], dynamic_shapes=(varies,),
        )  # fmt: skip
    return path


def test_an_exported_transformer_is_silent(encoder: Path) -> None:
    report = lint_file(encoder, shapes={"ids": ((1, 8), (4, 16), (8, 32))}, target_sm=80)
    assert report.findings == (), report.to_text()
    assert {"Softmax", "LayerNormalization"} <= {n.op_type for n in onnx.load(str(encoder)).graph.node}


def _residual_net(path: Path) -> None:
    """A float stem and two residual blocks, large enough that INT8 pays."""
    rng = np.random.default_rng(1)
    constants: list[Any] = []
    nodes: list[Any] = []

    def conv(data: str, out: str, into: int, channels: int) -> str:
        weights = rng.normal(size=(channels, into, 3, 3)).astype(np.float32) * 0.1
        constants.append(numpy_helper.from_array(weights, f"{out}_w"))
        constants.append(numpy_helper.from_array(np.zeros(channels, np.float32), f"{out}_b"))
        nodes.append(helper.make_node("Conv", [data, f"{out}_w", f"{out}_b"], [out], name=out, pads=[1] * 4))
        return out

    def relu(data: str) -> str:
        nodes.append(helper.make_node("Relu", [data], [f"{data}_relu"], name=f"{data}_relu"))
        return f"{data}_relu"

    at = relu(conv("x", "stem", 16, 32))
    for block in ("one", "two"):
        inside = relu(conv(at, f"{block}_a", 32, 32))
        last = conv(inside, f"{block}_c", 32, 32)
        nodes.append(helper.make_node("Add", [last, at], [f"{block}_sum"], name=f"{block}_sum"))
        at = relu(f"{block}_sum")
    nodes.append(helper.make_node("GlobalAveragePool", [at], ["pool"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["pool"], ["y"], name="flat"))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", 1, [1, 16, 8, 8])], [value("y", 1, [1, 32])], constants)
    onnx.save_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10), str(path)
    )


class _Reader(CalibrationDataReader):
    def __init__(self) -> None:
        rng = np.random.default_rng(2)
        self._feeds = iter([{"x": rng.normal(size=(1, 16, 8, 8)).astype(np.float32)} for _ in range(2)])

    def get_next(self) -> dict[str, Any] | None:  # type: ignore[override]
        return next(self._feeds, None)


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("residual") / "float.onnx"
    _residual_net(path)
    return path


def _quantized(source: Path, **options: Any) -> Path:
    path = source.with_name("quantized.onnx")
    with quiet():
        quantization.quantize_static(str(source), str(path), _Reader(), **options)
    return path


def test_the_float_network_is_silent(residual: Path) -> None:
    assert lint_file(residual).findings == ()


def test_onnxruntimes_defaults_give_many_errors(residual: Path) -> None:
    report = lint_file(_quantized(residual))
    found = _rules(report)
    # An asymmetric zero point or a UINT8 type at most of the pairs, and an INT32 bias at each of the five convolutions.
    assert len(report.errors) >= 15, report.to_text()
    assert found["TRT010"] + found["TRT011"] >= 10
    assert found["TRT012"] == 5


def test_the_settings_for_tensorrt_leave_the_residual_additions(residual: Path) -> None:
    ops = {n.op_type for n in onnx.load(str(residual)).graph.node}
    report = lint_file(
        _quantized(
            residual, quant_format=quantization.QuantFormat.QDQ, activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8, per_channel=True, op_types_to_quantize=["Conv", "Add"],
            extra_options={
                "ActivationSymmetric": True, "WeightSymmetric": True, "AddQDQPairToWeight": True, "QuantizeBias": False,
                "DedicatedQDQPair": False, "ForceQuantizeNoInputCheck": True,
                "OpTypesToExcludeOutputQuantization": sorted(ops),
                "QDQOpTypePerChannelSupportToAxis": {"Conv": 0},
            },
        )
    )  # fmt: skip
    assert not report.errors, report.to_text()
    # ONNX Runtime puts the pair on the convolution's side of the addition too, whatever it is told.
    assert set(_rules(report)) == {"TRT042"}, report.to_text()


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("calibration", ["minmax", "mse"])
def test_what_our_quantizer_writes_for_tensorrt_is_silent(
    residual: Path, granularity: str, calibration: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    feeds = [{"x": rng.normal(size=(1, 16, 8, 8)).astype(np.float32)} for _ in range(4)]
    config = QuantConfig(variant="tensorrt", granularity=granularity, calibration=calibration)
    made = OnnxExporter().quantize(OnnxExporter().read(residual), config, feeds, tmp_path)
    for version in ("10", "11"):
        report = lint_file(made.path, tensorrt=version, target_sm=75)
        assert report.findings == (), report.to_text()
    assert made.lineage["sqnr_db"]["y"] > 30
    convs = [n for n in onnx.load(str(made.path)).graph.node if n.op_type == "Conv"]
    assert all("Dequantize" in i for n in convs for i in n.input[:2])


def test_a_transformer_block_quantized_for_tensorrt_is_silent(encoder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    feeds = [{"ids": rng.integers(0, 50, (2, 8))} for _ in range(4)]
    source = OnnxExporter().read(encoder)
    shapes = {"ids": ((1, 8), (4, 16), (8, 32))}
    for config, sm in (
        (QuantConfig(variant="tensorrt"), 75),
        (replace(config_of("int4"), variant="tensorrt"), 89),
    ):
        out = tmp_path / config.dtype
        out.mkdir()
        made = OnnxExporter().quantize(source, config, feeds, out)
        report = lint_file(made.path, shapes=shapes, target_sm=sm)
        assert report.findings == (), report.to_text()
        assert sum(n.op_type == "DequantizeLinear" for n in onnx.load(str(made.path)).graph.node) >= 4


def test_a_kept_convolution_keeps_its_addition_in_float(residual: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    feeds = [{"x": rng.normal(size=(1, 16, 8, 8)).astype(np.float32)} for _ in range(4)]
    config = QuantConfig(variant="tensorrt", keep_float=("one_c",))
    made = OnnxExporter().quantize(OnnxExporter().read(residual), config, feeds, tmp_path)
    report = lint_file(made.path, target_sm=75)
    assert report.findings == (), report.to_text()
    nodes = {n.name: n for n in onnx.load(str(made.path)).graph.node}
    assert not any("Dequantize" in i for name in ("one_c", "one_sum") for i in nodes[name].input)
    assert any("Dequantize" in i for i in nodes["two_sum"].input)


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_what_our_quantizer_writes_for_tensorrt_has_no_errors(
    digits_onnx: Artifact, granularity: str, tmp_path: Path
) -> None:
    report = lint_file(_ours(digits_onnx, "tensorrt", granularity, tmp_path).path)
    assert not report.errors, report.to_text()


def test_what_our_quantizer_writes_for_cpus_has_many(digits_onnx: Artifact, tmp_path: Path) -> None:
    report = lint_file(_ours(digits_onnx, "cpu", "channel", tmp_path).path)
    assert len(report.errors) > 5
    assert {"TRT010", "TRT011", "TRT012"} >= {f.rule for f in report.errors} >= {"TRT011", "TRT012"}


def _ours(source: Artifact, variant: str, granularity: str, out: Path) -> Artifact:
    def feeds() -> Iterator[dict[str, Any]]:
        rng = np.random.default_rng(3)
        for _ in range(4):
            yield {"image": rng.uniform(0, 1, (1, 1, 8, 8)).astype(np.float32)}

    config = QuantConfig(variant=variant, granularity=granularity)
    return OnnxExporter().quantize(source, config, feeds(), out)


@pytest.mark.data
@pytest.mark.parametrize("name", ["onnx/yunet_n_320_320.onnx", "vision/mlperftiny_pretrainedResnet.onnx"])
def test_real_models_of_others(name: str, data_root: Path) -> None:
    path = data_root / name
    if not path.is_file():
        pytest.skip(f"no real data: {name} is not there")
    for version in ("10", "11"):
        report = lint_file(path, tensorrt=version, target_sm=75)
        assert report.findings == (), report.to_text()
        assert report.opset == 11


@pytest.mark.data
@pytest.mark.parametrize("variant", ["cpu", "tensorrt"])
def test_a_real_model_quantized(variant: str, data_root: Path, tmp_path: Path) -> None:
    path = data_root / "vision/mlperftiny_pretrainedResnet.onnx"
    if not path.is_file():
        pytest.skip(f"no real data: {path.name} is not there")
    source = OnnxExporter().read(path)
    (spec,) = source.inputs
    shape = tuple(d if isinstance(d, int) else 1 for d in spec.shape)
    feeds = [{spec.name: np.random.default_rng(i).uniform(0, 255, shape).astype(np.float32)} for i in range(2)]  # fmt: skip
    made = OnnxExporter().quantize(source, QuantConfig(variant=variant, examples=2), feeds, tmp_path)
    errors = lint_file(made.path).errors
    assert (len(errors) > 20) if variant == "cpu" else (lint_file(made.path, target_sm=75).findings == ())
