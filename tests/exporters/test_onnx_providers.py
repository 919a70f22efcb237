"""Execution providers: names, what each is told, and refusals where the work is done elsewhere."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edgekd.artifact import Artifact
from edgekd.errors import ModelError, TargetUnavailableError, UsageError
from edgekd.placement import PlacingRuntime
from edgekd.quantize.config import QuantConfig
from edgekd.spec import draw_feeds
from edgekd.target import SessionOptions
from edgekd_onnx import providers
from edgekd_onnx.exporter import OnnxExporter
from edgekd_onnx.placing import placed_ops
from edgekd_onnx.providers import CPU, CUDA, TENSORRT, provider_name, provider_options, refuse_other_places
from edgekd_onnx.runtime import BoundCall, OnnxRuntime, OnnxSession
from edgekd_onnx.settings import resolve, session_options


def _told(provider: str, device: str, **settings: Any) -> dict[str, str]:
    return provider_options(provider, device, 2, resolve(settings, 2))


@pytest.mark.parametrize(
    ("device", "provider", "name"),
    [
        ("cpu", "", CPU), ("cpu", "openvino", "OpenVINOExecutionProvider"), ("cuda", "", CUDA),
        ("cpu", "xnnpack", "XnnpackExecutionProvider"), ("cpu", "dnnl", "DnnlExecutionProvider"),
        ("cuda", "TensorRT", TENSORRT), ("npu", "qnn", "QNNExecutionProvider"),
        ("gpu", "coreml", "CoreMLExecutionProvider"), ("gpu", "openvino", "OpenVINOExecutionProvider"),
    ],
)  # fmt: skip
def test_names(device: str, provider: str, name: str) -> None:
    assert provider_name(device, provider) == name


def test_a_device_without_a_provider_of_its_own() -> None:
    with pytest.raises(
        TargetUnavailableError, match=r"no provider of its own for device 'npu'; name one: npu:onnx"
    ):
        provider_name("npu", "")


def test_nothing_is_left_to_a_default_that_changes_answers() -> None:
    assert _told(CUDA, "cuda") == {"device_id": "0", "use_tf32": "0", "enable_cuda_graph": "0"}
    assert _told(CUDA, "cuda", tf32=True, cuda_graph=True)["use_tf32"] == "1"
    assert _told(CUDA, "cuda", cuda_graph=True)["enable_cuda_graph"] == "1"
    rt = _told(TENSORRT, "cuda", engine_cache="cache")
    assert (rt["trt_engine_cache_enable"], rt["trt_engine_cache_path"], rt["trt_fp16_enable"]) == (
        "1",
        "cache",
        "0",
    )
    assert "trt_engine_cache_path" not in _told(TENSORRT, "cuda")
    assert _told("OpenVINOExecutionProvider", "cpu") == {
        "device_type": "CPU", "precision": "FP32", "num_of_threads": "2",
    }  # fmt: skip
    assert _told("QNNExecutionProvider", "npu") == {"backend_type": "htp"}
    assert _told("CoreMLExecutionProvider", "npu")["MLComputeUnits"] == "CPUAndNeuralEngine"


@pytest.mark.parametrize("setting", [{"tf32": True}, {"cuda_graph": True}, {"engine_cache": "cache"}])
def test_a_setting_of_another_provider_is_refused(digits_onnx: Artifact, setting: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="CPUExecutionProvider has no setting"):
        OnnxRuntime().open(digits_onnx.path, SessionOptions(settings=setting))


@pytest.mark.parametrize(
    ("counts", "allowed", "words"),
    [
        ({CPU: {"Conv": 3}}, "any", "takes no node of .* .3 on CPUExecutionProvider."),
        ({CUDA: {"Conv": 3}, CPU: {"Softmax": 2, "Shape": 1}}, "shapes", "runs 2 Softmax of"),
        ({CUDA: {"Conv": 3}, CPU: {"Shape": 1}}, "none", "runs 1 Shape of"),
    ],
)
def test_work_that_is_done_elsewhere_is_refused(
    counts: dict[str, dict[str, int]], allowed: str, words: str
) -> None:
    with pytest.raises(TargetUnavailableError, match=words) as caught:
        refuse_other_places(counts, CUDA, allowed, Path("m.onnx"))
    assert "\n" not in str(caught.value)


def test_sizes_may_be_worked_out_on_the_cpu() -> None:
    counts = {CUDA: {"Conv": 3}, CPU: {"Shape": 1, "Gather": 2}}
    refuse_other_places(counts, CUDA, "shapes", Path("m.onnx"))
    refuse_other_places({CUDA: {"Conv": 3}, CPU: {"Softmax": 1}}, CUDA, "any", Path("m.onnx"))


@pytest.mark.parametrize(
    ("asked", "tells", "strict"),
    [("none", True, "1"), ("shapes", True, "0"), ("shapes", False, "1"), ("any", False, "0")],
)
def test_a_build_that_cannot_tell_gets_no_cpu_nodes(
    monkeypatch: pytest.MonkeyPatch, asked: str, tells: bool, strict: str
) -> None:
    if not tells:
        monkeypatch.setattr(onnxruntime, "InferenceSession", object)
    made = session_options(onnxruntime, SessionOptions(settings={"cpu_nodes": asked}), on_cpu=False)
    assert made.get_session_config_entry("session.disable_cpu_ep_fallback") == strict
    assert made.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"


def test_the_refusal_of_onnx_runtime_itself_is_told(
    digits_onnx: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])

    def refuses(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("fallback to CPU EP has been explicitly disabled by the user")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuses)
    with pytest.raises(TargetUnavailableError, match=r"cannot run every node of .*cpu_nodes=any"):
        OnnxRuntime().open(digits_onnx.path, SessionOptions(device="cuda"))


@pytest.mark.parametrize(
    ("device", "provider", "preloads"),
    [("cuda", "", True), ("cuda", "tensorrt", True), ("cpu", "", False), ("npu", "qnn", False)],
)
def test_cuda_libraries_of_wheels_are_loaded_before_the_session(
    digits_onnx: Artifact, monkeypatch: pytest.MonkeyPatch, device: str, provider: str, preloads: bool
) -> None:
    log: list[str] = []

    class SessionMadeError(RuntimeError): ...

    def session(*args: Any, **kwargs: Any) -> Any:
        log.append("session")
        raise SessionMadeError("made")

    everything = [CUDA, TENSORRT, "QNNExecutionProvider", CPU]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: everything)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: log.append("libraries"), raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(ModelError, match="made"):
        OnnxRuntime().open(digits_onnx.path, SessionOptions(device=device, provider=provider))
    assert log == (["libraries"] if preloads else []) + ["session"]
    providers.preload_libraries(SimpleNamespace())  # before 1.21


def test_a_provider_that_registers_with_its_libraries_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    present = [CPU]

    def preload() -> None:
        print("Failed to load libnvrtc.so")
        present.insert(0, CUDA)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(present))
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
    assert OnnxRuntime().unavailable("cpu", "") == "" and present == [CPU]
    assert OnnxRuntime().unavailable("cuda", "") == ""
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "Failed to load libnvrtc.so\n")


def test_an_option_that_was_taken_otherwise_is_refused() -> None:
    session = SimpleNamespace(get_provider_options=lambda: {CUDA: {"use_tf32": "1", "gpu_mem_limit": "9"}})
    with pytest.raises(TargetUnavailableError, match="has use_tf32 = 1, 0 was asked for"):
        providers.refuse_other_options(session, CUDA, {"use_tf32": "0"})
    found = providers.refuse_other_options(session, CUDA, {"use_tf32": "1"})
    assert found == {"use_tf32": "1", "gpu_mem_limit": "9"}


def test_nodes_are_counted_by_provider(digits_onnx: Artifact) -> None:
    if not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"):
        pytest.skip(f"onnxruntime {onnxruntime.__version__} does not tell who took a node (1.24 does)")
    made = session_options(onnxruntime, SessionOptions(), on_cpu=False)
    session = onnxruntime.InferenceSession(str(digits_onnx.path), made, providers=[CPU])
    counts = providers.count_nodes(session)
    assert counts is not None
    assert list(counts) == [CPU]
    assert sum(counts[CPU].values()) > 3
    assert providers.count_nodes(SimpleNamespace()) is None


# --- CUDA, as far as it can be seen without one


class _Binding:
    def __init__(self) -> None:
        self.outputs: list[tuple[str, str, int]] = []

    def bind_ortvalue_input(self, name: str, value: Any) -> None: ...

    def bind_output(self, name: str, device: str, number: int) -> None:
        self.outputs.append((name, device, number))


def test_outputs_stay_on_the_device_and_each_binding_has_a_graph_of_its_own(
    digits_onnx: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OnnxRuntime().open(digits_onnx.path, SessionOptions())
    placement = SimpleNamespace(device="cuda", detail={"cuda_graph": True})
    bindings: list[_Binding] = []
    ran: list[str] = []

    def binding() -> _Binding:
        bindings.append(_Binding())
        return bindings[-1]

    fake = SimpleNamespace(
        get_inputs=real._session.get_inputs, get_outputs=real._session.get_outputs, io_binding=binding,
        run_with_iobinding=lambda b, o: ran.append(o.get_run_config_entry("gpu_graph_id")),
        run=lambda names, feeds, o: ran.append(o.get_run_config_entry("gpu_graph_id")) or [np.zeros((1, 10))],
    )  # fmt: skip
    monkeypatch.setattr(
        onnxruntime.OrtValue, "ortvalue_from_numpy", lambda array, device, number: (device, number)
    )
    session = OnnxSession(digits_onnx.path, fake, placement)  # type: ignore[arg-type]
    feeds = draw_feeds(session.inputs, seed=0, shapes={})
    calls = [session.bind(feeds), session.bind(feeds)]
    assert all(isinstance(c, BoundCall) for c in calls)
    for call in (*calls, calls[0]):
        call()
    session.run(feeds)
    assert bindings[0].outputs == [("logits", "cuda", 0)]
    assert ran == ["1", "2", "1", "-1"]


# --- place


def test_place_tells_provider_precision_and_time(digits_onnx: Artifact, tmp_path: Path) -> None:
    runtime = OnnxRuntime()
    assert isinstance(runtime, PlacingRuntime)
    feeds = draw_feeds(digits_onnx.inputs, seed=0, shapes={}, batch=4)
    int8 = OnnxExporter().quantize(digits_onnx, QuantConfig(examples=4), [feeds], tmp_path)
    plain = runtime.place(digits_onnx.path, SessionOptions(), feeds)
    assert {op.place for op in plain} == {CPU}
    assert {op.dtype for op in plain if "Conv" in op.op_type} == {"float32"}
    assert all(op.time_ns is not None and op.time_ns >= 0 for op in plain)
    types = [op.op_type for op in plain]
    assert next(i for i, t in enumerate(types) if "Conv" in t) < types.index("Gemm")
    fast = runtime.place(int8.path, SessionOptions(), feeds)
    assert {op.dtype for op in fast if op.op_type == "QLinearConv"} == {"int8"}
    plainly = runtime.place(int8.path, SessionOptions(settings={"graph_level": "disable"}), feeds)
    for ops, computing in ((plain, "float32"), (fast, "int8"), (plainly, "float32")):
        assert {op.dtype for op in ops if op.op_type.endswith("Conv")} == {computing}
        assert {
            op.dtype for op in ops if op.op_type in ("QuantizeLinear", "DequantizeLinear", "Flatten")
        } <= {""}
    assert "int8" not in {op.dtype for op in plainly}


def test_placed_ops_from_events() -> None:
    def event(name: str, ts: int, dur: int = 1, **args: Any) -> dict[str, Any]:
        return {"ph": "X", "cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": args}

    def run(ts: int) -> dict[str, Any]:
        return {"ph": "X", "cat": "Session", "name": "model_run", "ts": ts, "dur": 50}

    out = [{"float16": [1]}]
    events = [
        run(0), event("cold", 1, op_name="Conv", provider=CPU),
        run(100), event("b", 120, 9, op_name="MatMul", provider=CUDA, output_type_shape=out),
        event("a", 110, 5, op_name="MatMulInteger", provider=CPU, output_type_shape=[{"int32": [1]}]),
        event("q", 130, 1, op_name="QuantizeLinear", provider=CPU, output_type_shape=[{"uint8": [1]}]),
        event("none", 140, 1, op_name="Odd", provider=CPU),
    ]  # fmt: skip
    found = placed_ops(events, Path("m.onnx"))
    assert [(o.name, o.place, o.dtype, o.time_ns) for o in found] == [
        ("a", CPU, "int8", 5000.0), ("b", CUDA, "float16", 9000.0), ("q", CPU, "", 1000.0), ("none", CPU, "", 1000.0),
    ]  # fmt: skip
