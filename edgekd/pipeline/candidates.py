"""Candidates of one target: collect selection evidence, select, then collect what is judged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekd.artifact import Artifact
from edgekd.errors import ChildError, DataError, EvidenceError, InfrastructureError, ModelError, UsageError
from edgekd.evaluate import EvaluationRequest
from edgekd.evidence import Candidate, Evaluation, Evidence, Measurement
from edgekd.evidence.measurement import BASELINE, CANDIDATE, SERVER
from edgekd.evidence.run import AccuracyEvidence, Failure, LatencyEvidence
from edgekd.gates.timing import TimingLimits
from edgekd.measure import Scenario, Setting
from edgekd.measure.placing import place_artifact
from edgekd.pipeline.builds import other_builds
from edgekd.pipeline.collect import Comparison, Feeds, evaluate_artifact, measure_comparison
from edgekd.pipeline.execution import Execution, as_shipped, as_written_in, plain
from edgekd.pipeline.explaining import explain_student
from edgekd.pipeline.folder import RunFolder
from edgekd.pipeline.targets import ResolvedTarget
from edgekd.recipe import GatesBlock, MeasureBlock
from edgekd.stages import StageStore
from edgekd.tasks import TaskSpec
from edgekd.tasks.build import check_prepare

MIB = float(1 << 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A model whose answers the student's are compared with.

    Attributes:
        role: whose arrays it takes, ``teacher`` or ``student``.
        target: where it runs; None is where the student runs.
    """

    label: str
    artifact: Artifact
    role: str = "student"
    target: ResolvedTarget | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything that collecting evidence for one target needs.

    Attributes:
        teacher: (label, artifact) that the gates compare with; None where only a baseline or absolute limits are asked.
        references: ``teacher``, ``naive``, ``float32``, ``baseline`` -> what answers are compared with.
        teacher_evaluation: stored evaluation, on the test split, of a teacher that cannot run here.
        regression: (label, artifact) of the baseline of the regression gate; None where not asked or not there yet.
        output, rename: role -> overrides of the artifact's own.
        required: whether the target is; what fails on an optional one is not kept as evidence.
        notes: sentences for the report, filled while evidence is collected.
        explain: say of every quantized student whether it is faster than its float twin, and why not.
    """

    target: ResolvedTarget
    policy: GatesBlock
    task: TaskSpec | None
    digests: Mapping[str, str]
    feeds: Feeds
    measure: MeasureBlock
    store: StageStore
    folder: RunFolder
    teacher: tuple[str, Artifact] | None
    references: Mapping[str, Reference] = field(default_factory=dict)
    teacher_evaluation: Evaluation | None = None
    regression: tuple[str, Artifact] | None = None
    output: Mapping[str, Mapping[str, str]] | None = None
    rename: Mapping[str, Mapping[str, str]] | None = None
    search: tuple[Path, ...] = ()
    remeasure: bool = False
    progress: object = None
    required: bool = True
    notes: list[str] = field(default_factory=list)
    explain: bool = False

    @property
    def setting(self) -> Setting:
        limit = self.measure.memory_limit_mib
        return Setting(
            target=self.target.target,
            runtime_paths=self.target.runtime_paths,
            threads=self.measure.threads,
            batch=self.measure.batch,
            timeout_s=self.measure.timeout_s,
            memory_bytes=int(limit * MIB) if limit else None,
            search=self.search,
        )

    def evaluate(
        self,
        label: str,
        artifact: Artifact,
        split: str,
        role: str,
        target: ResolvedTarget | None = None,
        named: str = "",
        as_written: bool = False,
    ) -> Evaluation:
        """Evaluate through the store, on this target or another.

        On this target a student runs as it ships: with the batch, threads and settings of its timings.

        Args:
            role: whose arrays it takes; named: whose ``--map`` and ``--output`` count, where not the role's.
            as_written: in the runtime's reference execution, without its graph optimisations.
        """
        if self.task is None:
            raise AssertionError("accuracy is only asked where there is data")
        limit = self.measure.memory_limit_mib
        where = target or self.target
        how = plain(artifact, self.measure)
        if as_written:
            how = as_written_in(where, artifact, self.measure)
        elif role == "student" and target is None:
            how = self.shipped_as(label, artifact)
        request = EvaluationRequest(
            label=label,
            artifact=replace(artifact, settings=how.settings),
            target=where.target,
            runtime_paths=where.runtime_paths,
            task=self.task,
            split=split,
            data_digest=self.digests[split],
            role=role,
            output=(self.output or {}).get(named or role, {}),
            rename=(self.rename or {}).get(named or role, {}),
            batch=how.batch,
            threads=how.threads,
            timeout_s=max(3600.0, self.measure.timeout_s),
            # The limit is of what ships, not of where it was trained.
            memory_bytes=int(limit * MIB) if limit and target is None else None,
            search=self.search,
        )
        found = evaluate_artifact(request, self.store)
        self.notes.extend(n for n in found.environment.get("notes", ()) if n not in self.notes)
        return found

    def shipped_as(self, label: str, artifact: Artifact) -> Execution:
        """How it is timed; where nothing is timed beside it, at its own swept settings, which is then noted."""
        timed = self.teacher if replace(self.limits, absolute=None) != TimingLimits() else None
        beside = timed or (self.regression if self.policy.regression is not None else None)
        how = as_shipped(
            label, artifact, [beside] if beside else [], measure=self.measure, target=self.target
        )
        if not beside and how.tuning.note and how.tuning.note not in self.notes:
            self.notes.append(how.tuning.note)
        return how

    def answers_of(self, name: str, split: str) -> Evaluation | None:
        """The evaluation of a reference; None where the run has no such model."""
        if name == "teacher" and self.teacher_evaluation is not None:
            return self.teacher_evaluation
        reference = self.references.get(name)
        if reference is None:
            return None
        return self.evaluate(
            reference.label, reference.artifact, split, reference.role, reference.target, named=name
        )

    @contextlib.contextmanager
    def kept(self, failures: dict[str, Failure], what: str) -> Iterator[None]:
        """Keep a failure to collect as evidence: the judge makes an error of it, with its reason.

        What is wrong with the request itself, or with this machine's disk, is raised as it is.
        """
        try:
            yield
        except (DataError, ModelError, EvidenceError, ChildError) as e:
            if not self.required:
                raise
            kind = "infrastructure" if isinstance(e, InfrastructureError) else "input"
            failures[what] = Failure(kind=kind, reason=str(e))

    @property
    def limits(self) -> TimingLimits:
        """What the policy asks of timings beside the teacher."""
        latency, absolute, tail = self.policy.latency, self.policy.latency_absolute, self.policy.tail
        return TimingLimits(
            max_ratio=latency.max_ratio if latency else None,
            absolute=(absolute.percentile, absolute.max_ms) if absolute else None,
            tail=(tail.percentile, tail.max_ratio) if tail else None,
        )

    def measure_against(
        self,
        baseline: tuple[str, Artifact],
        candidates: Sequence[tuple[str, Artifact]],
        limits: Mapping[str, float | TimingLimits],
        occasion: str,
        role: str = "teacher",
        scenario: Scenario | None = None,
    ) -> Measurement:
        """Measure candidates beside a baseline, or the baseline alone, through the store."""
        comparison = Comparison(
            baseline=baseline, candidates=candidates, limits=limits, feeds=self.feeds, setting=self.setting,
            occasion=occasion, baseline_role=role, scenario=scenario or self.measure.as_scenario,
            own_settings="threads" not in self.measure.model_fields_set,
        )  # fmt: skip
        found = measure_comparison(comparison, self.store, remeasure=self.remeasure)
        note = str(found.environment.get("settings_note") or "")
        if note and note not in self.notes:
            self.notes.append(note)
        return found


def _check_prepare(job: Job, students: Sequence[tuple[str, Artifact]]) -> None:
    """A key that the task does not know is refused before the first model has run for minutes.

    Raises:
        UsageError: names the model and the key.
    """
    if job.task is None:
        return
    beside = [pair for pair in (job.teacher, job.regression) if pair is not None]
    for label, artifact in [*beside, *((r.label, r.artifact) for r in job.references.values()), *students]:
        try:
            check_prepare(job.task, artifact.prepare)
        except UsageError as e:
            raise UsageError(f"{label} ({artifact.path.name}): {e.what}", e.fix) from e


def collect_select(job: Job, students: Sequence[tuple[str, Artifact]]) -> list[Candidate]:
    """Every student as a candidate, with selection evidence where there is a choice: only what the policy asks.

    Raises:
        UsageError: a model's ``prepare`` has a key that the task does not know.
    """
    _check_prepare(job, students)
    choice = len(students) > 1 and job.teacher is not None
    shared: dict[str, Failure] = {}
    timing_path = ""
    timings: Measurement | None = None
    if choice and job.teacher is not None and job.limits != TimingLimits():
        # The server is judged at its rate; which student is fast is seen without one.
        named = job.measure.as_scenario
        scenario = Scenario() if named.name == SERVER else named
        with job.kept(shared, "latency"):
            timings = job.measure_against(job.teacher, students, {}, "select", scenario=scenario)
            timing_path = job.folder.add_measurement(f"select {job.target.target}", timings)
    # What the gates compare with: the teacher where there is one, else last release's model.
    compared = job.teacher or (None if job.teacher_evaluation else job.regression)
    baseline = job.folder.add_artifact(*compared) if compared else ""
    candidates: list[Candidate] = []
    for index, (label, artifact) in enumerate(students):
        accuracy, failures = collect_answers(job, label, artifact, "select") if choice else (None, {})
        placed = _placed(job, label, artifact, failures) if choice else ""
        latency = None
        if timing_path:
            arm = CANDIDATE if index == 0 else f"{CANDIDATE}_{index + 1}"
            latency = LatencyEvidence(measurement=timing_path, arm=arm)
        candidates.append(
            Candidate(
                artifact=job.folder.add_artifact(label, artifact),
                target=str(job.target.target),
                dtype=artifact.dtype,
                baseline=baseline,
                references=compared_with(job),
                select=Evidence(
                    accuracy=accuracy, latency=latency, placement=placed, failures={**shared, **failures}
                ),
                speedup=explain_student(job, label, artifact, students, timings, timing_path),
            )
        )
    return candidates


def compared_with(job: Job) -> dict[str, str]:
    """Name -> digest of what this target's answers are compared with."""
    found = {name: r.artifact.digest for name, r in job.references.items()}
    if job.teacher_evaluation is not None:
        found["teacher"] = job.teacher_evaluation.artifact
    return found


def collect_answers(
    job: Job, label: str, artifact: Artifact, split: str
) -> tuple[AccuracyEvidence | None, dict[str, Failure]]:
    """The student's answers beside those of every reference that the policy names, and what could not be had."""
    failures: dict[str, Failure] = {}
    if not job.policy.judges_answers or job.task is None:
        return None, failures
    known = [*job.references, *(["teacher"] if job.teacher_evaluation is not None else [])]
    references: dict[str, str] = {}
    for name in job.policy.references(known):
        with job.kept(failures, f"accuracy.{name}"):
            found = job.answers_of(name, split)
            if found is not None:
                references[name] = job.folder.add_evaluation(found)
    own = ""
    with job.kept(failures, "accuracy"):
        own = job.folder.add_evaluation(job.evaluate(label, artifact, split, "student"))
    if not own or not references:
        return None, failures
    return AccuracyEvidence(candidate=own, references=references), failures


def collect_test(job: Job, student: tuple[str, Artifact]) -> Evidence:
    """The evidence that the selected candidate is judged on: only what the policy asks for."""
    latency = regression = alone = None
    label, artifact = student
    accuracy, failures = collect_answers(job, label, artifact, "test")
    builds = other_builds(label, artifact)
    raced = [student, *builds]
    others = tuple(f"{CANDIDATE}_{k}" for k in range(2, len(raced) + 1))
    limits = job.limits
    beside_teacher = replace(limits, absolute=None) != TimingLimits()
    if beside_teacher and job.teacher is not None:
        with job.kept(failures, "latency"):
            made = job.measure_against(job.teacher, raced, {name: limits for name, _ in raced}, "test")
            latency = LatencyEvidence(
                measurement=job.folder.add_measurement(f"{label} latency", made), arm=CANDIDATE, builds=others
            )
        limits = TimingLimits()  # all of them have their evidence
    if job.policy.regression is not None and job.regression is not None:
        limit = TimingLimits(max_ratio=1 + job.policy.regression.max_regression, absolute=limits.absolute)
        job.folder.add_artifact(*job.regression)
        with job.kept(failures, "regression"):
            asked = {name: limit for name, _ in raced}
            made = job.measure_against(job.regression, raced, asked, "test", role="baseline")
            regression = LatencyEvidence(
                measurement=job.folder.add_measurement(f"{label} regression", made),
                arm=CANDIDATE,
                builds=others,
            )
        limits = replace(limits, absolute=None)
    if limits.absolute is not None:
        with job.kept(failures, "alone"):
            asked = {name: limits for name, _ in raced}
            made = job.measure_against(student, builds, asked, "test", role="student")
            alone = LatencyEvidence(
                measurement=job.folder.add_measurement(f"{label} alone", made),
                arm=BASELINE,
                builds=(CANDIDATE, *others[: len(builds) - 1]) if builds else (),
            )
    placement = _placed(job, label, artifact, failures)
    return Evidence(
        accuracy=accuracy, latency=latency, regression=regression, alone=alone, placement=placement, failures=failures,
    )  # fmt: skip


def _placed(job: Job, label: str, artifact: Artifact, failures: dict[str, Failure]) -> str:
    """Where the candidate's operators ran, as it is timed; empty where that is not asked."""
    if job.policy.placement is None:
        return ""
    with job.kept(failures, "placement"):
        how = job.shipped_as(label, artifact)
        setting = replace(job.setting, threads=how.threads)
        feeds = job.feeds.of(artifact, "student", artifact.fixed_batch or job.measure.batch)
        return job.folder.add_placement(label, place_artifact(label, artifact, feeds, setting, how.settings))
    return ""
