"""Gates of stored answers: accuracy against each reference, fidelity, slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
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
        ask = partial(
            judge_accuracy,
            max_drop=rule.margin,
            stated=rule.stated,
            min_ratio=rule.min_ratio,
            against=rule.against,
            target=candidate.target,
        )
        gates += _judged(store, run, candidate, evidence, "accuracy", rule.against, split, ask)
    if policy.fidelity is not None:
        limits = policy.fidelity.limits
        against = policy.fidelity.against or _fidelity_reference(run, evidence)
        found = _judged(
            store, run, candidate, evidence, "fidelity", against, split,
            lambda reference, mine: judge_fidelity(
                reference, mine, limits=limits, against=against, target=candidate.target
            ),
        )  # fmt: skip
        gates += found if found[0].metric else [replace(found[0], metric=name) for name in limits]
    if policy.slices is not None:
        slices = policy.slices
        found = _judged(
            store, run, candidate, evidence, "slice", slices.against, split,
            lambda reference, mine: judge_slices(
                reference, mine, names=slices.names, max_drop=slices.margin, stated=slices.max_drop is not None, against=slices.against,
                target=candidate.target,
            ),
        )  # fmt: skip
        whole = found[0].gate != "slice"
        gates += found if whole else [replace(found[0], gate=f"slice:{n}") for n in slices.names or ["any"]]
    return gates


def _judged(
    store: Store,
    run: Run,
    candidate: Candidate,
    evidence: Evidence,
    gate: str,
    against: str,
    split: str,
    judge: Callable[[Evaluation, Evaluation], Gate | list[Gate]],
) -> list[Gate]:
    """What a judge says of the pair; evidence that it cannot be made of is an error, with its reason."""
    pair = _pair(store, run, candidate, evidence, gate, against, split)
    if isinstance(pair, Gate):
        return [pair]
    try:
        found = judge(*pair)
    except InputError as e:
        return [plain_gate(candidate, gate, "error", str(e), against, "input", metric="")]
    return [found] if isinstance(found, Gate) else found


def _fidelity_reference(run: Run, evidence: Evidence) -> str:
    known = evidence.accuracy.references if evidence.accuracy else {}
    first = ["baseline"] if run.regression_baseline == "first-run" else []
    return fidelity_reference([*known, *(k.partition(".")[2] for k in evidence.failures), *first])


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
        same_artifact(
            reference.artifact, _known_reference(run, candidate, against), paths.references[against]
        )
        same_target(mine.target, candidate.target, paths.candidate)
        if split == TEST:
            _check_split(store, candidate, mine, paths.candidate)
    except InputError as e:
        return plain_gate(candidate, gate, "error", str(e), against, "input", metric="")
    return reference, mine


def reference_digest(run: Run, candidate: Candidate, name: str) -> str:
    """What the run says was evaluated under a name beside a candidate; empty where it does not."""
    return str(candidate.references.get(name) or run.references.get(name, ""))


def _known_reference(run: Run, candidate: Candidate, against: str) -> str:
    """The digest of what the run evaluated under a name.

    Raises:
        EvidenceError: the run does not say, or says that a quantized student is its own float32.
    """
    wanted = reference_digest(run, candidate, against)
    if not wanted and against == "teacher":
        wanted = candidate.baseline  # runs of the first version name only this one
    if not wanted:
        raise EvidenceError(
            f"run.json does not say which model was evaluated as {against}", "make the run again"
        )
    if against == "float32" and wanted == candidate.artifact and candidate.dtype != "float32":
        raise EvidenceError(
            f"run.json calls the {candidate.dtype} student its own float32", "make the run again"
        )
    return wanted


def _check_split(store: Store, candidate: Candidate, mine: Evaluation, path: str) -> None:
    """Refuse to judge on what was chosen by.

    Raises:
        EvidenceError: not of the test split, or of rows that the candidate was selected on.
    """
    if mine.split != TEST:
        raise EvidenceError(
            f"{path} is of the {'selection' if mine.split == SELECT else mine.split} split",
            "what is chosen by looking is judged on test",
        )
    chosen = candidate.select.accuracy
    if chosen is not None and store.evaluation(chosen.candidate).data == mine.data:
        raise EvidenceError(
            f"{path} and {chosen.candidate} are of the same rows",
            "what is chosen by looking is judged on others",
        )


def shown(gates: Sequence[Gate], split: str) -> tuple[Gate, ...]:
    """Gates of selection evidence say so."""
    return tuple(replace(g, split=SELECT) for g in gates) if split == SELECT else tuple(gates)
