"""Evidence and a policy in, a verdict out. Reads files; runs nothing, and has no clock.

The same folder under the same policy gives the same verdict, byte for byte, on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import edgekd
from edgekd.errors import EvidenceError, InputError, UsageError
from edgekd.evidence.run import AbsentTarget, Candidate, Evidence, Run
from edgekd.gates.judge_answers import SELECT, TEST, judge_answers, reference_digest, shown
from edgekd.gates.judge_timings import judge_quantile, judge_race, judge_tail_ratio
from edgekd.gates.placement import judge_placement
from edgekd.gates.provenance import judge_provenance
from edgekd.gates.select import select_candidate
from edgekd.gates.size import judge_size
from edgekd.gates.store import Store, failed_gate, plain_gate, same_artifact, same_target
from edgekd.gates.verdict import CandidateVerdict, Decision, Gate, Verdict, worst_decision

if TYPE_CHECKING:  # plain attributes are read; pydantic is not needed to judge
    from edgekd.policy import GatesBlock, PlacementGate, RegressionGate


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
            "give at least one limit: accuracy, fidelity, slices, latency, latency_absolute, tail, regression, size, placement or provenance",
        )
    _check_selection(run)
    store = Store(folder)
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
    if decision == "not_run" and policy.asked != ("provenance",):
        # A run in which nothing was judged has not passed, whatever its licences allow.
        decision = "inconclusive"
    if policy.provenance is not None:
        gates.append(judge_provenance(run, policy.provenance))
        decision = worst_decision([decision, gates[-1].decision])
    return Verdict(
        decision=decision,
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
    store = Store(folder)
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
    store: Store, run: Run, candidate: Candidate, evidence: Evidence, policy: GatesBlock, split: str
) -> tuple[Gate, ...]:
    """The asked gates of one candidate on one split's evidence."""
    gates = judge_answers(store, run, candidate, evidence, policy, split)
    if policy.latency is not None:
        gates.append(
            judge_race(
                store,
                candidate,
                evidence.latency,
                "latency",
                policy.latency.against,
                policy.latency.max_ratio,
                failure=evidence.failures.get("latency"),
                baseline=candidate.baseline,
            )
        )
    if policy.regression is not None:
        gates.append(_regression(store, run, candidate, evidence, policy.regression))
    if policy.latency_absolute is not None:
        gates.append(judge_quantile(store, candidate, evidence, policy.latency_absolute))
    if policy.tail is not None:
        gates.append(judge_tail_ratio(store, candidate, evidence, policy.tail))
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
    if policy.placement is not None:
        gates.append(_placement(store, candidate, evidence, policy.placement))
    return shown(gates, split)


def _placement(store: Store, candidate: Candidate, evidence: Evidence, rule: PlacementGate) -> Gate:
    if failure := evidence.failures.get("placement"):
        return failed_gate(candidate, "placement", failure, "", metric="share")
    if not evidence.placement:
        return plain_gate(
            candidate, "placement", "inconclusive",
            "the run does not hold where the student's operators ran: run `edgekd gate` with --min-placement X", "",
            metric="share",
        )  # fmt: skip
    try:
        found = store.placement(evidence.placement)
        same_artifact(found.artifact, candidate.artifact, evidence.placement)
        same_target(found.target, candidate.target, evidence.placement)
    except InputError as e:
        return plain_gate(candidate, "placement", "error", str(e), "", "input", metric="share")
    return judge_placement(found, min_share=rule.min_share, on=rule.on, precision=rule.precision, by=rule.by)


def _regression(
    store: Store, run: Run, candidate: Candidate, evidence: Evidence, rule: RegressionGate
) -> Gate:
    failure = evidence.failures.get("regression")
    if run.regression_baseline == "first-run" and evidence.regression is None and failure is None:
        return plain_gate(
            candidate,
            "regression",
            "not_run",
            "no baseline yet: this first run was accepted as such, and is the next one's baseline",
            "baseline",
        )
    return judge_race(
        store, candidate, evidence.regression, "regression", "baseline", 1 + rule.max_regression,
        failure=failure, baseline=reference_digest(run, candidate, "baseline"),
    )  # fmt: skip


def _absent(absent: AbsentTarget, policy: GatesBlock) -> Sequence[Gate]:
    """One gate per question that was asked of a target that is not here."""
    decision: Decision = "inconclusive" if absent.required else "not_run"
    questions: list[tuple[str, str, str]] = [("accuracy", "", r.against) for r in policy.accuracy_rules]
    if policy.fidelity is not None:
        questions += [
            ("fidelity", name, policy.fidelity.against or "float32") for name in policy.fidelity.limits
        ]
    if policy.slices is not None:
        questions += [(f"slice:{n}", "", policy.slices.against) for n in policy.slices.names or ["any"]]
    if policy.latency is not None:
        questions.append(("latency", "latency", policy.latency.against))
    if policy.regression is not None:
        questions.append(("regression", "latency", "baseline"))
    if policy.latency_absolute is not None:
        questions.append(("latency_absolute", policy.latency_absolute.percentile, ""))
    if policy.tail is not None:
        questions.append(("tail", policy.tail.percentile, policy.tail.against))
    if policy.size is not None:
        questions.append(("size", "size", ""))
    if policy.placement is not None:
        questions.append(("placement", "share", ""))
    return [
        Gate(
            gate=gate,
            decision=decision,
            metric=metric,
            against=against,
            artifact="",
            target=absent.target,
            reason=f"{absent.target} is not here: {absent.reason}",
        )
        for gate, metric, against in questions
    ]
