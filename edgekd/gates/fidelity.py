"""The fidelity gates: how far a student's answers may be displaced from a reference's.

METHOD, section 2: answer flips, Kullback-Leibler divergence, change of the calibration error. They bound displacement
and never replace a labelled test. Each limit that is asked is a gate with a one-sided upper bound: pass where the
bound is within the limit, reject where the lower bound is beyond it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekd.errors import EvidenceError
from edgekd.evidence.evaluation import Evaluation
from edgekd.gates.accuracy import CONFIDENCE, NAMES
from edgekd.gates.comparable import incomparable, same_answers
from edgekd.gates.fidelity_figures import Figure, fidelity_figures
from edgekd.gates.verdict import Decision, Gate
from edgekd.statistics.bca import LEAST_UNITS
from edgekd.statistics.proportion import examples_to_decide_rate

_WORDS: Mapping[str, str] = {
    "kl_mean": "mean KL divergence",
    "kl_median": "median KL divergence",
    "kl_p99": "99th percentile of the KL divergence",
    "kl_max": "greatest KL divergence",
    "ece_change": "growth of the calibration error",
    "ece_change_equal_mass": "growth of the calibration error (equal mass)",
}


def judge_fidelity(
    reference: Evaluation,
    candidate: Evaluation,
    *,
    limits: Mapping[str, float],
    against: str = "float32",
    target: str = "",
) -> list[Gate]:
    """One gate per limit.

    Args:
        reference, candidate: evaluations of the same rows.
        limits: figure (``flips``, ``kl_mean``, …, ``ece_change``) -> greatest value; fractions and nats.
        against: what the reference is called.

    Returns:
        Gates; evidence that cannot be compared, or has no logits where they are needed, is decision ``error``.
    """
    target = target or candidate.target

    def gate(name: str, decision: Decision, reason: str, **more: Any) -> Gate:
        return Gate(
            gate="fidelity",
            decision=decision,
            metric=name,
            against=against,
            artifact=candidate.artifact,
            target=target,
            limit=limits[name],
            unit="nats" if name.startswith("kl") else "fraction",
            split=candidate.split,
            n=candidate.n,
            reason=reason,
            **more,
        )

    if trouble := incomparable(reference, candidate, against):
        return [gate(name, "error", trouble, error_kind="input") for name in limits]
    if same_answers(reference, candidate):
        return [
            gate(name, "pass", "student is its own reference: no answer can differ", estimate=0.0, method="identity")
            for name in limits
        ]  # fmt: skip
    made = []
    if "flips" in limits and candidate.logits is None and _graded(candidate):
        trouble = (
            f"{candidate.metric} compares graded answers, which two models never give alike: flips mean nothing here; "
            "ask for accuracy against the student's own float32"
        )
        return [gate(name, "error", trouble, error_kind="input") for name in limits]
    try:
        figures = fidelity_figures(candidate, reference, wanted=tuple(limits), confidence=CONFIDENCE)
    except EvidenceError as e:
        return [gate(name, "error", str(e), error_kind="input") for name in limits]
    for name, limit in limits.items():
        figure = figures[name]
        decision = _decide(figure, limit)
        interval = None if figure.lower is None or figure.upper is None else (figure.lower, figure.upper)
        made.append(
            gate(
                name,
                decision,
                _sentence(name, figure, limit, decision, candidate, against),
                estimate=figure.estimate,
                interval=interval,
                confidence=None if interval is None else CONFIDENCE,
                method=figure.method,
            )
        )
    return made


def _graded(candidate: Evaluation) -> bool:
    """Whether answers are numbers with a distance (a regression) or boxes: equal or not is no question to ask."""
    return (
        candidate.aggregate == "average_precision"
        or (np.asarray(candidate.predictions).dtype.kind == "f" and candidate.error)
        or candidate.aggregate in ("r2", "pearson", "root_mean")
    )


def _decide(figure: Figure, limit: float) -> Decision:
    if figure.trouble:
        return "inconclusive"
    if figure.lower is None or figure.upper is None:
        if figure.n < LEAST_UNITS:
            return "inconclusive"
        # A greatest value is what was seen, not a bound on what will be.
        return "pass" if figure.estimate <= limit else "reject"
    return "pass" if figure.upper <= limit else "reject" if figure.lower > limit else "inconclusive"


def _sentence(
    name: str, figure: Figure, limit: float, decision: Decision, candidate: Evaluation, against: str
) -> str:
    n = candidate.n
    reference = NAMES.get(against, f"the {against}")
    if figure.trouble:
        return figure.trouble
    if name == "flips":
        shown, bound = f"student answers {_percent(figure.estimate)} of {n:,} examples unlike {reference}", ""
        write, limited = _percent, f"(limit {_percent(limit)})"
    else:
        unit = " nats" if name.startswith("kl") else ""
        shown, bound = (
            f"{_WORDS.get(name, name)} from {reference} is {figure.estimate:.4g}{unit}",
            f" on {n:,} examples",
        )
        write, limited = "{:.4g}".format, f"(limit {limit:g})"
    if decision == "reject" and figure.lower is not None:
        return f"{shown}, at least {write(figure.lower)} {limited}{bound}"
    if figure.upper is None:
        return f"{shown} {limited}{bound}"
    said = f"{shown}, at most {write(figure.upper)} {limited}{bound}"
    return said if decision == "pass" else f"{said}: {_wanted(name, figure, limit, candidate)}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _wanted(name: str, figure: Figure, limit: float, candidate: Evaluation) -> str:
    """What would decide an undecided figure."""
    if name != "flips":
        return "more examples would decide"
    wanted = examples_to_decide_rate(round(figure.estimate * candidate.n), candidate.n, limit)
    if not wanted:
        return "more data will not pass it"
    # Examples of one cluster are not worth as many.
    return (
        f"about {wanted:,} examples would decide"
        if candidate.clusters is None
        else "more clusters would decide"
    )
