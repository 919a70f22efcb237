"""FP8 files: what is in them, that the CPU's emulation of them is right, and what is refused."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fixtures_fp8 import images, residual_net
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgekd.artifact import Artifact
from edgekd.errors import MissingDependencyError, ModelError, TargetUnavailableError, UsageError
from edgekd.quantize.config import config_of
from edgekd.quantize.spool import CalibrationSpool
from edgekd.target import SessionOptions
from edgekd_onnx import fp8_proof, runtime
from edgekd_onnx.emulation import holds_float8
from edgekd_onnx.exporter import OnnxExporter
from edgekd_onnx.fp8_proof import find_pairs, prove_emulation, round_to_float8
from edgekd_onnx.runtime import OnnxRuntime

FP8 = config_of("fp8")


def _needs_modelopt() -> None:
    for name in ("modelopt.onnx.quantization", "onnx_graphsurgeon"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'edgekd[modelopt]'")


@pytest.fixture(scope="module")
def float_net(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return OnnxExporter().read(residual_net(tmp_path_factory.mktemp("net") / "net.onnx", opset=18))


@pytest.fixture(scope="module")
def fp8_net(float_net: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    _needs_modelopt()
    return OnnxExporter().quantize(float_net, FP8, iter(images(2)), tmp_path_factory.mktemp("fp8"))


@pytest.fixture
def spool(float_net: Artifact, tmp_path: Path) -> CalibrationSpool:
    made = CalibrationSpool(folder=tmp_path, inputs=float_net.inputs)
    made.fill(images(2), 16)
    return made


# --- the file


def test_weights_are_stored_in_fp8_with_a_scale_per_channel(fp8_net: Artifact, float_net: Artifact) -> None:
    model = onnx.load(str(fp8_net.path))
    weights = {t.name: t for t in model.graph.initializer if len(t.dims) == 4}
    kinds = {name: t.data_type for name, t in weights.items()}
    # The stem has 3 input channels, which FP8 does not pay for.
    assert kinds.pop("w0") == TensorProto.FLOAT
    assert set(kinds.values()) == {TensorProto.FLOAT8E4M3FN}
    pairs = find_pairs(model)
    assert {p.scale.size for p in pairs if p.weight is not None and p.weight.ndim == 4} == {32}
    assert {p.scale.size for p in pairs if p.source is not None} == {1}
    assert fp8_net.dtype == OnnxExporter().read(fp8_net.path).dtype == "float8e4m3fn"
    assert fp8_net.size_bytes < 0.4 * float_net.size_bytes


def test_lineage_says_how_and_that_the_emulation_was_proved(fp8_net: Artifact) -> None:
    lineage = fp8_net.lineage
    assert lineage["quantized_nodes"] == 5
    assert lineage["quantization"]["writer"] == "modelopt"
    assert lineage["quantization"]["float_products"] == 1
    assert "nvidia-modelopt" in lineage["tools"]
    assert (lineage["opset_before"], lineage["opset"]) == (18, 19)
    proof = lineage["emulation"]
    assert proof["proved_on"] == fp8_proof.EXAMPLES
    assert proof["max_abs_error"] <= proof["tolerance"]
    assert lineage["sqnr_db"]["logits"] > 20
    assert lineage["agreement"]["logits"] > 0.9


def test_bytes_are_equal_and_nothing_else_is_left(
    fp8_net: Artifact, float_net: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    again = OnnxExporter().quantize(float_net, FP8, iter(images(2)), out)
    assert again.digest == fp8_net.digest
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "model.onnx"]
    text = again.path.read_bytes()
    assert str(tmp_path).encode() not in text
    assert os.uname().nodename.encode() not in text


def test_kept_nodes_stay_float(float_net: Artifact, tmp_path: Path) -> None:
    _needs_modelopt()
    config = replace(FP8, keep_float=("conv3",), calibration="entropy")
    made = OnnxExporter().quantize(float_net, config, iter(images(2)), tmp_path)
    model = onnx.load(str(made.path))
    weights = {t.name: t.data_type for t in model.graph.initializer if len(t.dims) == 4}
    assert weights["w3"] == TensorProto.FLOAT
    assert weights["w4"] == TensorProto.FLOAT8E4M3FN
    assert made.lineage["quantized_nodes"] == 4
    assert made.lineage["quantization"]["calibration"] == "entropy"


# --- what is not written


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"calibration": "percentile"}, "no calibration 'percentile' here; choose minmax or entropy"),
        ({"calibration": "mse"}, "no calibration 'mse' here; choose minmax or entropy"),
        ({"granularity": "tensor"}, "no granularity 'tensor' here; choose channel"),
        ({"mode": "weight-only"}, "mode 'weight-only' of float8e4m3fn is not known; choose static"),
        ({"keep_float": ("conv99",)}, "keep_float names 'conv99'.*did you mean"),
    ],
)
def test_other_configurations_are_refused_by_name(
    float_net: Artifact, tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        OnnxExporter().quantize(float_net, replace(FP8, **changed), iter(images(1)), tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_fp8_is_not_for(tmp_path: Path) -> None:
    _needs_modelopt()
    narrow = OnnxExporter().read(residual_net(tmp_path / "net.onnx", channels=8, head=False))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ModelError, match=r"no operator that FP8 is for .*more than 16 channels"):
        OnnxExporter().quantize(narrow, FP8, iter(images(1)), out)
    assert list(out.iterdir()) == []


def test_without_modelopt_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekd_onnx.fp8_writing import write_fp8

    monkeypatch.setitem(sys.modules, "modelopt.onnx.quantization", None)
    monkeypatch.setattr("tempfile.tempdir", None)  # the child keeps what it sets
    args = {"source": "a.onnx", "raw": "b.onnx", "inputs": [], "spool": ".", "batches": 0}
    with pytest.raises(MissingDependencyError, match=r"modelopt|onnx_graphsurgeon.*edgekd\[modelopt\]"):
        write_fp8({}, args, [])


def test_what_modelopt_stumbles_over_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _needs_modelopt()
    import modelopt.onnx.quantization as library

    from edgekd_onnx.fp8_writing import write_fp8

    def fail(*args: object, **options: object) -> None:
        raise AssertionError("no shape\nof that tensor")

    monkeypatch.setattr(library, "quantize", fail)
    monkeypatch.setattr("tempfile.tempdir", None)
    args = {
        "name": "net.onnx", "source": "a.onnx", "raw": str(tmp_path / "b.onnx"), "inputs": [], "spool": str(tmp_path),
        "batches": 0, "calibration": "minmax", "keep_float": [], "large": False,
    }  # fmt: skip
    with pytest.raises(ModelError, match=r"cannot quantize net\.onnx .*no shape of that tensor") as caught:
        write_fp8({}, args, [])
    assert "\n" not in str(caught.value)


# --- the emulation, in the library itself: these say when it is mended


def _raw(path: Path, level: str, *, without_qdq: bool) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.add_session_config_entry("session.disable_quant_qdq", "1" if without_qdq else "0")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, images(1)[0])[0]


def test_disable_quant_qdq_is_silently_wrong_in_the_library_and_ours_is_right(fp8_net: Artifact) -> None:
    wanted = ReferenceEvaluator(str(fp8_net.path)).run(None, images(1)[0])[0]
    ours = OnnxRuntime().open(fp8_net.path, SessionOptions()).run(images(1)[0])["logits"]
    # A value on the edge between two FP8 values may move one image; the median of them does not.
    assert np.median(np.abs(ours - wanted).max(1)) < 1e-4
    wrong = _raw(fp8_net.path, "ORT_ENABLE_ALL", without_qdq=True)
    assert np.abs(wrong - wanted).max() > 0.1 * np.abs(wanted).max(), (
        "this ONNX Runtime runs FP8 with disable_quant_qdq right: see whether edgekd_onnx.emulation is still needed"
    )


def test_the_default_level_refuses_fp8_in_the_library(fp8_net: Artifact) -> None:
    with pytest.raises(Exception, match="float8e4m3fn"):
        _raw(fp8_net.path, "ORT_ENABLE_ALL", without_qdq=False)


def test_the_basic_level_changes_the_answers_in_the_library(fp8_net: Artifact) -> None:
    plain = _raw(fp8_net.path, "ORT_DISABLE_ALL", without_qdq=False)
    basic = _raw(fp8_net.path, "ORT_ENABLE_BASIC", without_qdq=False)
    # It rounds the biases of FP8 convolutions to multiples of the product of both scales.
    assert np.median(np.abs(basic - plain).max(1)) > 1e-3, (
        "this ONNX Runtime leaves the biases of FP8 alone at the basic level: emulation.LEVEL may become basic"
    )


# --- the emulation, by our door


def test_the_session_says_that_it_emulates(fp8_net: Artifact, float_net: Artifact) -> None:
    session = OnnxRuntime().open(fp8_net.path, SessionOptions())
    assert session.placement.detail["emulated"] == "float8e4m3fn"
    assert session.placement.detail["graph_level"] == "ORT_DISABLE_ALL"
    assert "emulated" not in OnnxRuntime().open(float_net.path, SessionOptions()).placement.detail


@pytest.mark.parametrize("level", ["basic", "extended", "layout", "all"])
def test_other_levels_are_refused(fp8_net: Artifact, level: str) -> None:
    with pytest.raises(
        UsageError, match=f"graph_level {level} was asked for .* holds FP8.*leave graph_level out"
    ):
        OnnxRuntime().open(fp8_net.path, SessionOptions(settings={"graph_level": level}))
    OnnxRuntime().open(fp8_net.path, SessionOptions(settings={"graph_level": "disable", "arena": False}))


def test_openvino_is_not_given_what_it_computes_otherwise(fp8_net: Artifact) -> None:
    pytest.importorskip("openvino")
    from edgekd_openvino.runtime import OpenVinoRuntime

    with pytest.raises(
        TargetUnavailableError, match=r"holds float8e4m3fn.*judge its accuracy on cpu:onnxruntime"
    ):
        OpenVinoRuntime().open(fp8_net.path, SessionOptions())


def test_no_ort_file_is_made_of_it(fp8_net: Artifact, tmp_path: Path) -> None:
    from edgekd_onnx.ort_format import OrtFormatExporter

    with pytest.raises(UsageError, match=r"holds float8e4m3fn.*use the \.onnx file itself"):
        OrtFormatExporter().convert(fp8_net, tmp_path, {})


def test_files_are_told_apart_by_their_bytes(fp8_net: Artifact, float_net: Artifact, tmp_path: Path) -> None:
    assert holds_float8(fp8_net.path)
    assert not holds_float8(float_net.path)
    model = onnx.load(str(fp8_net.path))
    points = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT8E4M3FN]
    for tensor in points:
        model.graph.initializer.remove(tensor)
    del model.graph.node[:]
    node = onnx.helper.make_node(
        "QuantizeLinear", ["image", "s"], ["q"], output_dtype=TensorProto.FLOAT8E4M3FN
    )
    model.graph.node.append(node)
    onnx.save(model, str(tmp_path / "attribute.onnx"))
    assert holds_float8(tmp_path / "attribute.onnx")
    whole = fp8_net.path.read_bytes()
    for end in range(0, len(whole), 4_999):
        (tmp_path / "cut.onnx").write_bytes(whole[:end])
        holds_float8(tmp_path / "cut.onnx")
    assert not holds_float8(tmp_path / "missing.onnx")


# --- the proof


def test_an_emulation_that_is_wrong_is_not_believed(
    fp8_net: Artifact, spool: CalibrationSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_basic(options: SessionOptions, path: Path) -> SessionOptions:
        return replace(options, settings={"graph_level": "basic", **(options.settings or {})})

    monkeypatch.setattr(runtime, "emulating", at_basic)
    with pytest.raises(
        ModelError, match=r"emulation of FP8 is off by .* at output 'logits'.*not to be believed"
    ):
        prove_emulation(fp8_net.path, spool)


def test_a_pair_that_rounds_otherwise_is_named(
    fp8_net: Artifact, spool: CalibrationSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        fp8_proof, "round_to_float8", lambda values: round_to_float8(values * np.float32(1.07))
    )
    with pytest.raises(ModelError, match=r"onnxruntime rounds '.*' to .* in FP8, ONNX says"):
        prove_emulation(fp8_net.path, spool)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (np.asarray([1.0, np.nan], np.float32), "onnxruntime rounds 'x' to nan in FP8, ONNX says 2"),
        (np.ones(3, np.float32), r"pair of 'y' has shape \(3,\) in onnxruntime, ONNX says \(2,\)"),
        (np.ones((2, 1), np.float32), r"has shape \(2, 1\)"),
    ],
)
def test_a_pair_that_is_no_number_or_of_another_shape_is_named(found: Any, message: str) -> None:
    pytest.importorskip("ml_dtypes")
    pair = fp8_proof.Pair(source="x", result="y", scale=np.asarray(1.0, np.float32), axis=0)
    given = np.asarray([1.0, 2.0], np.float32)
    fp8_proof._check_pairs([pair], {"x": given, "y": given})
    with pytest.raises(ModelError, match=message):
        fp8_proof._check_pairs([pair], {"x": given, "y": found})


def test_rounding_is_to_nearest_even_and_saturates() -> None:
    given = np.asarray(
        [0.0, 1.0, 1.0625, 1.1875, -1.0625, 447.0, 500.0, -1e30, 2**-9, 2**-10, 3 * 2**-11], np.float32
    )
    wanted = [0.0, 1.0, 1.0, 1.25, -1.0, 448.0, 448.0, -448.0, 2**-9, 0.0, 2**-9]
    np.testing.assert_array_equal(round_to_float8(given), np.asarray(wanted, np.float32))


def test_damaged_weights_are_refused_at_quantization(
    fp8_net: Artifact, spool: CalibrationSpool, tmp_path: Path
) -> None:
    model = onnx.load(str(fp8_net.path))
    for tensor in model.graph.initializer:
        if tensor.name == "w1_scale":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:1], "w1_scale"))
    onnx.save(model, str(tmp_path / "net.onnx"))
    with pytest.raises(ModelError):
        prove_emulation(tmp_path / "net.onnx", spool)


# --- real data


@pytest.mark.data
def test_cifar10_agrees_with_float(data_root: Path, tmp_path: Path) -> None:
    """resnet32 as published, 500 images of testA; docs/quantization.md has all 5,000."""
    _needs_modelopt()
    pytest.importorskip("torch")
    from edgekd.models import materialise
    from edgekd.stages import StageStore

    with np.load(data_root / "vision" / "cifar10_testA_jpegq75.npz") as data:
        pixels, labels = data["images"], data["labels"]
    chosen = np.random.default_rng(0).permutation(len(labels))[:628]
    model, _ = materialise(
        "zoo:cifar-resnet32", name="resnet32", prepare={}, weights=data_root / "vision" / "resnet32_cifar10.safetensors",
        search=None, store=StageStore(tmp_path / "store"),
    )  # fmt: skip
    mean, std = (np.asarray(model.prepare[k], np.float32) for k in ("mean", "std"))
    x = ((pixels[chosen] / np.float32(model.prepare["scale"]) - mean) / std).transpose(0, 3, 1, 2)
    feeds = [{"image": np.ascontiguousarray(x[i : i + 64], np.float32)} for i in range(500, 628, 64)]
    for name in ("float", "fp8"):
        (tmp_path / name).mkdir()
    plain = OnnxExporter().export(model, tmp_path / "float", {})
    made = OnnxExporter().quantize(plain, FP8, iter(feeds), tmp_path / "fp8")
    answers = {}
    for artifact in (plain, made):
        session = OnnxRuntime().open(artifact.path, SessionOptions(threads=2))
        parts = [np.ascontiguousarray(x[i : i + 100], np.float32) for i in range(0, 500, 100)]
        answers[artifact.dtype] = np.concatenate([session.run({"image": p})["logits"] for p in parts]).argmax(
            1
        )
    right = {dtype: float(np.mean(a == labels[chosen[:500]])) for dtype, a in answers.items()}
    assert right["float32"] > 0.79
    assert right["float8e4m3fn"] > right["float32"] - 0.02
    assert np.mean(answers["float32"] == answers["float8e4m3fn"]) > 0.95
