"""Evidence for the chain report: every hop from the teacher to what runs on each target, on the test split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.artifact import Artifact
from edgekd.errors import (
    ChildError,
    DataError,
    EvidenceError,
    MissingDependencyError,
    ModelError,
    TargetUnavailableError,
)
from edgekd.evidence import Evaluation, Evidence, load_evaluation
from edgekd.evidence.run import Hop
from edgekd.model import Model
from edgekd.pipeline.candidates import Job
from edgekd.pipeline.targets import torch_target

SPLIT = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """What was selected on one target, and the evidence that it is judged on."""

    job: Job
    label: str
    artifact: Artifact
    test: Evidence


def collect_chain(
    shipped: Sequence[Shipped],
    students: Sequence[tuple[str, Artifact]],
    *,
    naive: Sequence[tuple[str, Model]] = (),
    distilled: Model | None = None,
) -> tuple[tuple[Hop, ...], tuple[str, ...]]:
    """Evaluate every hop and keep it in the run folder.

    The teacher runs plainly, torch modules run in torch, exported and quantized students in the reference execution
    of the first target that opens them, and what was selected on a target as it ships there: that is the evaluation which
    is judged.

    Args:
        shipped: one per target that is here.
        students: (label, artifact) of every candidate; the run's own float32 is put before them where it is none.
        naive: (label, model) of the controls; where there are none, the one that gates may name.

    Returns:
        The hops, and a sentence for each that could not be evaluated; no hops without a teacher's answers.

    Raises:
        StorageError: a write failed.
    """
    if not shipped:
        return (), ()
    job, failures = shipped[0].job, shipped[0].test.failures
    known = "teacher" in job.references or job.teacher_evaluation is not None
    # What failed for the gates fails again, perhaps after an hour: the verdict tells of it.
    if not known or "accuracy.teacher" in failures:
        return (), ()
    hops, notes = [], []

    def add(hop: str, label: str, evaluate: Callable[[], Evaluation | None]) -> None:
        try:
            found = evaluate()
        except (
            DataError, ModelError, EvidenceError, ChildError, MissingDependencyError, TargetUnavailableError
        ) as e:  # fmt: skip
            notes.append(f"The chain is without '{label}': {e}.")
            return
        if found is not None:
            hops.append(Hop(hop=hop, label=label, evaluation=job.folder.add_evaluation(found)))

    add("teacher", "teacher", lambda: job.answers_of("teacher", SPLIT))
    for label, model in naive:
        add("naive", label, lambda label=label, model=model: _in_torch(job, label, model))  # type: ignore[misc]
    if not naive and "naive" in job.references and "accuracy.naive" not in failures:
        add("naive", job.references["naive"].label, lambda: job.answers_of("naive", SPLIT))
    if distilled is not None:
        add(
            "distilled",
            "distilled student (torch)",
            lambda: _in_torch(job, "distilled student (torch)", distilled),
        )
    for label, artifact in _with_float32(job, students):
        hop = "exported" if artifact.dtype == "float32" else "quantized"
        where = next((s.job for s in shipped if artifact.format in s.job.target.runtime_paths), job)
        add(
            hop,
            f"{label} ({artifact.format})",
            lambda label=label, artifact=artifact, where=where: where.evaluate(  # type: ignore[misc]
                f"{label}, reference", artifact, SPLIT, "student", as_written=True
            ),
        )
    for one in shipped:
        label = f"{one.label} as run on {one.job.target.target}"
        if one.test.accuracy is not None:
            hops.append(Hop(hop="as_run", label=label, evaluation=one.test.accuracy.candidate))
        elif "accuracy" not in one.test.failures:
            add(
                "as_run",
                label,
                lambda one=one: one.job.evaluate(one.label, one.artifact, SPLIT, "student"),  # type: ignore[misc]
            )
    return tuple(hops), tuple(notes)


def _in_torch(job: Job, label: str, model: Model) -> Evaluation:
    return job.evaluate(label, model.as_artifact(), SPLIT, "student", torch_target())


def _with_float32(job: Job, students: Sequence[tuple[str, Artifact]]) -> list[tuple[str, Artifact]]:
    """The students, led by their own float32 where none of them is it."""
    found = job.references.get("float32")
    if found is None or any(a.digest == found.artifact.digest for _, a in students):
        return list(students)
    return [(found.label, found.artifact), *students]


def teacher_note(folder: Path, chain: Sequence[Hop]) -> tuple[str, ...]:
    """A warning where the teacher is worse than a student trained without it: beating it proves nothing."""
    read = [(h.hop, load_evaluation(folder / h.evaluation)) for h in chain if h.hop in ("teacher", "naive")]
    teacher = next((e for hop, e in read if hop == "teacher"), None)
    naive = [e for hop, e in read if hop == "naive"]
    if teacher is None or not naive:
        return ()
    best = (min if teacher.error else max)(e.mean for e in naive)
    if teacher.mean == best or (teacher.mean < best) == teacher.error:
        return ()
    word = "above" if teacher.error else "below"
    return (
        f"The teacher ({_value(teacher, teacher.mean)}) is {word} a student of this size trained without it "
        f"({_value(teacher, best)}): train the teacher further, for beating a handicapped teacher proves nothing.",
    )


def _value(evaluation: Evaluation, value: float) -> str:
    return f"{value:.2%}" if evaluation.unit == "fraction" else f"{value:.4g} {evaluation.unit}".strip()
