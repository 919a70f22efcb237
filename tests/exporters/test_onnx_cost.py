"""Static cost, against published figures, counts by hand, and what must be reported as not counted."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.artifact import Artifact
from edgekd.errors import ModelError, UsageError
from edgekd.models import open_reference
from edgekd.pipeline.artifacts import export_model
from edgekd.spec import draw_feeds
from edgekd.stages import StageStore
from edgekd.target import SessionOptions
from edgekd.workload import CountingExporter, NodeCost, StaticCost
from edgekd_onnx.cost import count_model
from edgekd_onnx.exporter import OnnxExporter
from edgekd_onnx.runtime import OnnxRuntime

_F, _I8, _U8 = TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8


def _model(
    nodes: Sequence[Any],
    inputs: dict[str, tuple[int, list[Any]]],
    weights: dict[str, np.ndarray],
    output: str = "y",
    output_type: int = _F,
    opset: int = 18,
    domains: Sequence[str] = (),
) -> Any:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info(output, output_type, None)],
        [numpy_helper.from_array(w, n) for n, w in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _count(model: Any, **shapes: tuple[int, ...]) -> StaticCost:
    return count_model(model, shapes, Path("model.onnx"))


def _only(cost: StaticCost) -> NodeCost:
    (node,) = cost.nodes
    return node


def _macs(cost: StaticCost) -> int:
    return sum(n.macs or 0 for n in cost.nodes)


def _w(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def _node(op: str, inputs: Sequence[str], outputs: Sequence[str] = ("y",), **attributes: Any) -> Any:
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


@pytest.mark.parametrize(
    ("node", "x", "weights", "macs"),
    [
        # 8 output channels, 16 x 16 outputs of stride 2, each over 3 x 5 x 5.
        (_node("Conv", ["x", "w"], strides=[2, 2], pads=[2, 2, 2, 2]), (2, 3, 32, 32), {"w": _w(8, 3, 5, 5)},
         2 * 8 * 16 * 16 * 75),
        # Depthwise: each of 6 channels over its own 3 x 3.
        (_node("Conv", ["x", "w"], group=6, pads=[1, 1, 1, 1]), (1, 6, 10, 10), {"w": _w(6, 1, 3, 3)}, 6 * 100 * 9),
        # One dimension.
        (_node("Conv", ["x", "w"]), (1, 4, 20), {"w": _w(5, 4, 3)}, 5 * 18 * 12),
        # Every one of 4 x 7 x 7 inputs meets 2 output channels of its group and 3 x 3.
        (_node("ConvTranspose", ["x", "w"], group=2, strides=[2, 2]), (1, 4, 7, 7), {"w": _w(4, 2, 3, 3)},
         4 * 49 * 2 * 9),
        (_node("Gemm", ["x", "w", "b"], transB=1), (5, 7), {"w": _w(11, 7), "b": _w(11)}, 5 * 7 * 11),
        (_node("Gemm", ["x", "w"], transA=1), (7, 5), {"w": _w(7, 11)}, 5 * 7 * 11),
        (_node("MatMul", ["x", "w"]), (2, 3, 4, 6), {"w": _w(6, 9)}, 2 * 3 * 4 * 6 * 9),
        (_node("Einsum", ["x", "w"], equation="bij, jk -> bik"), (2, 3, 4), {"w": _w(4, 5)}, 2 * 3 * 4 * 5),
        # 6 steps, 2 rows, one direction, 4 gates of 8 hidden units over 3 inputs and 8 hidden.
        (_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=8), (6, 2, 3), {"w": _w(1, 32, 3), "r": _w(1, 32, 8)},
         6 * 2 * 4 * 8 * 11),
        (_node("GRU", ["x", "w", "r"], ["y"], hidden_size=8, direction="bidirectional"), (6, 2, 3),
         {"w": _w(2, 24, 3), "r": _w(2, 24, 8)}, 6 * 2 * 2 * 3 * 8 * 11),
    ],
    ids=lambda v: v.op_type if hasattr(v, "op_type") else "",
)  # fmt: skip
def test_products_by_hand(node: Any, x: tuple[int, ...], weights: dict[str, np.ndarray], macs: int) -> None:
    cost = _count(_model([node], {"x": (_F, list(x))}, weights), x=x)
    assert _only(cost).macs == macs
    assert _only(cost).dtype == "float32"
    assert cost.not_counted == {}
    assert cost.parameters == sum(w.size for w in weights.values())
    assert _only(cost).weight_bytes == cost.parameter_bytes == 4 * cost.parameters
    assert _only(cost).activation_bytes == cost.boundary_bytes


def test_attention_of_two_activations_by_hand() -> None:
    nodes = [_node("MatMul", ["q", "k"], ["s"]), _node("Softmax", ["s"], ["p"]), _node("MatMul", ["p", "v"])]
    inputs = {"q": (_F, [1, 4, 16, 8]), "k": (_F, [1, 4, 8, 16]), "v": (_F, [1, 4, 16, 8])}
    cost = _count(_model(nodes, inputs, {}), q=(1, 4, 16, 8), k=(1, 4, 8, 16), v=(1, 4, 16, 8))
    assert _macs(cost) == 2 * 4 * 16 * 16 * 8
    assert [n.macs for n in cost.nodes if n.op == "Softmax"] == [0]
    assert [n.activation_bytes for n in cost.nodes if n.op == "Softmax"] == [2 * 4 * 4 * 16 * 16]
    assert cost.parameters == 0


def test_the_shapes_are_those_of_the_feeds() -> None:
    model = _model([_node("MatMul", ["x", "w"])], {"x": (_F, ["batch", 6])}, {"w": _w(6, 9)})
    assert _macs(_count(model, x=(1, 6))) == 54
    assert _macs(_count(model, x=(32, 6))) == 32 * 54
    assert _count(model, x=(1, 7)).not_counted == {"MatMul": "1 of them: a shape is unknown"}


def test_a_reshape_that_depends_on_the_shape_is_followed() -> None:
    nodes = [
        _node("Shape", ["x"], ["s"], start=0, end=1),
        _node("Concat", ["s", "rest"], ["target"], axis=0),
        _node("Reshape", ["x", "target"], ["flat"]),
        _node("MatMul", ["flat", "w"]),
    ]
    weights = {"rest": np.array([48], np.int64), "w": _w(48, 5)}
    cost = _count(_model(nodes, {"x": (_F, ["batch", 3, 4, 4])}, weights), x=(2, 3, 4, 4))
    assert _macs(cost) == 2 * 48 * 5
    assert cost.parameters == 48 * 5  # a shape is no parameter
    assert {n.op for n in cost.nodes} == {"MatMul", "Concat"}


def _qdq(name: str) -> list[Any]:
    return [f"{name}_scale", f"{name}_zero"]


def _quantized_conv() -> Any:
    """x -> Q -> DQ -> Conv(DQ(w), DQ(b)) -> Q -> DQ -> Relu."""
    nodes = [
        _node("QuantizeLinear", ["x", *_qdq("x")], ["xq"]),
        _node("DequantizeLinear", ["xq", *_qdq("x")], ["xd"]),
        _node("DequantizeLinear", ["w", *_qdq("w")], ["wd"]),
        _node("DequantizeLinear", ["b", *_qdq("b")], ["bd"]),
        _node("Conv", ["xd", "wd", "bd"], ["c"]),
        _node("QuantizeLinear", ["c", *_qdq("x")], ["cq"]),
        _node("DequantizeLinear", ["cq", *_qdq("x")], ["cd"]),
        _node("Relu", ["cd"]),
    ]
    zeros = {"x_zero": np.array(0, np.uint8), "w_zero": np.zeros(4, np.int8), "b_zero": np.zeros(4, np.int32)}
    scales = {"x_scale": np.float32(0.1), "w_scale": _w(4), "b_scale": _w(4)}
    weights = {"w": np.ones((4, 3, 1, 1), np.int8), "b": np.ones(4, np.int32)}
    return _model(nodes, {"x": (_F, [1, 3, 8, 8])}, {**weights, **zeros, **scales})


def test_a_product_between_q_and_dq_is_done_in_8_bits() -> None:
    cost = _count(_quantized_conv(), x=(1, 3, 8, 8))
    conv = next(n for n in cost.nodes if n.op == "Conv")
    assert (conv.macs, conv.dtype) == (4 * 64 * 3, "int8")
    assert conv.weight_bytes == 12 + 16
    assert conv.activation_bytes == 3 * 64 + 4 * 64  # both quantized
    # The quantizer of the input really runs; the one behind the convolution, and every DQ, is part of a kernel.
    assert [n.op for n in cost.nodes] == ["QuantizeLinear", "Conv", "Relu"]
    assert cost.parameters == 12 + 4  # neither scales nor zero points
    assert cost.parameter_bytes == 12 + 16


def test_weight_only_quantization_computes_in_float() -> None:
    nodes = [_node("DequantizeLinear", ["w", "s"], ["wd"]), _node("MatMul", ["x", "wd"])]
    weights = {"w": np.ones((6, 9), np.int8), "s": np.float32(0.1)}
    cost = _count(_model(nodes, {"x": (_F, [1, 6])}, weights), x=(1, 6))
    assert (_only(cost).dtype, _only(cost).macs, _only(cost).weight_bytes) == ("float32", 54, 54)


@pytest.mark.parametrize("op", ["MatMulInteger", "QLinearMatMul"])
def test_integer_operators(op: str) -> None:
    scale, zero = {"s": np.float32(0.1)}, {"z": np.array(0, np.uint8), "zw": np.array(0, np.int8)}
    names = {
        "MatMulInteger": ["x", "w", "z", "zw"],
        "QLinearMatMul": ["x", "s", "z", "w", "s", "zw", "s", "z"],
    }
    made = TensorProto.INT32 if op == "MatMulInteger" else _U8
    weights = {"w": np.ones((6, 9), np.int8), **(scale if op == "QLinearMatMul" else {}), **zero}
    cost = _count(_model([_node(op, names[op])], {"x": (_U8, [2, 6])}, weights, output_type=made), x=(2, 6))
    assert (_only(cost).macs, _only(cost).dtype) == (108, "int8")
    assert cost.parameters == 54


def test_what_a_runtime_fuses_is_marked_and_still_counted() -> None:
    nodes = [
        _node("MatMul", ["x", "w"], ["h"]), _node("Add", ["h", "b"], ["i"]), _node("Relu", ["i"], ["j"]),
        _node("Add", ["j", "x"]),
    ]  # fmt: skip
    cost = _count(_model(nodes, {"x": (_F, [4, 6])}, {"w": _w(6, 6), "b": _w(6)}), x=(4, 6))
    # The second addition has two activations, so one of them has to be fetched.
    assert [(n.op, n.fusible) for n in cost.nodes] == [
        ("MatMul", False), ("Add", True), ("Relu", True), ("Add", False),
    ]  # fmt: skip
    size = 4 * 6 * 4
    assert cost.to_json()["bytes_moved"] == (36 + 6) * 4 + (2 + 2 + 2 + 3) * size
    assert cost.fused_bytes == 36 * 4 + (2 + 3) * size


def test_a_lookup_reads_rows_not_the_table() -> None:
    model = _model(
        [_node("Gather", ["table", "x"])], {"x": (TensorProto.INT64, [1, 7])}, {"table": _w(1000, 16)}
    )
    cost = _count(model, x=(1, 7))
    assert cost.parameters == 16_000
    assert (_only(cost).weight_bytes, _only(cost).activation_bytes) == (0, 7 * 8 + 7 * 16 * 4)


def test_constants_that_are_computed_while_loading_cost_nothing_and_count_once() -> None:
    nodes = [_node("Transpose", ["w"], ["wt"], perm=[1, 0]), _node("MatMul", ["x", "wt"])]
    cost = _count(_model(nodes, {"x": (_F, [1, 6])}, {"w": _w(9, 6)}), x=(1, 6))
    assert (_only(cost).op, _only(cost).weight_bytes, cost.parameters) == ("MatMul", 216, 54)


def test_a_constant_node_is_a_weight() -> None:
    value = numpy_helper.from_array(_w(6, 9))
    nodes = [_node("Constant", [], ["w"], value=value), _node("MatMul", ["x", "w"])]
    assert _count(_model(nodes, {"x": (_F, [1, 6])}, {}), x=(1, 6)).parameters == 54


def test_an_unknown_shape_is_not_counted_and_said_by_operator() -> None:
    nodes = [
        _node("NonZero", ["x"], ["i"]),  # as many as there happen to be
        _node("Cast", ["i"], ["f"], to=_F),
        _node("MatMul", ["w", "f"], ["m"]),
        _node("MatMul", ["v", "x"], ["n"]),
        _node("ReduceSum", ["m"], ["r"], keepdims=0),
        _node("Add", ["n", "r"]),
    ]
    cost = _count(_model(nodes, {"x": (_F, [2, 3])}, {"w": _w(5, 2), "v": _w(4, 2)}), x=(2, 3))
    by_name = [(n.op, n.macs) for n in cost.nodes]
    assert ("MatMul", None) in by_name
    assert ("MatMul", 4 * 3 * 2) in by_name
    assert cost.not_counted["MatMul"] == "1 of them: a shape is unknown"
    assert "NonZero" in cost.not_counted
    assert (
        _count(_model(nodes, {"x": (_F, [2, 3])}, {"w": _w(5, 2), "v": _w(4, 2)}), x=(2, 3)).to_json()[
            "whole"
        ]
        is False
    )


def test_foreign_operators_and_control_flow_are_not_counted() -> None:
    body = helper.make_graph(
        [_node("MatMul", ["x", "w"], ["z"])], "body", [], [helper.make_tensor_value_info("z", _F, [1, 9])]
    )
    nodes = [
        helper.make_node("Fancy", ["x"], ["f"], domain="com.example"),
        _node("If", ["c"], ["i"], then_branch=body, else_branch=body),
        _node("Add", ["i", "f"]),
    ]
    inputs = {"x": (_F, [1, 6]), "c": (TensorProto.BOOL, [])}
    cost = _count(_model(nodes, inputs, {"w": _w(6, 9)}, domains=["com.example"]), x=(1, 6), c=())
    assert cost.not_counted["Fancy"] == "1 of them: an operator of com.example"
    assert "how often its body runs" in cost.not_counted["If"]
    assert all(n.macs is None for n in cost.nodes if n.op in ("Fancy", "If"))
    assert all(n.activation_bytes is None for n in cost.nodes)


def test_local_functions_are_looked_into() -> None:
    model = _model(
        [helper.make_node("Layer", ["x", "w"], ["y"], domain="local")], {"x": (_F, [1, 6])}, {"w": _w(6, 9)}
    )
    inner = [_node("MatMul", ["a", "b"], ["c"])]
    model.functions.append(
        helper.make_function("local", "Layer", ["a", "b"], ["c"], inner, [helper.make_opsetid("", 18)])
    )
    model.opset_import.append(helper.make_opsetid("local", 1))
    assert _macs(_count(model, x=(1, 6))) == 54


def test_the_model_itself_is_left_alone() -> None:
    model = _quantized_conv()
    before = model.SerializeToString(deterministic=True)
    _count(model, x=(1, 3, 8, 8))
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.data
def test_the_mlperf_tiny_resnet8_has_its_published_12_5_million(data_root: Path) -> None:
    path = data_root / "vision" / "mlperftiny_pretrainedResnet.onnx"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest.startswith("775a549c78e3"), "another file"
    cost = count_model(onnx.load(path), {"input_1": (1, 3, 32, 32)}, path)
    assert _macs(cost) == 12_501_632  # "12.5 M MACs", MLPerf Tiny v0.5, image classification
    assert cost.parameters == 77_706  # 78 k with its batch normalisation folded
    assert cost.not_counted == {}


def _cifar_resnet(n: int) -> Any:
    """3 stages of n blocks of two 3 x 3 convolutions, 16, 32 and 64 channels (He et al. 2016, section 4.2)."""
    nodes, weights = [], {}

    def conv(x: str, inputs: int, outputs: int, stride: int) -> str:
        name = f"c{len(weights)}"
        weights[f"{name}_w"] = _w(outputs, inputs, 3, 3)
        nodes.append(
            _node("Conv", [x, f"{name}_w"], [f"{name}_o"], pads=[1, 1, 1, 1], strides=[stride, stride])
        )
        nodes.append(_node("Relu", [f"{name}_o"], [name]))
        return name

    x, channels = conv("x", 3, 16, 1), 16
    for outputs, stride in ((16, 1), (32, 2), (64, 2)):
        for i in range(n):
            x = conv(conv(x, channels, outputs, stride if i == 0 else 1), outputs, outputs, 1)
            channels = outputs
    nodes += [
        _node("GlobalAveragePool", [x], ["p"]),
        _node("Flatten", ["p"], ["f"]),
        _node("Gemm", ["f", "fc"]),
    ]
    return _model(nodes, {"x": (_F, ["batch", 3, 32, 32])}, {**weights, "fc": _w(64, 10)})


_CIFAR = [(5, "cifar-resnet32", 68_862_592), (7, "cifar-resnet44", 97_174_144)]  # "69 M" and "97 M"


@pytest.mark.parametrize(("blocks", "name", "macs"), _CIFAR)
def test_the_cifar_resnets_by_their_paper(blocks: int, name: str, macs: int) -> None:
    cost = _count(_cifar_resnet(blocks), x=(1, 3, 32, 32))
    by_hand = 3 * 16 * 9 * 32 * 32 + 64 * 10
    by_hand += sum(2 * blocks * c * c * 9 * s * s for c, s in ((16, 32), (32, 16), (64, 8)))
    # The first convolution of the second and third stage sees half the channels.
    by_hand -= sum(c * (c // 2) * 9 * s * s for c, s in ((32, 16), (64, 8)))
    assert _macs(cost) == by_hand == macs
    assert cost.not_counted == {}


@pytest.mark.slow
@pytest.mark.parametrize(("blocks", "name", "macs"), _CIFAR)
def test_the_zoo_s_cifar_resnets_as_exported(blocks: int, name: str, macs: int, tmp_path: Path) -> None:
    store = StageStore(tmp_path / "cache")
    model = open_reference(f"zoo:{name}", weights=None, base=None, store=store)
    assert not isinstance(model, Artifact)
    artifact = export_model(model, "onnx", {}, store, "export")
    cost = OnnxExporter().count_cost(artifact, draw_feeds(artifact.inputs, seed=0, shapes={}))
    assert (_macs(cost), cost.not_counted) == (macs, {})


def test_the_exporter_counts_and_writes_a_product_that_costs_what_it_says(tmp_path: Path) -> None:
    exporter = OnnxExporter()
    assert isinstance(exporter, CountingExporter)
    for dtype in ("float32", "float16", "int8"):
        out = tmp_path / dtype
        out.mkdir()
        artifact = exporter.write_product(dtype, 24, out)
        feeds = draw_feeds(artifact.inputs, seed=0, shapes={})
        cost = exporter.count_cost(artifact, feeds)
        assert cost.macs_by_dtype == {dtype: 24**3}
        session = OnnxRuntime().open(artifact.path, SessionOptions())
        assert {k: (str(v.dtype), v.shape) for k, v in session.run(feeds).items()} == {
            "y": ("int32" if dtype == "int8" else dtype, (24, 24))
        }
    with pytest.raises(UsageError, match="no ONNX matrix product in int4"):
        exporter.write_product("int4", 24, tmp_path)


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    out = tmp_path / "good"
    out.mkdir()
    artifact = OnnxExporter().write_product("float32", 8, out)
    (tmp_path / "bad.onnx").write_bytes(b"\x93junk" * 40)
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        OnnxExporter().count_cost(replace(artifact, folder=tmp_path, entry="bad.onnx"), {})


def test_sums_per_operator_add_up() -> None:
    found = _count(_quantized_conv(), x=(1, 3, 8, 8)).to_json()
    assert found["macs"] == sum(e["macs"] for e in found["by_op"]) == math.prod((4, 64, 3))
    assert found["flops"] == 2 * found["macs"]
    moved = sum(e["weight_bytes"] + e["activation_bytes"] for e in found["by_op"])
    assert found["bytes_moved"] == moved == found["weight_bytes"] + found["activation_bytes"]
    assert found["by_op"][0]["op"] == "Conv"
