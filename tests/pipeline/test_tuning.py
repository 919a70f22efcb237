"""Which settings a comparison runs with: every arm its own, or all the same, and the reader is told."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from fixtures_run import make_measurement

from edgekd.artifact import Artifact
from edgekd.evidence.measurement import MULTI_STREAM, OFFLINE, Measurement
from edgekd.measure import Arm, Scenario, ledger
from edgekd.pipeline import collect
from edgekd.pipeline.candidates import Job
from edgekd.pipeline.collect import Feeds
from edgekd.pipeline.folder import RunFolder
from edgekd.pipeline.targets import ResolvedTarget
from edgekd.pipeline.tuning import Tuning, arm_settings, batch_of, objective_of, tuning_for
from edgekd.policy import GatesBlock
from edgekd.recipe import MeasureBlock
from edgekd.stages import StageStore
from edgekd.target import parse_target
from edgekd.testing import write_fake
from edgekd.tuned import Tuned, machine_key

HERE = {"machine": "x86_64", "cpu": "Fast 9000", "cpu_flags": [], "cpus": 1}
SINGLE = Scenario()


def swept(artifact: Artifact, **changes: Any) -> Artifact:
    values: dict[str, Any] = {
        "objective": "latency", "batch": 1, "threads": 1, "settings": {"fast": True}, "machine": machine_key(HERE),
        "evidence": {"collected_at": "2026-01-31T12:00:00Z"},
    }  # fmt: skip
    return replace(artifact, tuned={"cpu:fake": [asdict(Tuned(**{**values, **changes}))]})


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return write_fake(tmp_path)


def tuning(*models: Artifact, asked: bool = False, scenario: Scenario = SINGLE) -> Tuning:
    named = [(f"model {i}", a) for i, a in enumerate(models)]
    return tuning_for(named, target="cpu:fake", scenario=scenario, batch=1, machine=HERE, asked=asked)


def test_every_arm_at_its_own_best(artifact: Artifact) -> None:
    found = tuning(swept(artifact), swept(artifact, settings={}))
    assert found.source == "metadata"
    assert found.note == (
        "Settings from the models' metadata, by sweeps on this kind of machine: model 0: threads=1 fast=true "
        "(2026-01-31); model 1: threads=1 (2026-01-31)."
    )
    arm = Arm(name="baseline", label="model 0", artifact=artifact, feeds={})
    assert found.arm(arm, "model 0").settings == {"fast": True}
    assert found.arm(arm, "model 1").settings == {}
    assert found.arm(arm, "model 1").batch is None  # latency: the batch is the caller's


def test_one_model_without_settings_leaves_all_at_the_default_and_says_so(artifact: Artifact) -> None:
    found = tuning(swept(artifact), artifact)
    assert (found.sessions, found.source) == ({}, "default")
    assert found.note == (
        "Swept settings are not used (model 1: it was not swept for this target); every model runs at the default "
        "settings."
    )
    other = swept(artifact, machine=machine_key({**HERE, "cpu": "Slow 1"}))
    assert (
        "model 1: its settings were swept on another machine (Slow 1, 1 CPUs"
        in tuning(swept(artifact), other).note
    )


def test_nothing_swept_is_nothing_to_tell(artifact: Artifact) -> None:
    assert tuning(artifact, artifact) == Tuning()


def test_what_is_asked_for_goes_before_the_metadata(artifact: Artifact) -> None:
    found = tuning(swept(artifact), swept(artifact), asked=True)
    assert (found.sessions, found.source, found.note) == ({}, "asked", "")


def test_offline_takes_throughput_settings_with_their_batch(artifact: Artifact) -> None:
    model = swept(artifact, objective="throughput", batch=32)
    assert tuning(model).sessions == {}
    found = tuning(model, scenario=Scenario(name=OFFLINE))
    arm = found.arm(Arm(name="baseline", label="model 0", artifact=artifact, feeds={}), "model 0")
    assert (arm.batch, arm.threads) == (32, 1)
    assert objective_of(Scenario(name=OFFLINE)) == "throughput"


def test_a_batch_beyond_the_one_asked_for_is_not_used(artifact: Artifact) -> None:
    model = swept(artifact, objective="throughput", batch=32)
    capped = tuning(model, scenario=Scenario(name=OFFLINE, max_batch=16))
    assert (capped.sessions, capped.source) == ({}, "default")
    assert "its batch 32 is beyond --max-batch 16" in capped.note


def test_settings_of_a_session_alone_are_not_those_of_several(artifact: Artifact) -> None:
    model = swept(artifact, objective="throughput", batch=32)
    found = tuning(model, scenario=Scenario(name=OFFLINE, sessions=2))
    assert found.sessions == {}
    assert "they are for a session that is alone" in found.note


def test_a_multi_stream_query_is_one_call_of_its_samples(artifact: Artifact) -> None:
    eight = Scenario(name=MULTI_STREAM)
    assert batch_of(eight, artifact, 1) == 8
    assert tuning(swept(artifact, batch=8), scenario=eight).source == "metadata"
    assert tuning(swept(artifact, batch=1), scenario=eight).source == "default"


def test_the_evidence_says_where_settings_came_from(artifact: Artifact) -> None:
    measurement = Measurement(
        arms={
            "baseline": {"name": "model 0", "threads": 1, "settings": {"fast": True}},
            "baseline_twin": {"name": "model 0 (twin)", "threads": 1, "settings": {"fast": True}},
        },
        target="cpu:fake", scenario="single-stream", batch=1, threads=1, inputs={}, protocol={}, restarts=(), redrawn=(),
        environment={"cpu": "x"}, parent_cpu=0.0, collected_at="",
    )  # fmt: skip
    found = tuning(swept(artifact))
    recorded = found.record(measurement)
    assert {a["settings_from"] for a in recorded.arms.values()} == {"metadata"}
    assert recorded.environment == {"cpu": "x", "settings_note": found.note}
    assert arm_settings(recorded) == {"model 0": "threads=1 fast=true"}
    assert found.key == {"model 0": {"threads": 1, "settings": {"fast": True}, "batch": 1}}
    assert (found.threads(4), Tuning().threads(4)) == (1, 4)


class Children:
    """Stands in for children, and keeps how they were asked to open the models."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.tune: Any = None
        self.asked = 0
        patch.setattr(collect, "measure_scenario", self.measure)
        patch.setattr(ledger, "machine", lambda: HERE)

    def measure(self, *_: object, tune: Any, **__: object) -> Measurement:
        self.tune, self.asked = tune, self.asked + 1
        return make_measurement(ratio=0.5, restarts=16)


def gate_job(tmp_path: Path, measure: MeasureBlock) -> Job:
    (tmp_path / "run").mkdir(exist_ok=True)
    target = ResolvedTarget(target=parse_target("cpu:fake"), runtime_paths={})
    return Job(
        target=target, policy=GatesBlock(), task=None, digests={}, feeds=Feeds(shapes={}), measure=measure,
        store=StageStore(tmp_path / "cache"), folder=RunFolder(tmp_path / "run"), teacher=None,
    )  # fmt: skip


def test_a_gate_measures_at_the_models_own_settings_and_notes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Children(monkeypatch)
    (tmp_path / "t").mkdir()
    (tmp_path / "s").mkdir()
    teacher, student = (
        swept(write_fake(tmp_path / "t")),
        swept(write_fake(tmp_path / "s", latency_ns=(1,)), threads=1),
    )
    job = gate_job(tmp_path, MeasureBlock())

    def take(job: Job, student: Artifact) -> Measurement:
        return job.measure_against(
            ("teacher", teacher), [("student-int8", student)], {"student-int8": 0.8}, "test"
        )

    found = take(job, student)
    assert {a["settings_from"] for a in found.arms.values()} == {"metadata"}
    arm = Arm(name="candidate", label="student-int8", artifact=student, feeds={})
    assert children.tune(arm, "student-int8").settings == {"fast": True}
    assert job.notes == [found.environment["settings_note"]]
    assert "student-int8: threads=1 fast=true" in job.notes[0]
    # Stored evidence is used again only for the same settings.
    assert take(job, student).environment == found.environment
    assert children.asked == 1
    take(job, swept(student, settings={"fast": False}))
    assert children.asked == 2
    # Threads in the recipe or on the command line go first.
    asked = gate_job(tmp_path, MeasureBlock(threads=1))
    assert {a["settings_from"] for a in take(asked, student).arms.values()} == {"asked"}
    assert children.tune(arm, "student-int8").settings is None
    assert asked.notes == []
