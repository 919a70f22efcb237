"""Gates of stored answers: accuracy against each reference, fidelity, slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgekd.errors import EvidenceError, InputError
from edgekd.evidence.evaluation import Evaluation
from edgekd.evidence.run import Candidate, Evidence, Run, fidelity_reference
from edgekd.gates.accuracy import NAMES, judge_accuracy
from edgekd.gates.fidelity import judge_fidelity
from edgekd.gates.slices import judge_slices
from edgekd.gates.store import Store, failed_gate, plain_gate, same_artifact, same_target
from edgekd.gates.verdict import Gate

if TYPE_CHECKING:  # plain attributes are read; pydantic is not needed to judge
    from edgekd.policy import GatesBlock

SELECT = "select"
TEST = "test"

#: How to collect what a run lacks, by the reference that was asked for.
_COLLECT = {
    "teacher": "--teacher T",
    "naive": "--naive N",
    "float32": "--float32 F",
    "baseline": "--baseline A",
}


def judge_answers(
    store: Store, run: Run, candidate: Candidate, evidence: Evidence, policy: GatesBlock, split: str
) -> list[Gate]:
    """Every asked gate that compares answers, for one candidate on one split's evidence."""
    gates: list[Gate] = []
    for rule in policy.accuracy_rules:
        pair = _pair(store, run, candidate, evidence, "accuracy", rule.against, split)
        if isinstance(pair, Gate):
            gates.append(pair)
            continue
        reference, mine = pair
        gates.append(
            judge_accuracy(
                reference,
                mine,
                max_drop=rule.margin,
                min_ratio=rule.min_ratio,
                against=rule.against,
                target=candidate.target,
            )
        )
    if policy.fidelity is not None:
        against = policy.fidelity.against or _fidelity_reference(evidence, candidate)
        pair = _pair(store, run, candidate, evidence, "fidelity", against, split)
        if isinstance(pair, Gate):
            gates += [replace(pair, metric=name) for name in policy.fidelity.limits]
        else:
            gates += judge_fidelity(
                *pair, limits=policy.fidelity.limits, against=against, target=candidate.target
            )
    if policy.slices is not None:
        slices = policy.slices
        pair = _pair(store, run, candidate, evidence, "slice", slices.against, split)
        if isinstance(pair, Gate):
            gates += [replace(pair, gate=f"slice:{name}") for name in slices.names or ["any"]]
        else:
            gates += judge_slices(
                *pair, names=slices.names, max_drop=slices.max_drop, against=slices.against, target=candidate.target
            )  # fmt: skip
    return gates


def _fidelity_reference(evidence: Evidence, candidate: Candidate) -> str:
    known = evidence.accuracy.references if evidence.accuracy else {}
    return fidelity_reference([*known, *(k.partition(".")[2] for k in evidence.failures)])


def _pair(
    store: Store,
    run: Run,
    candidate: Candidate,
    evidence: Evidence,
    gate: str,
    against: str,
    split: str,
) -> tuple[Evaluation, Evaluation] | Gate:
    """Reference and candidate as they were evaluated, or the gate that says why there are none."""
    for what in ("accuracy", f"accuracy.{against}"):
        if failure := evidence.failures.get(what):
            return failed_gate(candidate, gate, failure, against, metric="")
    paths = evidence.accuracy
    if paths is None or against not in paths.references:
        if against == "baseline" and run.regression_baseline == "first-run":
            return plain_gate(
                candidate, gate, "not_run",
                "no baseline yet: this first run was accepted as such, and is the next one's baseline", against, metric="",
            )  # fmt: skip
        return plain_gate(
            candidate, gate, "inconclusive",
            f"the run holds no evaluations of the student and {NAMES.get(against, against)} on the {split} split: "
            f"run `edgekd gate --student S {_COLLECT.get(against, '')} --data D`".replace("  ", " "),
            against, metric="",
        )  # fmt: skip
    try:
        reference = store.evaluation(paths.references[against])
        mine = store.evaluation(paths.candidate)
        same_artifact(mine.artifact, candidate.artifact, paths.candidate)
        if wanted := _known_reference(run, candidate, against):
            same_artifact(reference.artifact, wanted, paths.references[against])
        same_target(mine.target, candidate.target, paths.candidate)
        if split == TEST and mine.split == SELECT:
            raise EvidenceError(
                f"{paths.candidate} is of the selection split", "what is chosen by looking is judged on test"
            )
    except InputError as e:
        return plain_gate(candidate, gate, "error", str(e), against, "input", metric="")
    return reference, mine


def _known_reference(run: Run, candidate: Candidate, against: str) -> str:
    if against == "teacher" and candidate.baseline and not run.references:
        return candidate.baseline  # runs of the first version name only this one
    return str(run.references.get(against, ""))


def shown(gates: Sequence[Gate], split: str) -> tuple[Gate, ...]:
    """Gates of selection evidence say so."""
    return tuple(replace(g, split=SELECT) for g in gates) if split == SELECT else tuple(gates)
