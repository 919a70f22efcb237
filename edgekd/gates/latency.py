"""The latency gates: how long does the student take beside its baseline, measured in the same minutes?

METHOD, section 1, step 5. One effect per restart (:mod:`edgekd.gates.statistic`), then a one-sided t over restarts, looked at after 4, 6, 8, 12 and 16 of them at alpha 0.016 per look and side. The
hidden second copy of the baseline (step 1) widens the interval where the machine favoured one process over its twin.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd.errors import EvidenceError
from edgekd.evidence.measurement import TWIN, Measurement
from edgekd.gates.looks import CONFIDENCE, LOOKS, Look, deciding_look
from edgekd.gates.statistic import (
    CPU_MINIMUM,
    WALL_MINIMUM,
    Choice,
    choose_statistic,
    restart_effects,
    unusable,
)
from edgekd.gates.verdict import Decision, Gate
from edgekd.statistics.student_t import t_interval

METHOD = "interleaved, {statistic}, sequential t over restarts"


def _replay(measurement: Measurement, arm: str, limit: float) -> tuple[Look | None, Choice]:
    choice = choose_statistic(measurement, arm)
    effects = restart_effects(measurement, arm, choice.statistic)
    twins = restart_effects(measurement, TWIN, choice.statistic)
    return deciding_look(effects, twins, limit), choice


def should_stop(measurement: Measurement, comparisons: Iterable[tuple[str, float]]) -> bool:
    """Whether measuring may end: at a look, every comparison has decided, or the last look is reached.

    Args:
        measurement: what has been measured so far.
        comparisons: (arm, limit ratio) of each gate that will judge it.

    Returns:
        False between looks. True as well where the evidence is unusable: more of it would not help.
    """
    done = len(measurement.restarts)
    if done >= LOOKS[-1]:
        return True
    if done not in LOOKS:
        return False
    for arm, ratio in comparisons:
        if unusable(measurement, arm):
            continue
        look, _ = _replay(measurement, arm, math.log(ratio))
        if look is None or look.decision is None:
            return False
    return True


def judge_latency(
    measurement: Measurement,
    arm: str,
    *,
    max_ratio: float,
    gate: str = "latency",
    against: str = "teacher",
    split: str | None = None,
) -> Gate:
    """Judge one arm's time against the baseline's.

    The looks are replayed on the stored restarts, so the answer is the one the measuring run stopped on.

    Args:
        measurement: evidence; its ``baseline`` arm is what ``against`` names.
        arm: the judged arm.
        max_ratio: greatest allowed ratio arm / baseline, > 0; for ``max_regression`` x give 1 + x.
        gate: ``latency`` or ``regression``.

    Returns:
        A gate whose estimate and interval are ratios, and whose n counts restarts.
    """
    record = measurement.arms.get(arm, {})
    statistic = WALL_MINIMUM

    def answer(decision: Decision, reason: str, **more: Any) -> Gate:
        return Gate(
            gate=gate,
            decision=decision,
            metric="latency",
            against=against,
            artifact=str(record.get("artifact", "")),
            target=measurement.target,
            limit=max_ratio,
            unit="ratio",
            method=METHOD.format(statistic=statistic),
            scenario=measurement.scenario,
            split=split,
            reason=reason,
            **more,
        )

    if not (math.isfinite(max_ratio) and max_ratio > 0):
        return answer(
            "error", f"a ratio limit must be above 0, got {max_ratio}; give 1.02 for 2 %", error_kind="input"
        )
    if trouble := unusable(measurement, arm):
        return answer("error", trouble, error_kind="input", n=len(measurement.restarts))

    done = len(measurement.restarts)
    look, choice = _replay(measurement, arm, math.log(max_ratio))
    thrown = f", {len(measurement.redrawn)} redrawn" if measurement.redrawn else ""
    if look is None:
        effects = restart_effects(measurement, arm)
        estimate = math.exp(float(np.mean(effects))) if done else None
        return answer(
            "inconclusive",
            f"{done} restarts{thrown}, the first look needs {LOOKS[0]}: measure {LOOKS[0] - done} more",
            estimate=estimate,
            n=done,
            detail={"restarts": done, "redrawn": len(measurement.redrawn)},
        )
    statistic = choice.statistic
    lower, upper = math.exp(look.bounds[0]), math.exp(look.bounds[1])
    ratio = math.exp(look.effect)
    decision: Decision = look.decision or "inconclusive"
    return answer(
        decision,
        _sentence(gate, against, decision, ratio, (lower, upper), max_ratio, look, done, thrown, statistic),
        estimate=ratio,
        interval=(lower, upper),
        confidence=CONFIDENCE,
        n=look.restarts,
        detail={
            "restarts": look.restarts,
            "restarts_made": done,
            "redrawn": len(measurement.redrawn),
            "a_a_ratio": math.exp(look.twin),
            "a_a_interval": [math.exp(x) for x in look.twin_bounds],
            "widened": look.widened,
            "statistic": statistic,
            "a_a_spread": dict(choice.spread),
        },
    )


def _sentence(
    gate: str,
    against: str,
    decision: Decision,
    ratio: float,
    interval: tuple[float, float],
    limit: float,
    look: Look,
    done: int,
    thrown: str,
    statistic: str,
) -> str:
    show = _slower if gate == "regression" else _times
    lower, upper = interval
    clock = ", by the CPU clock" if statistic == CPU_MINIMUM else ""
    bound = f"at least {show(lower)}" if decision == "reject" else f"at most {show(upper)}"
    text = (
        f"student takes {show(ratio)} of the {against}'s time, {bound} (limit {show(limit)}) "
        f"over {look.restarts} restarts{thrown}{clock}"
    )
    if gate == "regression":
        text = (
            f"student's time is {show(ratio)} against the {against}, {bound} (limit {show(limit)}) "
            f"over {look.restarts} restarts{thrown}{clock}"
        )
    if decision != "inconclusive":
        return text
    if look.decision == "inconclusive":
        return (
            f"{text}: two copies of the {against} differed by {100 * abs(math.expm1(look.twin)):.1f} %, so this "
            "machine cannot decide it; measure on a quieter one"
        )
    following = next((k for k in LOOKS if k > done), None)
    if following is None:
        return f"{text}: {LOOKS[-1]} restarts do not decide; the true ratio is too near the limit for this machine"
    return f"{text}: undecided, the next look needs {following - done} more restarts"


def _times(ratio: float) -> str:
    return f"{ratio:.3f}x"


def _slower(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySummary:
    """Quantiles over raw calls, nanoseconds; for reading, not for judging (block minima are judged)."""

    arm: str
    name: str
    calls: int
    min_ns: int
    p50_ns: int
    p90_ns: int
    p99_ns: int


def summarise(measurement: Measurement, arm: str) -> LatencySummary | None:
    """Nearest-rank quantiles of an arm's raw calls; None where it has none."""
    calls = np.sort(measurement.calls_ns(arm))
    n = len(calls)
    if not n:
        return None

    def rank(percent: int) -> int:
        return int(calls[max(0, -(-percent * n // 100) - 1)])

    return LatencySummary(
        arm=arm,
        name=str(measurement.arms[arm].get("name", arm)),
        calls=n,
        min_ns=int(calls[0]),
        p50_ns=rank(50),
        p90_ns=rank(90),
        p99_ns=rank(99),
    )


def ratio_of(measurement: Measurement, arm: str) -> tuple[float, float, float]:
    """Ratio to the baseline with its 95 % interval over restarts: estimate, lower, upper. For reading, not judging.

    Two-sided t over restarts (METHOD 1, step 5); with one restart the interval is the whole line.

    Raises:
        EvidenceError: no restart, or samples that cannot be used.
    """
    if trouble := unusable(measurement, arm, twin=False):
        raise EvidenceError(trouble)
    effects = restart_effects(measurement, arm, choose_statistic(measurement, arm).statistic)
    if not len(effects):
        raise EvidenceError("the measurement holds no restart", "measure again")
    if len(effects) < 2:
        return math.exp(float(effects[0])), 0.0, math.inf
    effect, lower, upper = t_interval(effects, 0.975)
    return math.exp(effect), math.exp(lower), math.exp(upper)
