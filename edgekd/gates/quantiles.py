"""Quantiles of raw calls, restart by restart. A block minimum tells the code's speed; these tell what a user waits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgekd.data.example import Array
from edgekd.evidence.measurement import SERVER, Measurement
from edgekd.statistics.student_t import t_interval


def calls_by_restart(measurement: Measurement, arm: str) -> list[Array]:
    """Raw latencies of an arm, int64 (calls,) nanoseconds, one array per restart: single calls by the host's clock.

    For the server scenario these are its queries at the asked rate; a search for the highest rate leaves none.
    """
    if measurement.scenario == SERVER:
        named = [t["queries_of"] for t in measurement.scenario_detail.get("trials", ()) if t["arm"] == arm]
        searched = measurement.scenario_detail.get("target_qps") is None
        return [] if searched else [measurement.queries[name] for name in named]
    return [np.concatenate(r.single_calls(arm)) for r in measurement.restarts if r.single_calls(arm)]


def restart_quantiles(measurement: Measurement, arm: str, level: float) -> Array:
    """The ``level`` quantile of each restart's calls, float64 (restarts,) nanoseconds.

    Median-unbiased (R. Hyndman and Y. Fan, *The American Statistician* 50, 1996, definition 8): arms make different
    numbers of calls in equal time, and a nearest rank would call the smaller sample's tail the longer one.
    """
    return np.asarray(
        [
            float(np.quantile(calls, level, method="median_unbiased"))
            for calls in calls_by_restart(measurement, arm)
        ]
    )


def log_interval(logs: Array, p: float = 0.975) -> tuple[float, float, float]:
    """Mean of logarithms and its t bounds, as ratios: estimate, lower, upper.

    Args:
        logs: natural logarithms, one per restart, float64 (restarts,), at least one.
        p: level of each bound; 0.975 makes a 95 % interval.

    Returns:
        With one restart the interval is the whole line: 0 to infinity.
    """
    mean, lower, upper = t_interval(logs, p)
    return math.exp(mean), math.exp(lower), math.exp(upper)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval over restarts; for reading, not for judging."""

    value: float
    lower: float
    upper: float


def quantile_estimate(measurement: Measurement, arm: str, level: float) -> Estimate | None:
    """A quantile of an arm's latency, nanoseconds, with its interval over restarts; None where it has no call."""
    found = restart_quantiles(measurement, arm, level)
    if not len(found):
        return None
    value, lower, upper = log_interval(np.log(found))
    return Estimate(value=value, lower=lower, upper=upper)


def throughput_estimate(measurement: Measurement, arm: str) -> Estimate | None:
    """Examples per second of an arm over all its calls, with its interval over restarts; None without calls."""
    batch = int(measurement.arms[arm].get("batch") or measurement.batch)
    logs = [
        math.log(batch * len(calls) / (float(calls.sum()) / 1e9))
        for calls in calls_by_restart(measurement, arm)
    ]
    if not logs:
        return None
    value, lower, upper = log_interval(np.asarray(logs))
    return Estimate(value=value, lower=lower, upper=upper)


def rate_ratio(rates: Array, others: Array) -> Estimate | None:
    """Ratio of two arms' rates over restarts, paired; None where one of them never had a valid rate.

    Args:
        rates, others: per restart, float64 (restarts,).
    """
    if len(rates) != len(others) or not len(rates) or min(rates.min(), others.min()) <= 0:
        return None
    value, lower, upper = log_interval(np.log(rates / others))
    return Estimate(value=value, lower=lower, upper=upper)
