"""What a measuring child does: open a session, warm it up, run timed blocks. Imports numpy and one runtime."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from edgekd.child.sessions import open_session, placement_json
from edgekd.data.example import Array
from edgekd.errors import DataError, MissingDependencyError
from edgekd.measure.device_events import WALL, DeviceTiming, device_timing
from edgekd.measure.gpu_events import event_source
from edgekd.spec import TensorSpec
from edgekd.target import Session

Reply = tuple[dict[str, Any], list[Array]]

#: Beside those of :mod:`edgekd.measure.device_events`: the processor time of a call.
CPU = "cpu"

#: Warm-up looks at block minima of about this length, so many of them; fewer where one call is a block by itself.
_WARM_BLOCK_NS = 5_000_000
_WARM_WINDOW = 12
_WARM_WINDOW_LONG = 6
_LONG_CALL_NS = 50_000_000

#: From here on reading the CPU clock beside the wall clock (two system calls) costs less than 0.1 % of a call.
_CPU_CLOCK_FROM_NS = 1_000_000


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
    """Open a session, or several, check the feeds against its inputs, bind them and run once."""
    import_start = time.perf_counter_ns()
    session, load_ns = open_session(args)
    feeds = dict(zip(args["feeds"], arrays, strict=True))
    for spec in session.inputs:
        if spec.name not in feeds:
            raise DataError(f"no feed for the input '{spec.name}' of {args['path']}", "map it with --map")
    sessions = [session, *(open_session(args)[0] for _ in range(args.get("sessions", 1) - 1))]
    run = bind_side_by_side(sessions, feeds, args.get("calls_per_query", 1), args["path"])
    first = time.perf_counter_ns()
    run()
    first_call_ns = time.perf_counter_ns() - first
    timing, why_not = _device_timing(session, run, feeds)
    state.update(session=session, run=run, device=timing)
    return {
        "load_ns": load_ns,
        "open_ns": first - import_start,
        "first_call_ns": first_call_ns,
        "peak_memory_bytes": peak_memory_bytes(),
        "inputs": [s.to_json() for s in session.inputs],
        "outputs": [s.to_json() for s in session.outputs],
        "placement": placement_json(session),
        "clock": timing.source.name if timing is not None else "wall",
        **({"no_events": why_not} if why_not else {}),
        "cpus": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
    }, []


def _device_timing(
    session: Session, run: Callable[[], object], feeds: dict[str, Array]
) -> tuple[DeviceTiming | None, str]:
    """How the arm is timed on its device, or None and why not; empty where nobody would expect it."""
    try:
        found = device_timing(session, run, feeds, event_source)
    except MissingDependencyError as e:
        return None, str(e)
    if found is None and session.placement.device == "cuda":
        return None, f"{session.placement.runtime} does not enqueue a call without waiting for it"
    return found, ""


def bind_query(session: Session, feeds: dict[str, Array], calls: int, where: str) -> Callable[[], object]:
    """Bind what one query runs: one call, or ``calls`` of them on equal parts of the feeds, one after another.

    Raises:
        DataError: feeds that do not fit the model.
    """
    parts = {name: np.split(array, calls) if calls > 1 else [array] for name, array in feeds.items()}
    runs = []
    for k in range(calls):
        part = {spec.name: parts[spec.name][k] for spec in session.inputs}
        for spec in session.inputs:
            spec.check(part[spec.name], where=where)
        runs.append(session.bind(part))
    if calls == 1:
        return runs[0]

    def query() -> None:
        for run in runs:
            run()

    return query


def bind_side_by_side(
    sessions: Sequence[Session], feeds: dict[str, Array], calls: int, where: str
) -> Callable[[], object]:
    """Bind a query that is divided among sessions, each in a thread of its own; it ends with the last of them.

    Inputs of a size that leaves nothing to divide, as those without a batch, go to each session whole.

    Raises:
        DataError: an input that cannot be divided, and as :func:`bind_query`.
    """
    if len(sessions) == 1:
        return bind_query(sessions[0], feeds, calls, where)
    parts = {s.name: _parts(s, feeds[s.name], len(sessions), where) for s in sessions[0].inputs}
    runs = [
        bind_query(session, {name: part[k] for name, part in parts.items()}, calls, where)
        for k, session in enumerate(sessions)
    ]
    # A session less than there are: the calling thread works, too.
    others = ThreadPoolExecutor(len(runs) - 1)

    def query() -> None:
        begun = [others.submit(run) for run in runs[1:]]
        runs[0]()
        for one in begun:
            one.result()

    return query


def _parts(spec: TensorSpec, array: Array, count: int, where: str) -> list[Array]:
    if array.ndim == 0 or (spec.shape and array.shape[0] == spec.shape[0]):
        return [array] * count
    if array.shape[0] % count:
        raise DataError(
            f"the input '{spec.name}' of {where} has {array.shape[0]} rows, which {count} sessions cannot divide",
            "leave --sessions out",
        )
    return np.split(array, count)


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


def time_calls_on_both_clocks(run: Callable[[], object], count: int) -> tuple[list[int], list[int]]:
    """Nanoseconds of each of ``count`` calls by the wall clock and by this process's CPU clock.

    The CPU clock (clock_gettime(2), CLOCK_PROCESS_CPUTIME_ID) stands still while another process has the CPU. It is
    read outside of the wall clock's readings, so wall times are those of :func:`time_calls`.
    """
    clock, cpu_clock = time.perf_counter_ns, time.process_time_ns
    wall, cpu = [0] * count, [0] * count
    for i in range(count):
        cpu_start = cpu_clock()
        start = clock()
        run()
        wall[i] = clock() - start
        cpu[i] = cpu_clock() - cpu_start
    return wall, cpu


def _calls_for(estimate_ns: float, at_least_ns: float, at_least: int) -> int:
    return max(at_least, math.ceil(at_least_ns / max(estimate_ns, 1.0)))


def block_calls_for(call_ns: float, args: dict[str, Any]) -> int:
    """Calls per block: at least ``block_calls`` and ``block_ms``, but two long calls rather than ``block_cap_ms``."""
    count = _calls_for(call_ns, args["block_ms"] * 1e6, args["block_calls"])
    least, fit = int(args["min_block_calls"]), int(args["block_cap_ms"] * 1e6 / max(call_ns, 1.0))
    return min(count, max(least, fit))


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
    """Run until steady: at least ``min_s`` and ``min_calls``, at most ``cap_s``; fixes the calls per block.

    ``long_s`` stands in for ``min_calls`` where calls are long: 50 calls of 100 ms would be nothing but warm-up.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    timing: DeviceTiming | None = state.get("device")
    if timing is not None:
        warmed, call_ns = timing.warm_up(args["min_s"], args["cap_s"])
        timing.block_calls = block_calls_for(call_ns * timing.replays, args)
        return {**warmed, "block_calls": timing.block_calls, "resident_bytes": resident_bytes()}, []
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
        window = _WARM_WINDOW if estimate < _LONG_CALL_NS else _WARM_WINDOW_LONG
        enough = calls >= args["min_calls"] or seconds >= args["long_s"]
        if seconds >= args["min_s"] and enough and len(minima) >= window:
            steady = is_steady(minima[-window:])
            if steady:
                break
    call_ns = float(np.median(minima[-4:]))
    state["block_calls"] = block_calls_for(call_ns, args)
    state["cpu_clock"] = call_ns >= _CPU_CLOCK_FROM_NS
    return {
        "seconds": (time.perf_counter_ns() - begin) / 1e9,
        "calls": calls,
        "steady": steady,
        "block_calls": state["block_calls"],
        "resident_bytes": resident_bytes(),
    }, []


def run_block(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """One timed block; the reply's arrays are int64 (calls,) nanoseconds, and its ``columns`` say of what.

    ``wall``, and ``cpu`` where calls are long enough; on a device that has events ``device``, ``enqueue``, ``cold`` and ``wall``.
    """
    timing: DeviceTiming | None = state.get("device")
    if timing is not None:
        return timing.block(time_calls)
    if not state["cpu_clock"]:
        wall_only = np.asarray(time_calls(state["run"], state["block_calls"]), dtype=np.int64)
        return {"columns": [WALL]}, [wall_only]
    wall, cpu = time_calls_on_both_clocks(state["run"], state["block_calls"])
    return {"columns": [WALL, CPU]}, [np.asarray(wall, dtype=np.int64), np.asarray(cpu, dtype=np.int64)]


def set_replays(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """Time so many calls per pair of events: as many as every other arm, since a mean's minimum is not a call's."""
    timing: DeviceTiming = state["device"]
    timing.block_calls = max(
        args["min_block_calls"], math.ceil(timing.block_calls * timing.replays / args["replays"])
    )
    timing.replays = args["replays"]
    return {"device": timing.record(), "block_calls": timing.block_calls}, []


def _own_status(field: str) -> int | None:
    """A number of this process's /proc/self/status (proc(5)); None where the system does not tell."""
    try:
        with open("/proc/self/status") as f:
            return next((int(line.split()[1]) for line in f if line.startswith(field)), None)
    except OSError:
        return None


def resident_bytes() -> int | None:
    """Resident memory of this process now; None where the system does not tell."""
    kib = _own_status("VmRSS:")
    return None if kib is None else kib * 1024


def report_use(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """Memory, CPU time, context switches and threads of the child so far."""
    try:
        import resource
    except ImportError:
        absent = ("peak_memory_bytes", "cpu_s", "involuntary_switches", "threads", "resident_bytes")
        return dict.fromkeys(absent), []
    use = resource.getrusage(resource.RUSAGE_SELF)
    timing: DeviceTiming | None = state.get("device")
    return {
        **({"on_device": timing.use()} if timing is not None else {}),
        "peak_memory_bytes": peak_memory_bytes(),
        "cpu_s": use.ru_utime + use.ru_stime,
        "involuntary_switches": use.ru_nivcsw,
        "threads": _own_status("Threads:"),
        "resident_bytes": resident_bytes(),
    }, []
