"""The error of each layer of a quantized IR, by itself and as its consumers see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.layers import LayerError, SearchableExporter
from edgekd.quantize.spool import CalibrationSpool
from edgekd.spec import TensorSpec
from edgekd_onnx.exporter import OnnxExporter
from edgekd_openvino import quantizing
from edgekd_openvino.exporter import OpenVinoExporter
from edgekd_openvino.library import silence_telemetry
from edgekd_openvino.parity import parity_options
from edgekd_openvino.probe import OpenVinoProbe
from edgekd_openvino.ranges import activation_ranges
from edgekd_openvino.runtime import OpenVinoRuntime

silence_telemetry()  # before the first import
pytest.importorskip("nncf")

_SIZE = 8


def _net(folder: Path, name: str = "net") -> Artifact:
    """Three convolutions and a product; channel 0 of the second layer's input is a thousand times the others."""
    rng = np.random.default_rng(0)
    first, second, third = (rng.normal(0, 0.3, (8, c, 3, 3)).astype(np.float32) for c in (3, 8, 8))
    first[0] *= 1000
    second[:, 0] /= 1000
    last = rng.normal(0, 0.3, (8, 4)).astype(np.float32)
    weights = {"w1": first, "w2": second, "w3": third, "w4": last}
    nodes = []
    before = "x"
    for k in (1, 2, 3):
        nodes += [
            helper.make_node("Conv", [before, f"w{k}"], [f"c{k}"], name=f"conv{k}", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{k}"], [f"r{k}"], name=f"relu{k}"),
        ]
        before = f"r{k}"
    nodes += [
        helper.make_node("GlobalAveragePool", [before], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "w4"], ["y"], name="product"),
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, _SIZE, _SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    folder.mkdir()
    save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
        folder / "m.onnx",
    )
    out = folder / "ir"
    out.mkdir()
    return OpenVinoExporter().convert(OnnxExporter().read(folder / "m.onnx"), out, {})


def _feeds(count: int = 16) -> list[Mapping[str, Array]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.uniform(0, 1, (1, 3, _SIZE, _SIZE)).astype(np.float32)} for _ in range(count)]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return _net(tmp_path_factory.mktemp("layers") / "net")


def _errors(net: Artifact, out: Path, config: QuantConfig | None = None) -> dict[str, LayerError]:
    out.mkdir()
    quantized = OpenVinoExporter().quantize(net, config or QuantConfig(), _feeds(), out)
    return {e.name: e for e in OpenVinoExporter().layer_errors(net, quantized, _feeds(4))}


def test_the_layer_that_suffers_is_named(net: Artifact, tmp_path: Path) -> None:
    found = _errors(net, tmp_path / "q")
    assert [n for n in found if n.startswith("conv")] == ["conv1", "conv2", "conv3"]
    own = {n: e.own_sqnr_db for n, e in found.items()}
    assert all(v is not None for v in own.values())
    # Seven channels of eight are rounded away before the second convolution; nothing is wrong with the third itself.
    assert min(own, key=lambda n: own[n] or 0) == "conv2"
    assert (own["conv2"] or 0) < 20 < (own["conv3"] or 0)
    # Its consumers see what came before as well.
    assert (found["conv3"].sqnr_db or 0) < (own["conv3"] or 0) - 10
    assert found["conv2"].sqnr_db == pytest.approx(own["conv2"], abs=3)


def test_multiply_accumulates_are_counted(net: Artifact, tmp_path: Path) -> None:
    found = _errors(net, tmp_path / "q")
    assert found["conv1"].macs == _SIZE**2 * 8 * 3 * 9
    assert found["conv2"].macs == _SIZE**2 * 8 * 8 * 9
    assert found["y"].macs == 8 * 4


def test_a_layer_in_float_is_none_of_them_and_heals_the_rest(net: Artifact, tmp_path: Path) -> None:
    before = _errors(net, tmp_path / "all")
    after = _errors(net, tmp_path / "kept", QuantConfig(keep_float=("conv2",)))
    assert set(before) - set(after) == {"conv2"}
    assert (after["conv3"].sqnr_db or 0) > (before["conv3"].sqnr_db or 0) + 10


def test_a_model_of_another_network_is_refused(net: Artifact, tmp_path: Path) -> None:
    out = tmp_path / "q"
    out.mkdir()
    quantized = OpenVinoExporter().quantize(net, QuantConfig(keep_float=("conv1",)), _feeds(), out)
    text = net.path.read_text().replace('name="conv2"', 'name="other"')
    (tmp_path / "model.xml").write_text(text)
    (tmp_path / "model.bin").write_bytes(net.path.with_suffix(".bin").read_bytes())
    other = OpenVinoExporter().read(tmp_path / "model.xml")
    with pytest.raises(ModelError, match=r"quantizes 'conv2', and .* has no operator of that name"):
        OpenVinoExporter().layer_errors(other, quantized, _feeds(1))


def test_it_is_searchable(net: Artifact) -> None:
    exporter = OpenVinoExporter()
    assert isinstance(exporter, SearchableExporter)
    choices = exporter.quantization_choices(net, "cpu")
    assert len(set(choices)) == len(choices) > 1
    for choice in choices:
        choice.check()


def test_looking_at_inner_tensors_leaves_the_answers_as_they_are(net: Artifact, tmp_path: Path) -> None:
    """With low-precision transformations OpenVINO 2026.4 answers otherwise as soon as inner tensors are outputs."""
    out = tmp_path / "q"
    out.mkdir()
    quantized = OpenVinoExporter().quantize(net, QuantConfig(), _feeds(), out)
    probe = OpenVinoProbe(quantized.path)
    inner = [n for n, op in probe.made_by.items() if op in ("Convolution", "MatMul")]
    assert len(inner) >= 3
    feeds = _feeds(4)
    alone = list(probe.fetch(probe.outputs, feeds))
    beside = list(probe.fetch([*probe.outputs, *inner], feeds))
    for one, other in zip(alone, beside, strict=True):
        for name in probe.outputs:
            np.testing.assert_allclose(other[name], one[name], rtol=1e-5, atol=1e-5 * np.abs(one[name]).max())


def test_smoothing_mends_uneven_channels_and_the_layers_are_found(net: Artifact, tmp_path: Path) -> None:
    """The channel that is a thousand times the others goes into the weights, which have a scale for each."""
    plain, smooth = (_errors(net, tmp_path / f"{a}", QuantConfig(smoothing=a)) for a in (0.0, 0.5))
    assert {"conv1", "conv2", "conv3", "y"} <= set(smooth) <= set(plain)
    assert (smooth["conv2"].own_sqnr_db or 0) > (plain["conv2"].own_sqnr_db or 0) + 10
    assert (smooth["conv3"].sqnr_db or 0) > (plain["conv3"].sqnr_db or 0) + 10


def test_what_is_left_in_float_is_not_smoothed(net: Artifact, tmp_path: Path) -> None:
    """Activations that were divided would meet float weights that were never multiplied."""
    names = sorted(_errors(net, tmp_path / "all", QuantConfig(smoothing=0.5)))
    (tmp_path / "kept").mkdir()
    kept = tuple(n for n in names if n != "y")
    config = QuantConfig(smoothing=0.5, keep_float=kept)
    made = OpenVinoExporter().quantize(net, config, _feeds(), tmp_path / "kept")
    # All that is left to round is the input of the last product.
    assert made.lineage["sqnr_db"]["y"] > 35
    assert not {n for n, e in _again(net, made).items() if e.own_sqnr_db is not None} & set(kept)


def _again(net: Artifact, made: Artifact) -> dict[str, LayerError]:
    return {e.name: e for e in OpenVinoExporter().layer_errors(net, made, _feeds(4))}


def test_examples_together_have_the_ranges_that_they_have_one_by_one(
    net: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for together in (1, 5):
        monkeypatch.setattr(quantizing, "_AT_ONCE", together)
        out = tmp_path / f"{together}"
        out.mkdir()
        found.append(activation_ranges(OpenVinoExporter().quantize(net, QuantConfig(), _feeds(), out).path))
    assert found[0].keys() == found[1].keys()
    for name, ends in found[0].items():
        assert found[1][name] == pytest.approx(ends, rel=1e-5)


def test_a_smoothed_tensor_has_the_range_of_all_its_channels(net: Artifact, tmp_path: Path) -> None:
    found = []
    for smoothing in (0.0, 0.5):
        out = tmp_path / f"{smoothing}"
        out.mkdir()
        made = OpenVinoExporter().quantize(net, QuantConfig(smoothing=smoothing), _feeds(), out)
        found.append(activation_ranges(made.path))
    plain, smoothed = found
    assert {"x", "r1", "r2"} <= set(smoothed) & set(plain)
    for name in ("r1", "r2"):
        low, high = smoothed[name]
        # No channel has less than what was seen of it; one with small weights may have more.
        assert low <= plain[name][0] + 1e-6
        assert high >= plain[name][1] * 0.999


def _depthwise(folder: Path) -> Artifact:
    """A depthwise layer whose first channel is four hundred times the others, which its weights undo."""
    rng = np.random.default_rng(0)
    factors = np.array([400, *[1] * 7], np.float32)
    first = rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32) * factors[:, None, None, None]
    deep = rng.normal(0, 0.3, (8, 1, 3, 3)).astype(np.float32) / factors[:, None, None, None]
    last = rng.normal(0, 0.3, (4, 8, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="deep", pads=[1, 1, 1, 1], group=8),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("Conv", ["r2", "w3"], ["c3"], name="conv3"),
        helper.make_node("GlobalAveragePool", ["c3"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["y"], name="flat"),
    ]
    graph = helper.make_graph(
        nodes,
        "depthwise",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, _SIZE, _SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(v, k) for k, v in {"w1": first, "w2": deep, "w3": last}.items()],
    )
    folder.mkdir()
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), folder / "m.onnx")
    (folder / "ir").mkdir()
    return OpenVinoExporter().convert(OnnxExporter().read(folder / "m.onnx"), folder / "ir", {})


def test_channels_before_a_depthwise_layer_have_a_range_each_where_asked(tmp_path: Path) -> None:
    net = _depthwise(tmp_path / "net")
    channel = QuantConfig(activation_granularity="channel")
    made = {}
    for config in (QuantConfig(), channel):
        folder = tmp_path / config.activation_granularity
        folder.mkdir()
        made[config.activation_granularity] = OpenVinoExporter().quantize(net, config, _feeds(), folder)
    levels = {name: a.lineage["sqnr_db"]["y"] for name, a in made.items()}
    assert levels["channel"] > levels["tensor"] + 10
    # Per channel or not, the tensor's own range is that of all its channels together.
    ranges = {name: activation_ranges(a.path) for name, a in made.items()}
    assert ranges["channel"]["r1"] == pytest.approx(ranges["tensor"]["r1"], rel=0.02)
    assert "activation_granularity" not in made["tensor"].lineage["quantization"]
    assert made["channel"].lineage["quantization"]["activation_granularity"] == "channel"
    # Its layers are found, and left in float.
    assert {"conv1", "deep", "conv3"} <= set(_again(net, made["channel"]))
    (tmp_path / "kept").mkdir()
    kept = replace(channel, keep_float=("conv1", "deep"))
    mixed = OpenVinoExporter().quantize(net, kept, _feeds(), tmp_path / "kept")
    assert mixed.lineage["sqnr_db"]["y"] > levels["channel"]


def test_only_where_there_is_a_depthwise_layer_is_that_tried(net: Artifact, tmp_path: Path) -> None:
    exporter = OpenVinoExporter()
    tried = [c.activation_granularity for c in exporter.quantization_choices(net, "cpu")]
    assert set(tried) == {"tensor"}
    deep = exporter.quantization_choices(_depthwise(tmp_path / "net"), "cpu")
    assert [(c.activation_granularity, c.smoothing) for c in deep[:3]] == [
        ("tensor", 0.0), ("channel", 0.0), ("channel", 0.5),
    ]  # fmt: skip


def test_examples_of_several_sizes_and_means_over_examples_are_taken_one_by_one(tmp_path: Path) -> None:
    free = (TensorSpec(name="x", dtype="float32", shape=("N", "L")),)
    fixed = (TensorSpec(name="x", dtype="float32", shape=(1, 4)),)
    for inputs, lengths, calibration, groups in (
        (free, [4] * 20, "minmax", 2),
        (free, [4] * 19 + [5], "minmax", 20),
        (free, [4] * 20, "percentile", 20),
        (fixed, [4] * 20, "minmax", 20),
    ):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        spool = CalibrationSpool(folder=folder, inputs=inputs)
        spool.fill(({"x": np.arange(n, dtype=np.float32)[None] + k} for k, n in enumerate(lengths)), 20)
        assert len(quantizing._groups(QuantConfig(calibration=calibration), spool)) == groups


def test_inner_tensors_of_a_smoothed_model_are_those_that_it_computes(net: Artifact, tmp_path: Path) -> None:
    """OpenVINO 2026.4 computes 7 dB where it has 36, without low-precision transformations and with a product before a
    quantizer."""
    out = tmp_path / "q"
    out.mkdir()
    quantized = OpenVinoExporter().quantize(net, QuantConfig(smoothing=0.5), _feeds(), out)
    feeds = _feeds(4)
    session = OpenVinoRuntime().open(quantized.path, parity_options())
    shown = list(OpenVinoProbe(quantized.path).fetch(["y"], feeds))
    for given, found in zip(feeds, shown, strict=True):
        np.testing.assert_allclose(found["y"], session.run(dict(given))["y"], rtol=0.02, atol=1e-3)
