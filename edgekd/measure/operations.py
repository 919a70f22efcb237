"""What a measuring child does: open a session, warm it up, run timed blocks. Imports numpy and one runtime."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edgekd.child.sessions import open_session, placement_json
from edgekd.data.example import Array
from edgekd.errors import DataError

Reply = tuple[dict[str, Any], list[Array]]

#: Warm-up looks at block minima of about this length.
_WARM_BLOCK_NS = 5_000_000
_WARM_WINDOW = 12


def peak_memory_bytes() -> int | None:
    """Peak resident memory of this process; None where the system does not tell."""
    try:
        # VmHWM starts anew at exec; getrusage's ru_maxrss would still hold the parent's peak.
        with open("/proc/self/status") as f:
            for line in f:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
        import sys
    except ImportError:
        return None
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024


def open_arm(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """Open a session, check the feeds against its inputs, bind them and run once."""
    import_start = time.perf_counter_ns()
    session, load_ns = open_session(args)
    feeds = dict(zip(args["feeds"], arrays, strict=True))
    for spec in session.inputs:
        if spec.name not in feeds:
            raise DataError(f"no feed for the input '{spec.name}' of {args['path']}", "map it with --map")
        spec.check(feeds[spec.name], where=args["path"])
    run = session.bind({spec.name: feeds[spec.name] for spec in session.inputs})
    first = time.perf_counter_ns()
    run()
    first_call_ns = time.perf_counter_ns() - first
    state.update(session=session, run=run)
    return {
        "load_ns": load_ns,
        "open_ns": first - import_start,
        "first_call_ns": first_call_ns,
        "peak_memory_bytes": peak_memory_bytes(),
        "inputs": [s.to_json() for s in session.inputs],
        "outputs": [s.to_json() for s in session.outputs],
        "placement": placement_json(session),
        "cpus": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
    }, []


def time_calls(run: Callable[[], object], count: int) -> list[int]:
    """Nanoseconds of each of ``count`` calls, back to back.

    The buffer is made before the clock starts; nothing is allocated, logged or judged inside the loop.
    """
    clock = time.perf_counter_ns
    samples = [0] * count
    for i in range(count):
        start = clock()
        run()
        samples[i] = clock() - start
    return samples


def _calls_for(estimate_ns: float, at_least_ns: float, at_least: int) -> int:
    return max(at_least, math.ceil(at_least_ns / max(estimate_ns, 1.0)))


def is_steady(minima: list[int]) -> bool:
    """Whether the drift over block minima is under three standard errors (METHOD 1, step 4).

    Args:
        minima: block minima in time order, nanoseconds, at least 4.
    """
    y = np.asarray(minima, dtype=np.float64)
    x = np.arange(len(y)) - (len(y) - 1) / 2
    sxx = float((x * x).sum())
    slope = float((x * y).sum()) / sxx
    residual = y - y.mean() - slope * x
    variance = float((residual * residual).sum()) / max(1, len(y) - 2)
    return abs(slope) <= 3 * math.sqrt(variance / sxx) or abs(slope) * len(y) < 1e-3 * float(y.mean())


def warm_up(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """Run until steady: at least ``min_s`` and ``min_calls``, at most ``cap_s``; fixes the calls per block."""
    gc.collect()
    gc.freeze()
    gc.disable()
    run = state["run"]
    begin = time.perf_counter_ns()
    calls, minima, steady = 0, [], False
    estimate = float(min(time_calls(run, 3)))
    while True:
        count = _calls_for(estimate, _WARM_BLOCK_NS, 1)
        minima.append(min(time_calls(run, count)))
        calls += count
        estimate = float(minima[-1])
        seconds = (time.perf_counter_ns() - begin) / 1e9
        if seconds >= args["cap_s"]:
            break
        if seconds >= args["min_s"] and calls >= args["min_calls"] and len(minima) >= _WARM_WINDOW:
            steady = is_steady(minima[-_WARM_WINDOW:])
            if steady:
                break
    state["block_calls"] = _calls_for(
        float(np.median(minima[-4:])), args["block_ms"] * 1e6, args["block_calls"]
    )
    return {
        "seconds": (time.perf_counter_ns() - begin) / 1e9,
        "calls": calls,
        "steady": steady,
        "block_calls": state["block_calls"],
    }, []


def run_block(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """One timed block; the reply's array is int64 (calls,) nanoseconds."""
    samples = time_calls(state["run"], state["block_calls"])
    return {}, [np.asarray(samples, dtype=np.int64)]


def report_use(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """Peak memory, CPU time and context switches of the child so far."""
    try:
        import resource
    except ImportError:
        return {"peak_memory_bytes": None, "cpu_s": None, "involuntary_switches": None}, []
    use = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "peak_memory_bytes": peak_memory_bytes(),
        "cpu_s": use.ru_utime + use.ru_stime,
        "involuntary_switches": use.ru_nivcsw,
    }, []
