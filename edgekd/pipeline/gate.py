"""``edgekd gate --teacher T --student S --data D``: collect what was asked, judge it, leave a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import edgekd
from edgekd.errors import DataError, UsageError
from edgekd.evidence import Evaluation, Evidence
from edgekd.evidence.run import AbsentTarget, Candidate, Hop, Run
from edgekd.files import building
from edgekd.gates.verdict import Verdict
from edgekd.measure import ledger
from edgekd.pipeline.candidates import Job, Reference
from edgekd.pipeline.chain import Shipped, collect_chain
from edgekd.pipeline.collect import Feeds
from edgekd.pipeline.folder import RunFolder, check_out
from edgekd.pipeline.opening import check_inputs, is_missing, runnable
from edgekd.pipeline.real_feeds import RealFeeds
from edgekd.pipeline.run import finish, judge_target, utc_now
from edgekd.pipeline.sizes import measured_sizes
from edgekd.pipeline.targets import resolve_target
from edgekd.pipeline.thumbnails import add_thumbnails
from edgekd.policy import GatesBlock, check_margins, check_scenario
from edgekd.provenance.declared import Declaration
from edgekd.provenance.storing import store_provenance
from edgekd.recipe import MeasureBlock
from edgekd.stages import StageStore
from edgekd.tasks import TaskSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRequest:
    """What the command line asked.

    Attributes:
        student, teacher, baseline, float32, naive: model references; all but the student may be empty.
        weights: role -> safetensors of a ``zoo:`` or ``python:`` reference.
        policy: the gates asked.
        data: a data reference; empty where only latency or size is asked.
        prepare: role -> how examples become feeds, where the model's own documents do not say.
        output: role -> ``{"name", "kind"}``; rename: role -> model input -> array.
        first_run: accept that the baseline does not exist yet.
        provenance: what was declared of teacher and data, with its texts.
    """

    student: str
    policy: GatesBlock
    teacher: str = ""
    baseline: str = ""
    float32: str = ""
    naive: str = ""
    weights: Mapping[str, Path] = field(default_factory=dict)
    teacher_evaluation: Evaluation | None = None
    data: str = ""
    task_kind: str = "classification"
    metric: str = ""
    cluster: str = ""
    prepare: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    target: str = "cpu:onnxruntime"
    measure: MeasureBlock = field(default_factory=MeasureBlock)
    shapes: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    output: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    rename: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    first_run: bool = False
    remeasure: bool = False
    provenance: Declaration | None = None
    name: str = "gate"


_LACKS = {
    "teacher": ("an accuracy gate needs a teacher", "give --teacher T.onnx (or --teacher-evaluation)"),
    "naive": ("a gate against the naive student needs one", "give --naive N.onnx"),
    "float32": ("a gate against the student's own float32 needs it", "give --float32 F.onnx"),
    "baseline": ("a gate against the last release needs it", "give --baseline A.onnx"),
}


def _given(request: GateRequest) -> list[str]:
    """The references that there are models (or a stored evaluation) for."""
    named = {
        "teacher": request.teacher or request.teacher_evaluation,
        "float32": request.float32,
        "naive": request.naive,
        "baseline": request.baseline,
    }
    return [name for name, value in named.items() if value]


def _check_asked(request: GateRequest) -> None:
    policy = request.policy
    if not policy.asked:
        raise UsageError(
            "no gate was asked",
            "give --data (accuracy), --max-flips, --max-latency-ratio, --max-latency-ms, --max-tail-ratio, "
            "--max-regression, --max-size-mib, --min-placement or --provenance",
        )
    if policy.judges_answers and not request.data:
        raise UsageError("a gate that compares answers needs labelled data", "give --data D.npz")
    for name in policy.references(_given(request)):
        if name not in _given(request):
            raise UsageError(*_LACKS[name])
    check_margins(policy, request.task_kind, request.metric)
    if request.prepare and request.task_kind == "classification":
        raise UsageError(
            "--prepare was given, and the task classification feeds arrays as they are",
            "name the task that prepares, e.g. --task image-classification",
        )
    if policy.latency is not None and not request.teacher:
        raise UsageError("--max-latency-ratio needs a teacher that runs here", "give --teacher T.onnx")
    if policy.tail is not None and not request.teacher:
        raise UsageError("--max-tail-ratio needs a teacher that runs here", "give --teacher T.onnx")
    check_scenario(policy, request.measure.as_scenario)
    if policy.size is not None and policy.size.max_ratio is not None and not request.teacher:
        raise UsageError("a size ratio needs a teacher", "give --teacher T.onnx, or --max-size-mib")


def _real(task: TaskSpec | None, request: GateRequest, role: str) -> RealFeeds | None:
    """What a conversion is compared on before it is measured; None where there is no data."""
    return None if task is None else RealFeeds(task=task, role=role, rename=request.rename.get(role, {}))


def gate_files(request: GateRequest, *, out: Path, store: StageStore) -> Verdict:
    """Collect evidence for one student on one target, judge it, and leave a run folder at ``out``.

    Raises:
        EdgeKDError: as the steps say; ``out`` is then as it was.
    """
    _check_asked(request)
    check_out(out)
    target = resolve_target(request.target)
    task = None
    digests: dict[str, str] = {}
    if request.data:
        task = TaskSpec(
            kind=request.task_kind,
            metric=request.metric,
            data={"test": request.data},
            base=str(Path.cwd()),
            cluster=request.cluster,
        )
        digests["test"] = task.split_digest("test")
    stored = request.teacher_evaluation
    if stored is not None and digests and stored.data != digests["test"]:
        raise DataError(
            "the stored teacher evaluation was made on other data than --data",
            "evaluate the teacher again on this data (`edgekd eval`)",
        )
    with building(out) as root:
        folder = RunFolder(root)
        candidates: list[Candidate] = []
        selected: dict[str, str] = {}
        absent: tuple[AbsentTarget, ...] = ()
        state = ""
        notes: list[str] = []
        chain: tuple[Hop, ...] = ()
        compared: dict[str, str] = {}
        if isinstance(target, AbsentTarget):
            absent = (target,)
        else:
            sizes = measured_sizes(request.shapes, request.measure.batch, request.measure.as_scenario)
            student = runnable(
                request.student, "student", request.weights, target, store, request.prepare, sizes,
                _real(task, request, "student"),
            )  # fmt: skip
            teacher = (
                runnable(
                    request.teacher,
                    "teacher",
                    request.weights,
                    target,
                    store,
                    request.prepare,
                    sizes,
                    _real(task, request, "teacher"),
                )
                if request.teacher
                else None
            )
            baseline = None
            if request.baseline:
                if request.first_run and is_missing(request.baseline, Path.cwd()):
                    state = "first-run"
                else:
                    baseline = runnable(
                        request.baseline, "baseline", request.weights, target, store, request.prepare, sizes,
                        _real(task, request, "student"),
                    )  # fmt: skip
                    state = "present"
            others = {
                name: runnable(
                    value,
                    name,
                    request.weights,
                    target,
                    store,
                    request.prepare,
                    sizes,
                    _real(task, request, "student"),
                )
                for name, value in (("float32", request.float32), ("naive", request.naive))
                if value
            }
            opened = {
                "student": student,
                "teacher": teacher,
                "baseline": baseline,
                **others,
            }
            check_inputs(
                {role: a for role, a in opened.items() if a is not None},
                shapes=request.shapes,
                rename=request.rename,
            )
            if teacher is not None and stored is not None and stored.artifact != teacher.digest:
                raise DataError(
                    f"--teacher-evaluation is of another model ({stored.artifact[:19]}…) than --teacher "
                    f"({teacher.digest[:19]}…)",
                    "evaluate that teacher (`edgekd eval`), or leave one of them out",
                )
            if teacher is not None:
                folder.add_artifact("teacher", teacher)
            references = {
                name: Reference(label=name, artifact=a, role="teacher" if name == "teacher" else "student")
                for name, a in opened.items()
                if a is not None and name != "student"
            }
            compared = {name: r.artifact.digest for name, r in references.items()}
            if stored is not None:
                compared["teacher"] = stored.artifact
            job = Job(
                target=target, policy=request.policy, task=task, digests=digests,
                feeds=Feeds(task=task, shapes=request.shapes, rename=request.rename), measure=request.measure,
                store=store, folder=folder, teacher=("teacher", teacher) if teacher else None,
                references=references,
                teacher_evaluation=stored, regression=("baseline", baseline) if baseline else None, output=request.output, rename=request.rename,
                search=(Path.cwd(),), remeasure=request.remeasure,
            )  # fmt: skip
            digest, candidates = judge_target(job, [("student", student)])
            notes = job.notes
            if request.policy.judges_answers:
                test = next(c.test for c in candidates if c.artifact == digest) or Evidence()
                shipped = [Shipped(job=job, label="student", artifact=student, test=test)]
                chain, missing = collect_chain(shipped, [("student", student)])
                notes += [*missing, *add_thumbnails(shipped, chain, {str(target.target): digest})]
            selected[str(target.target)] = digest
        run = Run(
            name=request.name, policy=request.policy.model_dump(mode="json", exclude_none=True),
            artifacts=folder.artifacts, candidates=tuple(candidates), selected=selected, absent=absent,
            chain=chain, notes=tuple(notes), regression_baseline=state, references=compared, environment=ledger.machine(),
            provenance=store_provenance(request.provenance), collected_at=utc_now(),
            edgekd=edgekd.__version__,
        )  # fmt: skip
        return finish(folder, run, request.policy)
