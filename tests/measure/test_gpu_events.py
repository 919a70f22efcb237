"""Timing by device events: what is enqueued in which order, on made-up devices; and the race on one, end to end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from measure.fake_gpu_runtime import FakeCall, FakeDevice, FakeEvents, FakeSession

from edgekd.artifact import Artifact
from edgekd.errors import MissingDependencyError, TargetUnavailableError
from edgekd.evidence import load_measurement, save_measurement
from edgekd.evidence.measurement import BASELINE, CANDIDATE, Measurement
from edgekd.gates.quantiles import calls_by_restart
from edgekd.measure import Protocol, Setting, arms_of, gpu_events, interleave, measure
from edgekd.measure.device_events import (
    device_timing,
    flush_bytes,
    input_sets,
    replays_for,
    time_cold,
    time_warm,
)
from edgekd.measure.operations import time_calls
from edgekd.spec import TensorSpec
from edgekd.target import parse_target

FEEDS = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}


def test_a_warm_pair_holds_its_calls_and_nothing_else() -> None:
    device = FakeDevice(call_ns=100)
    samples = time_warm(FakeCall(device, FEEDS), FakeEvents(device), 2, replays=3)
    assert samples == [100, 100]
    one = ["launch", "record", "launch", "launch", "launch", "record", "wait"]
    assert device.log == one * 2, "the queue is busy before the first record"


def test_a_cold_pair_leaves_the_flush_outside_and_goes_through_the_sets() -> None:
    device = FakeDevice(call_ns=100)
    calls = [FakeCall(device, FEEDS), FakeCall(device, FEEDS)]
    launched: list[int] = []
    for i, call in enumerate(calls):
        call.launch = lambda i=i: (launched.append(i), device.work("launch", 100 + i))  # type: ignore[method-assign]
    assert time_cold(calls, FakeEvents(device), 3, 1 << 28) == [100, 101, 100]
    assert launched == [0, 1, 0]
    assert device.log == ["flush", "record", "launch", "record", "wait"] * 3


def test_short_calls_share_a_pair_and_long_ones_do_not() -> None:
    assert replays_for(50_000) == 1
    assert replays_for(49_999) == 11
    assert flush_bytes(50 << 20) == 256 << 20
    assert flush_bytes(100 << 20) == 400 << 20


def test_input_sets_differ_in_floats_and_keep_ids() -> None:
    feeds = {"x": FEEDS["x"], "ids": np.arange(4)}
    sets = input_sets(feeds, 1 << 20)
    assert len(sets) == 4
    assert sets[0]["x"] is feeds["x"]
    assert len({s["x"].tobytes() for s in sets}) == 4
    assert all(np.array_equal(s["ids"], feeds["ids"]) for s in sets)
    assert len(input_sets({"x": np.zeros(1 << 20, np.float32)}, 1 << 20)) == 2


def test_warm_up_fixes_the_replays_and_a_block_has_three_columns() -> None:
    session = FakeSession({"call_ns": 10_000}, threads=1)
    timing = device_timing(session, session.bind(FEEDS), FEEDS, lambda: FakeEvents(session.device))
    assert timing is not None
    warmed, call_ns = timing.warm_up(0.0, 5.0)
    assert (call_ns, warmed["steady"]) == (10_000, True)
    assert warmed["device"]["replays"] == 50
    assert warmed["device"]["input_sets"] == 4
    assert warmed["device"]["input_sets_exceed_cache"] is False
    timing.block_calls = 3
    reply, arrays = timing.block(time_calls)
    assert reply["columns"] == ["device", "cold", "wall"]
    assert [a.tolist() for a in arrays[:2]] == [[10_000] * 3] * 2
    assert min(arrays[2]) > 0


def test_a_device_that_slows_down_is_not_steady_before_the_cap() -> None:
    device = FakeDevice(call_ns=1000)
    session = SimpleNamespace(
        inputs=(TensorSpec(name="x", dtype="float32", shape=(2, 4)),),
        placement=SimpleNamespace(device="cuda"),
        bind=lambda feeds: FakeCall(device, feeds),
    )
    timing = device_timing(session, FakeCall(device, FEEDS), FEEDS, lambda: FakeEvents(device))  # type: ignore[arg-type]
    assert timing is not None
    plain = FakeCall.launch

    def slower(call: FakeCall) -> None:
        device.call_ns *= 1.01
        plain(call)

    timing.calls[0].launch = lambda: slower(timing.calls[0])  # type: ignore[method-assign, arg-type]
    warmed, _ = timing.warm_up(0.0, 0.02)
    assert warmed["steady"] is False


# --- torch.cuda and cuda.bindings, made up ------------------------------------------------------------------------


class _Event:
    def __init__(self, log: list[Any], enable_timing: bool) -> None:
        assert enable_timing
        self.log = log

    def record(self, stream: Any) -> None:
        self.log.append(("record", stream))

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def elapsed_time(self, end: Any) -> float:
        return 0.25


class _Entered:
    def __init__(self, log: list[Any], stream: Any) -> None:
        self.log, self.stream = log, stream

    def __enter__(self) -> None:
        self.log.append(("enter", self.stream))

    def __exit__(self, *_: object) -> None:
        self.log.append(("leave", self.stream))


class _Buffer:
    def __init__(self, log: list[Any], size: int) -> None:
        self.log, self.size = log, size

    def numel(self) -> int:
        return self.size

    def zero_(self) -> None:
        self.log.append(("zero", self.size))


def fake_torch(log: list[Any], *, full: bool = False) -> Any:
    class OutOfMemoryError(RuntimeError):
        pass

    def empty(size: int, dtype: Any, device: str) -> _Buffer:
        if full:
            raise OutOfMemoryError("CUDA out of memory")
        return _Buffer(log, size)

    cuda = SimpleNamespace(
        is_available=lambda: True,
        Event=lambda enable_timing: _Event(log, enable_timing),
        ExternalStream=lambda n: f"stream {n}",
        default_stream=lambda: "default stream",
        stream=lambda s: _Entered(log, s),
        get_device_properties=lambda i: SimpleNamespace(L2_cache_size=60 << 20),
        get_device_name=lambda i: "A GPU",
    )
    return SimpleNamespace(cuda=cuda, empty=empty, int8="int8", OutOfMemoryError=OutOfMemoryError)


def test_torch_s_events_go_on_the_call_s_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[Any] = []
    monkeypatch.setitem(sys.modules, "torch", fake_torch(log))
    source = gpu_events.event_source()
    assert source.name == "torch.cuda.Event"
    call = SimpleNamespace(stream=9, launch=lambda: log.append("launch"))
    assert time_cold([call], source, 1, 100) == [250_000]  # type: ignore[list-item]
    assert log == [
        ("enter", "stream 9"), ("zero", 100), ("leave", "stream 9"),
        ("record", "stream 9"), "launch", ("record", "stream 9"), "synchronize",
    ]  # fmt: skip
    source.record(source.event(), 0)
    assert log[-1] == ("record", "default stream")
    assert source.cache_bytes() == 60 << 20


def test_a_torch_without_cuda_is_no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    blind = fake_torch([])
    blind.cuda.is_available, blind.__version__ = lambda: False, "2.0"
    monkeypatch.setitem(sys.modules, "torch", blind)
    with pytest.raises(MissingDependencyError, match=r"torch 2\.0 does not; pip install cuda-python"):
        gpu_events.event_source()


def test_no_room_for_the_flush_names_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch([], full=True))
    with pytest.raises(TargetUnavailableError, match="out of device memory: A GPU has no 256 MiB") as e:
        gpu_events.TorchEvents().flush(1, 256 << 20)
    assert "\n" not in str(e.value)


def fake_cuda(log: list[Any], error: int = 0) -> Any:
    def call(name: str, *made: Any) -> Callable[..., Any]:
        def ask(*args: Any) -> tuple[Any, ...]:
            log.append((name, *args))
            return (error, *made)

        return ask

    return SimpleNamespace(
        cudaEventCreate=call("create", "event"),
        cudaEventRecord=call("record"),
        cudaEventSynchronize=call("synchronize"),
        cudaEventElapsedTime=call("elapsed", 0.5),
        cudaDeviceGetAttribute=call("attribute", 50 << 20),
        cudaMalloc=call("malloc", 0xABC),
        cudaMemsetAsync=call("memset"),
        cudaDeviceAttr=SimpleNamespace(cudaDevAttrL2CacheSize="L2"),
    )


def test_without_torch_loaded_the_events_are_cuda_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[Any] = []
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake_cuda(log))
    source = gpu_events.event_source()
    call = SimpleNamespace(stream=9, launch=lambda: log.append("launch"))
    assert time_cold([call], source, 1, 100) == [500_000]  # type: ignore[list-item]
    assert log[2:] == [
        ("malloc", 100), ("memset", 0xABC, 0, 100, 9),
        ("record", "event", 9), "launch", ("record", "event", 9),
        ("synchronize", "event"), ("elapsed", "event", "event"),
    ]  # fmt: skip
    source.flush(9, 100)
    assert log[-1][0] == "memset", "the buffer is made once"
    assert source.cache_bytes() == source.cache_bytes() == 50 << 20
    assert sum(entry[0] == "attribute" for entry in log) == 1


def test_an_error_of_cuda_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake_cuda([], error=700))
    with pytest.raises(TargetUnavailableError, match="cudaEventCreate failed with CUDA error 700"):
        gpu_events.CudaEvents().event()
    with pytest.raises(TargetUnavailableError, match="the CUDA device has no 1 MiB left"):
        gpu_events.CudaEvents().flush(0, 1 << 20)


def test_without_any_library_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)

    def missing(module: str, **_: str) -> Any:
        raise MissingDependencyError(f"no {module}", "elsewhere")

    monkeypatch.setattr(gpu_events, "require", missing)
    with pytest.raises(MissingDependencyError, match=r"no cuda\.bindings\.runtime; pip install cuda-python"):
        gpu_events.event_source()


# --- the race, in children ------------------------------------------------------------------------------------------


QUICK = Protocol(
    min_restarts=1,
    max_restarts=1,
    rounds=2,
    block_ms=1.0,
    warm_s=0.0,
    warm_calls=1,
    warm_cap_s=0.3,
    min_block_calls=2,
)
SETTING = Setting(
    target=parse_target("cuda:fake"),
    runtime_paths={"onnx": "measure.fake_gpu_runtime:FakeGpuRuntime"},
    timeout_s=60,
    memory_bytes=1 << 20,  # CUDA reserves address space: no limit is set
    search=(Path(__file__).parent.parent,),
)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("fake")
    (folder / "model.onnx").write_bytes(b"nothing")
    return Artifact(
        folder=folder, entry="model.onnx", format="onnx", dtype="float32", files=(),
        inputs=FakeSession.inputs, outputs=FakeSession.outputs,
    )  # fmt: skip


def race(artifact: Artifact, protocol: Protocol = QUICK, **settings: dict[str, Any]) -> Measurement:
    arms = arms_of(("a", artifact, FEEDS), [("b", artifact, FEEDS)])
    arms = [replace(a, settings=settings.get(a.name, settings["rest"])) for a in arms]
    return measure(arms, SETTING, inputs={}, protocol=protocol)


def test_blocks_are_event_times_with_cold_and_wall_beside(artifact: Artifact, tmp_path: Path) -> None:
    found = race(artifact, rest={"call_ns": 60_000}, candidate={"call_ns": 20_000})
    restart = found.restarts[0]
    assert {int(b.min()) for b in restart.blocks[BASELINE]} == {60_000}
    assert {int(b.min()) for b in restart.cold_blocks[CANDIDATE]} == {20_000}
    assert restart.cpu_blocks == {}
    assert found.environment["clock"] == "fake events"
    assert {w["device"]["replays"] for w in restart.warmup.values()} == {25}, "all share the greatest"
    save_measurement(found, tmp_path / "measurement.json")
    again = load_measurement(tmp_path / "measurement.json")
    for kind in ("blocks", "cold_blocks", "wall_blocks"):
        mine, other = getattr(restart, kind), getattr(again.restarts[0], kind)
        assert {k: [b.tolist() for b in v] for k, v in mine.items()} == {
            k: [b.tolist() for b in v] for k, v in other.items()
        }
    # Means of several calls have no percentiles: those are of single calls by the host's clock.
    wall = np.concatenate(restart.wall_blocks[BASELINE])
    np.testing.assert_array_equal(found.calls_ns(BASELINE), wall)
    np.testing.assert_array_equal(calls_by_restart(found, BASELINE)[0], wall)


def test_an_arm_without_events_puts_all_on_the_host_s_clock(artifact: Artifact) -> None:
    found = race(artifact, rest={"call_ns": 60_000}, candidate={"waits": True})
    restart = found.restarts[0]
    assert found.environment["clock"] == "wall"
    assert (
        found.environment["clock_reason"]
        == "candidate: fake 1 does not enqueue a call without waiting for it"
    )
    assert set(restart.blocks) == set(found.arms)
    assert 60_000 not in {int(b.min()) for b in restart.blocks[BASELINE]}
    assert restart.cold_blocks == restart.wall_blocks == {}


def test_a_gpu_that_cannot_be_asked_is_said_and_blocks_nothing(artifact: Artifact) -> None:
    ledger = race(artifact, rest={}).restarts[0].ledger
    assert ledger["gpu"]["sm_mhz"] is None
    assert ledger["gpu"]["unavailable"]["reason"]
    assert "gpu.sm_mhz" in ledger["absent"]


def test_a_throttled_gpu_makes_the_restart_be_drawn_again(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter([{"HW slowdown": 0.5}, {}])
    owned: list[set[int]] = []

    class Watch:
        def begin(self, own: set[int]) -> None:
            owned.append(own)
            self.entries = {"throttled": next(shares), "sm_mhz": 1980.0}

        def end(self) -> dict[str, Any]:
            return self.entries

    monkeypatch.setattr(interleave, "watch_for", lambda device: Watch())
    found = race(artifact, rest={})
    assert found.redrawn == ("the GPU was throttled (HW slowdown)",)
    assert found.restarts[0].ledger["gpu"] == {"throttled": {}, "sm_mhz": 1980.0}
    assert len(owned[0]) >= 3


def test_a_full_device_is_one_line_with_its_name(artifact: Artifact) -> None:
    with pytest.raises(
        TargetUnavailableError, match="out of device memory: A GPU has too little; use a smaller"
    ):
        race(artifact, rest={"full": True})
