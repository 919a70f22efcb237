"""Candidates of one target: collect selection evidence, select, then collect what is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.artifact import Artifact
from edgekd.evaluate import EvaluationRequest
from edgekd.evidence import Candidate, Evaluation, Evidence, Measurement
from edgekd.evidence.measurement import CANDIDATE
from edgekd.evidence.run import AccuracyEvidence, LatencyEvidence
from edgekd.gates.latency import judge_latency
from edgekd.measure import Setting
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

    def measure_against(
        self,
        baseline: tuple[str, Artifact],
        candidates: Sequence[tuple[str, Artifact]],
        limits: Mapping[str, float],
        occasion: str,
        role: str = "teacher",
    ) -> Measurement:
        """Measure candidates beside a baseline, through the store."""
        comparison = Comparison(
            baseline=baseline, candidates=candidates, limits=limits, feeds=self.feeds, setting=self.setting,
            occasion=occasion, baseline_role=role,
        )  # fmt: skip

        def decided(measurement: Measurement) -> bool:
            arms = [a for a in measurement.candidates if measurement.arms[a]["name"] in limits]
            return all(
                judge_latency(
                    measurement, a, max_ratio=limits[measurement.arms[a]["name"]], against=baseline[0]
                ).decision
                in ("pass", "reject")
                for a in arms
            )

        return measure_comparison(comparison, self.store, remeasure=self.remeasure, decided=decided)


def collect_select(job: Job, students: Sequence[tuple[str, Artifact]]) -> list[Candidate]:
    """Every student as a candidate, with selection evidence where there is a choice: only what the policy asks."""
    choice = len(students) > 1 and job.teacher is not None
    base_path = timing_path = ""
    if choice and job.teacher is not None:
        if job.policy.accuracy is not None:
            base_path = job.folder.add_evaluation(job.evaluate(*job.teacher, "select", "teacher"))
        if job.policy.latency is not None:
            timings = job.measure_against(job.teacher, students, {}, "select")
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
    accuracy = latency = regression = None
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
    if job.policy.latency is not None and job.teacher is not None:
        made = job.measure_against(job.teacher, [student], {label: job.policy.latency.max_ratio}, "test")
        latency = LatencyEvidence(
            measurement=job.folder.add_measurement(f"{label} latency", made), arm=CANDIDATE
        )
    if job.policy.regression is not None and job.regression is not None:
        limit = 1 + job.policy.regression.max_regression
        job.folder.add_artifact(*job.regression)
        made = job.measure_against(job.regression, [student], {label: limit}, "test", role="baseline")
        regression = LatencyEvidence(
            measurement=job.folder.add_measurement(f"{label} regression", made), arm=CANDIDATE
        )
    return Evidence(accuracy=accuracy, latency=latency, regression=regression)
