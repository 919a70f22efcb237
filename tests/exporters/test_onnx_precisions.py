"""Dynamic and weight-only quantization of ONNX files, and what is refused whatever the mode."""

from __future__ import annotations

from collections import Counter
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
from edgekd.quantize.config import QuantConfig, config_of
from edgekd.target import SessionOptions
from edgekd_onnx.exporter import OnnxExporter
from edgekd_onnx.ort_format import OrtFormatExporter
from edgekd_onnx.runtime import OnnxRuntime

_VALUE = helper.make_tensor_value_info


def _save(path: Path, nodes: list[Any], weights: dict[str, Array], inputs: list[Any], outputs: list[Any]) -> Artifact:  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(v, k) for k, v in weights.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, str(path))
    return OnnxExporter().read(path)


@pytest.fixture(scope="module")
def perceptron(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Two Gemms, the second with a depth that no block divides, and a convolution-free boundary."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(size=(64, 40)), "b1": rng.normal(size=40), "w2": rng.normal(size=(10, 40)), "b2": rng.normal(size=10),
    }  # fmt: skip
    return _save(
        tmp_path_factory.mktemp("perceptron") / "m.onnx",
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="first"),
            helper.make_node("Relu", ["h"], ["r"], name="relu"),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], name="second", transB=1),
        ],
        {k: v.astype(np.float32) for k, v in weights.items()},
        [_VALUE("x", TensorProto.FLOAT, ["batch", 64])],
        [_VALUE("y", TensorProto.FLOAT, ["batch", 10])],
    )


@pytest.fixture(scope="module")
def convolutions(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A convolution, a depthwise one, a transposed one: every layout that weights are stored in."""
    rng = np.random.default_rng(1)
    weights = {"a": (8, 3, 3, 3), "b": (8, 1, 3, 3), "c": (8, 4, 2, 2)}
    return _save(
        tmp_path_factory.mktemp("convolutions") / "m.onnx",
        [
            helper.make_node("Conv", ["x", "a"], ["p"], name="plain"),
            helper.make_node("Conv", ["p", "b"], ["q"], name="depthwise", group=8),
            helper.make_node("ConvTranspose", ["q", "c"], ["y"], name="transposed"),
        ],
        {k: rng.normal(size=s).astype(np.float32) for k, s in weights.items()},
        [_VALUE("x", TensorProto.FLOAT, ["batch", 3, 9, 9])],
        [_VALUE("y", TensorProto.FLOAT, ["batch", 4, 6, 6])],
    )


def _feeds(source: Artifact, count: int = 8) -> Iterator[dict[str, Array]]:
    rng = np.random.default_rng(5)
    for _ in range(count):
        yield {
            s.name: rng.normal(size=[2 if isinstance(d, str) else d for d in s.shape]).astype(np.float32)
            for s in source.inputs
        }


def _quantize(source: Artifact, out: Path, config: QuantConfig, feeds: Any = None) -> Artifact:
    out.mkdir(exist_ok=True)
    return OnnxExporter().quantize(source, config, _feeds(source) if feeds is None else feeds, out)


def _operators(artifact: Artifact) -> Counter[str]:
    return Counter(n.op_type for n in onnx.load(str(artifact.path)).graph.node)


def _answers(path: Path, source: Artifact) -> list[Array]:
    # As written: the runtime would turn MatMuls of dequantized weights into products in int8.
    session = OnnxRuntime().open(path, SessionOptions(settings={"graph_level": "disable"}))
    return [session.run(f)[source.outputs[0].name] for f in _feeds(source, 3)]


def _dequantized(made: Artifact, source: Artifact, out: Path) -> Path:
    """The quantized file with every weight computed here and stored in float: its plain-numpy twin."""
    model = onnx.load(str(made.path))
    constants = {t.name: t for t in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "MatMulNBits":
            depth, columns, bits = (attributes[k] for k in ("K", "N", "bits"))
            packed, scales = (numpy_helper.to_array(constants[i]) for i in node.input[1:3])
            packed = packed.reshape(columns, -1)
            levels = (
                packed
                if bits == 8
                else np.stack([packed & 15, packed >> 4], -1).reshape(columns, packed.shape[1] * 2)
            )
            blocks = levels.astype(np.float32).reshape(columns, -1, attributes["block_size"]) - 2 ** (
                bits - 1
            )
            weights = (blocks * scales.reshape(columns, -1, 1)).reshape(columns, -1)[:, :depth].T
            made_by = helper.make_node("MatMul", [node.input[0], f"{node.name}_w"], list(node.output))
            model.graph.initializer.append(
                numpy_helper.from_array(np.ascontiguousarray(weights), f"{node.name}_w")
            )
            nodes.append(made_by)
        elif node.op_type == "DequantizeLinear":
            levels, scales = (numpy_helper.to_array(constants[i]).astype(np.float32) for i in node.input[:2])
            axis, size = attributes.get("axis", 1), attributes.get("block_size", 0)
            if size:
                scales = np.repeat(scales, size, axis).take(range(levels.shape[axis]), axis)
            elif scales.ndim == 1:
                scales = scales.reshape([-1 if i == axis else 1 for i in range(levels.ndim)])
            model.graph.initializer.append(numpy_helper.from_array(levels * scales, node.output[0]))
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save_model(model, str(out))
    return out


@pytest.mark.parametrize("word", ["int8-weights", "int4"])
@pytest.mark.parametrize("granularity", ["block", "channel", "tensor"])
@pytest.mark.parametrize("which", ["perceptron", "convolutions"])
def test_answers_are_those_of_the_dequantized_weights(
    word: str, granularity: str, which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue(which)
    # Level 1 computes in float32; 4 rounds the activations as well.
    level = 1 if granularity == "block" else 4
    config = replace(config_of(word), granularity=granularity, block_size=16, accuracy_level=level)
    made = _quantize(source, tmp_path / "q", config)
    assert made.dtype == OnnxExporter().read(made.path).dtype == config.dtype
    twin = _dequantized(made, source, tmp_path / "twin.onnx")
    for one, other in zip(_answers(made.path, source), _answers(twin, source), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * float(np.abs(other).max()))
    weights = made.lineage["quantization"]["weights"]
    fused = granularity == "block" and which == "perceptron"
    assert set(weights["stored"]) == {"MatMulNBits" if fused else "DequantizeLinear"}
    runs = {k: v["computes_in"] for k, v in weights["runs_as"].items()}
    if which == "convolutions":
        assert runs == {"DequantizeLinear": "float32"}
    elif fused:
        assert runs == {"MatMulNBits": "float32"}
    else:  # one of the two is fused; the other's depth of 40 fits no block
        assert runs == {"MatMulNBits": "int8", "DequantizeLinear": "float32"}
    assert made.lineage["quantized_nodes"] == (2 if which == "perceptron" else 3)
    assert made.lineage["checked_on"] == "data"


def test_weights_in_four_bits_take_four_bits(perceptron: Artifact, tmp_path: Path) -> None:
    config = replace(config_of("int4"), granularity="channel")
    made = _quantize(perceptron, tmp_path / "q", config)
    stored = {
        t.name: t for t in onnx.load(str(made.path)).graph.initializer if t.data_type == TensorProto.INT4
    }
    assert sorted(len(t.raw_data) for t in stored.values()) == [40 * 10 // 2, 64 * 40 // 2]
    assert not any(t in {"w1", "w2"} for t in stored)


def test_products_say_what_they_compute_in(perceptron: Artifact, tmp_path: Path) -> None:
    made = _quantize(perceptron, tmp_path / "q", config_of("int8-weights"))
    nodes = [n for n in onnx.load(str(made.path)).graph.node if n.op_type == "MatMulNBits"]
    assert [{a.name: a.i for a in n.attribute}["accuracy_level"] for n in nodes] == [4, 4]
    assert [{a.name: a.i for a in n.attribute}["bits"] for n in nodes] == [8, 8]
    assert made.lineage["quantization"]["weights"] == {
        "stored": {"MatMulNBits": 2}, "runs_as": {"MatMulNBits": {"nodes": 2, "computes_in": "int8"}},
    }  # fmt: skip
    assert made.lineage["sqnr_db"]["y"] > 30


def test_dynamic_products_are_integers(perceptron: Artifact, tmp_path: Path) -> None:
    made = _quantize(perceptron, tmp_path / "q", config_of("int8-dynamic"))
    operators = _operators(made)
    assert operators["MatMulInteger"] == 2
    assert not operators["Gemm"]
    assert made.dtype == OnnxExporter().read(made.path).dtype == "int8"
    assert made.lineage["quantization"]["operators"] == ["MatMulInteger"]
    assert made.lineage["sqnr_db"]["y"] > 25
    assert "calibration" not in made.lineage["quantization"]


def test_dynamic_leaves_convolutions_in_float_and_says_so(digits_onnx: Artifact, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    feeds = [{"image": rng.uniform(0, 1, (4, 1, 8, 8)).astype(np.float32)} for _ in range(4)]
    made = _quantize(digits_onnx, tmp_path / "q", config_of("int8-dynamic"), feeds)
    operators = _operators(made)
    assert operators["Conv"] > 0
    assert not operators["ConvInteger"]
    assert made.lineage["quantization"]["left_in_float"] == ["Conv"]


@pytest.mark.parametrize("word", ["int8-dynamic", "int8-weights", "int4"])
def test_without_data_drawn_inputs_check_the_answers(perceptron: Artifact, word: str, tmp_path: Path) -> None:
    made = _quantize(perceptron, tmp_path / "a", config_of(word), ())
    assert made.lineage["checked_on"] == "drawn"
    assert made.lineage["checked_examples"] == 64
    again = _quantize(perceptron, tmp_path / "b", config_of(word), ())
    assert again.digest == made.digest


@pytest.mark.parametrize(
    "config",
    [config_of("int8"), config_of("int8-dynamic"), config_of("int8-weights"), config_of("int4")],
    ids=["static", "dynamic", "int8-weights", "int4"],
)
def test_a_node_can_stay_in_float(perceptron: Artifact, config: QuantConfig, tmp_path: Path) -> None:
    made = _quantize(perceptron, tmp_path / "q", replace(config, keep_float=("second",)))
    graph = onnx.load(str(made.path)).graph
    constants = {t.name: t.data_type for t in graph.initializer}
    products = [n for n in graph.node if n.op_type in ("Gemm", "MatMul")]
    (kept,) = [n for n in products if constants.get(n.input[1]) == TensorProto.FLOAT]
    assert kept.name.startswith("second")
    assert made.lineage["quantization"]["keep_float"] == ["second"]
    whole = _quantize(perceptron, tmp_path / "w", config)
    assert made.lineage["sqnr_db"]["y"] > whole.lineage["sqnr_db"]["y"]


@pytest.mark.parametrize("word", ["int8", "int8-dynamic", "int8-weights", "int4"])
def test_an_unknown_node_is_refused_with_the_nearest(perceptron: Artifact, word: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'secnd'.*did you mean 'second'"):
        _quantize(perceptron, tmp_path / "q", replace(config_of(word), keep_float=("secnd",)))
    assert list((tmp_path / "q").iterdir()) == []


def test_a_node_that_is_optimised_away_is_no_other(tmp_path: Path) -> None:
    source = _save(
        tmp_path / "m.onnx",
        [helper.make_node("Identity", ["x"], ["i"], name="same"), helper.make_node("Gemm", ["i", "w"], ["y"], name="product")],
        {"w": np.eye(16, dtype=np.float32)},
        [_VALUE("x", TensorProto.FLOAT, ["batch", 16])], [_VALUE("y", TensorProto.FLOAT, ["batch", 16])],
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"'same' \(Identity\), which computes nothing here"):
        _quantize(source, tmp_path / "q", QuantConfig(keep_float=("same",)))


def test_a_fused_node_goes_by_its_old_names(tmp_path: Path) -> None:
    """ONNX Runtime makes a Gemm of MatMul and Add, under another name."""
    rng = np.random.default_rng(2)
    source = _save(
        tmp_path / "m.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["p"], name="product"),
            helper.make_node("Add", ["p", "b"], ["s"], name="sum"),
            helper.make_node("MatMul", ["s", "v"], ["y"]),
        ],
        {"w": rng.normal(size=(16, 16)).astype(np.float32), "b": np.ones(16, np.float32), "v": np.eye(16, dtype=np.float32)},
        [_VALUE("x", TensorProto.FLOAT, ["batch", 16])], [_VALUE("y", TensorProto.FLOAT, ["batch", 16])],
    )  # fmt: skip
    for kept in ("product", "sum"):
        made = _quantize(source, tmp_path / kept, QuantConfig(keep_float=(kept,)))
        graph = onnx.load(str(made.path)).graph
        floats = {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT}
        assert [n.op_type for n in graph.node if len(n.input) > 1 and n.input[1] in floats and "w" in n.input[1]] == ["Gemm"]  # fmt: skip
    # A node without a name goes by its output.
    assert _quantize(source, tmp_path / "y", QuantConfig(keep_float=("y",))).lineage["quantized_nodes"] > 0


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (replace(config_of("int8-dynamic"), variant="tensorrt"), "does not write int8 dynamic"),
        (replace(config_of("int8-weights"), variant="tensorrt"), "does not write int8 weight-only"),
        (replace(config_of("int4"), granularity="channel", accuracy_level=1), "goes with weight-only blocks"),
        (replace(config_of("int8-dynamic"), granularity="block"), "goes with weight-only"),
    ],
)
def test_what_is_not_written_is_refused(
    perceptron: Artifact, config: QuantConfig, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        _quantize(perceptron, tmp_path / "q", config)


def _pointwise(path: Path) -> Artifact:
    return _save(
        path, [helper.make_node("Sigmoid", ["x"], ["y"], name="gate")], {},
        [_VALUE("x", TensorProto.FLOAT, ["batch", 4])], [_VALUE("y", TensorProto.FLOAT, ["batch", 4])],
    )  # fmt: skip


@pytest.mark.parametrize("word", ["int8-dynamic", "int8-weights", "int4"])
def test_nothing_to_quantize_names_the_operators(word: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Sigmoid.*static int8"):
        _quantize(_pointwise(tmp_path / "m.onnx"), tmp_path / "q", config_of(word))
    assert list((tmp_path / "q").iterdir()) == []


@pytest.mark.parametrize("word", ["int8", "int8-dynamic", "int8-weights", "int4"])
def test_control_flow_is_refused_by_name(word: str, tmp_path: Path) -> None:
    branch = [
        helper.make_graph([helper.make_node(op, ["x"], [out])], out, [], [_VALUE(out, TensorProto.FLOAT, ["batch", 4])])
        for op, out in (("Neg", "n"), ("Abs", "a"))
    ]  # fmt: skip
    source = _save(
        tmp_path / "m.onnx",
        [
            helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
            helper.make_node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
            helper.make_node("If", ["c"], ["b"], name="choice", then_branch=branch[0], else_branch=branch[1]),
            helper.make_node("MatMul", ["b", "w"], ["y"], name="product"),
        ],
        {"w": np.eye(4, dtype=np.float32)},
        [_VALUE("x", TensorProto.FLOAT, ["batch", 4])],
        [_VALUE("y", TensorProto.FLOAT, ["batch", 4])],
    )
    with pytest.raises(ModelError, match=r"node 'choice' is a If.*quantize its parts"):
        _quantize(source, tmp_path / "q", config_of(word))


def test_an_operator_of_nobodys_is_refused_by_name(perceptron: Artifact, tmp_path: Path) -> None:
    model = onnx.load(str(perceptron.path))
    model.graph.node[1].CopyFrom(helper.make_node("Swirl", ["h"], ["r"], name="swirl", domain="acme"))
    model.opset_import.append(helper.make_opsetid("acme", 1))
    path = tmp_path / "m.onnx"
    onnx.save_model(model, str(path))
    source = replace(perceptron, folder=tmp_path, entry="m.onnx")
    with pytest.raises(ModelError, match=r"node 'swirl' is acme\.Swirl, which no quantizer knows"):
        _quantize(source, tmp_path / "q", config_of("int8"))


def test_a_quantized_file_is_refused_by_its_node(perceptron: Artifact, tmp_path: Path) -> None:
    made = _quantize(perceptron, tmp_path / "q", config_of("int4"))
    with pytest.raises(ModelError, match="int4, only float32"):
        _quantize(made, tmp_path / "r", config_of("int8"))
    with pytest.raises(ModelError, match=r"quantized already: node 'first.*' is a MatMulNBits"):
        _quantize(replace(made, dtype="float32"), tmp_path / "r", config_of("int8"))


@pytest.mark.parametrize("word", ["int8", "int8-dynamic", "int4"])
def test_constant_examples_are_refused(perceptron: Artifact, word: str, tmp_path: Path) -> None:
    flat = [{"x": np.full((2, 64), 0.5, np.float32)}] * 3
    with pytest.raises(DataError, match=r"constant: every value of input 'x' is 0.5 in 6 example"):
        _quantize(perceptron, tmp_path / "q", config_of(word), flat)
    nan = [{"x": np.full((2, 64), np.nan, np.float32)}]
    with pytest.raises(DataError, match="NaN"):
        _quantize(perceptron, tmp_path / "q", config_of(word), nan)


def test_an_ort_file_is_refused(perceptron: Artifact, tmp_path: Path) -> None:
    made = OrtFormatExporter().convert(perceptron, tmp_path, {})
    for word in ("int8", "int8-dynamic", "int4"):
        with pytest.raises(ModelError, match=r"\.ort file"):
            OrtFormatExporter().quantize(made, config_of(word), _feeds(perceptron), tmp_path)
