"""The accuracy gate: is the student non-inferior to its reference, on the same examples?

METHOD, section 2: H0 is that the true difference is at most minus the margin, one-sided 5 % each way, hence three
answers. Right-or-wrong scores take a closed form (Tango's paired score test; for a share of the reference's value the
score test of a ratio); every other metric, and clustered examples, take the paired BCa bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd.evidence.evaluation import Evaluation
from edgekd.gates.comparable import incomparable, same_answers, unvaried
from edgekd.gates.verdict import Decision, Gate
from edgekd.metrics import SUMS
from edgekd.statistics.bootstrap import bca_bounds
from edgekd.statistics.score_ratio import ratio_contrast_bounds
from edgekd.statistics.tango import normal_quantile, tango_interval, tango_score

CONFIDENCE = 0.95
POWER = 0.80
TANGO = "tango"
SCORE_RATIO = "score-ratio"
BOOTSTRAP = "bca-bootstrap"

#: How a sentence names what the student is compared with.
NAMES: Mapping[str, str] = {
    "teacher": "the teacher",
    "naive": "the naive student",
    "float32": "its own float32",
    "baseline": "the baseline",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyLimit:
    """What was asked: ``max_drop`` in the metric's unit, or the least share of the reference's value."""

    max_drop: float = 0.0
    min_ratio: float | None = None

    @property
    def share(self) -> float:
        return 1.0 if self.min_ratio is None else self.min_ratio

    @property
    def margin(self) -> float:
        return self.max_drop if self.min_ratio is None else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """Bounds of the contrast, and what the method adds to the gate."""

    decision: Decision
    estimate: float
    interval: tuple[float, float] | None
    wanted: int | None
    method: str
    detail: Mapping[str, Any]
    trouble: str = ""


def judge_accuracy(
    reference: Evaluation,
    candidate: Evaluation,
    *,
    max_drop: float = 0.0,
    min_ratio: float | None = None,
    stated: bool = True,
    against: str = "teacher",
    target: str = "",
) -> Gate:
    """Judge a candidate's scores against its reference's, example by example.

    Args:
        reference, candidate: evaluations of the same rows.
        max_drop: the margin m, in the metric's unit: how far below the reference the candidate may truly be.
        min_ratio: in its place, the least share of the reference's value, in (0, 1]; for an error metric the student's
            error may be the reference's divided by it.
        stated: whether ``max_drop`` was given and is no usual margin, which is in points of a fraction.
        against: what the reference is called.
        target: of the gate; empty takes the candidate's own.

    Returns:
        A gate whose estimate is candidate minus (that share of the) reference, negative where the candidate is worse.
        Evidence that cannot be compared is decision ``error``; a metric that never varies is *inconclusive*.
    """
    target = target or candidate.target
    limit = AccuracyLimit(max_drop=max_drop, min_ratio=min_ratio)

    def gate(decision: Decision, reason: str, **more: Any) -> Gate:
        return Gate(
            gate="accuracy",
            decision=decision,
            metric=candidate.metric,
            against=against,
            artifact=candidate.artifact,
            target=target,
            limit=-limit.margin,
            unit=candidate.unit,
            split=candidate.split,
            reason=reason,
            **{"method": method_of(reference, candidate, limit), **more},
        )

    trouble = incomparable(reference, candidate, against)
    if not trouble and candidate.unit == "fraction" and limit.margin >= 1:
        trouble = f"a drop of {limit.margin:g} allows anything: {candidate.metric} is a fraction; write 0.01 for a point"
    if not trouble and not stated:
        trouble = unstated(candidate)
    if not trouble and min_ratio is not None and not reference.error and not reference.mean > 0:
        trouble = f"a share of {reference.mean:g} means nothing: {candidate.metric} of {NAMES.get(against, against)} is not above 0; give max_drop"
    if trouble:
        return gate("error", trouble, error_kind="input", n=candidate.n)
    if against == "float32" and same_answers(reference, candidate):
        return gate(
            "pass",
            "student is its own float32: nothing was changed that could cost accuracy",
            estimate=0.0, interval=(0.0, 0.0), confidence=CONFIDENCE, n=candidate.n, method="identity",
        )  # fmt: skip
    if trouble := unvaried(reference, candidate):
        return gate("inconclusive", trouble, n=candidate.n)
    answer = compare(reference, candidate, limit)
    if answer.interval is None:
        return gate("inconclusive", answer.trouble, estimate=answer.estimate, n=candidate.n)
    return gate(
        answer.decision,
        _sentence(answer, limit, candidate, against),
        estimate=answer.estimate,
        interval=answer.interval,
        confidence=CONFIDENCE,
        n=candidate.n,
        method=answer.method,
        detail={
            "baseline_mean": reference.mean,
            "candidate_mean": candidate.mean,
            **({"error": True} if candidate.error else {}),
            **answer.detail,
            **({} if min_ratio is None else {"min_ratio": min_ratio}),
            **({} if answer.decision != "inconclusive" else {"n_that_would_decide": answer.wanted}),
        },
    )


def unstated(candidate: Evaluation) -> str:
    """Why a usual margin does not do for this metric; empty where it does."""
    if candidate.unit == "fraction":
        return ""
    return (
        f"{candidate.metric} is no fraction, so there is no usual margin; give max_drop"
        + (f" in {candidate.unit}" if candidate.unit else "")
        + ", or min_ratio"
    )


def is_proportion(*evaluations: Evaluation) -> bool:
    """Whether the metric is a share of right answers, each example for itself: what closed forms are for."""
    return all(
        e.aggregate == "mean"
        and e.clusters is None
        and not e.error
        and np.isin(e.scores, (0.0, 1.0)).all()
        # A task may score examples in one way and make its metric of another.
        and (
            not e.statistics or np.array_equal(e.statistics[SUMS], np.stack([e.scores, np.ones(e.n)], axis=1))
        )
        for e in evaluations
    )


def method_of(reference: Evaluation, candidate: Evaluation, limit: AccuracyLimit) -> str:
    """Which test judges these scores."""
    if not is_proportion(reference, candidate):
        return BOOTSTRAP
    return TANGO if limit.min_ratio is None else SCORE_RATIO


def compare(
    reference: Evaluation, candidate: Evaluation, limit: AccuracyLimit, *, confidence: float = CONFIDENCE
) -> _Answer:
    """The contrast, its two one-sided bounds and the decision, by the method that fits the scores.

    Args:
        confidence: one-sided level of each bound.
    """
    method = method_of(reference, candidate, limit)
    if method == BOOTSTRAP:
        return _resampled(reference, candidate, limit, confidence)
    n = candidate.n
    right, also = candidate.scores == 1, reference.scores == 1
    gained, lost = int((right & ~also).sum()), int((~right & also).sum())
    both = int((right & also).sum())
    detail: dict[str, Any] = {
        "only_baseline_right": lost,
        "only_candidate_right": gained,
        "flip_rate": (gained + lost) / n,
    }
    if method == TANGO:
        return _tango(gained, lost, n, limit.margin, confidence, detail)
    estimate = (both + gained - limit.share * (both + lost)) / n
    interval = ratio_contrast_bounds(both, gained, lost, n, limit.share, confidence=confidence)
    spread = (1 - limit.share) ** 2 * both + gained + limit.share**2 * lost
    return _Answer(
        decision=_decide(interval, 0.0),
        estimate=estimate,
        interval=interval,
        wanted=_wanted(math.sqrt(max(spread / n - estimate**2, 0.0) / n), estimate, 0.0, n),
        method=method,
        detail=detail,
    )


def _tango(
    gained: int, lost: int, n: int, max_drop: float, confidence: float, detail: dict[str, Any]
) -> _Answer:
    z = tango_score(gained, lost, n, -max_drop)
    critical = normal_quantile(confidence)
    rate = (gained + lost) / n
    return _Answer(
        decision="pass" if z > critical else "reject" if z < -critical else "inconclusive",
        estimate=(gained - lost) / n,
        interval=tango_interval(gained, lost, n, confidence=confidence),
        wanted=examples_to_decide(gained, lost, n, max_drop),
        method=TANGO,
        detail={
            **detail,
            "score": z if math.isfinite(z) else None,
            "planned_n": planned_examples(rate, max_drop) if max_drop > 0 else None,
        },
    )


def _resampled(
    reference: Evaluation, candidate: Evaluation, limit: AccuracyLimit, confidence: float
) -> _Answer:
    bounds = bca_bounds(reference, candidate, share=limit.share, confidence=confidence)
    clusters = {} if candidate.clusters is None else {"clusters": bounds.units}
    detail = {"draws": bounds.draws, "units": bounds.units, **clusters}
    interval = None if bounds.lower is None or bounds.upper is None else (bounds.lower, bounds.upper)
    if interval is None:
        return _Answer(
            decision="inconclusive", estimate=bounds.estimate, interval=None, wanted=None, method=BOOTSTRAP,
            detail=detail, trouble=bounds.trouble,
        )  # fmt: skip
    error = (interval[1] - interval[0]) / (2 * normal_quantile(confidence))
    method = BOOTSTRAP if bounds.method == "bca" else bounds.method
    return _Answer(
        decision=_decide(interval, -limit.margin),
        estimate=bounds.estimate,
        interval=interval,
        wanted=_wanted(error, bounds.estimate, limit.margin, candidate.n),
        method=method,
        detail=detail,
    )


def _decide(interval: tuple[float, float], limit: float) -> Decision:
    lower, upper = interval
    return "pass" if lower > limit else "reject" if upper < limit else "inconclusive"


def _wanted(standard_error: float, estimate: float, margin: float, n: int) -> int | None:
    """Examples after which this estimate and scatter would decide; None where more of the same would not pass."""
    if estimate <= -margin:
        return None
    z = normal_quantile(CONFIDENCE) + normal_quantile(POWER)
    return max(n + 1, math.ceil(n * (z * standard_error / (estimate + margin)) ** 2))


def planned_examples(flip_rate: float, max_drop: float) -> int:
    """Examples that give 80 % power to pass a student truly equal to its baseline: (z_a + z_b)^2 psi / m^2.

    Never fewer than an all-agreeing test needs to pass: z_a^2 (1 - m) / m.

    >>> planned_examples(0.05, 0.01)
    3092
    """
    z = normal_quantile(CONFIDENCE) + normal_quantile(POWER)
    return max(math.ceil(z * z * flip_rate / max_drop**2), _least_examples(max_drop))


def examples_to_decide(gained: int, lost: int, n: int, max_drop: float) -> int | None:
    """Examples after which this estimate would decide: (z_a + z_b)^2 (psi - d^2) / (m + d)^2; None where none would."""
    d = (gained - lost) / n
    if d <= -max_drop:
        return None
    z = normal_quantile(CONFIDENCE) + normal_quantile(POWER)
    needed = math.ceil(z * z * ((gained + lost) / n - d * d) / (max_drop + d) ** 2)
    return max(needed, _least_examples(max_drop) if max_drop > 0 else 0, n + 1)


def _least_examples(max_drop: float) -> int:
    # With no flip at all Tango's score at -m is sqrt(n m / (1 - m)).
    return math.floor(normal_quantile(CONFIDENCE) ** 2 * (1 - max_drop) / max_drop) + 1


def amount(value: float, unit: str) -> str:
    """The size of a difference for reading: points of a fraction, else four digits and the unit.

    >>> amount(-0.0081, "fraction"), amount(1.5, "mm")
    ('0.81 points', '1.5 mm')
    """
    return f"{100 * abs(value):.2f} points" if unit == "fraction" else f"{abs(value):.4g} {unit}".strip()


def _sentence(answer: _Answer, limit: AccuracyLimit, candidate: Evaluation, against: str) -> str:
    lower, upper = answer.interval or (answer.estimate, answer.estimate)
    unit = candidate.unit
    name = NAMES.get(against, f"the {against}")
    if limit.min_ratio is not None:
        share = (
            f"{name} / {limit.min_ratio:g}" if candidate.error else f"{100 * limit.min_ratio:g} % of {name}"
        )
        name = share
    below, above = ("worse than", "better than") if candidate.error else ("below", "above")
    told = f"{100 * limit.margin:.2f}" if unit == "fraction" else amount(limit.margin, unit)
    of = f" in {answer.detail['clusters']:,} clusters" if "clusters" in answer.detail else ""
    bound = f"(limit {told}) on {candidate.n:,} examples{of}"
    if answer.decision == "pass":
        if lower >= 0:
            return f"student is at least {amount(lower, unit)} {above} {name} {bound}"
        return f"student is at most {amount(lower, unit)} {below} {name} {bound}"
    if answer.decision == "reject":
        if upper > 0:
            return f"student is at most {amount(upper, unit)} {above} {name} {bound}"
        return f"student is at least {amount(upper, unit)} {below} {name} {bound}"
    side = below if answer.estimate < 0 else above
    where = (
        f"student is {amount(answer.estimate, unit)} {side} {name}, at most {amount(min(lower, 0.0), unit)} {below} "
        f"{bound}"
    )
    if answer.wanted is None:
        return f"{where}: the estimate itself is at or beyond the limit, so more data will not pass it"
    return f"{where}: about {answer.wanted:,} examples would decide"
