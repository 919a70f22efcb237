"""Timing by device events: what is enqueued in which order, on made-up devices; and the race on one, end to end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from measure.fake_gpu_runtime import FakeCall, FakeDevice, FakeEvents, FakeSession

from edgekd.artifact import Artifact
from edgekd.child import Limits
from edgekd.errors import ChildError, TargetUnavailableError
from edgekd.evaluate import EvaluationRequest, evaluation
from edgekd.evidence import load_measurement, save_measurement
from edgekd.evidence.measurement import BASELINE, CANDIDATE, Measurement
from edgekd.gates.quantiles import calls_by_restart
from edgekd.measure import Protocol, Setting, arms_of, interleave, measure
from edgekd.measure.device_events import (
    DeviceTiming,
    EventSource,
    device_timing,
    flush_bytes,
    input_sets,
    replays_for,
    time_cold,
    time_warm,
)
from edgekd.measure.device_queue import Hold
from edgekd.measure.operations import time_calls
from edgekd.measure.placing import place_artifact
from edgekd.spec import TensorSpec
from edgekd.target import parse_target
from edgekd.tasks import TaskSpec

FEEDS = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}


def unheld(source: EventSource) -> Hold:
    return Hold(source, 5, lambda: 0)


def test_a_warm_pair_holds_its_calls_and_nothing_else() -> None:
    device = FakeDevice(call_ns=100)
    source = FakeEvents(device)
    samples = time_warm(FakeCall(device, FEEDS), source, 2, 3, unheld(source))
    assert samples.ns == [100, 100]
    one = ["launch", "record", "launch", "launch", "launch", "record", "wait"]
    assert device.log == one * 2, "the queue is busy before the first record"


def test_a_cold_pair_leaves_the_flush_outside_and_goes_through_the_sets() -> None:
    device = FakeDevice(call_ns=100)
    calls = [FakeCall(device, FEEDS), FakeCall(device, FEEDS)]
    launched: list[int] = []
    for i, call in enumerate(calls):
        call.launch = lambda i=i: (launched.append(i), device.work("launch", 100 + i))  # type: ignore[method-assign]
    source = FakeEvents(device)
    assert time_cold(calls, source, 3, 1 << 28, unheld(source)).ns == [100, 101, 100]
    assert launched == [0, 1, 0]
    assert device.log == ["flush", "record", "launch", "record", "wait"] * 3


@pytest.mark.parametrize(
    ("call_ns", "launch_ns", "host_bound"), [(36_000.0, 72_000.0, True), (400_000.0, 72_000.0, False)]
)
@pytest.mark.parametrize("nbytes", [1 << 20, 1 << 28])
def test_no_sample_holds_launches_whether_the_host_or_the_device_is_slower(
    call_ns: float, launch_ns: float, host_bound: bool, nbytes: int
) -> None:
    device = FakeDevice(call_ns, launch_ns, kernels=12)
    source, call = FakeEvents(device), FakeCall(device, FEEDS)
    timing = DeviceTiming([call], source, nbytes, 1, clock=device.clock)
    _, found = timing.warm_up(0.0, 5.0)
    assert found == call_ns
    timing.block_calls = 3
    reply, arrays = timing.block(lambda run, count: [1] * count)
    taken = {name: a.tolist() for name, a in zip(reply["columns"], arrays, strict=True)}
    assert taken["device"] == taken["cold"] == [call_ns] * 3
    assert taken["enqueue"] == [launch_ns] * 3
    assert timing.use() == {
        "device_ns": call_ns, "enqueue_ns": launch_ns, "host_bound": host_bound,
        "samples": 3, "late": 0, "late_cold": 0,
    }  # fmt: skip
    # The hold is what does it: without, a call that the host enqueues slowly is timed with its launches.
    bare = time_warm(call, source, 3, timing.replays, Hold(source, 5, device.clock))
    assert (max(bare.ns) > 1.9 * call_ns) is host_bound
    assert (bare.late == 3) is host_bound


def test_a_hold_that_cannot_outlast_the_host_is_counted_as_late() -> None:
    device = FakeDevice(call_ns=36_000, launch_ns=30e6, kernels=12)
    source, call = FakeEvents(device), FakeCall(device, FEEDS)
    timing = DeviceTiming([call], source, 1 << 28, 1, block_calls=2, clock=device.clock)
    timing.hold.calibrate(call)
    assert timing.hold.copies(2) == 256, "the queue is left to what is timed"
    timing.block(lambda run, count: [1] * count)
    assert timing.use()["host_bound"] is True
    assert (timing.use()["late"], timing.use()["late_cold"]) == (2, 2)


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
    assert reply["columns"] == ["device", "enqueue", "cold", "wall"]
    assert arrays[0].tolist() == arrays[2].tolist() == [10_000] * 3
    assert min(arrays[3]) > 0


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
    for kind in ("blocks", "cold_blocks", "wall_blocks", "enqueue_blocks"):
        mine, other = getattr(restart, kind), getattr(again.restarts[0], kind)
        assert {k: [b.tolist() for b in v] for k, v in mine.items()} == {
            k: [b.tolist() for b in v] for k, v in other.items()
        }
    # Means of several calls have no percentiles: those are of single calls by the host's clock.
    wall = np.concatenate(restart.wall_blocks[BASELINE])
    np.testing.assert_array_equal(found.calls_ns(BASELINE), wall)
    np.testing.assert_array_equal(calls_by_restart(found, BASELINE)[0], wall)


def test_arms_that_run_one_at_a_time_share_the_greatest_number_of_calls_too(artifact: Artifact) -> None:
    arms = arms_of(("a", artifact, FEEDS), [("b", artifact, FEEDS)])
    arms = [replace(a, settings={"call_ns": 20_000 if a.name == CANDIDATE else 60_000}) for a in arms]
    found = measure(arms, SETTING, inputs={}, protocol=QUICK, one_at_a_time=True)
    restart = found.restarts[0]
    assert found.environment["together"] is False
    assert {w["device"]["replays"] for w in restart.warmup.values()} == {25}


def test_an_arm_whose_host_is_the_slower_one_is_named(artifact: Artifact) -> None:
    # By this process's clock a fake launch takes microseconds: less than 60 ms, more than a nanosecond.
    found = race(artifact, rest={"call_ns": 60e6}, candidate={"call_ns": 1})
    assert found.environment["host_bound"] == [CANDIDATE]
    children = found.restarts[0].children
    assert [children[name]["on_device"]["host_bound"] for name in (BASELINE, CANDIDATE)] == [False, True]
    assert found.restarts[0].ledger["timed_by"] == "device events"
    assert len(found.restarts[0].enqueue_blocks[CANDIDATE][0]) == len(found.restarts[0].blocks[CANDIDATE][0])


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


def test_no_child_of_a_cuda_target_has_its_address_space_limited(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SETTING's limit of 1 MiB ends every child that it is set for.
    found = place_artifact("a", artifact, FEEDS, SETTING)
    assert found.problem == "fake 1 does not tell where operators ran"
    given: list[Limits] = []

    def stop(purpose: str, limits: Limits, search: object) -> None:
        given.append(limits)
        raise ChildError("stopped here", "go on")

    monkeypatch.setattr(evaluation, "ChildProcess", stop)
    for target in ("cuda:fake", "cpu:fake"):
        request = EvaluationRequest(
            label="a", artifact=artifact, target=parse_target(target), runtime_paths=SETTING.runtime_paths,
            task=TaskSpec(data={"test": "test.npz"}), split="test", data_digest="",
            memory_bytes=1 << 20,
        )  # fmt: skip
        with pytest.raises(ChildError, match="stopped here"):
            evaluation.evaluate(request)
    assert [limits.memory_bytes for limits in given] == [None, 1 << 20]


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
