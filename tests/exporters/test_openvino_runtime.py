from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekd.artifact import Artifact
from edgekd.errors import DataError, ModelError, TargetUnavailableError, UsageError
from edgekd.measure.configuration import SweepableRuntime
from edgekd.parity import check_parity, parity_feeds
from edgekd.pipeline.execution import ReferenceRuntime
from edgekd.placement import PlacingRuntime
from edgekd.quantize.hardware import DeviceFacts
from edgekd.target import SessionOptions
from edgekd.testing import check_runtime
from edgekd.workload import ProfilingRuntime
from edgekd_onnx.runtime import OnnxRuntime
from edgekd_openvino import settings as module
from edgekd_openvino.exporter import OpenVinoExporter
from edgekd_openvino.library import core, silence_telemetry
from edgekd_openvino.runtime import OpenVinoRuntime, device_name
from edgekd_openvino.settings import DEFAULTS, worth_trying

silence_telemetry()  # before the first import
pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def digits_ir(digits_onnx: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return OpenVinoExporter().convert(digits_onnx, tmp_path_factory.mktemp("digits-ir"), {})


def _image(batch: int = 1) -> dict[str, Any]:
    return {"image": np.random.default_rng(batch).uniform(0, 1, (batch, 1, 8, 8)).astype(np.float32)}


def _write(path: Path, nodes: list[Any], shape: list[Any], opset: int = 17) -> Path:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(path)
    )
    return path


def test_conforms(
    digits_ir: Artifact, digits_onnx: Artifact, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for artifact in (digits_ir, digits_onnx):
        folder = tmp_path / artifact.format
        folder.mkdir()
        check_runtime(OpenVinoRuntime(), artifact.path, folder, threads=2)
    assert capfd.readouterr() == ("", "")  # a damaged file is tried by no other frontend


def test_offers_what_is_optional() -> None:
    runtime = OpenVinoRuntime()
    for protocol in (PlacingRuntime, ProfilingRuntime, ReferenceRuntime, SweepableRuntime):
        assert isinstance(runtime, protocol)
    assert "precision" not in runtime.sweepable("cpu", "", 2)  # it changes answers by more than rounding
    assert runtime.reference_settings("cpu", "")["precision"] == "f32"


@pytest.mark.data
def test_yunet_gives_its_golden_outputs(data_root: Path) -> None:
    golden = np.load(data_root / "onnx" / "yunet_n_320_320_golden.npz")
    session = OpenVinoRuntime().open(data_root / "onnx" / "yunet_n_320_320.onnx", SessionOptions(threads=2))
    images = golden["images_uint8_nhwc_bgr"].transpose(0, 3, 1, 2).astype(np.float32)
    for row in range(len(images)):
        feeds = {"input": images[row : row + 1]}
        bound = session.bind(feeds)
        bound()
        made = session.run(feeds)
        assert len(made) == 12
        for name, value in made.items():
            np.testing.assert_allclose(value[0], golden[name][row], rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(bound.outputs()[name], value)


def test_answers_as_onnx_runtime_does(digits_ir: Artifact, digits_onnx: Artifact) -> None:
    parity = check_parity(
        OnnxRuntime().open(digits_onnx.path, SessionOptions(threads=2)),
        OpenVinoRuntime().open(digits_ir.path, SessionOptions(threads=2)),
        parity_feeds(digits_onnx.inputs, {}),
    )
    assert parity.feeds == 3
    assert parity.max_abs_error < 1e-5


def test_loads_openvino_and_numpy_only(digits_ir: Artifact, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from edgekd.target import SessionOptions\n"
        "from edgekd_openvino.runtime import OpenVinoRuntime\n"
        f"OpenVinoRuntime().open(Path({str(digits_ir.path)!r}), SessionOptions())\n"
        "print([m for m in ('onnx', 'onnxruntime', 'nncf', 'pydantic', 'yaml', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []  # no telemetry id in the home folder


# --- what it runs in, read back


def test_placement_is_read_back(digits_ir: Artifact) -> None:
    for threads in (1, 2):
        placement = OpenVinoRuntime().open(digits_ir.path, SessionOptions(threads=threads)).placement
        assert (placement.device, placement.provider, placement.threads) == ("cpu", "CPU", threads)
        assert placement.runtime.startswith("openvino 20")
        detail = placement.detail
        assert (detail["INFERENCE_PRECISION_HINT"], detail["NUM_STREAMS"]) == ("f32", 1)
        assert detail["ENABLE_CPU_PINNING"] is False
        assert detail["DYNAMIC_QUANTIZATION_GROUP_SIZE"] == 0
        assert detail["EXECUTION_DEVICES"] == ["CPU"]


def _has_bf16() -> bool:
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def test_bfloat16_runs_only_where_it_is_asked_for(digits_ir: Artifact) -> None:
    if not _has_bf16():
        pytest.skip("this CPU has no bfloat16 instructions")
    feeds = _image(4)
    made = {}
    for precision in ("f32", "bf16"):
        options = SessionOptions(settings={"precision": precision})
        session = OpenVinoRuntime().open(digits_ir.path, options)
        assert session.placement.detail["INFERENCE_PRECISION_HINT"] == precision
        made[precision] = session.run(feeds)["logits"]
        ran = {p.dtype for p in OpenVinoRuntime().place(digits_ir.path, options, feeds)}
        assert ("bfloat16" in ran) is (precision == "bf16")
    assert 0 < np.abs(made["f32"] - made["bf16"]).max() < 0.1


@pytest.mark.parametrize(("precision", "capability"), [("bf16", "BF16"), ("f16", "FP16")])
def test_a_precision_that_is_not_there_is_refused(
    digits_ir: Artifact, precision: str, capability: str
) -> None:
    if capability in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip(f"this CPU has {precision}")
    with pytest.raises(
        TargetUnavailableError,
        match=f"no instructions for|INFERENCE_PRECISION_HINT = .*, {precision} was asked for",
    ) as e:
        OpenVinoRuntime().open(digits_ir.path, SessionOptions(settings={"precision": precision}))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", "bfloat16"), ("f16", "float16")])
def test_a_processor_without_the_instructions_is_named(
    digits_ir: Artifact, monkeypatch: pytest.MonkeyPatch, precision: str, dtype: str
) -> None:
    older = DeviceFacts(name="Older CPU", features=frozenset({"avx2"}))
    monkeypatch.setattr("edgekd_openvino.runtime.this_cpu", lambda: older)
    with pytest.raises(
        TargetUnavailableError, match=f"Older CPU has no instructions for {dtype}; .*; use float32"
    ):
        OpenVinoRuntime().open(digits_ir.path, SessionOptions(settings={"precision": precision}))
    OpenVinoRuntime().open(digits_ir.path, SessionOptions()).close()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("INFERENCE_PRECISION_HINT", "bf16", "bf16 on CPU, f32 was asked for"),
        ("INFERENCE_NUM_THREADS", 7, "INFERENCE_NUM_THREADS = 7"),
        ("NUM_STREAMS", 3, "NUM_STREAMS = 3"),
        ("ENABLE_CPU_PINNING", True, "ENABLE_CPU_PINNING = True"),
        ("EXECUTION_DEVICES", ["GPU.0"], "runs on GPU.0, CPU was asked for"),
        ("EXECUTION_DEVICES", [], "no device"),
    ],
)
def test_another_configuration_than_asked_for_is_refused(name: str, value: object, words: str) -> None:
    class Compiled:
        def __init__(self, **changed: object) -> None:
            self._all = {
                "SUPPORTED_PROPERTIES": ["ENABLE_CPU_PINNING", "TBB_PARTITIONER", "CPU_DENORMALS_OPTIMIZATION"],
                "EXECUTION_DEVICES": ["CPU"], "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1,
                "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False, "TBB_PARTITIONER": "STATIC",
                "CPU_DENORMALS_OPTIMIZATION": False, **changed,
            }  # fmt: skip

        def get_property(self, key: str) -> object:
            return self._all[key]

    assert module.read_back(Compiled(), SessionOptions(), "CPU")[0] == 1
    with pytest.raises(TargetUnavailableError, match=words):
        module.read_back(Compiled(**{name: value}), SessionOptions(), "CPU")


def test_more_threads_than_cpus_are_refused(digits_ir: Artifact) -> None:
    with pytest.raises(
        TargetUnavailableError, match=r"INFERENCE_NUM_THREADS = \d+ on CPU, 4096 was asked for"
    ):
        OpenVinoRuntime().open(digits_ir.path, SessionOptions(threads=4096))


@pytest.mark.parametrize(
    ("device", "provider", "words"),
    [
        ("cuda", "", "does not run on device 'cuda'"),
        ("cpu", "auto", "no provider 'auto'"),
        ("cpu", "gpu", "no provider 'gpu'"),
        ("gpu", "", "no GPU on this machine, only"),
        ("npu", "", "no NPU on this machine, only"),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    digits_ir: Artifact, device: str, provider: str, words: str
) -> None:
    if device.upper() in {d.partition(".")[0] for d in core().available_devices} and device != "cpu":
        pytest.skip(f"{device} is on this machine")
    assert words in OpenVinoRuntime().unavailable(device, provider)
    with pytest.raises(TargetUnavailableError, match=words):
        OpenVinoRuntime().open(digits_ir.path, SessionOptions(device=device, provider=provider))


def test_devices_may_be_numbered() -> None:
    assert device_name("gpu", "gpu.1") == "GPU.1"
    with pytest.raises(TargetUnavailableError):
        device_name("gpu", "gpu.x")


# --- settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"precison": "f32"}, "did you mean 'precision'"),
        ({"precision": "int8"}, "choose f32, bf16, f16"),
        ({"hint": "fast"}, "choose latency, throughput"),
        ({"streams": 0}, "whole number"),
        ({"streams": True}, "whole number"),
        ({"streams": 2}, "more than the session's 1 thread"),
        ({"pinning": "no"}, "true or false"),
    ],
)
def test_settings_that_do_not_exist(digits_ir: Artifact, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        OpenVinoRuntime().open(digits_ir.path, SessionOptions(settings=settings))
    with pytest.raises(UsageError, match="threads"):
        OpenVinoRuntime().open(digits_ir.path, SessionOptions(threads=0))


def test_every_setting_is_used_and_swept_ones_run(digits_ir: Artifact) -> None:
    other = {"precision": "f32", "hint": "throughput", "streams": 2, "pinning": True, "denormals_as_zero": True,
             "partitioner": "auto"}  # fmt: skip
    assert set(other) == set(DEFAULTS)
    options = SessionOptions(threads=2, settings=other)
    session = OpenVinoRuntime().open(digits_ir.path, options)
    found = session.placement.detail
    assert (found["PERFORMANCE_HINT"], found["NUM_STREAMS"]) == ("THROUGHPUT", 2)
    assert (found["TBB_PARTITIONER"], found["CPU_DENORMALS_OPTIMIZATION"]) == ("AUTO", True)
    plain = OpenVinoRuntime().open(digits_ir.path, SessionOptions())
    np.testing.assert_allclose(session.run(_image())["logits"], plain.run(_image())["logits"], atol=1e-5)
    for name, values in worth_trying(on_cpu=True, cpus=2).items():
        assert name == "threads" or values[0] == DEFAULTS[name]
    assert worth_trying(on_cpu=False, cpus=2) == {}
    assert "threads" not in worth_trying(on_cpu=True, cpus=1)


def test_a_setting_of_the_cpu_is_refused_elsewhere() -> None:
    with pytest.raises(UsageError, match="pinning is not a setting of openvino on GPU"):
        module.properties(SessionOptions(device="gpu", settings={"pinning": True}), "GPU", set())
    assert "INFERENCE_NUM_THREADS" not in module.properties(SessionOptions(device="gpu"), "GPU", set())


# --- where time goes


def test_placement_names_the_nodes_of_the_model(digits_onnx: Artifact) -> None:
    feeds = _image(4)
    placed = OpenVinoRuntime().place(digits_onnx.path, SessionOptions(), feeds)
    named = {n.name for n in onnx.load(str(digits_onnx.path)).graph.node}
    convolutions = [p for p in placed if p.op_type == "Convolution"]
    assert convolutions
    for p in convolutions:
        assert (p.place, p.dtype) == ("CPU", "float32")
        assert named & set(p.sources)
    assert all(p.time_ns is not None and p.time_ns >= 0 for p in placed)
    assert not {p.op_type for p in placed} & {"Input", "Output", "Const"}


def test_profile_splits_a_call(digits_ir: Artifact) -> None:
    profile = OpenVinoRuntime().profile(digits_ir.path, SessionOptions(), _image(64), calls=4, warm_up=1)
    assert profile.calls == 4
    assert any(n.op == "Convolution" and n.ns_per_call > 0 for n in profile.nodes)
    assert sum(n.ns_per_call for n in profile.nodes) > 0
    assert profile.source.startswith("openvino 20")


# --- feeds and files


def test_bound_inputs_are_copied_and_read_only_feeds_run(digits_ir: Artifact) -> None:
    session = OpenVinoRuntime().open(digits_ir.path, SessionOptions())
    feeds = _image()
    expected = session.run(feeds)["logits"]
    frozen = feeds["image"].copy()
    frozen.setflags(write=False)
    np.testing.assert_array_equal(session.run({"image": frozen})["logits"], expected)
    strided = np.repeat(feeds["image"], 2, axis=3)[..., ::2]
    np.testing.assert_array_equal(session.run({"image": strided})["logits"], expected)
    bound = session.bind(feeds)
    feeds["image"][:] = 0
    bound()
    np.testing.assert_array_equal(bound.outputs()["logits"], expected)
    session.close()
    with pytest.raises(ModelError, match="closed"):
        session.run(_image())


def test_sizes_may_change_from_call_to_call(tmp_path: Path) -> None:
    path = _write(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], ["batch", None, 4])
    session = OpenVinoRuntime().open(path, SessionOptions())
    assert session.inputs[0].shape == ("x.0", "x.1", 4)
    for shape in ((1, 2, 4), (3, 5, 4), (1, 1, 4)):
        assert session.run({"x": np.ones(shape, np.float32)})["y"].shape == shape
    with pytest.raises(DataError, match="the model wants"):
        session.run({"x": np.ones((1, 2, 5), np.float32)})


def test_integers_that_openvino_would_cut_are_refused(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(n, TensorProto.INT64, ["n"]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(tmp_path / "m.onnx"))
    session = OpenVinoRuntime().open(tmp_path / "m.onnx", SessionOptions())
    np.testing.assert_array_equal(session.run({"x": np.array([-5, 2**30 - 1])})["y"], [-10, 2**31 - 2])
    for call in (session.run, session.bind):
        with pytest.raises(DataError, match="input 'x' holds 1099511627776"):
            call({"x": np.array([1, 2**40])})


def test_an_operator_that_openvino_does_not_have(tmp_path: Path) -> None:
    path = _write(tmp_path / "m.onnx", [helper.make_node("NoSuchOp", ["x"], ["y"], name="odd")], [4])
    with pytest.raises(ModelError, match="NoSuchOp") as caught:
        OpenVinoRuntime().open(path, SessionOptions())
    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"neither \.xml nor \.onnx"):
        OpenVinoRuntime().open(tmp_path / "m.pt", SessionOptions())
