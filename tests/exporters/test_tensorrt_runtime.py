"""The runtime under the contract double: what is refused before a plan's code is loaded, and how a call is run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fixtures_tensorrt_cuda as cuda_double
import numpy as np
import onnx
import pytest
from fixtures_tensorrt import VERSIONS, read_log
from fixtures_tensorrt_place import Place, make_place
from onnx import TensorProto, helper

from edgekd.artifact import Artifact
from edgekd.errors import DataError, ModelError, TargetUnavailableError, UsageError
from edgekd.placement import PlacingRuntime
from edgekd.target import SessionOptions
from edgekd.testing import check_runtime
from edgekd.workload import ProfilingRuntime
from edgekd_onnx.exporter import OnnxExporter
from edgekd_tensorrt.exporter import TensorRtExporter
from edgekd_tensorrt.runtime import TensorRtRuntime

CUDA = SessionOptions(device="cuda")


@pytest.fixture(scope="module", params=VERSIONS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    yield from make_place(tmp_path_factory.mktemp("place"), request.param)


@pytest.fixture(scope="module")
def engine(place: Place, digits_onnx: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """One engine of the double, built once per version."""
    return TensorRtExporter().convert(digits_onnx, tmp_path_factory.mktemp("engine"), {})


@pytest.fixture(autouse=True)
def _sound(place: Place) -> Iterator[None]:
    yield
    place.fault()
    place.gpu("Double GPU", "9.0")
    place.use(place.version)


def feeds_of(artifact: Artifact, batch: int) -> dict[str, Any]:
    (spec,) = artifact.inputs
    rng = np.random.default_rng(batch)
    shape = (batch, *(int(d) for d in spec.shape[1:]))
    return {spec.name: rng.standard_normal(shape).astype(spec.dtype)}


def test_the_conformance_suite(engine: Artifact, tmp_path: Path) -> None:
    runtime = TensorRtRuntime()
    check_runtime(runtime, engine.path, tmp_path, device="cuda")
    assert isinstance(runtime, PlacingRuntime) and isinstance(runtime, ProfilingRuntime)


def test_nothing_is_left_on_the_device(engine: Artifact) -> None:
    before = len(cuda_memory())
    session = TensorRtRuntime().open(engine.path, CUDA)
    session.run(feeds_of(engine, 3))
    bound = session.bind(feeds_of(engine, 2))
    bound()
    assert len(cuda_memory()) > before
    session.close()
    assert len(cuda_memory()) == before


def cuda_memory() -> dict[int, Any]:
    return cuda_double.MEMORY


def test_a_bound_call_is_a_graph_on_a_stream_of_its_own(place: Place, engine: Artifact) -> None:
    session = TensorRtRuntime().open(engine.path, CUDA)
    fed = feeds_of(engine, 2)
    place.forget()
    bound = session.bind(fed)
    calls = place.calls()
    ran = [i for i, c in enumerate(calls) if c == "IExecutionContext.execute_async_v3"]
    assert len(ran) == 2 and ran[0] < calls.index("cudaStreamBeginCapture") < ran[1] < calls.index(
        "cudaStreamEndCapture"
    )
    assert bound.captured and session.placement.detail["cuda_graph"] is True
    place.forget()
    bound()
    bound.launch(bound.stream)
    assert place.calls() == ["cudaGraphLaunch", "run", "cudaGraphLaunch", "run"]
    assert np.array_equal(bound.outputs()["logits"], session.run(fed)["logits"])
    session.close()


@pytest.mark.parametrize("asked", ["auto", "on", "off"])
def test_a_capture_that_fails_is_recorded_or_refused(place: Place, engine: Artifact, asked: str) -> None:
    session = TensorRtRuntime().open(
        engine.path, SessionOptions(device="cuda", settings={"cuda_graph": asked})
    )
    place.fault("capture")
    place.forget()
    if asked == "on":
        with pytest.raises(TargetUnavailableError, match="cudaErrorStreamCaptureInvalidated"):
            session.bind(feeds_of(engine, 1))
        session.close()
        return
    bound = session.bind(feeds_of(engine, 1))
    bound()
    # Left there, the error of the capture would be that of the next call.
    assert ("cudaGetLastError" in place.calls()) == (asked == "auto")
    assert not bound.captured and session.placement.detail["cuda_graph"] is False
    wanted = "cuda_graph=off" if asked == "off" else "cudaErrorStreamCaptureInvalidated"
    assert wanted in session.placement.detail["cuda_graph_reason"]
    session.close()


@pytest.mark.parametrize("fault", ["", "capture", "capture-refused", "capture-raises"])
def test_a_capture_leaves_no_graph_and_no_open_stream(place: Place, engine: Artifact, fault: str) -> None:
    session = TensorRtRuntime().open(engine.path, CUDA)
    if fault:
        place.fault(fault)
    if fault == "capture-raises":
        with pytest.raises(RuntimeError, match="planted"):
            session.bind(feeds_of(engine, 1))
    else:
        assert session.bind(feeds_of(engine, 1)).captured == (not fault)
    assert cuda_double.GRAPHS == {}
    assert cuda_double.CAPTURING == {}
    session.close()


def test_an_engine_of_another_version_is_named(place: Place, engine: Artifact) -> None:
    other = next(v for v in VERSIONS if v != place.version)
    place.use(other)
    place.forget()
    with pytest.raises(TargetUnavailableError, match=r"was built by TensorRT .* this is TensorRT") as e:
        TensorRtRuntime().open(engine.path, CUDA)
    assert e.value.exit_code == 4 and "build the engine here" in e.value.fix
    assert "Runtime()" not in place.calls()  # nothing of it was loaded


@pytest.mark.parametrize(("hardware", "sm", "opens"), [
    ("none", "9.0", False), ("same_compute_capability", "9.0", True), ("same_compute_capability", "8.9", False),
    ("ampere_plus", "8.6", True), ("ampere_plus", "7.5", False),
])  # fmt: skip
def test_an_engine_of_another_gpu(
    place: Place, engine: Artifact, tmp_path: Path, hardware: str, sm: str, opens: bool
) -> None:
    for file in engine.files:
        (tmp_path / file.path).write_bytes((engine.folder / file.path).read_bytes())
    record = json.loads((tmp_path / "model.plan.json").read_text())
    (tmp_path / "model.plan.json").write_text(json.dumps({**record, "hardware": hardware}))
    place.gpu("Another GPU", sm)
    place.forget()
    if opens:
        TensorRtRuntime().open(tmp_path / "model.plan", CUDA).close()
        return
    with pytest.raises(TargetUnavailableError, match=r"built on Double GPU \(SM 9.0"):
        TensorRtRuntime().open(tmp_path / "model.plan", CUDA)
    assert "Runtime()" not in place.calls()


def test_version_compatible_plans_run_on_newer_ones_only(
    place: Place, engine: Artifact, tmp_path: Path
) -> None:
    for file in engine.files:
        (tmp_path / file.path).write_bytes((engine.folder / file.path).read_bytes())
    record = json.loads((tmp_path / "model.plan.json").read_text())
    (tmp_path / "model.plan.json").write_text(json.dumps({**record, "version_compatible": True}))
    place.use(next(v for v in VERSIONS if v != place.version))
    if place.version == "10.16":
        TensorRtRuntime().open(tmp_path / "model.plan", CUDA).close()
        return
    with pytest.raises(TargetUnavailableError, match=r"was built by TensorRT 11\.4"):
        TensorRtRuntime().open(tmp_path / "model.plan", CUDA)


def test_code_that_nobody_vouches_for_is_not_loaded(place: Place, engine: Artifact, tmp_path: Path) -> None:
    plan = tmp_path / "model.plan"
    plan.write_bytes(engine.path.read_bytes())
    place.forget()
    with pytest.raises(ModelError, match=r"native code of TensorRT .*no record names its SHA-256"):
        TensorRtRuntime().open(plan, CUDA)
    (tmp_path / "model.plan.json").write_bytes((engine.folder / "model.plan.json").read_bytes())
    plan.write_bytes(engine.path.read_bytes() + b"x")
    with pytest.raises(ModelError, match="was altered or swapped"):
        TensorRtRuntime().open(plan, CUDA)
    assert place.calls() == []


def test_a_plan_that_brings_its_own_runtime_is_asked_for(
    place: Place, engine: Artifact, tmp_path: Path
) -> None:
    for file in engine.files:
        (tmp_path / file.path).write_bytes((engine.folder / file.path).read_bytes())
    record = json.loads((tmp_path / "model.plan.json").read_text())
    (tmp_path / "model.plan.json").write_text(json.dumps({**record, "lean_runtime": True}))
    with pytest.raises(TargetUnavailableError, match="host_code=true"):
        TensorRtRuntime().open(tmp_path / "model.plan", CUDA)
    place.forget()
    allowed = SessionOptions(device="cuda", settings={"host_code": True})
    TensorRtRuntime().open(tmp_path / "model.plan", allowed).close()
    calls = place.calls()
    assert calls.index("Runtime.engine_host_code_allowed=") < calls.index("Runtime.deserialize_cuda_engine")


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("load", ModelError, "Serialization"),
        ("builder", TargetUnavailableError, "could not make a runtime"),
        ("no-gpu", TargetUnavailableError, "cudaErrorNoDevice"),
    ],
)
def test_an_engine_that_does_not_open(
    place: Place, engine: Artifact, fault: str, error: type[Exception], words: str
) -> None:
    place.fault(fault)
    with pytest.raises(error, match=words):
        TensorRtRuntime().open(engine.path, CUDA)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("input-shape", DataError, "refuses .* for input"),
        ("execute", ModelError, "cudaErrorIllegalAddress"),
        ("infer", ModelError, "'x' is not set"),
        ("oom", ModelError, "Double GPU is out of memory.*1 of 81920 MiB are free"),
        ("context", ModelError, "no memory for a context"),
    ],
)
def test_a_run_that_fails(
    place: Place, engine: Artifact, fault: str, error: type[Exception], words: str
) -> None:
    session = TensorRtRuntime().open(engine.path, CUDA)
    place.fault(fault)
    for call in (session.run, session.bind):
        with pytest.raises(error, match=words):
            call(feeds_of(engine, 1))
    session.close()
    with pytest.raises(ModelError, match="closed"):
        session.run(feeds_of(engine, 1))


def test_sizes_that_no_profile_takes(engine: Artifact) -> None:
    session = TensorRtRuntime().open(engine.path, CUDA)
    with pytest.raises(DataError, match="no profile of the engine takes it"):
        session.run(feeds_of(engine, 65))
    session.close()


def test_layers_are_placed_with_their_types(engine: Artifact) -> None:
    placed = TensorRtRuntime().place(engine.path, CUDA, feeds_of(engine, 1))
    assert placed and {p.place for p in placed} == {"TensorRT"} and {p.dtype for p in placed} == {"float32"}
    assert all(p.sources for p in placed)


def test_layers_are_timed_in_a_run_of_their_own(place: Place, engine: Artifact) -> None:
    place.forget()
    profile = TensorRtRuntime().profile(engine.path, CUDA, feeds_of(engine, 1), calls=3, warm_up=2)
    assert profile.calls == 3 and {n.ns_per_call for n in profile.nodes} == {250_000.0}
    assert all(n.op for n in profile.nodes)
    log = [c for c, _ in read_log(place.log_path)]
    runs = [i for i, c in enumerate(log) if c == "IExecutionContext.execute_async_v3"]
    assert len(runs) == 5 and runs[1] < log.index("IExecutionContext.profiler=") < runs[2]
    assert log.count("IExecutionContext.report_to_profiler") == 3 and "cudaStreamBeginCapture" not in log
    place.fault("profiler")
    with pytest.raises(ModelError, match="reports no layer times"):
        TensorRtRuntime().profile(engine.path, CUDA, feeds_of(engine, 1), calls=1, warm_up=0)


@pytest.mark.parametrize(
    "settings", [{"graph": "on"}, {"cuda_graph": "yes"}, {"host_code": 1}, {"weight_budget_mib": -1}]
)
def test_settings_that_cannot_be(engine: Artifact, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        TensorRtRuntime().open(engine.path, SessionOptions(device="cuda", settings=settings))


def test_an_output_whose_size_depends_on_the_data(place: Place, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("NonZero", ["x"], ["y"], name="nonzero")], "found",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [6])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [1, "n"])],
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9),
        tmp_path / "model.onnx",
    )
    out = tmp_path / "out"
    out.mkdir()
    made = TensorRtExporter().convert(OnnxExporter().read(tmp_path / "model.onnx"), out, {})
    session = TensorRtRuntime().open(made.path, CUDA)
    for values in ([0, 1, 0, 2, 3, 0], [0] * 6, [1] * 6):
        got = session.run({"x": np.array(values, np.float32)})["y"]
        assert got.tolist() == [np.flatnonzero(values).tolist()]
    bound = session.bind({"x": np.array([0, 5, 0, 0, 0, 1], np.float32)})
    bound()
    assert bound.outputs()["y"].tolist() == [[1, 5]] and "depends on the data" in bound.reason
    session.close()


def test_a_device_or_provider_that_is_not() -> None:
    runtime = TensorRtRuntime()
    assert "use cuda:tensorrt" in runtime.unavailable("cpu", "")
    assert "no provider 'cuda'" in runtime.unavailable("cuda", "cuda")
