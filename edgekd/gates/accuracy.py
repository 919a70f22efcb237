"""The accuracy gate: is the student non-inferior to its baseline, on the same examples?

METHOD, section 2: H0 is that the true difference is at most minus the margin; Tango's paired score test, one-sided
5 % each way, hence three answers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgekd.evidence.evaluation import Evaluation
from edgekd.gates.tango import normal_quantile, tango_interval, tango_score
from edgekd.gates.verdict import Decision, Gate

CONFIDENCE = 0.95
POWER = 0.80
METHOD = "tango"


def judge_accuracy(
    baseline: Evaluation,
    candidate: Evaluation,
    *,
    max_drop: float,
    against: str = "teacher",
    target: str = "",
) -> Gate:
    """Judge a candidate's scores against its baseline's, example by example.

    Args:
        baseline, candidate: evaluations of the same rows.
        max_drop: the margin m, a fraction in (0, 1): how far below the baseline the candidate may truly be.
        against: what the baseline is called.
        target: of the gate; empty takes the candidate's own.

    Returns:
        A gate whose estimate is candidate minus baseline. Evidence that cannot be compared is decision ``error``.
    """
    target = target or candidate.target

    def gate(decision: Decision, reason: str, **more: Any) -> Gate:
        return Gate(
            gate="accuracy",
            decision=decision,
            metric=candidate.metric,
            against=against,
            artifact=candidate.artifact,
            target=target,
            limit=-max_drop,
            unit="fraction",
            method=METHOD,
            split=candidate.split,
            reason=reason,
            **more,
        )

    if trouble := _incomparable(baseline, candidate, against):
        return gate("error", trouble, error_kind="input", n=candidate.n)

    n = candidate.n
    gained = int(((candidate.scores == 1) & (baseline.scores == 0)).sum())
    lost = int(((candidate.scores == 0) & (baseline.scores == 1)).sum())
    estimate = (gained - lost) / n
    interval = tango_interval(gained, lost, n, confidence=CONFIDENCE)
    z = tango_score(gained, lost, n, -max_drop)
    critical = normal_quantile(CONFIDENCE)
    decision: Decision = "pass" if z > critical else "reject" if z < -critical else "inconclusive"
    wanted = examples_to_decide(gained, lost, n, max_drop) if decision == "inconclusive" else None
    return gate(
        decision,
        _sentence(decision, estimate, interval, max_drop, n, against, wanted),
        estimate=estimate,
        interval=interval,
        confidence=CONFIDENCE,
        n=n,
        detail={
            "baseline_mean": baseline.mean,
            "candidate_mean": candidate.mean,
            "only_baseline_right": lost,
            "only_candidate_right": gained,
            "flip_rate": (gained + lost) / n,
            "score": z if math.isfinite(z) else None,
            "planned_n": planned_examples((gained + lost) / n, max_drop),
            **({} if decision != "inconclusive" else {"n_that_would_decide": wanted}),
        },
    )


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
    return max(needed, _least_examples(max_drop), n + 1)


def _least_examples(max_drop: float) -> int:
    # With no flip at all Tango's score at -m is sqrt(n m / (1 - m)).
    return math.floor(normal_quantile(CONFIDENCE) ** 2 * (1 - max_drop) / max_drop) + 1


def _incomparable(baseline: Evaluation, candidate: Evaluation, against: str) -> str:
    """Why the two cannot be compared, as a sentence; empty when they can."""
    if candidate.n == 0 or baseline.n == 0:
        who = candidate.name if candidate.n == 0 else baseline.name
        return f"the evaluation of {who} holds no example; evaluate it on a split that has some"
    for what, mine, theirs in (
        ("metric", candidate.metric, baseline.metric),
        ("split", candidate.split, baseline.split),
    ):
        if mine != theirs:
            return f"student and {against} were evaluated with another {what}: '{mine}' and '{theirs}'; evaluate both alike"
    if trouble := _other_ids(baseline, candidate, against):
        return trouble
    if candidate.data != baseline.data:
        return (
            f"student and {against} were evaluated on other data: {candidate.data[:19]}… and "
            f"{baseline.data[:19]}…; evaluate both on the same file"
        )
    for one in (baseline, candidate):
        scores = np.asarray(one.scores)
        if len(scores) != one.n:
            return f"the evaluation of {one.name} has {one.n} ids but {len(scores)} scores; evaluate it again"
        if not np.isfinite(scores).all():
            bad = np.flatnonzero(~np.isfinite(scores))
            return (
                f"{len(bad):,} of {one.n:,} scores of {one.name} are not finite, first at id "
                f"'{one.ids[bad[0]]}'; mend the model or the metric and evaluate again"
            )
        if not np.isin(scores, (0.0, 1.0)).all():
            return (
                f"scores of {one.name} are not all 0 or 1 (metric '{one.metric}'): this version judges "
                "proportions only; use a metric that is right or wrong per example, such as top1"
            )
    return ""


def _other_ids(baseline: Evaluation, candidate: Evaluation, against: str) -> str:
    mine, theirs = np.asarray(candidate.ids), np.asarray(baseline.ids)
    if len(mine) == len(theirs) and (mine == theirs).all():
        if len(np.unique(mine)) != len(mine):
            return f"ids repeat: {len(mine):,} rows but {len(np.unique(mine)):,} ids; give each example its own id"
        return ""
    only_mine = np.setdiff1d(mine, theirs)
    only_theirs = np.setdiff1d(theirs, mine)
    if not len(only_mine) and not len(only_theirs) and len(mine) == len(theirs):
        first = int(np.flatnonzero(mine != theirs)[0])
        return (
            f"student and {against} hold the same ids in another order, first at row {first} "
            f"('{mine[first]}' and '{theirs[first]}'): rows were reordered; evaluate both on the same file"
        )
    example = only_mine[0] if len(only_mine) else only_theirs[0] if len(only_theirs) else mine[0]
    return (
        f"student and {against} were evaluated on other examples: {len(mine):,} and {len(theirs):,} ids, "
        f"{len(only_mine):,} only the student's, {len(only_theirs):,} only the {against}'s (for example "
        f"'{example}'); evaluate both on the same file"
    )


def _points(fraction: float) -> str:
    return f"{100 * abs(fraction):.2f}"


def _sentence(
    decision: Decision,
    estimate: float,
    interval: tuple[float, float],
    max_drop: float,
    n: int,
    against: str,
    wanted: int | None,
) -> str:
    lower, upper = interval
    limit = f"(limit {_points(max_drop)}) on {n:,} examples"
    if decision == "pass":
        if lower >= 0:
            return f"student is at least {_points(lower)} points above the {against} {limit}"
        return f"student is at most {_points(lower)} points below the {against} {limit}"
    if decision == "reject":
        return f"student is at least {_points(upper)} points below the {against} {limit}"
    side = "below" if estimate < 0 else "above"
    where = f"student is {_points(estimate)} points {side} the {against}, at most {_points(min(lower, 0.0))} below {limit}"
    if wanted is None:
        return f"{where}: the estimate itself is at or beyond the limit, so more data will not pass it"
    return f"{where}: about {wanted:,} examples would decide"
