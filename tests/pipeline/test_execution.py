"""How a student runs while its answers are evaluated: as it is timed, or as it is written."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from fixtures_run import make_evaluation

from edgekd.artifact import Artifact
from edgekd.evaluate import EvaluationRequest
from edgekd.evidence import Evaluation
from edgekd.measure import ledger
from edgekd.pipeline import candidates
from edgekd.pipeline.candidates import Job
from edgekd.pipeline.collect import Feeds
from edgekd.pipeline.execution import PLAIN_BATCH, Execution, as_shipped, as_written_in, plain
from edgekd.pipeline.folder import RunFolder
from edgekd.pipeline.targets import ResolvedTarget
from edgekd.policy import GatesBlock, LatencyGate
from edgekd.recipe import MeasureBlock
from edgekd.spec import TensorSpec
from edgekd.stages import StageStore
from edgekd.target import parse_target
from edgekd.tasks import TaskSpec
from edgekd.testing import write_fake
from edgekd.tuned import Tuned, machine_key

HERE = {"machine": "x86_64", "cpu": "Fast 9000", "cpu_flags": [], "cpus": 1}
FAKE = ResolvedTarget(target=parse_target("cpu:fake"), runtime_paths={"fake": "edgekd.testing:FakeRuntime"})


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "machine", lambda: HERE)


def swept(artifact: Artifact, **changes: Any) -> Artifact:
    values: dict[str, Any] = {
        "objective": "latency", "batch": 1, "threads": 1, "settings": {"fast": True}, "machine": machine_key(HERE),
        "evidence": {"collected_at": "2026-01-31T12:00:00Z"},
    }  # fmt: skip
    return replace(artifact, tuned={"cpu:fake": [asdict(Tuned(**{**values, **changes}))]})


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return replace(write_fake(tmp_path), settings={"arena": False})


def shipped(student: Artifact, *beside: Artifact, measure: MeasureBlock | None = None) -> Execution:
    others = [(f"other {i}", a) for i, a in enumerate(beside)]
    return as_shipped("student", student, others, measure=measure or MeasureBlock(), target=FAKE)


def test_as_it_ships_is_as_it_is_timed(artifact: Artifact) -> None:
    found = shipped(artifact, measure=MeasureBlock(batch=4, threads=2))
    assert (found.batch, found.threads, found.settings) == (4, 2, {"arena": False})
    own = shipped(swept(artifact, batch=4), measure=MeasureBlock(batch=4))
    assert (own.batch, own.threads, own.settings) == (4, 1, {"fast": True})
    assert "fast=true" in own.tuning.note


def test_swept_settings_count_where_the_timings_have_them(artifact: Artifact) -> None:
    assert shipped(swept(artifact), swept(artifact)).settings == {"fast": True}
    # The teacher was not swept, so the pair is timed at the defaults.
    assert shipped(swept(artifact), artifact).settings == {"arena": False}
    assert shipped(swept(artifact), measure=MeasureBlock(threads=1)).settings == {"arena": False}
    assert shipped(swept(artifact, batch=8)).settings == {"arena": False}


def test_batches_of_scenarios_and_of_fixed_models(artifact: Artifact) -> None:
    assert shipped(artifact, measure=MeasureBlock(scenario="multi-stream")).batch == 8
    offline = MeasureBlock(scenario="offline", batch=2)
    assert shipped(artifact, measure=offline).batch == 2
    assert shipped(swept(artifact, objective="throughput", batch=32), measure=offline).batch == 32
    fixed = replace(artifact, inputs=(TensorSpec(name="x", dtype="float32", shape=(3, 4)),))
    assert shipped(fixed).batch == 3
    assert shipped(artifact, fixed).batch == 3


def test_as_it_is_written_is_what_the_runtime_says(artifact: Artifact) -> None:
    ort = ResolvedTarget(
        target=parse_target("cpu:onnxruntime"), runtime_paths={"onnx": "edgekd_onnx.runtime:OnnxRuntime"}
    )
    found = as_written_in(ort, replace(artifact, format="onnx"), MeasureBlock())
    assert (found.batch, found.settings) == (PLAIN_BATCH, {"arena": False, "graph_level": "disable"})
    # A runtime that does not say runs plainly, and so does one that the format is foreign to.
    assert as_written_in(FAKE, artifact, MeasureBlock()) == plain(artifact, MeasureBlock())
    assert as_written_in(FAKE, replace(artifact, format="onnx"), MeasureBlock()).settings == {"arena": False}


def test_only_students_on_the_target_run_as_shipped(
    tmp_path: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[EvaluationRequest] = []

    def take(request: EvaluationRequest, store: StageStore) -> Evaluation:
        asked.append(request)
        return make_evaluation()

    monkeypatch.setattr(candidates, "evaluate_artifact", take)
    model = swept(artifact)
    job = Job(
        target=FAKE, policy=GatesBlock(), task=TaskSpec(data={"test": "x"}), digests={"test": "d"}, feeds=Feeds(),
        measure=MeasureBlock(batch=1), store=StageStore(tmp_path / "cache"), folder=RunFolder(tmp_path),
        teacher=("teacher", artifact),
    )  # fmt: skip

    def settings(job: Job, role: str = "student", **more: Any) -> tuple[int, dict[str, Any]]:
        job.evaluate("student", model, "test", role, **more)
        return asked[-1].batch, dict(asked[-1].artifact.settings)

    assert settings(job) == (1, {"fast": True})
    # Nothing is timed here, so no measurement tells of the settings: the answers' do.
    assert len(job.notes) == 1
    assert "student: threads=1 fast=true" in job.notes[0]
    assert settings(job, "teacher") == (PLAIN_BATCH, {"arena": False})
    assert settings(job, target=FAKE) == (PLAIN_BATCH, {"arena": False})
    assert settings(job, as_written=True) == (PLAIN_BATCH, {"arena": False})
    # Timed beside a teacher that was not swept: both at the defaults, and so are the answers.
    timed = replace(job, policy=GatesBlock(latency=LatencyGate(max_ratio=0.5)), notes=[])
    assert settings(timed) == (1, {"arena": False})
    assert timed.notes == []
