"""Children that die, hang, leak, fork or lie, and machines that step their clock or tell nothing."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekd.artifact import Artifact
from edgekd.errors import ChildError, TargetUnavailableError
from edgekd.evidence import Measurement
from edgekd.evidence.measurement import BASELINE, CANDIDATE, TWIN
from edgekd.gates.latency import judge_latency
from edgekd.measure import Protocol, Setting, arms_of, ledger, measure
from edgekd.target import parse_target
from edgekd.testing import write_fake

QUICK = Protocol(
    rounds=8, block_ms=0.5, block_calls=10, warm_s=0.005, warm_calls=20, warm_cap_s=0.05, max_restarts=4
)
SETTING = Setting(
    target=parse_target("cpu:fake"),
    runtime_paths={"fake": "faulty_runtime:FaultyRuntime"},
    timeout_s=2,
    search=(Path(__file__).parent,),
)


def model(folder: Path, fault: str = "") -> Artifact:
    folder.mkdir()
    made = write_fake(folder, latency_ns=(1_000_000,))
    value = json.loads(made.path.read_text())
    made.path.write_text(json.dumps({**value, "fault": fault}))
    return made


def race(tmp_path: Path, fault: str, setting: Setting = SETTING) -> Measurement:
    feeds = {"x": np.zeros((1, 4), np.float32)}
    arms = arms_of(("a", model(tmp_path / "a"), feeds), [("b", model(tmp_path / "b", fault), feeds)])
    return measure(arms, setting, inputs={}, protocol=QUICK)


@pytest.mark.parametrize(
    ("fault", "outcome", "words"),
    [
        ("die", "signal 6", "crashed with SIGABRT"),
        ("hang", "time-out", "did not answer within 2 s"),
        ("garbage in the pipe", "bad output", "garbage"),
    ],
)
def test_a_child_that_fails_in_the_middle_of_the_race_is_named(
    tmp_path: Path, fault: str, outcome: str, words: str
) -> None:
    with pytest.raises(ChildError, match=words) as caught:
        race(tmp_path, fault)
    assert caught.value.outcome == outcome
    assert "measuring b on cpu:fake" in str(caught.value)


def test_garbage_on_stdout_changes_nothing(tmp_path: Path) -> None:
    assert len(race(tmp_path, "garbage").restarts) == 4


def test_what_a_child_forks_ends_with_its_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pids = tmp_path / "pids"
    monkeypatch.setenv("EDGEKD_TEST_PIDS", str(pids))
    assert len(race(tmp_path, "fork").restarts) == 4
    found = [int(line) for line in pids.read_text().split()]
    assert len(found) == 4
    deadline = time.monotonic() + 5
    while alive := [p for p in found if _runs(p)]:
        assert time.monotonic() < deadline, f"{alive} outlived their restart"
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_leak_is_in_the_evidence_of_the_arm_that_leaks(tmp_path: Path) -> None:
    found = race(tmp_path, "leak")
    calls = sum(len(b) for b in found.restarts[0].blocks[CANDIDATE])
    for restart in found.restarts:
        grown = {name: child["grown_bytes"] for name, child in restart.children.items()}
        assert grown[CANDIDATE] > 0.5 * calls * 64 * 1024
        assert max(grown[BASELINE], grown[TWIN]) < 0.1 * grown[CANDIDATE]


def test_a_leak_beyond_the_memory_limit_is_said(tmp_path: Path) -> None:
    # Threads of numpy's BLAS reserve address space of their own.
    tight = replace(SETTING, memory_bytes=600 * 2**20)
    feeds = {"x": np.zeros((1, 4), np.float32)}
    arms = arms_of(("a", model(tmp_path / "leaking", "leak fast"), feeds), [])
    endless = replace(QUICK, rounds=10_000)
    with pytest.raises(ChildError, match="ran out of memory within 600 MiB") as caught:
        measure(arms, tight, inputs={}, protocol=endless)
    assert caught.value.outcome == "out of memory"


def test_a_session_on_another_provider_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        TargetUnavailableError, match="b was asked to run on cpu:fake and runs on npu with provider"
    ):
        race(tmp_path, "other provider")


def test_a_session_with_other_threads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailableError, match="opened with 2 threads, 1 were asked for"):
        race(tmp_path, "other threads")


def test_a_clock_that_steps_back_is_an_error_and_no_verdict(tmp_path: Path) -> None:
    found = race(tmp_path, "clock")
    gate = judge_latency(found, CANDIDATE, max_ratio=10.0)
    assert (gate.decision, gate.error_kind) == ("error", "input")
    assert "the clock stepped" in gate.reason
    assert judge_latency(found, TWIN, max_ratio=10.0).decision != "error", (
        "the other arms' clocks did not step"
    )


def test_one_core_is_enough(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        found = race(tmp_path, "")
    finally:
        os.sched_setaffinity(0, before)
    assert {r.cpus for r in found.restarts} == {(min(before),)}
    assert all(child["cpus"] == [min(before)] for r in found.restarts for child in r.children.values())


def test_a_machine_that_tells_nothing_is_measured_and_the_ledger_names_what_was_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, empty = ledger.snapshot, tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setattr(ledger, "snapshot", lambda cpus: real(cpus, empty))
    found = race(tmp_path, "")
    assert len(found.restarts) == 4
    assert found.redrawn == ()
    for restart in found.restarts:
        assert set(restart.ledger["absent"]) >= {
            "steal", "idle", "pressure_some", "throttled_us", "clock_mhz", "clock_move", "temperature_c",
        }  # fmt: skip
        assert restart.ledger["steal"] is None
