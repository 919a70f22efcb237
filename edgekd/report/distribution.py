"""Latency distributions: raw calls of several arms counted on one axis, so that their size does not grow with them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgekd.evidence.measurement import TWIN, Measurement

BINS = 160
#: Calls beyond this quantile of their arm are counted, not drawn: one stall would press all others into one bin.
SHOWN = 0.999
#: A logarithmic axis from this ratio of its ends on.
_LOG_FROM = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How many calls of one arm fell into each bin.

    Attributes:
        counts: per bin; beyond: calls slower than the axis goes.
        quantiles_ns: p50, p90 and p99, nanoseconds.
    """

    arm: str
    name: str
    counts: tuple[int, ...]
    beyond: int
    max_ns: int
    quantiles_ns: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """The arms of one measurement on one axis from ``low_ns`` to ``high_ns``."""

    low_ns: float
    high_ns: float
    log: bool
    arms: tuple[Histogram, ...]


def distribution_of(measurement: Measurement) -> Distribution | None:
    """Count the raw calls of every arm but the hidden second copy; None where there are none."""
    calls = {arm: measurement.calls_ns(arm) for arm in measurement.arms if arm != TWIN}
    calls = {arm: ns for arm, ns in calls.items() if len(ns)}
    if not calls:
        return None
    low = float(max(1, min(int(ns.min()) for ns in calls.values())))
    high = max(float(np.quantile(ns, SHOWN)) for ns in calls.values())
    room = max((high / low) ** 0.02, 1.005)
    low, high = low / room, high * room
    log = high / low >= _LOG_FROM
    edges = np.geomspace(low, high, BINS + 1) if log else np.linspace(low, high, BINS + 1)
    arms = []
    for arm, ns in calls.items():
        counts, _ = np.histogram(ns, edges)
        p50, p90, p99 = (float(q) for q in np.quantile(ns, (0.5, 0.9, 0.99), method="inverted_cdf"))
        arms.append(
            Histogram(
                arm=arm,
                name=str(measurement.arms[arm].get("name", arm)),
                counts=tuple(int(c) for c in counts),
                beyond=int((ns > high).sum()),
                max_ns=int(ns.max()),
                quantiles_ns=(p50, p90, p99),
            )
        )
    if not math.isfinite(high):
        return None
    return Distribution(low_ns=low, high_ns=high, log=log, arms=tuple(arms))
