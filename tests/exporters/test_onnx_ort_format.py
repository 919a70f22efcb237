"""The .ort format: conformance, the same bytes each time, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekd.artifact import Artifact
from edgekd.errors import ModelError, UsageError
from edgekd.model import Model
from edgekd.quantize.config import QuantConfig, config_of
from edgekd.spec import draw_feeds
from edgekd.target import ConvertingExporter, QuantizedAtSource, SessionOptions
from edgekd.testing import check_exporter, check_runtime
from edgekd_onnx import ort_format
from edgekd_onnx.exporter import OnnxExporter
from edgekd_onnx.ort_bytes import canonical, read_contents
from edgekd_onnx.ort_format import OrtFormatExporter
from edgekd_onnx.runtime import OnnxRuntime


@pytest.fixture(scope="module")
def digits_ort(digits_onnx: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return OrtFormatExporter().convert(digits_onnx, tmp_path_factory.mktemp("ort"), {})


def test_conforms(digits_model: Model, tmp_path: Path) -> None:
    artifact = check_exporter(OrtFormatExporter(), digits_model, tmp_path)
    assert artifact.lineage["parity"]["max_abs_error"] < 1e-4
    assert isinstance(OrtFormatExporter(), ConvertingExporter)
    assert isinstance(OrtFormatExporter(), QuantizedAtSource)


def test_the_runtime_opens_it(digits_ort: Artifact, tmp_path: Path) -> None:
    check_runtime(OnnxRuntime(), digits_ort.path, tmp_path, threads=2)


def test_answers_as_its_source(digits_onnx: Artifact, digits_ort: Artifact) -> None:
    feeds = draw_feeds(digits_onnx.inputs, seed=1, shapes={}, batch=3)
    made = [
        OnnxRuntime().open(a.path, SessionOptions()).run(feeds)["logits"] for a in (digits_onnx, digits_ort)
    ]
    np.testing.assert_allclose(made[0], made[1], atol=1e-5)


def test_savings_are_the_same_bytes_in_canonical_order(
    digits_onnx: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort_format, "canonical", lambda data: data)
    raw = [ort_format._save(digits_onnx.path, "ORT_ENABLE_EXTENDED") for _ in range(6)]
    assert len({canonical(data) for data in raw}) == 1


def test_the_kernel_type_strings_are_all_kept(
    digits_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekd_onnx.ort_bytes import _entries, _schema

    monkeypatch.setattr(ort_format, "canonical", lambda data: data)
    raw = ort_format._save(digits_onnx.path, "ORT_ENABLE_EXTENDED")
    ordered = canonical(raw)
    found = [
        list(_entries(_schema("InferenceSession").GetRootAs(d, 0).KernelTypeStrResolver()))
        for d in (raw, ordered)
    ]
    assert sorted(found[0]) == found[1]
    assert len(found[1]) > 3


@pytest.mark.parametrize("variant", ["cpu", "tensorrt"])
@pytest.mark.parametrize("level", ["basic", "extended"])
def test_int8_of_a_graph_whose_names_are_those_of_kernel_arguments(
    variant: str, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The builder writes equal strings once: ``y_scale`` and ``y`` belong to the model and to the table."""
    source = _conv_and_gemm(tmp_path)
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.standard_normal((4, 3, 8, 8)).astype(np.float32)} for _ in range(3)]
    folders = [tmp_path / name for name in ("quantized", "out")]
    for folder in folders:
        folder.mkdir()
    int8 = OnnxExporter().quantize(source, QuantConfig(variant=variant, examples=12), feeds, folders[0])
    made = OrtFormatExporter().convert(int8, folders[1], {"graph_level": level})
    assert made.dtype == "int8"
    monkeypatch.setattr(ort_format, "canonical", lambda data: data)
    raw = [ort_format._save(int8.path, ort_format._LEVELS[level]) for _ in range(6)]
    assert {canonical(data) for data in raw} == {made.path.read_bytes()}


def _conv_and_gemm(folder: Path) -> Artifact:
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(0)
    shapes = {"w": (8, 3, 3, 3), "b": (8,), "g": (10, 8), "gb": (10,)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "g", "gb"], ["y"], "gemm", transB=1),
    ]
    ends = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape)]
        for n, shape in (("x", ["batch", 3, 8, 8]), ("y", ["batch", 10]))
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "net", *ends, weights), opset_imports=[helper.make_opsetid("", 18)]
    )
    model.ir_version = 9
    save(model, str(folder / "net.onnx"))
    return OnnxExporter().read(folder / "net.onnx")


def test_a_failed_saving_blames_the_size_only_where_it_is_large(
    digits_onnx: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(digits_onnx.path.read_bytes()[:200])
    with pytest.raises(ModelError, match=r"cannot save .*check that the ONNX file runs"):
        ort_format._save(bad, "ORT_ENABLE_BASIC")
    monkeypatch.setattr(ort_format, "_MAX_BYTES", 10)
    with pytest.raises(ModelError, match="weights beyond 2 GiB do not fit"):
        ort_format._save(bad, "ORT_ENABLE_BASIC")


def test_int8_is_seen(digits_onnx: Artifact, tmp_path: Path) -> None:
    quantized, out = tmp_path / "quantized", tmp_path / "out"
    quantized.mkdir()
    out.mkdir()
    feeds = [draw_feeds(digits_onnx.inputs, seed=0, shapes={}, batch=4)]
    int8 = OnnxExporter().quantize(digits_onnx, QuantConfig(examples=4), feeds, quantized)
    made = OrtFormatExporter().convert(int8, out, {})
    assert made.dtype == "int8"
    assert read_contents(made.path).operators.get("QLinearConv", 0) > 0
    assert made.lineage["source"] == int8.digest


@pytest.mark.parametrize("word", ["int4", "int8-weights", "int8-dynamic"])
def test_the_precision_of_its_source_is_carried(word: str, tmp_path: Path) -> None:
    quantized, out = tmp_path / "quantized", tmp_path / "out"
    quantized.mkdir()
    out.mkdir()
    # ORT format has no 4-bit tensors, which convolutions would be stored in; products are packed into bytes.
    config = replace(config_of(word), keep_float=("conv",))
    source = OnnxExporter().quantize(_conv_and_gemm(tmp_path), config, (), quantized)
    assert OrtFormatExporter().convert(source, out, {}).dtype == source.dtype == word.partition("-")[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"graph_level": "all"}, "graph_level 'all' is not known"), ({"dtype": "int8"}, "no option 'dtype'")],
)
def test_options(digits_onnx: Artifact, tmp_path: Path, options: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        OrtFormatExporter().convert(digits_onnx, tmp_path, options)
    assert list(tmp_path.iterdir()) == []


def test_what_it_cannot_do_is_one_line(digits_ort: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be quantized any more") as caught:
        OrtFormatExporter().quantize(digits_ort, QuantConfig(), [], tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="made of onnx"):
        OrtFormatExporter().convert(digits_ort, tmp_path, {})
    with pytest.raises(ModelError, match="no output 'x'"):
        OrtFormatExporter().read(digits_ort.path, ["x"])


def test_a_file_that_is_not_one(tmp_path: Path) -> None:
    path = tmp_path / "model.ort"
    path.write_bytes(b"\x00" * 64)
    with pytest.raises(ModelError):
        OrtFormatExporter().read(path)
    with pytest.raises(ModelError, match="not in ORT format"):
        read_contents(path)
