"""ExecuTorch sessions: the conformance suite, threads, backends, and what ran where."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.artifact import Artifact
from edgekd.child.process import ChildProcess, Limits
from edgekd.errors import DataError, ModelError, TargetUnavailableError, UsageError
from edgekd.model import MODEL_FILE, Model
from edgekd.placement import PlacingRuntime
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.damage import compare_answers
from edgekd.target import SessionOptions
from edgekd.testing import check_runtime
from edgekd_executorch import inspect as inspect_module
from edgekd_executorch import runtime as module
from edgekd_executorch.exporter import ETRECORD, ExecuTorchExporter, pool_threads
from edgekd_executorch.inspect import layer_errors
from edgekd_executorch.placing import is_operator
from edgekd_executorch.quantizing import make_quantizer
from edgekd_executorch.runtime import ExecuTorchRuntime
from edgekd_torch.modules import load_module
from edgekd_torch.runtime import TorchRuntime

torch = pytest.importorskip("torch")
pytest.importorskip("executorch")


@pytest.fixture(autouse=True)
def _same_threads_afterwards() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits(digits_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return ExecuTorchExporter().export(digits_model, tmp_path_factory.mktemp("digits-pte"), {})


def calibration() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"image": rng.random((100, 1, 8, 8), np.float32)} for _ in range(3)]


@pytest.fixture(scope="module")
def digits_int8(digits_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("digits-int8")
    return ExecuTorchExporter().quantize_model(
        digits_model, QuantConfig(examples=150), calibration(), out, {"devtools": "yes"}
    )


def images(count: int) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(0).normal(size=(count, 1, 8, 8)).astype(np.float32)}


def test_conforms(digits: Artifact, tmp_path: Path) -> None:
    check_runtime(
        ExecuTorchRuntime(), digits.path, tmp_path, threads=min(2, os.cpu_count() or 1), provider="xnnpack"
    )


def test_int8_conforms(digits_int8: Artifact, tmp_path: Path) -> None:
    check_runtime(ExecuTorchRuntime(), digits_int8.path, tmp_path, batches=(1, 64))


def test_the_thread_pool_is_read_back_and_not_taken_away(digits: Artifact) -> None:
    one = ExecuTorchRuntime().open(digits.path, SessionOptions(threads=1))
    assert one.placement.threads == 1
    bound = one.bind(images(3))
    one.close()
    # The bound call still runs on that pool, which is the process's.
    with pytest.raises(
        TargetUnavailableError, match="asked for 2 threads, executorch has one pool per process"
    ):
        ExecuTorchRuntime().open(digits.path, SessionOptions(threads=2))
    bound()
    assert bound.outputs()["logits"].shape == (3, 10)
    del bound
    two = ExecuTorchRuntime().open(digits.path, SessionOptions(threads=2))
    assert two.placement.threads == 2
    with pytest.raises(ModelError, match="is closed"):
        one.run(images(1))


def test_outputs_outlive_the_next_call(digits: Artifact) -> None:
    session = ExecuTorchRuntime().open(digits.path, SessionOptions(threads=2))
    first = session.run(images(2))["logits"]
    before = first.copy()
    session.run({"image": np.full((2, 1, 8, 8), 3, np.float32)})
    np.testing.assert_array_equal(first, before)


def test_a_wrong_size_is_refused_though_it_fits_the_memory(digits: Artifact) -> None:
    session = ExecuTorchRuntime().open(digits.path, SessionOptions(threads=2))
    with pytest.raises(DataError, match="has batch 65, its memory was planned for 1 to 64"):
        session.run(images(65))
    with pytest.raises(DataError, match=r"shape \(1, 1, 8, 9\)"):
        session.run({"image": np.zeros((1, 1, 8, 9), np.float32)})


def test_refusals(digits: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = ExecuTorchRuntime()
    with pytest.raises(UsageError, match="no setting 'graph_level'"):
        runtime.open(digits.path, SessionOptions(settings={"graph_level": "all"}))
    with pytest.raises(UsageError, match="threads is 0"):
        runtime.open(digits.path, SessionOptions(threads=0))
    with pytest.raises(TargetUnavailableError, match=r"asked for portable, .* was lowered for xnnpack"):
        runtime.open(digits.path, SessionOptions(provider="portable"))
    with pytest.raises(TargetUnavailableError, match="has no backend 'coreml'; it has openvino, portable"):
        runtime.open(digits.path, SessionOptions(provider="coreml"))
    data = digits.path.read_bytes()
    path = tmp_path / "model.pte"
    path.write_bytes(data.replace(b"XnnpackBackend", b"CoremlBackend\x00"))
    with pytest.raises(
        TargetUnavailableError, match=r"delegates to CoremlBackend.*: executorch .* has no backend"
    ):
        runtime.open(path, SessionOptions())
    path.write_bytes(data.replace(b"aten::sym_size", b"aten::sum_size"))
    with pytest.raises(ModelError, match=r"calls the operator aten::sum_size\.int, which executorch"):
        runtime.open(path, SessionOptions())
    monkeypatch.setattr(module.bindings(), "_threadpool_get_thread_count", lambda: 1)
    with pytest.raises(TargetUnavailableError, match=r"asked for 2 threads, executorch .* gives 1"):
        module.set_threads(2)


def test_a_failing_call_is_one_line(digits: Artifact) -> None:
    session = ExecuTorchRuntime().open(digits.path, SessionOptions(threads=2))
    session._boundary = replace(session._boundary, limits={})
    for call in (lambda: session.run(images(65)), session.bind(images(65))):
        with pytest.raises(ModelError, match="failed while running") as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_child_on_one_cpu(digits: Artifact) -> None:
    args: dict[str, Any] = {
        "runtime": "edgekd_executorch.runtime:ExecuTorchRuntime", "device": "cpu", "provider": "", "threads": 1,
        "settings": {}, "path": str(digits.path),
    }  # fmt: skip
    with ChildProcess("describing", Limits(cpus=(0,))) as child:
        reply, _ = child.request("edgekd.child.sessions:describe", args)
        assert reply["placement"]["threads"] == 1 and reply["inputs"][0]["name"] == "image"


def test_float32_is_placed(digits: Artifact) -> None:
    assert isinstance(ExecuTorchRuntime(), PlacingRuntime)
    placed = ExecuTorchRuntime().place(digits.path, SessionOptions(threads=2), images(8))
    assert {p.place for p in placed} == {"XnnpackBackend"}
    kinds = [p.op_type for p in placed]
    assert kinds.count("Convolution") == 2 and kinds.count("Fully Connected") == 1
    assert {p.dtype for p in placed if p.op_type in ("Convolution", "Fully Connected")} == {"float32"}
    assert all(p.time_ns is not None and p.time_ns >= 0 for p in placed)


def test_int8_is_placed(digits_int8: Artifact) -> None:
    placed = ExecuTorchRuntime().place(digits_int8.path, SessionOptions(threads=2), images(8))
    assert {p.dtype for p in placed if p.op_type in ("Convolution", "Fully Connected")} == {"int8"}


def test_kernels_are_placed_by_name(digits_model: Model, tmp_path: Path) -> None:
    made = ExecuTorchExporter().export(digits_model, tmp_path, {"backend": "portable", "max_batch": 2})
    placed = ExecuTorchRuntime().place(made.path, SessionOptions(threads=2), images(1))
    assert {p.place for p in placed} == {"portable"} and {p.dtype for p in placed} <= {"float32", "int64", ""}
    assert {p.dtype for p in placed if "view_copy" in p.op_type} <= {""}
    kinds = [p.op_type for p in placed]
    assert kinds.count("aten::convolution.out") == 2 and "aten::sym_size.int" not in kinds
    assert is_operator("executorch_prim::et_copy_index.tensor")


def test_int8_is_near_float32(digits_int8: Artifact, digits_model: Model) -> None:
    made = digits_int8
    assert made.dtype == "int8" and ExecuTorchExporter().read(made.path).dtype == "int8"
    assert made.lineage["calibration"]["examples"] == 150 and made.lineage["quantized_nodes"] > 3
    assert made.lineage["sqnr_db"]["logits"] > 25
    assert made.prepare == digits_model.prepare
    assert [f.path for f in made.files] == ["model.pte"] and (made.folder / ETRECORD).is_file()


@pytest.mark.slow
def test_quantizing_twice_writes_the_same_bytes(
    digits_int8: Artifact, digits_model: Model, tmp_path: Path
) -> None:
    again = ExecuTorchExporter().quantize_model(
        digits_model, QuantConfig(examples=150), calibration(), tmp_path, {}
    )
    assert again.digest == digits_int8.digest
    assert [p.name for p in tmp_path.iterdir()] == ["model.pte"]


def test_granularity_and_observer_reach_the_quantizer() -> None:
    from torchao.quantization.pt2e import HistogramObserver, MinMaxObserver

    for granularity, observer, scheme, kind in (
        ("channel", "minmax", torch.per_channel_symmetric, MinMaxObserver),
        ("tensor", "histogram", torch.per_tensor_symmetric, HistogramObserver),
    ):
        made = make_quantizer(QuantConfig(granularity=granularity), observer).global_config
        assert made.weight.qscheme == scheme
        for spec in (made.input_activation, made.output_activation):
            assert (spec.dtype, spec.qscheme) == (torch.int8, torch.per_tensor_affine)
            assert isinstance(spec.observer_or_fake_quant_ctr(dtype=spec.dtype), kind)


def test_least_squared_error_is_the_histogram_observer(digits_model: Model, tmp_path: Path) -> None:
    made = ExecuTorchExporter().quantize_model(
        digits_model, QuantConfig(calibration="mse", examples=20), calibration(), tmp_path, {}
    )
    assert made.lineage["quantization"]["observer"] == "histogram"
    assert made.lineage["agreement"]["logits"] >= 0.9 and made.lineage["checked_examples"] == 20


def test_dynamic_int8_takes_ranges_in_every_call(digits_model: Model, tmp_path: Path) -> None:
    made = ExecuTorchExporter().quantize_model(
        digits_model, QuantConfig(mode="dynamic", examples=20), calibration(), tmp_path, {}
    )
    assert made.dtype == ExecuTorchExporter().read(made.path).dtype == "int8"
    assert "observer" not in made.lineage["quantization"]
    # Ranges of calibration would clip what is a hundred times as bright.
    bright = {"image": images(8)["image"] * 100}
    session = ExecuTorchRuntime().open(made.path, SessionOptions(threads=pool_threads()))
    reference = TorchRuntime().open(
        digits_model.folder / MODEL_FILE, SessionOptions(threads=torch.get_num_threads())
    )
    damage = compare_answers([reference.run(bright)], [session.run(bright)])
    session.close()
    assert damage.sqnr_db["logits"] > 15


def test_without_data_drawn_inputs_check_the_answers(digits_model: Model, tmp_path: Path) -> None:
    made = ExecuTorchExporter().quantize_model(digits_model, QuantConfig(mode="dynamic"), (), tmp_path, {})
    assert (made.lineage["checked_on"], made.lineage["checked_examples"]) == ("drawn", 64)
    with pytest.raises(DataError, match="the calibration data is empty"):
        ExecuTorchExporter().quantize_model(digits_model, QuantConfig(), (), tmp_path, {})


def test_kept_modules_stay_float(digits_model: Model, tmp_path: Path) -> None:
    quantize = ExecuTorchExporter().quantize_model
    folders = [tmp_path / name for name in ("whole", "kept")]
    for folder in folders:
        folder.mkdir()
    first = next(n for n, m in load_module(digits_model).named_modules() if isinstance(m, torch.nn.Conv2d))
    whole = quantize(digits_model, QuantConfig(examples=8), calibration(), folders[0], {})
    kept = quantize(digits_model, QuantConfig(examples=8, keep_float=(first,)), calibration(), folders[1], {})
    assert 0 < kept.lineage["quantized_nodes"] < whole.lineage["quantized_nodes"]
    placed = ExecuTorchRuntime().place(kept.path, SessionOptions(threads=2), images(8))
    assert {p.dtype for p in placed if p.op_type == "Convolution"} == {"int8", "float32"}
    with pytest.raises(UsageError, match=f"keep_float names '{first}x', .* did you mean"):
        quantize(digits_model, QuantConfig(keep_float=(first + "x",)), calibration(), tmp_path, {})


def test_what_cannot_be_quantized(digits_model: Model, tmp_path: Path) -> None:
    feeds = [images(4)]
    spoiled = images(4)
    spoiled["image"][0] = np.nan
    quantize = ExecuTorchExporter().quantize_model
    for config, given, options, error, what in (
        (QuantConfig(variant="tensorrt"), feeds, {}, UsageError, "variant 'tensorrt'"),
        (QuantConfig(calibration="entropy"), feeds, {}, UsageError, "calibration 'entropy'"),
        (
            QuantConfig(mode="weight-only"),
            feeds,
            {},
            UsageError,
            "XNNPACK does not write int8 weight-only here",
        ),
        (QuantConfig(), feeds, {"backend": "portable"}, UsageError, "int8 is written for xnnpack"),
        (QuantConfig(), feeds, {"observer": "best"}, UsageError, "observer is 'best'"),
        (QuantConfig(), [], {}, DataError, "calibration data is empty"),
        (QuantConfig(), [spoiled], {}, DataError, "NaN or infinity"),
    ):
        with pytest.raises(error, match=what):
            quantize(digits_model, config, given, tmp_path, options)
    assert not any(tmp_path.iterdir())


def test_the_layer_that_deviates_is_named(
    digits: Artifact, digits_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.numpy import load_file

    weight = load_file(digits_model.folder / digits_model.weights)["features.3.weight"]
    real = inspect_module.load_method

    def planted(path: Path, **options: Any) -> Any:
        packed = np.ascontiguousarray(weight.transpose(0, 2, 3, 1)).tobytes()
        data = path.read_bytes()
        assert packed in data  # XNNPACK keeps a convolution's weights channels last
        path.write_bytes(data.replace(packed, np.frombuffer(packed, np.float32)[::-1].tobytes()))
        return real(path, **options)

    monkeypatch.setattr(inspect_module, "load_method", planted)
    bad = layer_errors(digits_model, digits, images(3))
    assert [e.layer for e in bad if "convolution" in e.operators[0]] == ["features.0", "features.3"]
    assert bad[0].max_abs_error < 1e-5 and bad[-1].layer == "head"
    assert next(e.layer for e in bad if e.max_abs_error > 1e-3) == "features.3"


def test_the_layers_of_an_int8_program(digits_int8: Artifact, digits_model: Model, tmp_path: Path) -> None:
    found = layer_errors(digits_model, digits_int8, images(3))
    assert [e.layer for e in found] == ["pool", "head"] and {e.place for e in found} == {"XnnpackBackend"}
    assert all(e.max_abs_error <= 0.05 * e.max_abs for e in found)
    bare = tmp_path / "bare"
    bare.mkdir()
    with pytest.raises(UsageError, match=r"int8 and has no model\.etrecord beside it"):
        layer_errors(digits_model, digits_int8.copy_to(bare), images(3))
    moved = digits_int8.copy_to(tmp_path / "bare", companions=True)
    assert layer_errors(digits_model, moved, images(3)) == found
    record = moved.folder / "model.etrecord"
    for content in (b"garbage", pickle.dumps({})):
        record.write_bytes(content)
        with pytest.raises(
            ModelError, match=r"model\.etrecord has sha256 .*, model\.pte was made with sha256"
        ):
            layer_errors(digits_model, moved, images(3))
        listed = [{"path": record.name, "sha256": hashlib.sha256(content).hexdigest()}]
        with pytest.raises(ModelError, match=r"executorch \S+ cannot read .*model\.etrecord") as caught:
            layer_errors(
                digits_model, replace(moved, lineage={**moved.lineage, "companions": listed}), images(3)
            )
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="was not made from"):
        layer_errors(digits_model, replace(digits_int8, lineage={}), images(3))
    with pytest.raises(UsageError, match="is float16"):
        layer_errors(digits_model, replace(digits_int8, dtype="float16"), images(3))


def test_the_record_of_an_artifact_is_json(digits: Artifact, digits_int8: Artifact) -> None:
    for made in (digits, digits_int8):
        assert json.loads(json.dumps(made.to_json()))["lineage"]["tools"]["executorch"]
