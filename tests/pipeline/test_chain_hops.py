"""The chain's evidence: which hops, each evaluated how, and what is said of those that could not be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures_run import make_artifact, make_evaluation

from edgekd.artifact import Artifact
from edgekd.errors import ChildError, StorageError
from edgekd.evaluate import EvaluationRequest
from edgekd.evidence import Evaluation, Evidence, load_evaluation
from edgekd.evidence.run import AccuracyEvidence, Failure, Hop
from edgekd.pipeline import candidates
from edgekd.pipeline.candidates import Job, Reference
from edgekd.pipeline.chain import Shipped, collect_chain, teacher_note
from edgekd.pipeline.collect import Feeds
from edgekd.pipeline.folder import RunFolder
from edgekd.pipeline.targets import ResolvedTarget
from edgekd.policy import GatesBlock
from edgekd.recipe import MeasureBlock
from edgekd.stages import StageStore
from edgekd.target import parse_target
from edgekd.tasks import TaskSpec

ORT = "edgekd_onnx.runtime:OnnxRuntime"


class Place:
    """A job whose evaluations are made up, and kept as they were asked for."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.asked: dict[str, EvaluationRequest] = {}
        self.fails: dict[str, Exception] = {}
        self.teacher = make_artifact(root / "t", b"t", "float32")
        self.floating = make_artifact(root / "f", b"f", "float32")
        self.small = make_artifact(root / "i", b"i", "int8")
        self.folder = RunFolder(root / "run")
        patch.setattr(candidates, "evaluate_artifact", self.evaluate)

    def evaluate(self, request: EvaluationRequest, store: StageStore) -> Evaluation:
        self.asked[request.label] = request
        if request.label in self.fails:
            raise self.fails[request.label]
        return make_evaluation(
            n=20, name=request.label, artifact=request.artifact.digest, target=str(request.target)
        )

    def job(self, target: str = "cpu:onnxruntime", **changes: Any) -> Job:
        values: dict[str, Any] = {
            "target": ResolvedTarget(target=parse_target(target), runtime_paths={"onnx": ORT}),
            "policy": GatesBlock(), "task": TaskSpec(data={"test": "x"}), "digests": {"test": "d"}, "feeds": Feeds(),
            "measure": MeasureBlock(), "store": StageStore(self.root / "cache"), "folder": self.folder,
            "teacher": ("teacher", self.teacher),
            "references": {"teacher": Reference(label="teacher", artifact=self.teacher, role="teacher")},
        }  # fmt: skip
        return Job(**{**values, **changes})

    def shipped(self, job: Job, artifact: Artifact | None = None, test: Evidence | None = None) -> Shipped:
        return Shipped(
            job=job, label="student int8", artifact=artifact or self.small, test=test or Evidence()
        )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


@pytest.fixture
def students(place: Place) -> list[tuple[str, Artifact]]:
    return [("student float32", place.floating), ("student int8", place.small)]


def test_every_hop_from_the_teacher_to_each_target(
    place: Place, students: list[tuple[str, Artifact]]
) -> None:
    jobs = [place.job(), place.job("cuda:onnxruntime")]
    hops, notes = collect_chain([place.shipped(j) for j in jobs], students)
    assert [(h.hop, h.label) for h in hops] == [
        ("teacher", "teacher"),
        ("exported", "student float32 (onnx)"),
        ("quantized", "student int8 (onnx)"),
        ("as_run", "student int8 as run on cpu:onnxruntime"),
        ("as_run", "student int8 as run on cuda:onnxruntime"),
    ]
    assert notes == ()
    assert len({h.evaluation for h in hops}) == 5
    found = load_evaluation(place.folder.root / hops[-1].evaluation)
    assert (found.artifact, found.target) == (place.small.digest, "cuda:onnxruntime")
    # As written: without graph optimisations, many at once; as shipped: with them, one at a time.
    written, ships = place.asked["student int8, reference"], place.asked["student int8"]
    assert (dict(written.artifact.settings), written.batch) == ({"graph_level": "disable"}, 64)
    assert (dict(ships.artifact.settings), ships.batch) == ({}, 1)
    assert dict(place.asked["teacher"].artifact.settings) == {}


def test_what_is_judged_is_what_is_told(place: Place, students: list[tuple[str, Artifact]]) -> None:
    test = Evidence(accuracy=AccuracyEvidence(candidate="evidence/judged.json", references={}))
    hops, _ = collect_chain([place.shipped(place.job(), test=test)], students)
    assert hops[-1].evaluation == "evidence/judged.json"
    assert "student int8" not in place.asked


def test_the_naive_and_the_float32_that_gates_name(place: Place) -> None:
    references = {
        "teacher": Reference(label="teacher", artifact=place.teacher, role="teacher"),
        "naive": Reference(label="naive", artifact=make_artifact(place.root / "n", b"n", "float32")),
        "float32": Reference(label="float32", artifact=place.floating),
    }
    job = place.job(references=references)
    hops, _ = collect_chain([place.shipped(job)], [("student", place.small)])
    assert [(h.hop, h.label) for h in hops] == [
        ("teacher", "teacher"), ("naive", "naive"), ("exported", "float32 (onnx)"), ("quantized", "student (onnx)"),
        ("as_run", "student int8 as run on cpu:onnxruntime"),
    ]  # fmt: skip
    # A float32 student is its own float32.
    hops, _ = collect_chain([place.shipped(job, place.floating)], [("student", place.floating)])
    assert [h.hop for h in hops] == ["teacher", "naive", "exported", "as_run"]


def test_a_stored_teacher_will_do_and_none_will_not(
    place: Place, students: list[tuple[str, Artifact]]
) -> None:
    stored = make_evaluation(n=20, name="stored teacher")
    hops, _ = collect_chain([place.shipped(place.job(references={}, teacher_evaluation=stored))], students)
    assert [h.hop for h in hops] == ["teacher", "exported", "quantized", "as_run"]
    assert "teacher" not in place.asked
    assert collect_chain([place.shipped(place.job(references={}))], students) == ((), ())
    assert collect_chain([], students) == ((), ())


def test_a_hop_that_fails_is_noted_and_the_others_stay(
    place: Place, students: list[tuple[str, Artifact]]
) -> None:
    place.fails["student float32, reference"] = ChildError("evaluating it timed out", "give it longer")
    hops, notes = collect_chain([place.shipped(place.job())], students)
    assert [h.hop for h in hops] == ["teacher", "quantized", "as_run"]
    assert notes == (
        "The chain is without 'student float32 (onnx)': evaluating it timed out; give it longer.",
    )
    place.fails["student float32, reference"] = StorageError("the disk is full", "")
    with pytest.raises(StorageError):
        collect_chain([place.shipped(place.job())], students)


def test_what_failed_for_the_gates_is_not_tried_again(
    place: Place, students: list[tuple[str, Artifact]]
) -> None:
    failed = Failure(kind="infrastructure", reason="it hung")
    for what, hops in (("accuracy", ["teacher", "exported", "quantized"]), ("accuracy.teacher", [])):
        test = Evidence(failures={what: failed})
        found, notes = collect_chain([place.shipped(place.job(), test=test)], students)
        assert ([h.hop for h in found], notes) == (hops, ())
        assert "student int8" not in place.asked


@pytest.fixture
def hop(tmp_path: Path) -> Callable[..., Hop]:
    from edgekd.evidence import save_evaluation

    def make(kind: str, right: float, **changes: Any) -> Hop:
        path = f"{kind}-{right}.json"
        save_evaluation(make_evaluation(n=100, right=right, **changes), tmp_path / path)
        return Hop(hop=kind, label=kind, evaluation=path)

    return make


def test_a_teacher_below_its_naive_student_is_pointed_out(tmp_path: Path, hop: Callable[..., Hop]) -> None:
    naive = [hop("naive", 0.5), hop("naive", 0.6)]
    (note,) = teacher_note(tmp_path, [hop("teacher", 0.1), *naive])
    assert "The teacher (10.00%) is below a student of this size trained without it (60.00%)" in note
    assert teacher_note(tmp_path, [hop("teacher", 0.6), *naive]) == ()
    assert teacher_note(tmp_path, [hop("teacher", 0.1)]) == ()
    # Of an error, less is better.
    errors = [hop("naive", 0.5, error=True, unit="mm"), hop("naive", 0.6, error=True, unit="mm")]
    assert teacher_note(tmp_path, [hop("teacher", 0.1, error=True, unit="mm"), *errors]) == ()
    (note,) = teacher_note(tmp_path, [hop("teacher", 0.9, error=True, unit="mm"), *errors])
    assert "The teacher (0.9 mm) is above a student of this size trained without it (0.5 mm)" in note
