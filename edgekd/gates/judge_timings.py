"""Gates of stored timings: the ratio to the teacher or to the last release, absolute quantiles, tails."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgekd.errors import EvidenceError, InputError
from edgekd.evidence.measurement import BASELINE, SERVER, Measurement
from edgekd.evidence.run import Candidate, Evidence, Failure, LatencyEvidence
from edgekd.gates.absolute import judge_absolute
from edgekd.gates.latency import judge_latency
from edgekd.gates.store import Store, failed_gate, plain_gate, same_artifact, same_target
from edgekd.gates.tail import judge_tail
from edgekd.gates.verdict import Gate, worst_decision

if TYPE_CHECKING:  # plain attributes are read; pydantic is not needed to judge
    from edgekd.policy import LatencyAbsoluteGate, TailGate


def judge_race(
    store: Store,
    candidate: Candidate,
    evidence: LatencyEvidence | None,
    gate: str,
    against: str,
    max_ratio: float,
    *,
    failure: Failure | None = None,
    baseline: str = "",
) -> Gate:
    """The ratio of two models' times.

    Args:
        baseline: digest of what the candidate must have been measured beside; empty where the run does not say.
    """
    if failure is not None:
        return failed_gate(candidate, gate, failure, against)
    if evidence is None:
        fix = "--max-regression X --baseline A" if gate == "regression" else "--max-latency-ratio R"
        return plain_gate(
            candidate,
            gate,
            "inconclusive",
            f"the run holds no timings of student and {against}: run `edgekd gate` with {fix}",
            against,
        )
    try:
        measurement = _timings(store, candidate, evidence, beside=baseline)
        _check_builds(measurement, evidence, candidate)
        if measurement.scenario == SERVER:
            raise EvidenceError(
                f"{evidence.measurement} holds queries of the server scenario and no race of two models",
                "measure with --scenario single-stream, multi-stream or offline",
            )
    except InputError as e:
        return plain_gate(candidate, gate, "error", str(e), against, "input")
    judged = [
        _if_held(
            measurement, judge_latency(measurement, arm, max_ratio=max_ratio, gate=gate, against=against)
        )
        for arm in (evidence.arm, *evidence.builds)
    ]
    return _worst_build(judged, candidate)


def _check_builds(measurement: Measurement, evidence: LatencyEvidence, candidate: Candidate) -> None:
    """Raises EvidenceError where an arm that is called another build of the candidate is something else."""
    for arm in evidence.builds:
        record = measurement.arms.get(arm, {})
        same_artifact(
            str(record.get("build_of", "")), candidate.artifact, f"{evidence.measurement} (arm {arm})"
        )


def _worst_build(judged: list[Gate], candidate: Candidate) -> Gate:
    """One answer for all builds of a model: whichever is shipped next may be the worst of them."""
    if len(judged) == 1:
        return judged[0]
    decision = worst_decision(g.decision for g in judged)
    worst = max((g for g in judged if g.decision == decision), key=lambda g: g.estimate or 0.0)
    return replace(
        worst,
        artifact=candidate.artifact,
        reason=f"{worst.reason}: the worst of {len(judged)} builds",
        detail={**worst.detail, "builds": [g.estimate for g in judged]},
    )


def _if_held(measurement: Measurement, gate: Gate) -> Gate:
    """A pass counts only where the scenario's least duration and count hold; redraws may have ended it before."""
    if gate.decision != "pass" or measurement.scenario_detail.get("held", True):
        return gate
    rules = measurement.scenario_detail
    return replace(
        gate,
        decision="inconclusive",
        reason=f"{gate.reason}, but the {measurement.scenario} run ended before {rules.get('min_duration_s')} s and "
        f"{rules.get('min_count')} queries ({len(measurement.redrawn)} restarts redrawn): measure on a quieter machine",
    )


def judge_quantile(store: Store, candidate: Candidate, evidence: Evidence, rule: LatencyAbsoluteGate) -> Gate:
    """A quantile of the candidate's own latency."""
    failure = evidence.failures.get("alone") or evidence.failures.get("latency")
    if not evidence.timings and failure is not None:
        return failed_gate(candidate, "latency_absolute", failure, "", metric=rule.percentile)
    if not evidence.timings:
        return plain_gate(
            candidate,
            "latency_absolute",
            "inconclusive",
            f"the run holds no timings of the student: run `edgekd gate` with --max-latency-ms {rule.percentile}:MS",
            "",
            metric=rule.percentile,
        )
    source = evidence.timings[0]
    try:
        measurement = _timings(store, candidate, source)
        _check_builds(measurement, source, candidate)
    except InputError as e:
        return plain_gate(candidate, "latency_absolute", "error", str(e), "", "input", metric=rule.percentile)
    judged = [
        _if_held(
            measurement, judge_absolute(measurement, arm, percentile=rule.percentile, max_ms=rule.max_ms)
        )
        for arm in (source.arm, *source.builds)
    ]
    return _worst_build(judged, candidate)


def judge_tail_ratio(store: Store, candidate: Candidate, evidence: Evidence, rule: TailGate) -> Gate:
    """The ratio of a quantile of the raw latency."""
    if failure := evidence.failures.get("latency"):
        return failed_gate(candidate, "tail", failure, rule.against, metric=rule.percentile)
    timings = evidence.latency
    if timings is None:
        return plain_gate(
            candidate,
            "tail",
            "inconclusive",
            f"the run holds no timings of student and {rule.against}: run `edgekd gate` with "
            f"--max-tail-ratio {rule.percentile}:R",
            rule.against,
            metric=rule.percentile,
        )
    try:
        measurement = _timings(store, candidate, timings, beside=candidate.baseline)
        _check_builds(measurement, timings, candidate)
    except InputError as e:
        return plain_gate(candidate, "tail", "error", str(e), rule.against, "input", metric=rule.percentile)
    judged = [
        _if_held(
            measurement,
            judge_tail(
                measurement, arm, percentile=rule.percentile, max_ratio=rule.max_ratio, against=rule.against
            ),
        )
        for arm in (timings.arm, *timings.builds)
    ]
    return _worst_build(judged, candidate)


def _timings(
    store: Store, candidate: Candidate, evidence: LatencyEvidence, *, beside: str = ""
) -> Measurement:
    """A measurement that is of this candidate, on this target, and beside the artifact of that digest where one is given.

    Raises:
        EvidenceError: it is not, or it is damaged.
    """
    measurement = store.measurement(evidence.measurement)
    arm = measurement.arms.get(evidence.arm)
    if arm is None:
        raise EvidenceError(
            f"{evidence.measurement} has no arm '{evidence.arm}' (it has {', '.join(measurement.arms)})",
            "measure again",
        )
    same_artifact(str(arm.get("artifact", "")), candidate.artifact, evidence.measurement)
    if beside:
        base = measurement.arms.get(BASELINE, {})
        same_artifact(str(base.get("artifact", "")), beside, evidence.measurement)
    same_target(measurement.target, candidate.target, evidence.measurement)
    return measurement
