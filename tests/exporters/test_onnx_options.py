"""Opset, optimisation and precision of ONNX files: what is asked is what is written, checked and recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.artifact import Artifact
from edgekd.errors import ModelError, UsageError
from edgekd.model import Model
from edgekd.quantize.config import QuantConfig
from edgekd.spec import draw_feeds
from edgekd.target import ConvertingExporter, SessionOptions
from edgekd.testing import check_exporter
from edgekd_onnx import finishing, rewriting, writing
from edgekd_onnx.export_options import OPSETS
from edgekd_onnx.exporter import OnnxExporter
from edgekd_onnx.precision import convert_precision
from edgekd_onnx.reading import opset_of
from edgekd_onnx.rewriting import convert_opset, optimise
from edgekd_onnx.runtime import OnnxRuntime
from edgekd_onnx.writing import weight_bytes, write_proto

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def _out(tmp_path: Path, name: str = "out") -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


def _graph(
    nodes: list[Any],
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    weights: Sequence[Any] = (),
    opset: int = 18,
) -> Any:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value(k, *v) for k, v in inputs.items()],
        [value(k, *v) for k, v in outputs.items()],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def _read(tmp_path: Path, proto: Any, name: str = "source") -> Artifact:
    folder = _out(tmp_path, name)
    onnx.save(proto, folder / "model.onnx")
    return OnnxExporter().read(folder / "model.onnx")


# --- opset


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_is_exported_and_runs(digits_model: Model, tmp_path: Path, opset: int) -> None:
    made = OnnxExporter().export(digits_model, tmp_path, {"opset": opset})
    assert opset_of(onnx.load(made.path)) == opset == made.lineage["opset"]
    assert made.lineage["parity"]["feeds"] == 3


@pytest.mark.parametrize("opset", [17, 24, "18.5", True])
def test_other_opsets_are_refused(
    digits_model: Model, digits_onnx: Artifact, tmp_path: Path, opset: Any
) -> None:
    with pytest.raises(UsageError, match="is not supported; choose 18 to 23"):
        OnnxExporter().export(digits_model, tmp_path, {"opset": opset})
    with pytest.raises(UsageError, match="is not supported; choose 18 to 23"):
        OnnxExporter().convert(digits_onnx, tmp_path, {"opset": opset})
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_converted_to_another_opset(digits_onnx: Artifact, tmp_path: Path) -> None:
    made = OnnxExporter().convert(digits_onnx, tmp_path, {"opset": 21})
    assert (made.lineage["opset"], made.lineage["opset_converted_from"]) == (21, 18)
    assert opset_of(onnx.load(made.path)) == 21
    assert made.lineage["source"] == digits_onnx.digest
    assert made.lineage["parity"]["reference"].startswith("onnxruntime")
    assert isinstance(OnnxExporter(), ConvertingExporter)


def test_an_opset_that_onnx_cannot_convert_to_is_one_line() -> None:
    odd = _graph([helper.make_node("Odd", ["x"], ["y"])], {"x": (FLOAT, [2])}, {"y": (FLOAT, [2])})
    with pytest.raises(ModelError, match="onnx cannot convert opset 18 to 20") as caught:
        convert_opset(odd, 20)
    assert "\n" not in str(caught.value)


# --- optimisation


@pytest.mark.parametrize("how", ["onnxslim", "ort-basic", "ort-extended"])
def test_an_optimised_file_says_by_what(digits_onnx: Artifact, tmp_path: Path, how: str) -> None:
    if how == "onnxslim":
        pytest.importorskip("onnxslim")
    made, again = (OnnxExporter().convert(digits_onnx, _out(tmp_path, n), {"optimize": how}) for n in "ab")
    assert made.digest == again.digest
    record = made.lineage["optimize"]
    assert record["how"] == how
    assert record["version"]
    assert record["nodes_after"] <= record["nodes_before"]
    assert record["nodes_after"] == len(onnx.load(made.path).graph.node)
    assert bool(record["domains"]) == (how == "ort-extended")


def test_quantized_weights_that_are_folded_away_are_refused(
    digits_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds = [draw_feeds(digits_onnx.inputs, seed=0, shapes={}, batch=4)]
    int8 = OnnxExporter().quantize(digits_onnx, QuantConfig(examples=4), feeds, _out(tmp_path, "int8"))
    monkeypatch.setattr(finishing, "optimise", lambda proto, how: (onnx.load(digits_onnx.path), None))
    with pytest.raises(ModelError, match="folded the int8 weights"):
        OnnxExporter().convert(int8, _out(tmp_path), {"optimize": "onnxslim"})


def test_an_optimiser_that_breaks_the_model_is_caught(
    digits_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(proto: Any, how: str) -> Any:
        made = onnx.load(digits_onnx.path)
        bias = next(t for t in made.graph.initializer if "head.bias" in t.name)
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.5), bias.name))
        return made, {"how": how}

    monkeypatch.setattr(finishing, "optimise", breaks)
    with pytest.raises(ModelError, match=r"output 'logits' differs by 0\.5"):
        OnnxExporter().convert(digits_onnx, tmp_path, {"optimize": "ort-basic"})
    assert list(tmp_path.iterdir()) == []


def test_optimisers_that_fail_are_one_line() -> None:
    odd = _graph([helper.make_node("Odd", ["x"], ["y"])], {"x": (FLOAT, [2])}, {"y": (FLOAT, [2])})
    with pytest.raises(ModelError, match="onnxruntime cannot optimise this model") as caught:
        optimise(odd, "ort-basic")
    assert "\n" not in str(caught.value)
    assert rewriting.optimise(odd, "none") == (odd, None)


# --- precision


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits(digits_model: Model, tmp_path: Path, dtype: str) -> None:
    made = OnnxExporter().export(digits_model, tmp_path, {"dtype": dtype, "opset": 22})
    assert made.dtype == dtype == OnnxExporter().read(made.path).dtype
    kinds = {t.data_type for t in onnx.load(made.path).graph.initializer}
    assert getattr(TensorProto, dtype.upper()) in kinds
    assert FLOAT not in kinds
    assert [s.dtype for s in (*made.inputs, *made.outputs)] == ["float32", "float32"]
    assert made.size_bytes < 0.7 * sum(p.numel() * 4 for p in _parameters(digits_model))
    parity = made.lineage["parity"]
    assert 0 < parity["max_abs_error"] < parity["atol"]
    if dtype == "float16":
        assert "checked_with" not in parity
    onnx.checker.check_model(str(made.path), full_check=True)


def _parameters(model: Model) -> Any:
    from edgekd_torch.modules import load_module

    return list(load_module(model).parameters())


def test_an_optimised_float16_export_conforms(digits_model: Model, tmp_path: Path) -> None:
    options = {"dtype": "float16", "optimize": "onnxslim"}
    made = check_exporter(OnnxExporter(), digits_model, tmp_path, options=options)
    assert made.lineage["precision"]["io"] == "float32"


def test_native_boundary(digits_onnx: Artifact, tmp_path: Path) -> None:
    made = OnnxExporter().convert(digits_onnx, tmp_path, {"dtype": "float16", "io": "native"})
    assert [s.dtype for s in (*made.inputs, *made.outputs)] == ["float16", "float16"]
    assert made.lineage["precision"]["casts"] == 0
    session = OnnxRuntime().open(made.path, SessionOptions())
    assert session.run({"image": np.ones((2, 1, 8, 8), np.float16)})["logits"].dtype == np.float16


def test_what_has_no_sixteen_bit_form_stays_float32() -> None:
    """Range, NonMaxSuppression and Resize's scales take float32 only, says onnx."""
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["big"], name="resize", mode="nearest"),
        helper.make_node("ReduceMax", ["big"], ["peak"], keepdims=0),
        helper.make_node("Range", ["zero", "peak", "one"], ["steps"], name="range"),
    ]
    ends = [numpy_helper.from_array(np.float32(v), n) for n, v in (("zero", 0), ("one", 1))]
    proto = _graph(
        nodes,
        {"x": (FLOAT, [1, 1, 2, 2])},
        {"big": (FLOAT, [1, 1, 4, 4]), "steps": (FLOAT, ["n"])},
        [scales, *ends],
    )
    made, record = convert_precision(proto, "float16", "float32")
    onnx.checker.check_model(made, full_check=True)
    assert record["kept_float32"] == {"Range": 1}
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.array([[[[1, 2], [3, 4]]]], np.float32)
    big, steps = session.run(None, {"x": x})
    np.testing.assert_array_equal(big[0, 0, ::2, ::2], x[0, 0])
    np.testing.assert_array_equal(steps, [0, 1, 2, 3])


def test_subgraphs_are_converted_with_what_they_reach_outside() -> None:
    value = helper.make_tensor_value_info
    branches = [
        helper.make_graph(
            [helper.make_node(op, ["x", "w"], [f"{op}_y"])], op, [], [value(f"{op}_y", FLOAT, [2])]
        )
        for op in ("Add", "Sub")
    ]
    node = helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
    weight = numpy_helper.from_array(np.array([1, 2], np.float32), "w")
    proto = _graph([node], {"c": (TensorProto.BOOL, []), "x": (FLOAT, [2])}, {"y": (FLOAT, [2])}, [weight])
    made, _ = convert_precision(proto, "float16", "float32")
    onnx.checker.check_model(made, full_check=True)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    for condition, wanted in ((True, [2, 4]), (False, [0, 0])):
        feeds = {"c": np.array(condition), "x": np.array([1, 2], np.float32)}
        np.testing.assert_array_equal(session.run(None, feeds)[0], wanted)


def test_values_beyond_the_range_are_clamped_and_infinity_is_kept() -> None:
    values = np.array([1e30, -3e38, 1.0, np.inf], np.float32)
    proto = _graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])},
        [numpy_helper.from_array(values, "w")],
    )  # fmt: skip
    made, record = convert_precision(proto, "float16", "native")
    assert record["clamped_values"] == 2
    np.testing.assert_array_equal(
        numpy_helper.to_array(made.graph.initializer[0]), np.array([65504, -65504, 1, np.inf], np.float16)
    )
    wide, record = convert_precision(proto, "bfloat16", "native")
    assert record["clamped_values"] == 0
    back = numpy_helper.to_array(wide.graph.initializer[0]).astype(np.float32)
    np.testing.assert_allclose(back, values, rtol=2**-8)


def test_a_model_that_loses_too_much_is_refused(tmp_path: Path) -> None:
    """2049 lies between two float16 numbers."""
    nodes = [helper.make_node("Add", ["x", "w"], ["a"]), helper.make_node("Sub", ["a", "v"], ["y"])]
    weights = [numpy_helper.from_array(np.full(4, v, np.float32), n) for n, v in (("w", 2049), ("v", 2048))]
    source = _read(tmp_path, _graph(nodes, {"x": (FLOAT, ["n", 4])}, {"y": (FLOAT, ["n", 4])}, weights))
    out = _out(tmp_path)
    with pytest.raises(ModelError, match=r"in float16: output 'y' differs by .*stay in float32") as caught:
        OnnxExporter().convert(source, out, {"dtype": "float16"})
    assert "\n" not in str(caught.value)
    assert list(out.iterdir()) == []
    allowed = OnnxExporter().convert(source, out, {"dtype": "float16", "atol": "2", "rtol": "2"})
    assert allowed.lineage["parity"]["rtol"] == 2.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"dtype": "int8"},
            "dtype 'int8' is not known to the onnx exporter; choose float32, float16, bfloat16",
        ),
        ({"io": "native"}, "io native is asked of a float32 file"),
        ({"io": "half", "dtype": "float16"}, "io 'half' is not known"),
        ({"optimize": "more"}, "optimize 'more' is not known"),
        ({"optimize": "ort-extended", "dtype": "float16"}, "ort-extended makes float32 operators"),
        ({"atol": "much"}, "atol 'much' is not a finite number >= 0"),
        ({"rtol": -1}, "rtol -1 is not a finite number >= 0"),
        ({"task": "x"}, "no option 'task'"),
    ],
)
def test_options_that_cannot_be(
    digits_onnx: Artifact, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        OnnxExporter().convert(digits_onnx, tmp_path, options)
    assert "\n" not in str(caught.value)


def test_only_float32_becomes_float16_and_only_onnx_is_taken(digits_onnx: Artifact, tmp_path: Path) -> None:
    half = OnnxExporter().convert(digits_onnx, _out(tmp_path, "half"), {"dtype": "float16"})
    with pytest.raises(ModelError, match="only float32 becomes float16"):
        OnnxExporter().convert(half, _out(tmp_path), {"dtype": "float16"})
    from dataclasses import replace

    with pytest.raises(UsageError, match="which onnx cannot be made of"):
        OnnxExporter().convert(replace(half, format="litert"), tmp_path / "out", {})


# --- large models


def test_external_data_is_read_and_written(
    digits_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "EXTERNAL_BYTES", 1000)
    large = OnnxExporter().convert(digits_onnx, _out(tmp_path, "large"), {})
    assert [f.path for f in large.files] == ["model.onnx", "model.onnx.data"]
    again = OnnxExporter().convert(large, _out(tmp_path, "again"), {"optimize": "ort-basic"})
    assert [f.path for f in again.files] == ["model.onnx", "model.onnx.data"]
    for options, words in (
        ({"opset": 20}, "export it anew"), ({"optimize": "onnxslim"}, "ort-basic"), ({"dtype": "float16"}, "leave it"),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=words):
            OnnxExporter().convert(large, _out(tmp_path, words.replace(" ", "")), options)


def test_weights_are_counted_without_protobuf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.zeros(25, np.float32), "k"))],
        "inner", [], [helper.make_tensor_value_info("k", FLOAT, [25])],
    )  # fmt: skip
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    weight = numpy_helper.from_array(np.zeros(100, np.float32), "w")
    proto = _graph([node], {"c": (TensorProto.BOOL, [])}, {"y": (FLOAT, [25])}, [weight])
    assert weight_bytes(proto) == 400 + 2 * 100
    monkeypatch.setattr(writing, "EXTERNAL_BYTES", 599)
    # Asked for one file or not: protobuf could not hold it.
    assert write_proto(proto, tmp_path, large=False) == ("model.onnx", "model.onnx.data")
