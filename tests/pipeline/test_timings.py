"""Which timings are collected for which limits, under which scenario, and how many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_run import make_artifact, make_measurement

from edgekd.artifact import Artifact
from edgekd.errors import DataError, UsageError
from edgekd.evidence import Measurement
from edgekd.gates.timing import TimingLimits
from edgekd.measure import Protocol, Scenario
from edgekd.pipeline import collect
from edgekd.pipeline.candidates import Job, collect_select, collect_test
from edgekd.pipeline.collect import Feeds
from edgekd.pipeline.folder import RunFolder
from edgekd.pipeline.gate import GateRequest, gate_files
from edgekd.pipeline.targets import resolve_target
from edgekd.recipe import GatesBlock, MeasureBlock
from edgekd.spec import TensorSpec
from edgekd.stages import StageStore


@dataclass
class Asked:
    """One call of the measuring function."""

    scenario: Scenario
    labels: list[str]
    protocol: Protocol
    stop: Callable[[Measurement], bool]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    calls: list[Asked] = []

    def measure(
        scenario: Scenario, baseline: tuple[str, Artifact, Any], candidates: Sequence[Any], setting: object,
        *, protocol: Protocol, stop: Callable[[Measurement], bool], **_: object,
    ) -> Measurement:  # fmt: skip
        calls.append(Asked(scenario, [baseline[0], *(c[0] for c in candidates)], protocol, stop))
        made = make_measurement(ratio=0.5, restarts=16, rounds=20, calls=10)
        names = {"baseline": baseline[0], "baseline_twin": "twin", "candidate": "student"}
        arms = {arm: {**r, "name": names[arm]} for arm, r in made.arms.items()}
        return replace(made, arms=arms if candidates else {"baseline": arms["baseline"]})

    monkeypatch.setattr(collect, "measure_scenario", measure)
    return calls


@pytest.fixture
def models(tmp_path: Path) -> dict[str, tuple[str, Artifact]]:
    return {
        name: (name, make_artifact(tmp_path / name, name.encode() * 9, "float32"))
        for name in ("teacher", "student", "baseline", "second")
    }


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    def make(policy: dict[str, Any], measure: dict[str, Any] | None = None, **changes: Any) -> Job:
        target = resolve_target("cpu:onnxruntime")
        return Job(
            target=target, policy=GatesBlock.model_validate(policy), task=None, digests={},  # type: ignore[arg-type]
            feeds=Feeds(shapes={}), measure=MeasureBlock.model_validate(measure or {}),
            store=StageStore(tmp_path / "cache"), folder=RunFolder(tmp_path / "run"),
            **{"teacher": None, **changes},
        )  # fmt: skip

    return make


ABSOLUTE = {"latency_absolute": {"percentile": "p99", "max_ms": 5}}
TAIL = {"tail": {"percentile": "p99", "max_ratio": 0.8}}
RATIO = {"latency": {"max_ratio": 0.8}}
REGRESSION = {"regression": {"baseline": "old.onnx", "max_regression": 0.1}}

Models = dict[str, tuple[str, Artifact]]
MakeJob = Callable[..., Job]


def test_one_race_serves_every_limit_beside_the_teacher(
    asked: list[Asked], models: Models, job: MakeJob
) -> None:
    evidence = collect_test(job({**RATIO, **TAIL, **ABSOLUTE}, teacher=models["teacher"]), models["student"])
    assert [a.labels for a in asked] == [["teacher", "student"]]
    assert (evidence.alone, evidence.regression) == (None, None)
    assert evidence.timings == (evidence.latency,)


def test_a_tail_needs_the_teacher_and_no_other_limit(
    asked: list[Asked], models: Models, job: MakeJob
) -> None:
    evidence = collect_test(job(TAIL, teacher=models["teacher"]), models["student"])
    assert [a.labels for a in asked] == [["teacher", "student"]]
    assert evidence.latency is not None


def test_an_absolute_limit_is_measured_alone_or_beside_the_last_release(
    asked: list[Asked], models: Models, job: MakeJob
) -> None:
    alone = collect_test(job(ABSOLUTE, teacher=models["teacher"]), models["student"])
    assert [a.labels for a in asked] == [["student"]], "no teacher is measured for it"
    assert alone.alone is not None
    assert alone.alone.arm == "baseline"
    asked.clear()
    beside = collect_test(job({**ABSOLUTE, **REGRESSION}, regression=models["baseline"]), models["student"])
    assert [a.labels for a in asked] == [["baseline", "student"]]
    assert (beside.alone, beside.timings) == (None, (beside.regression,))


def test_nothing_is_measured_for_size(asked: list[Asked], models: Models, job: MakeJob) -> None:
    assert collect_test(job({"size": {"max_mib": 1}}), models["student"]).timings == ()
    assert asked == []


def test_the_scenario_and_its_rules_reach_the_measurement(
    asked: list[Asked], models: Models, job: MakeJob
) -> None:
    server = {"scenario": {"name": "server", "target_qps": 50, "min_count": 700}}
    collect_test(job(ABSOLUTE, server), models["student"])
    assert asked[0].scenario == Scenario(name="server", target_qps=50, min_count=700)
    collect_test(job(ABSOLUTE, {"scenario": "multi-stream"}), models["student"])
    assert asked[1].scenario == Scenario(name="multi-stream")


def test_students_are_chosen_without_the_servers_rate(
    asked: list[Asked], models: Models, job: MakeJob
) -> None:
    server = {"scenario": {"name": "server", "target_qps": 50}}
    made = job(ABSOLUTE, server, teacher=models["teacher"])
    candidates = collect_select(made, [models["student"], models["second"]])
    assert (asked[0].scenario, asked[0].labels) == (Scenario(), ["teacher", "student", "second"])
    assert [c.select.latency.arm for c in candidates if c.select.latency] == ["candidate", "candidate_2"]


def test_a_run_is_long_enough_for_what_is_asked(asked: list[Asked], models: Models, job: MakeJob) -> None:
    plain = Protocol()
    collect_test(job(RATIO, teacher=models["teacher"]), models["student"])
    assert asked[-1].protocol == plain
    rare = {"latency_absolute": {"percentile": "p99.9", "max_ms": 5}}
    collect_test(job(rare), models["student"])
    long = asked[-1].protocol
    assert (
        long.rounds * long.max_restarts * long.min_block_calls
        >= TimingLimits(absolute=("p99.9", 5.0)).least_calls
    )
    collect_test(job(TAIL, teacher=models["teacher"]), models["student"])
    assert asked[-1].protocol.rounds * plain.min_block_calls >= 100


def test_measuring_stops_when_all_limits_are_decided(
    asked: list[Asked], models: Models, job: MakeJob
) -> None:
    collect_test(job({**RATIO, **ABSOLUTE}, teacher=models["teacher"]), models["student"])
    measurement = make_measurement(ratio=0.5, restarts=16, calls=20)
    arms = {
        arm: {**r, "name": "student" if arm == "candidate" else arm} for arm, r in measurement.arms.items()
    }
    measurement = replace(measurement, arms=arms)
    stops = [
        k for k in range(4, 17)
        if asked[0].stop(replace(measurement, restarts=measurement.restarts[:k]))
    ]  # fmt: skip
    assert stops == [8, 12, 16], "200 calls a restart: 1,307 are there at the look after eight"


def model(*shape: int | str) -> Artifact:
    return Artifact(
        folder=Path(), entry="m.onnx", format="onnx", dtype="float32", files=(),
        inputs=(TensorSpec(name="x", dtype="float32", shape=shape),), outputs=(),
    )  # fmt: skip


def test_rows_are_as_many_as_asked_whatever_the_model_takes() -> None:
    feeds = Feeds(shapes={"x": ((1, 6), (1, 6), (1, 6))})
    for artifact in (model("n", "w"), model("n", 6)):
        assert feeds.rows(artifact, "student", 8)["x"].shape == (8, 6)
    one = Feeds(shapes={}).rows(model(1, 3), "student", 4)["x"]
    assert one.shape == (4, 3)
    assert len({row.tobytes() for row in one}) == 4, "each call of a query has its own input"
    assert Feeds(shapes={}).rows(model(2, 3), "student", 4)["x"].shape == (4, 3)
    with pytest.raises(DataError, match="takes batches of 1 only"):
        Feeds(shapes={}).of(model(1, 3), "student", 4)


def test_feeds_are_made_once_for_the_key_and_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = collect.draw_feeds
    monkeypatch.setattr(collect, "draw_feeds", lambda *a, **k: made.append(1) or real(*a, **k))
    at = Feeds(shapes={}).maker(Scenario(), model("n", 3), "student")
    np.testing.assert_array_equal(at(1)["x"], at(1)["x"])
    assert made == [1]


def gate(tmp_path: Path, policy: dict[str, Any], **changes: Any) -> None:
    request = GateRequest(student="student.onnx", policy=GatesBlock.model_validate(policy), **changes)
    gate_files(request, out=tmp_path / "out", store=StageStore(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("policy", "changes", "says"),
    [
        (TAIL, {}, "--max-tail-ratio needs a teacher that runs here"),
        (
            {**RATIO},
            {"teacher": "t.onnx", "measure": MeasureBlock(scenario={"name": "server", "target_qps": 5})},  # type: ignore[arg-type]
            "latency cannot be judged in the server scenario",
        ),
        (ABSOLUTE, {"measure": MeasureBlock(scenario="offline")}, "cannot be judged in the offline scenario"),
        ({}, {}, "--max-latency-ms, --max-tail-ratio"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_anything_runs(
    tmp_path: Path, policy: dict[str, Any], changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        gate(tmp_path, policy, **changes)
    assert says in str(caught.value)
    assert not (tmp_path / "out").exists()
