"""Accuracy against latency: every candidate beside the reference, with what the gates allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekd.errors import InputError
from edgekd.evidence.evaluation import Evaluation, load_evaluation
from edgekd.evidence.measurement import BASELINE, SERVER, load_measurement
from edgekd.evidence.run import Candidate, Evidence, Run
from edgekd.gates.accuracy import is_proportion
from edgekd.gates.latency import ratio_of
from edgekd.gates.verdict import CandidateVerdict, Decision, Gate, Verdict
from edgekd.report.chain import paired_difference
from edgekd.statistics.tango import normal_quantile

#: Two-sided level of the reference's own interval.
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A figure with both bounds; None where a bound does not exist."""

    estimate: float
    lower: float | None
    upper: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoPoint:
    """One candidate against the reference.

    Attributes:
        artifact: digest.
        selected: judged on the test split; the others were looked at on the selection split.
        time: candidate / reference, a ratio.
        accuracy: candidate minus reference in the metric's unit, negative where the candidate is worse.
    """

    artifact: str
    decision: Decision
    selected: bool
    time: Reading
    accuracy: Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoChart:
    """The candidates of one target.

    Attributes:
        against: what both axes compare with.
        reference: its own scatter: time of its hidden second copy over its own, and the 95 % interval of its
            accuracy (Wilson) less that accuracy.
        reference_value: the metric's value of the reference; None where it is not stored.
        max_ratio, least_difference: the limits that were asked; None where none was.
        missing: digests of candidates without timings or without scores.
    """

    target: str
    metric: str
    unit: str
    against: str
    points: tuple[ParetoPoint, ...]
    reference: ParetoPoint
    reference_value: float | None
    max_ratio: float | None
    least_difference: float | None
    missing: tuple[str, ...]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of those that no other beats in both: least time, greatest accuracy; in order of time.

    >>> front([(0.5, -0.01), (0.6, -0.02), (1.0, 0.0)])
    [0, 2]
    """
    best, found = -math.inf, []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[i][1] > best:
            best = points[i][1]
            found.append(i)
    return found


def wilson_interval(right: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of a share (E. Wilson, *J. Am. Stat. Assoc.* 22, 1927).

    Args:
        right: the share seen, in [0, 1]; n: of how many.
        confidence: two-sided.

    >>> [round(x, 4) for x in wilson_interval(0.9, 2000)]
    [0.8861, 0.9124]
    """
    z = normal_quantile(0.5 + confidence / 2)
    middle = (right + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(right * (1 - right) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return middle - half, middle + half


@dataclass(frozen=True, slots=True)
class _Reader:
    """Evidence that no gate stands for, read once."""

    folder: Path
    evaluations: dict[str, Evaluation] = field(default_factory=dict)

    def evaluation(self, path: str) -> Evaluation:
        if path not in self.evaluations:
            self.evaluations[path] = load_evaluation(self.folder / path)
        return self.evaluations[path]

    def accuracy(self, verdict: CandidateVerdict, evidence: Evidence, against: str) -> Reading | None:
        gate = _rule(verdict.gates, against)
        if gate is not None and gate.estimate is not None:
            return _reading(gate)
        paths = evidence.accuracy
        if paths is None or against not in paths.references:
            return None
        found = paired_difference(
            self.evaluation(paths.references[against]), self.evaluation(paths.candidate)
        )
        if found is None:
            return None
        lower, upper = found.interval or (None, None)
        return Reading(estimate=found.estimate, lower=lower, upper=upper)

    def time(self, verdict: CandidateVerdict, evidence: Evidence, against: str) -> Reading | None:
        name = "latency" if against == "teacher" else "regression"
        gate = next((g for g in verdict.gates if g.gate == name), None)
        if gate is not None and gate.estimate is not None:
            return _reading(gate)
        source = evidence.latency if against == "teacher" else evidence.regression
        if source is None:
            return None
        measurement = load_measurement(self.folder / source.measurement)
        if measurement.scenario == SERVER or source.arm not in measurement.arms:
            return None
        if any(measurement.emulated(arm) for arm in (BASELINE, source.arm)):
            return None
        ratio, lower, upper = ratio_of(measurement, source.arm)
        return Reading(estimate=ratio, lower=lower or None, upper=upper if math.isfinite(upper) else None)


def _rule(gates: Sequence[Gate], against: str) -> Gate | None:
    """The gate on a difference; one on a share of the reference compares something else."""
    return next(
        (g for g in gates if g.gate == "accuracy" and g.against == against and "min_ratio" not in g.detail),
        None,
    )


def _reading(gate: Gate) -> Reading:
    lower, upper = gate.interval or (None, None)
    return Reading(estimate=gate.estimate or 0.0, lower=lower, upper=upper)


def pareto_charts(folder: Path, run: Run, verdict: Verdict) -> tuple[ParetoChart, ...]:
    """A chart per target that has both timings and scores of some candidate against the same reference.

    Figures are the gates' own where a gate compared just this; others are made from the stored evidence. Evidence
    that cannot be read leaves its candidate out, by name.
    """
    charts = []
    reader = _Reader(folder)
    known = {(c.artifact, c.target): c for c in run.candidates}
    for target in dict.fromkeys(c.target for c in verdict.candidates):
        judged = [
            (c, known[c.artifact, target])
            for c in verdict.candidates
            if c.target == target and (c.artifact, target) in known
        ]
        for against in ("teacher", "baseline"):
            chart = _chart(reader, run, target, judged, against)
            if chart is not None:
                charts.append(chart)
                break
    return tuple(charts)


def _chart(
    reader: _Reader,
    run: Run,
    target: str,
    judged: Sequence[tuple[CandidateVerdict, Candidate]],
    against: str,
) -> ParetoChart | None:
    points: list[ParetoPoint] = []
    missing: list[str] = []
    for verdict, candidate in judged:
        selected = run.selected.get(target) == candidate.artifact
        evidence = (candidate.test if selected else None) or candidate.select
        try:
            accuracy = reader.accuracy(verdict, evidence, against)
            time = reader.time(verdict, evidence, against)
        except InputError:
            accuracy = time = None  # what is damaged is in the notes already; here it is missing, by name
        if accuracy is None or time is None or not (time.estimate > 0 and math.isfinite(accuracy.estimate)):
            missing.append(candidate.artifact)
            continue
        points.append(
            ParetoPoint(
                artifact=candidate.artifact,
                decision=verdict.decision,
                selected=selected,
                time=time,
                accuracy=accuracy,
            )
        )
    if not points:
        return None
    gates = [g for verdict, _ in judged for g in verdict.gates]
    reference = _reference_evaluation(reader, judged, against)
    rule = _rule(gates, against)
    name = "latency" if against == "teacher" else "regression"
    speed = next((g for g in gates if g.gate == name and g.limit is not None), None)
    return ParetoChart(
        target=target,
        metric=next((g.metric for g in gates if g.gate == "accuracy"), "")
        or ("" if reference is None else reference.metric),
        unit="fraction" if reference is None else reference.unit,
        against=against,
        points=tuple(points),
        reference=_reference(reference, judged, against, gates, name),
        reference_value=None if reference is None else reference.mean,
        max_ratio=None if speed is None else speed.limit,
        least_difference=_least_difference(gates, against, reference) if rule is None else rule.limit,
        missing=tuple(missing),
    )


def _least_difference(gates: Sequence[Gate], against: str, reference: Evaluation | None) -> float | None:
    """A share of the reference's value as a difference to it; the error of an error metric may grow by 1 / share."""
    rule = next((g for g in gates if g.gate == "accuracy" and g.against == against), None)
    if rule is None or reference is None or not isinstance(share := rule.detail.get("min_ratio"), float):
        return None
    return -reference.mean * (1 / share - 1) if reference.error else reference.mean * (share - 1)


def _reference_evaluation(
    reader: _Reader, judged: Sequence[tuple[CandidateVerdict, Candidate]], against: str
) -> Evaluation | None:
    for _, candidate in sorted(judged, key=lambda pair: pair[1].test is None):
        evidence = candidate.test or candidate.select
        if evidence.accuracy is not None and (path := evidence.accuracy.references.get(against)):
            try:
                return reader.evaluation(path)
            except InputError:
                continue
    return None


def _reference(
    evaluation: Evaluation | None,
    judged: Sequence[tuple[CandidateVerdict, Candidate]],
    against: str,
    gates: Sequence[Gate],
    name: str,
) -> ParetoPoint:
    time = Reading(estimate=1.0, lower=None, upper=None)
    for gate in gates:
        twins = gate.detail.get("a_a_interval") if gate.gate == name else None
        if twins:
            time = Reading(estimate=1.0, lower=float(twins[0]), upper=float(twins[1]))
            break
    accuracy = Reading(estimate=0.0, lower=None, upper=None)
    if evaluation is not None and evaluation.n and is_proportion(evaluation):
        low, high = wilson_interval(evaluation.mean, evaluation.n)
        accuracy = Reading(estimate=0.0, lower=low - evaluation.mean, upper=high - evaluation.mean)
    return ParetoPoint(
        artifact=judged[0][1].baseline if against == "teacher" else "",
        decision="not_run",
        selected=False,
        time=time,
        accuracy=accuracy,
    )
