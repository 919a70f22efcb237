"""Which evidence is kept: a measurement only where it decides, on this machine, this boot, these inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_run import make_artifact, make_evaluation, make_measurement

from edgekd.artifact import Artifact
from edgekd.errors import ChildError, DataError, UsageError
from edgekd.evaluate import EvaluationRequest
from edgekd.evidence import Evaluation, Measurement
from edgekd.measure import ledger
from edgekd.pipeline import collect
from edgekd.pipeline.artifacts import calibration_feeds
from edgekd.pipeline.candidates import Job
from edgekd.pipeline.collect import Feeds, evaluate_artifact
from edgekd.pipeline.folder import RunFolder
from edgekd.pipeline.gate import GateRequest, gate_files
from edgekd.pipeline.targets import resolve_target
from edgekd.recipe import AccuracyGate, GatesBlock, MeasureBlock
from edgekd.spec import TensorSpec
from edgekd.stages import StageStore
from edgekd.target import parse_target
from edgekd.tasks import TaskSpec

STUDENT = "student-int8"  # the candidate's label in fixtures_run


class Machine:
    """Stands in for the children: gives the timings it was told to, and counts how often it was asked."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.ratio = 0.5
        self.scatter = 0.003
        self.boot = "first"
        patch.setattr(collect, "measure_scenario", self.measure)
        patch.setattr(ledger, "machine", lambda: {"cpu": "synthetic", "boot_id": self.boot})

    def measure(self, *_: object, **__: object) -> Measurement:
        self.asked += 1
        return make_measurement(ratio=self.ratio, scatter=self.scatter, restarts=16, seed=self.asked)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    target = resolve_target("cpu:onnxruntime")
    return Job(
        target=target, policy=GatesBlock(), task=None, digests={},  # type: ignore[arg-type]
        feeds=Feeds(shapes={}), measure=MeasureBlock(), store=StageStore(tmp_path / "cache"),
        folder=RunFolder(tmp_path / "run"), teacher=None,
    )  # fmt: skip


@pytest.fixture
def models(tmp_path: Path) -> tuple[tuple[str, Artifact], tuple[str, Artifact]]:
    return (
        ("teacher", make_artifact(tmp_path / "teacher", b"T" * 40, "float32")),
        (STUDENT, make_artifact(tmp_path / "student", b"S" * 4, "int8")),
    )


Models = tuple[tuple[str, Artifact], tuple[str, Artifact]]


def take(job: Job, models: Models, *, limit: float = 0.8, occasion: str = "test") -> Measurement:
    teacher, student = models
    return job.measure_against(teacher, [student], {STUDENT: limit}, occasion)


def stored(job: Job) -> list[Path]:
    return sorted((job.store.root / "measure").glob("[0-9a-f]*"))


def test_a_measurement_that_decides_is_kept_and_reused(machine: Machine, job: Job, models: Models) -> None:
    first, second = take(job, models), take(job, models)
    assert machine.asked == 1
    assert len(stored(job)) == 1
    np.testing.assert_array_equal(first.calls_ns("candidate"), second.calls_ns("candidate"))


def test_a_rejection_decides_too(machine: Machine, job: Job, models: Models) -> None:
    machine.ratio = 2.0
    take(job, models), take(job, models)
    assert machine.asked == 1


def test_an_inconclusive_measurement_is_not_kept(machine: Machine, job: Job, models: Models) -> None:
    machine.ratio, machine.scatter = 0.8, 0.2
    found = take(job, models)
    assert len(found.restarts) == 16, "the evidence itself still goes into the run"
    assert stored(job) == []
    machine.ratio, machine.scatter = 0.5, 0.003
    take(job, models), take(job, models)
    assert machine.asked == 2
    assert len(stored(job)) == 1


def test_remeasure_measures_again_and_what_it_found_is_kept(
    machine: Machine, job: Job, models: Models
) -> None:
    first = take(job, models)
    again = take(replace(job, remeasure=True), models)
    assert machine.asked == 2
    assert again.calls_ns("candidate").tolist() != first.calls_ns("candidate").tolist()
    kept = take(job, models)
    assert machine.asked == 2
    assert kept.calls_ns("candidate").tolist() == again.calls_ns("candidate").tolist()


def test_another_boot_measures_again(machine: Machine, job: Job, models: Models) -> None:
    take(job, models)
    machine.boot = "second"
    take(job, models)
    assert machine.asked == 2


@pytest.mark.parametrize(
    "other",
    [
        {"occasion": "select"},  # timings that were chosen by are never judged on
        {"limit": 0.7},
        {"feeds": Feeds(shapes={}, seed=1)},
        {"measure": MeasureBlock(threads=2)},
        {"measure": MeasureBlock(batch=2)},
    ],
    ids=["occasion", "limit", "inputs", "threads", "batch"],
)
def test_anything_else_that_matters_measures_again(
    machine: Machine, job: Job, models: Models, other: dict[str, Any]
) -> None:
    take(job, models)
    asked = {k: v for k, v in other.items() if k in ("occasion", "limit")}
    take(replace(job, **{k: v for k, v in other.items() if k not in asked}), models, **asked)
    assert machine.asked == 2


def test_a_measurement_that_failed_leaves_nothing(
    machine: Machine, job: Job, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Measurement:
        raise ChildError("measuring teacher crashed with SIGSEGV", outcome="signal 11")

    with monkeypatch.context() as patch:
        patch.setattr(collect, "measure_scenario", fail)
        with pytest.raises(ChildError, match="SIGSEGV"):
            take(job, models)
    assert stored(job) == []
    take(job, models)
    assert len(stored(job)) == 1


def test_rows_evaluated_under_another_name_are_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Models
) -> None:
    asked: list[str] = []

    def evaluate(request: EvaluationRequest, children: object) -> Evaluation:
        asked.append(request.label)
        return make_evaluation(
            n=10, name=request.label, split=request.split, artifact=request.artifact.digest
        )

    monkeypatch.setattr(collect, "evaluate", evaluate)
    request = EvaluationRequest(
        label="student", artifact=models[1][1], target=parse_target("cpu:onnxruntime"), runtime_paths={},
        task=TaskSpec(), split="test", data_digest="sha256:1",
    )  # fmt: skip
    store = StageStore(tmp_path / "cache")
    evaluate_artifact(request, store)
    renamed = evaluate_artifact(replace(request, label="as INT8", split="select"), store)
    assert (renamed.name, renamed.split, asked) == ("as INT8", "select", ["student"])
    for change in ({"data_digest": "sha256:2"}, {"role": "teacher"}, {"batch": 1}, {"rename": {"x": "y"}}):
        evaluate_artifact(replace(request, **change), store)  # type: ignore[arg-type]
    assert len(asked) == 5


@pytest.fixture
def rows(tmp_path: Path) -> TaskSpec:
    x = np.arange(20, dtype=np.float32).reshape(10, 2)
    np.savez(tmp_path / "rows.npz", x=x, label=np.zeros(10, np.int64))
    return TaskSpec(data={"test": "rows.npz", "train": "rows.npz#0:6"}, base=str(tmp_path))


def takes(batch: int | str) -> Artifact:
    spec = TensorSpec(name="x", dtype="float32", shape=(batch, 2))
    return Artifact(
        folder=Path(),
        entry="m.onnx",
        format="onnx",
        dtype="float32",
        files=(),
        inputs=(spec,),
        outputs=(spec,),
    )


def test_feeds_are_the_first_examples_and_fill_a_fixed_batch(rows: TaskSpec) -> None:
    feeds = Feeds(task=rows)
    assert feeds.of(takes("n"), "student", 3)["x"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert feeds.of(takes(4), "student", 1)["x"].shape == (4, 2)
    padded = feeds.of(takes(12), "student", 1)["x"]
    assert padded.shape == (12, 2)
    assert padded[9:].tolist() == [[18, 19]] * 3, "the last example fills up"
    with pytest.raises(DataError, match=r"m.onnx takes batches of 4 only, 3 was asked for; drop --batch"):
        feeds.of(takes(4), "student", 3)
    with pytest.raises(DataError, match="the data for 'test' is empty"):
        Feeds(task=replace(rows, data={"test": "rows.npz#0:0"})).of(takes("n"), "student", 1)


def test_feeds_say_where_they_come_from(rows: TaskSpec) -> None:
    drawn, data = Feeds(shapes={}), Feeds(task=rows)
    records = [f.record(f.of(takes("n"), "student", 1)) for f in (drawn, data)]
    assert [(r["kind"], r["seed"], r["shapes"]) for r in records] == [
        ("drawn", 0, {"x": [1, 2]}),
        ("data", None, {"x": [1, 2]}),
    ]
    assert records[0]["sha256"] != records[1]["sha256"]


@pytest.mark.parametrize(("batch", "shapes"), [("n", [1] * 5), (1, [1] * 5), (4, [4, 4])])
def test_calibration_feeds_fit_the_model_s_batch(rows: TaskSpec, batch: int | str, shapes: list[int]) -> None:
    made = [f["x"] for f in calibration_feeds(rows, takes(batch), 5, {})]
    assert [len(x) for x in made] == shapes
    seen = np.concatenate(made)
    assert seen[:5].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]], (
        "the train split, no more than the limit"
    )
    assert seen[5:].tolist() == [[8, 9]] * (len(seen) - 5)


def test_a_stored_teacher_evaluation_on_other_data_is_refused(
    tmp_path: Path, rows: TaskSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    request = GateRequest(
        student="student.onnx", data="rows.npz",
        policy=GatesBlock(accuracy=AccuracyGate(max_drop=0.1)), teacher_evaluation=make_evaluation(n=10),
    )  # fmt: skip
    with pytest.raises(
        DataError, match="teacher evaluation was made on other data than --data; evaluate the teacher again"
    ):
        gate_files(request, out=tmp_path / "out", store=StageStore(tmp_path / "cache"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="an accuracy gate needs a teacher"):
        gate_files(
            replace(request, teacher_evaluation=None),
            out=tmp_path / "out",
            store=StageStore(tmp_path / "cache"),
        )


def test_feeds_that_cannot_be_made_name_model_and_example(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.zeros((2, 4, 2), np.int16), id=["r0", "r1"], label=np.zeros(2))
    feeds = Feeds(task=TaskSpec(kind="keyword-spotting", data={"test": "rows.npz"}, base=str(tmp_path)))
    model = Artifact(
        folder=tmp_path, entry="m.onnx", format="onnx", dtype="float32", files=(),
        inputs=(TensorSpec(name="x", dtype="float32", shape=("n", 4)),), outputs=(), prepare={"layout": "NT"},
    )  # fmt: skip
    with pytest.raises(DataError, match=r"^student \(m\.onnx\): example r0: a recording of shape \(4, 2\)"):
        feeds.of(model, "student", 1)
    with pytest.raises(UsageError, match=r"^teacher \(m\.onnx\): prepare key 'meen' is not known"):
        feeds.of(replace(model, prepare={"meen": 1}), "teacher", 1)
