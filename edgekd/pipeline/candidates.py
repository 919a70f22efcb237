"""Candidates of one target: collect selection evidence, select, then collect what is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekd.artifact import Artifact
from edgekd.evaluate import EvaluationRequest
from edgekd.evidence import Candidate, Evaluation, Evidence, Measurement
from edgekd.evidence.measurement import BASELINE, CANDIDATE, SERVER
from edgekd.evidence.run import AccuracyEvidence, LatencyEvidence
from edgekd.gates.timing import TimingLimits
from edgekd.measure import Scenario, Setting
from edgekd.pipeline.collect import Comparison, Feeds, evaluate_artifact, measure_comparison
from edgekd.pipeline.folder import RunFolder
from edgekd.pipeline.targets import ResolvedTarget
from edgekd.recipe import GatesBlock, MeasureBlock
from edgekd.stages import StageStore
from edgekd.tasks import TaskSpec

MIB = float(1 << 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything that collecting evidence for one target needs.

    Attributes:
        teacher: (label, artifact) that the gates compare with; None where only a baseline or absolute limits are asked.
        teacher_evaluation: split -> stored evaluation of a teacher that cannot run here.
        regression: (label, artifact) of the baseline of the regression gate; None where not asked or not there yet.
        output, rename: role -> overrides of the artifact's own.
        notes: sentences for the report, filled while evidence is collected.
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
    teacher_evaluation: Evaluation | None = None
    regression: tuple[str, Artifact] | None = None
    output: Mapping[str, Mapping[str, str]] | None = None
    rename: Mapping[str, Mapping[str, str]] | None = None
    search: tuple[Path, ...] = ()
    remeasure: bool = False
    progress: object = None
    notes: list[str] = field(default_factory=list)

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

    def evaluate(self, label: str, artifact: Artifact, split: str, role: str) -> Evaluation:
        """Evaluate on this target, through the store."""
        if self.task is None:
            raise AssertionError("accuracy is only asked where there is data")
        limit = self.measure.memory_limit_mib
        request = EvaluationRequest(
            label=label,
            artifact=artifact,
            target=self.target.target,
            runtime_paths=self.target.runtime_paths,
            task=self.task,
            split=split,
            data_digest=self.digests[split],
            role=role,
            output=(self.output or {}).get(role, {}),
            rename=(self.rename or {}).get(role, {}),
            threads=self.measure.threads,
            timeout_s=max(3600.0, self.measure.timeout_s),
            memory_bytes=int(limit * MIB) if limit else None,
            search=self.search,
        )
        return evaluate_artifact(request, self.store)

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


def collect_select(job: Job, students: Sequence[tuple[str, Artifact]]) -> list[Candidate]:
    """Every student as a candidate, with selection evidence where there is a choice: only what the policy asks."""
    choice = len(students) > 1 and job.teacher is not None
    base_path = timing_path = ""
    if choice and job.teacher is not None:
        if job.policy.accuracy is not None:
            base_path = job.folder.add_evaluation(job.evaluate(*job.teacher, "select", "teacher"))
        if job.limits != TimingLimits():
            # The server is judged at its rate; which student is fast is seen without one.
            named = job.measure.as_scenario
            scenario = Scenario() if named.name == SERVER else named
            timings = job.measure_against(job.teacher, students, {}, "select", scenario=scenario)
            timing_path = job.folder.add_measurement(f"select {job.target.target}", timings)
    # What the gates compare with: the teacher where there is one, else last release's model.
    compared = job.teacher or (None if job.teacher_evaluation else job.regression)
    baseline = job.folder.add_artifact(*compared) if compared else ""
    candidates: list[Candidate] = []
    for index, (label, artifact) in enumerate(students):
        accuracy = latency = None
        if base_path:
            own = job.evaluate(label, artifact, "select", "student")
            accuracy = AccuracyEvidence(baseline=base_path, candidate=job.folder.add_evaluation(own))
        if timing_path:
            arm = CANDIDATE if index == 0 else f"{CANDIDATE}_{index + 1}"
            latency = LatencyEvidence(measurement=timing_path, arm=arm)
        candidates.append(
            Candidate(
                artifact=job.folder.add_artifact(label, artifact),
                target=str(job.target.target),
                dtype=artifact.dtype,
                baseline=baseline,
                select=Evidence(accuracy=accuracy, latency=latency),
            )
        )
    return candidates


def collect_test(job: Job, student: tuple[str, Artifact]) -> Evidence:
    """The evidence that the selected candidate is judged on: only what the policy asks for."""
    accuracy = latency = regression = alone = None
    label, artifact = student
    if job.policy.accuracy is not None and job.task is not None:
        base = job.teacher_evaluation
        if base is None and job.teacher is not None:
            base = job.evaluate(*job.teacher, "test", "teacher")
        if base is not None:
            own = job.evaluate(label, artifact, "test", "student")
            accuracy = AccuracyEvidence(
                baseline=job.folder.add_evaluation(base), candidate=job.folder.add_evaluation(own)
            )
    limits = job.limits
    beside_teacher = replace(limits, absolute=None) != TimingLimits()
    if beside_teacher and job.teacher is not None:
        made = job.measure_against(job.teacher, [student], {label: limits}, "test")
        latency = LatencyEvidence(
            measurement=job.folder.add_measurement(f"{label} latency", made), arm=CANDIDATE
        )
        limits = TimingLimits()  # all of them have their evidence
    if job.policy.regression is not None and job.regression is not None:
        limit = TimingLimits(max_ratio=1 + job.policy.regression.max_regression, absolute=limits.absolute)
        job.folder.add_artifact(*job.regression)
        made = job.measure_against(job.regression, [student], {label: limit}, "test", role="baseline")
        regression = LatencyEvidence(
            measurement=job.folder.add_measurement(f"{label} regression", made), arm=CANDIDATE
        )
        limits = replace(limits, absolute=None)
    if limits.absolute is not None:
        made = job.measure_against(student, [], {label: limits}, "test", role="student")
        alone = LatencyEvidence(measurement=job.folder.add_measurement(f"{label} alone", made), arm=BASELINE)
    return Evidence(accuracy=accuracy, latency=latency, regression=regression, alone=alone)
