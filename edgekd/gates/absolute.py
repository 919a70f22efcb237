"""The ``latency_absolute`` gate: is a quantile of the latency within so many milliseconds? It needs no teacher."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgekd.errors import UsageError
from edgekd.evidence.measurement import MULTI_STREAM, OFFLINE, SERVER, Measurement, level_of
from edgekd.gates.quantiles import calls_by_restart
from edgekd.gates.quiet import worst_noise
from edgekd.gates.statistic import emulation
from edgekd.gates.verdict import Decision, Gate
from edgekd.statistics.binomial import CONFIDENCE, least_count, quantile_bounds

GATE = "latency_absolute"
METHOD = "binomial bounds of the quantile over raw calls (MLPerf early stopping)"

_NS = 1e6  # nanoseconds in a millisecond


def judge_absolute(
    measurement: Measurement, arm: str, *, percentile: str = "p99", max_ms: float, split: str | None = None
) -> Gate:
    """Judge a quantile of one arm's raw latency against a limit.

    Pass when the upper 99 % bound of the quantile is within the limit, reject when the lower one is beyond it and the
    ledger was quiet in every restart, else inconclusive with the number of calls that would pass if no more of them
    were over (METHOD 1, step 6).

    Args:
        measurement: evidence of the single-stream or multi-stream scenario, or of the server at an asked rate.
        arm: the judged arm.
        percentile: ``p50``, ``p90``, ``p99``, ``p99.9``.
        max_ms: limit, milliseconds, > 0.

    Returns:
        A gate in milliseconds whose n counts calls (queries in the scenarios that have them).
    """

    def answer(decision: Decision, reason: str, **more: Any) -> Gate:
        return Gate(
            gate=GATE,
            decision=decision,
            metric=percentile,
            against="",
            artifact=str(measurement.arms.get(arm, {}).get("artifact", "")),
            target=measurement.target,
            limit=max_ms,
            unit="ms",
            method=METHOD,
            scenario=measurement.scenario,
            split=split,
            reason=reason,
            **more,
        )

    try:
        level = level_of(percentile)
    except UsageError as e:
        return answer("error", str(e), error_kind="input")
    if not (math.isfinite(max_ms) and max_ms > 0):
        return answer("error", f"a latency limit must be above 0 ms, got {max_ms}", error_kind="input")
    if trouble := _unusable(measurement, arm):
        return answer("error", trouble, error_kind="input")

    parts = calls_by_restart(measurement, arm)
    calls = np.concatenate(parts).astype(np.float64) / _NS if parts else np.zeros(0)
    if not np.isfinite(calls).all() or (calls.size and calls.min() <= 0):
        return answer(
            "error", f"'{arm}' holds a call of {calls.min():g} ms; measure again", error_kind="input"
        )
    n, over = len(calls), int((calls > max_ms).sum())
    lower, upper = quantile_bounds(calls, level)
    decision: Decision = "pass" if upper <= max_ms else "reject" if lower > max_ms else "inconclusive"
    noise = worst_noise(measurement) if decision == "reject" else ""
    if noise:
        decision = "inconclusive"
    needed = least_count(level, CONFIDENCE, over)
    estimate = float(np.sort(calls)[math.ceil(round(n * level, 6)) - 1]) if n else None
    thing = "queries" if measurement.scenario in (MULTI_STREAM, SERVER) else "calls"
    where = (
        f" at {measurement.scenario_detail['target_qps']:g} queries/s"
        if measurement.scenario == SERVER
        else ""
    )
    reason = _sentence(
        "reject" if noise else decision,
        percentile,
        estimate,
        (lower, upper),
        max_ms,
        n,
        over,
        needed,
        thing,
        where,
    )
    if noise:
        reason += f", but the machine was not quiet ({noise}): measure on a quieter one"
    return answer(
        decision,
        reason,
        estimate=estimate,
        interval=(lower, upper),
        confidence=CONFIDENCE,
        n=n,
        detail={"over": over, "n_needed": needed, "restarts": len(measurement.restarts)},
    )


def _sentence(
    decision: Decision,
    percentile: str,
    estimate: float | None,
    bounds: tuple[float, float],
    limit: float,
    n: int,
    over: int,
    needed: int,
    thing: str,
    where: str,
) -> str:
    lower, upper = bounds
    if decision == "pass":
        return (
            f"{percentile} is at most {upper:.4g} ms (limit {limit:g} ms){where}: {over:,} of {n:,} {thing} took longer "
            "than the limit"
        )
    if decision == "reject":
        return (
            f"{percentile} is at least {lower:.4g} ms (limit {limit:g} ms){where}: {over:,} of {n:,} {thing} took longer "
            "than the limit"
        )
    if estimate is None:
        return f"no {thing} were timed{where}; {needed:,} within {limit:g} ms would show a {percentile}: measure again"
    known = f"at most {upper:.4g} ms" if math.isfinite(upper) else "not bounded yet"
    return (
        f"{percentile} is about {estimate:.4g} ms, {known} (limit {limit:g} ms){where}: {over:,} of {n:,} {thing} took "
        f"longer than the limit, and with {over:,} over {needed:,} {thing} are needed"
    )


def _unusable(measurement: Measurement, arm: str) -> str:
    """Why the samples cannot be judged, as a sentence; empty when they can."""
    if arm not in measurement.arms:
        return f"the measurement has no arm '{arm}' (it has {', '.join(measurement.arms)}); measure again"
    if trouble := emulation(measurement, arm):
        return trouble
    if measurement.scenario == OFFLINE:
        return (
            "an offline measurement has a throughput and no latency that a user waits for; measure it with "
            "--scenario single-stream, multi-stream or server"
        )
    if measurement.scenario == SERVER and measurement.scenario_detail.get("target_qps") is None:
        return "the measurement searched for the highest rate and has none to be judged at; give --target-qps"
    return ""
