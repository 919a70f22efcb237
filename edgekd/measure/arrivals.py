"""The child's side of the server scenario: queries arrive by a schedule of their own, whether the last is done or not.

Imports numpy and nothing else, so that a board can run it.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from edgekd.data.example import Array

Reply = tuple[dict[str, Any], list[Array]]

#: The last stretch before an arrival is spent on the clock: sleeping ends late by a timer's slack and a wake-up
#: (50 µs and more, prctl(2) PR_SET_TIMERSLACK), which would be counted as the model's latency.
_SPIN_NS = 200_000
#: The first arrival is no sooner than this after the loop starts.
_LEAD_NS = 1_000_000


def poisson_schedule(rate_qps: float, count: int, seed: int | list[int]) -> Array:
    """Arrival times of a Poisson process: exponential gaps, drawn before any clock starts.

    Args:
        rate_qps: mean queries per second, > 0.
        count: queries.
        seed: equal seeds give equal schedules; another rate only stretches them.

    Returns:
        int64 (count,) nanoseconds after the start, not falling.
    """
    gaps = np.random.default_rng(seed).exponential(1e9 / rate_qps, count)
    return np.cumsum(gaps).astype(np.int64)


def serve(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """Answer queries in the order of their arrival, one at a time.

    A latency is completion minus *scheduled* arrival: time in the queue counts, and so does an issue that came late.
    It ends early once more than ``most_over`` queries were over ``bound_ns``: such a rate is not valid any more.

    Returns:
        int64 (queries,) latencies in nanoseconds, and how late queries were issued to an idle server.
    """
    run, clock, sleep = state["run"], time.perf_counter_ns, time.sleep
    due = poisson_schedule(args["rate_qps"], args["count"], args["seed"]).tolist()
    bound, most = args["bound_ns"], args["most_over"]
    latencies, late = [0] * len(due), [-1] * len(due)
    over = done = 0
    start = clock() + _LEAD_NS
    for i, offset in enumerate(due):
        at = start + offset
        now = clock()
        if now < at:
            if at - now > _SPIN_NS:
                sleep((at - now - _SPIN_NS) / 1e9)
                now = clock()
            while now < at:
                now = clock()
            late[i] = now - at
        run()
        latency = clock() - at
        latencies[i] = latency
        done += 1
        if bound is not None and latency > bound:
            over += 1
            if most is not None and over > most:
                break
    seconds = (clock() - start) / 1e9
    idle = np.asarray([x for x in late[:done] if x >= 0], np.int64)
    return {
        "seconds": seconds,
        "over": over,
        "waited": int(done - len(idle)),
        "late_ns": _late(idle),
    }, [np.asarray(latencies[:done], np.int64)]


def _late(idle: Array) -> dict[str, int] | None:
    """Lateness of issue, nanoseconds: median, 99th percentile, greatest; None where no query found the server idle."""
    if not len(idle):
        return None
    p50, p99 = np.quantile(idle, [0.5, 0.99], method="higher")
    return {"p50": int(p50), "p99": int(p99), "max": int(idle.max())}
