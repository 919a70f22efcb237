"""The error of each layer of a quantized IR, by itself and as its consumers see it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.layers import LayerError, SearchableExporter
from edgekd_onnx.exporter import OnnxExporter
from edgekd_openvino.exporter import OpenVinoExporter
from edgekd_openvino.library import silence_telemetry
from edgekd_openvino.probe import OpenVinoProbe

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
