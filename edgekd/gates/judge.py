"""Evidence and a policy in, a verdict out. Reads files; runs nothing, and has no clock.

The same folder under the same policy gives the same verdict, byte for byte, on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import edgekd
from edgekd.errors import EvidenceError, InputError, UsageError
from edgekd.evidence.evaluation import Evaluation, load_evaluation
from edgekd.evidence.measurement import BASELINE, SERVER, Measurement, load_measurement
from edgekd.evidence.run import AbsentTarget, Candidate, Evidence, LatencyEvidence, Run
from edgekd.files import sha256_file
from edgekd.gates.absolute import judge_absolute
from edgekd.gates.accuracy import judge_accuracy
from edgekd.gates.latency import judge_latency
from edgekd.gates.select import select_candidate
from edgekd.gates.size import judge_size
from edgekd.gates.tail import judge_tail
from edgekd.gates.verdict import CandidateVerdict, Decision, ErrorKind, Gate, Verdict, worst_decision

if TYPE_CHECKING:  # plain attributes are read; pydantic is not needed to judge
    from edgekd.policy import GatesBlock, LatencyAbsoluteGate, TailGate

SELECT = "select"
TEST = "test"


@dataclass(frozen=True)
class _Store:
    """Evidence of a run folder, each document read once, with the digests of what was read."""

    folder: Path
    digests: dict[str, str] = field(default_factory=dict)
    _evaluations: dict[str, Evaluation] = field(default_factory=dict)
    _measurements: dict[str, Measurement] = field(default_factory=dict)

    def evaluation(self, path: str) -> Evaluation:
        if path not in self._evaluations:
            self._evaluations[path] = load_evaluation(self._seen(path))
        return self._evaluations[path]

    def measurement(self, path: str) -> Measurement:
        if path not in self._measurements:
            self._measurements[path] = load_measurement(self._seen(path))
        return self._measurements[path]

    def _seen(self, path: str) -> Path:
        file = self.folder / path
        if not file.resolve().is_relative_to(self.folder.resolve()):
            raise EvidenceError(f"{file} leads out of the run folder", "do not use it")
        if file.is_file():
            self.digests[path] = "sha256:" + sha256_file(file)
        return file


def judge_run(folder: Path, run: Run, policy: GatesBlock) -> Verdict:
    """Judge a run folder's stored evidence.

    Selected candidates are judged on their ``test`` evidence; the others on their ``select`` evidence, and labelled
    so. An absent required target makes the run inconclusive, an absent optional one is ``not_run``.

    Args:
        folder: the run folder.
        run: its index.
        policy: the limits; need not be those that the run was made under.

    Raises:
        UsageError: the policy asks no gate.
        EvidenceError: the index contradicts itself. Damaged evidence raises nothing: its gate is an ``error``.
    """
    if not policy.asked:
        raise UsageError(
            "the policy asks no gate, so there is nothing to judge",
            "give at least one limit: accuracy, latency, latency_absolute, tail, regression or size",
        )
    _check_selection(run)
    store = _Store(folder)
    gates: list[Gate] = []
    candidates: list[CandidateVerdict] = []
    for candidate in run.candidates:
        selected = run.selected[candidate.target] == candidate.artifact
        evidence = (candidate.test or Evidence()) if selected else candidate.select
        judged = _judge(store, run, candidate, evidence, policy, TEST if selected else SELECT)
        candidates.append(
            CandidateVerdict(
                artifact=candidate.artifact,
                baseline=candidate.baseline,
                target=candidate.target,
                dtype=candidate.dtype,
                decision=worst_decision(g.decision for g in judged),
                gates=judged,
            )
        )
        if selected:
            gates += judged
    for absent in run.absent:
        gates += _absent(absent, policy)
    decision = worst_decision(g.decision for g in gates if g.target not in run.optional)
    return Verdict(
        # A run in which nothing was judged has not passed.
        decision="inconclusive" if decision == "not_run" else decision,
        gates=tuple(gates),
        candidates=tuple(candidates),
        selected=dict(run.selected),
        optional=tuple(run.optional),
        not_run=tuple({"target": a.target, "required": a.required, "reason": a.reason} for a in run.absent),
        policy=policy.model_dump(mode="json", exclude_none=True),
        environment=dict(run.environment),
        evidence=dict(sorted(store.digests.items())),
        collected_at=run.collected_at,
        edgekd=edgekd.__version__,
    )


def select_candidates(folder: Path, run: Run, policy: GatesBlock) -> dict[str, str]:
    """Choose one candidate per target from the ``select`` evidence (see :func:`select_candidate`).

    Args:
        run: its ``selected`` is not looked at.

    Returns:
        target -> artifact digest.
    """
    store = _Store(folder)
    sizes = {digest: int(record["size_bytes"]) for digest, record in run.artifacts.items()}
    chosen = {}
    for target in dict.fromkeys(c.target for c in run.candidates):
        judged = [
            (c, _judge(store, run, c, c.select, policy, SELECT)) for c in run.candidates if c.target == target
        ]
        chosen[target] = select_candidate(judged, sizes)
    return chosen


def _check_selection(run: Run) -> None:
    for digest, record in run.artifacts.items():
        if type(record.get("size_bytes")) is not int:
            raise EvidenceError(f"run.json records no size for {digest[:19]}…", "make the run again")
    known = {(c.target, c.artifact) for c in run.candidates}
    if len(known) != len(run.candidates):
        raise EvidenceError("run.json lists a candidate twice", "make the run again")
    for target, artifact in run.selected.items():
        if (target, artifact) not in known:
            raise EvidenceError(
                f"run.json selects {artifact[:19]}… on {target}, which is not among its candidates",
                "make the run again",
            )
    for candidate in run.candidates:
        if candidate.target not in run.selected:
            raise EvidenceError(f"run.json selects no candidate on {candidate.target}", "make the run again")
        if candidate.artifact not in run.artifacts:
            raise EvidenceError(f"run.json has no record of {candidate.artifact[:19]}…", "make the run again")


def _judge(
    store: _Store, run: Run, candidate: Candidate, evidence: Evidence, policy: GatesBlock, split: str
) -> tuple[Gate, ...]:
    """The asked gates of one candidate on one split's evidence."""
    gates: list[Gate] = []
    if policy.accuracy is not None:
        gates.append(_accuracy(store, candidate, evidence, policy, split))
    if policy.latency is not None:
        gates.append(
            _latency(
                store,
                candidate,
                evidence.latency,
                "latency",
                policy.latency.against,
                policy.latency.max_ratio,
            )
        )
    if policy.regression is not None:
        gates.append(
            _plain(
                candidate,
                "regression",
                "not_run",
                "no baseline yet: this first run was accepted as such, and is the next one's baseline",
                "baseline",
            )
            if run.regression_baseline == "first-run" and evidence.regression is None
            else _latency(
                store,
                candidate,
                evidence.regression,
                "regression",
                "baseline",
                1 + policy.regression.max_regression,
            )
        )
    if policy.latency_absolute is not None:
        gates.append(_absolute(store, candidate, evidence, policy.latency_absolute))
    if policy.tail is not None:
        gates.append(_tail(store, candidate, evidence.latency, policy.tail))
    if policy.size is not None:
        baseline = run.artifacts.get(candidate.baseline)
        gates.append(
            judge_size(
                int(run.artifacts[candidate.artifact]["size_bytes"]),
                max_mib=policy.size.max_mib,
                max_ratio=policy.size.max_ratio,
                baseline_bytes=None if baseline is None else int(baseline["size_bytes"]),
                artifact=candidate.artifact,
                target=candidate.target,
            )
        )
    return tuple(replace(g, split=SELECT) for g in gates) if split == SELECT else tuple(gates)


def _accuracy(
    store: _Store, candidate: Candidate, evidence: Evidence, policy: GatesBlock, split: str
) -> Gate:
    rule = policy.accuracy
    if rule is None or evidence.accuracy is None:
        return _plain(
            candidate,
            "accuracy",
            "inconclusive",
            f"the run holds no evaluations of student and teacher on the {split} split: "
            "run `edgekd gate --teacher T --student S --data D`",
            "teacher",
        )
    try:
        baseline = store.evaluation(evidence.accuracy.baseline)
        mine = store.evaluation(evidence.accuracy.candidate)
        _same_artifact(mine.artifact, candidate.artifact, evidence.accuracy.candidate)
        if candidate.baseline:
            _same_artifact(baseline.artifact, candidate.baseline, evidence.accuracy.baseline)
        _same_target(mine.target, candidate.target, evidence.accuracy.candidate)
        if split == TEST and mine.split == SELECT:
            raise EvidenceError(
                f"{evidence.accuracy.candidate} is of the selection split",
                "what is chosen by looking is judged on test",
            )
    except InputError as e:
        return _plain(candidate, "accuracy", "error", str(e), rule.against, "input")
    return judge_accuracy(
        baseline, mine, max_drop=rule.max_drop, against=rule.against, target=candidate.target
    )


def _latency(
    store: _Store,
    candidate: Candidate,
    evidence: LatencyEvidence | None,
    gate: str,
    against: str,
    max_ratio: float,
) -> Gate:
    if evidence is None:
        fix = "--max-regression X --baseline A" if gate == "regression" else "--max-latency-ratio R"
        return _plain(
            candidate,
            gate,
            "inconclusive",
            f"the run holds no timings of student and {against}: run `edgekd gate` with {fix}",
            against,
        )
    try:
        measurement = _timings(store, candidate, evidence, beside_teacher=gate == "latency")
        if measurement.scenario == SERVER:
            raise EvidenceError(
                f"{evidence.measurement} holds queries of the server scenario and no race of two models",
                "measure with --scenario single-stream, multi-stream or offline",
            )
    except InputError as e:
        return _plain(candidate, gate, "error", str(e), against, "input")
    return _if_held(
        measurement, judge_latency(measurement, evidence.arm, max_ratio=max_ratio, gate=gate, against=against)
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


def _absolute(store: _Store, candidate: Candidate, evidence: Evidence, rule: LatencyAbsoluteGate) -> Gate:
    if not evidence.timings:
        return _plain(
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
    except InputError as e:
        return _plain(candidate, "latency_absolute", "error", str(e), "", "input", metric=rule.percentile)
    return _if_held(
        measurement, judge_absolute(measurement, source.arm, percentile=rule.percentile, max_ms=rule.max_ms)
    )


def _tail(store: _Store, candidate: Candidate, evidence: LatencyEvidence | None, rule: TailGate) -> Gate:
    if evidence is None:
        return _plain(
            candidate,
            "tail",
            "inconclusive",
            f"the run holds no timings of student and {rule.against}: run `edgekd gate` with "
            f"--max-tail-ratio {rule.percentile}:R",
            rule.against,
            metric=rule.percentile,
        )
    try:
        measurement = _timings(store, candidate, evidence, beside_teacher=True)
    except InputError as e:
        return _plain(candidate, "tail", "error", str(e), rule.against, "input", metric=rule.percentile)
    return _if_held(
        measurement,
        judge_tail(
            measurement,
            evidence.arm,
            percentile=rule.percentile,
            max_ratio=rule.max_ratio,
            against=rule.against,
        ),
    )


def _timings(
    store: _Store, candidate: Candidate, evidence: LatencyEvidence, *, beside_teacher: bool = False
) -> Measurement:
    """A measurement that is of this candidate, on this target (and beside this teacher).

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
    _same_artifact(str(arm.get("artifact", "")), candidate.artifact, evidence.measurement)
    if beside_teacher and candidate.baseline:
        base = measurement.arms.get(BASELINE, {})
        _same_artifact(str(base.get("artifact", "")), candidate.baseline, evidence.measurement)
    _same_target(measurement.target, candidate.target, evidence.measurement)
    return measurement


def _same_artifact(found: str, wanted: str, where: str) -> None:
    if found != wanted:
        raise EvidenceError(
            f"{where} is evidence of {found[:19] or 'nothing'}…, not of {wanted[:19]}…", "collect it again"
        )


def _same_target(found: str, wanted: str, where: str) -> None:
    if found != wanted:
        raise EvidenceError(f"{where} was collected on {found}, not on {wanted}", "collect it again")


def _plain(
    candidate: Candidate,
    gate: str,
    decision: Decision,
    reason: str,
    against: str,
    kind: ErrorKind | None = None,
    metric: str = "latency",
) -> Gate:
    return Gate(
        gate=gate,
        decision=decision,
        metric="" if gate == "accuracy" else metric,
        against=against,
        artifact=candidate.artifact,
        target=candidate.target,
        reason=reason,
        error_kind=kind,
    )


def _absent(absent: AbsentTarget, policy: GatesBlock) -> Sequence[Gate]:
    """One gate per question that was asked of a target that is not here."""
    decision: Decision = "inconclusive" if absent.required else "not_run"
    against = dict.fromkeys(("accuracy", "latency", "tail"), "teacher") | {"regression": "baseline"}
    metric = {"latency": "latency", "regression": "latency", "size": "size"}
    for name, rule in (("latency_absolute", policy.latency_absolute), ("tail", policy.tail)):
        if rule is not None:
            metric[name] = rule.percentile
    return [
        Gate(
            gate=name,
            decision=decision,
            metric=metric.get(name, ""),
            against=against.get(name, ""),
            artifact="",
            target=absent.target,
            reason=f"{absent.target} is not here: {absent.reason}",
        )
        for name in policy.asked
    ]
