"""What a child does when it is inspected after the race: open, run, profile, copy. Imports numpy and one runtime."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.child.sessions import open_session, placement_json
from edgekd.data.example import Array
from edgekd.measure.operations import peak_memory_bytes, time_calls
from edgekd.plugins import load_path
from edgekd.target import SessionOptions
from edgekd.workload import ProfilingRuntime, midmean

Reply = tuple[dict[str, Any], list[Array]]


def memory_now() -> dict[str, int | None]:
    """Resident bytes of this process, now and at most so far (VmRSS and VmHWM, proc(5)); None where not told."""
    resident: int | None = None
    try:
        with open("/proc/self/status") as f:
            fields = dict(line.split(":", 1) for line in f if ":" in line)
        resident = int(fields["VmRSS"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    return {"resident_bytes": resident, "peak_bytes": peak_memory_bytes()}


def read_bytes_now() -> int | None:
    """Bytes that this process has fetched from storage (``read_bytes`` of /proc/self/io, proc(5))."""
    try:
        with open("/proc/self/io") as f:
            fields = dict(line.split(":", 1) for line in f if ":" in line)
        return int(fields["read_bytes"])
    except (OSError, KeyError, ValueError):
        return None


def import_runtime(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """Import the runtime and nothing else; says how long that took and what memory it left."""
    start = time.perf_counter_ns()
    load_path(args["runtime"])().unavailable(args["device"], args["provider"])
    return {"import_ns": time.perf_counter_ns() - start, "pid": os.getpid(), **memory_now()}, []


def load(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """Open a session, bind the feeds, run once; ``args`` as of :func:`edgekd.measure.operations.open_arm`."""
    state.clear()
    fetched = read_bytes_now()
    session, load_ns = open_session(args)
    after = read_bytes_now()
    loaded = memory_now()
    feeds = dict(zip(args["feeds"], arrays, strict=True))
    run = session.bind({spec.name: feeds[spec.name] for spec in session.inputs})
    first = time.perf_counter_ns()
    run()
    first_call_ns = time.perf_counter_ns() - first
    state.update(session=session, run=run)
    return {
        "load_ns": load_ns,
        "first_call_ns": first_call_ns,
        "run_peak_bytes": peak_memory_bytes(),
        "read_bytes": None if fetched is None or after is None else after - fetched,
        "placement": placement_json(session),
        **loaded,
    }, []


def settle(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """Run for ``seconds`` and at least twice; the reply's ``ns_per_call`` is the mean of the second half of that."""
    run = state["run"]
    begin = time.perf_counter_ns()
    half, calls, half_calls = begin, 0, 0
    while True:
        run()
        calls += 1
        now = time.perf_counter_ns()
        if not half_calls and now - begin >= args["seconds"] * 5e8:
            half, half_calls = now, calls
        if now - begin >= args["seconds"] * 1e9 and calls > half_calls > 0:
            return {"calls": calls, "ns_per_call": (now - half) / (calls - half_calls)}, []


def run_calls(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """``count`` calls back to back: wall, fastest and typical call, CPU time (user and system, all threads), context switches."""
    run, count = state["run"], args["count"]
    before, cpu = _use(), time.process_time_ns()
    begin = time.perf_counter_ns()
    samples = time_calls(run, count)
    wall = time.perf_counter_ns() - begin
    cpu = time.process_time_ns() - cpu
    after = _use()
    return {
        "wall_ns": wall,
        "least_ns": min(samples),
        "midmean_ns": midmean(samples),
        "cpu_ns": cpu,
        "voluntary_switches": None if before is None or after is None else after[0] - before[0],
        "involuntary_switches": None if before is None or after is None else after[1] - before[1],
    }, []


def _use() -> tuple[int, int] | None:
    """Voluntary and involuntary context switches of this process so far (getrusage(2))."""
    try:
        import resource
    except ImportError:
        return None
    use = resource.getrusage(resource.RUSAGE_SELF)
    return use.ru_nvcsw, use.ru_nivcsw


def report_memory(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """:func:`memory_now` of the child."""
    return dict(memory_now()), []


def profile(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """The runtime's own profile as ``Profile.to_json``, or None where the runtime plugin has none."""
    runtime = load_path(args["runtime"])()
    if not isinstance(runtime, ProfilingRuntime):
        return {"profile": None}, []
    options = SessionOptions(
        device=args["device"], provider=args["provider"], threads=args["threads"], settings=args["settings"]
    )
    feeds = dict(zip(args["feeds"], arrays, strict=True))
    made = runtime.profile(Path(args["path"]), options, feeds, calls=args["calls"], warm_up=args["warm_up"])
    return {"profile": made.to_json()}, []


def copy_buffers(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """Copy between buffers of ``buffer_bytes`` in each of ``threads`` threads, ``copies`` times, ``repeats`` times over.

    The reply's ``seconds`` has one entry per repeat. Buffers are written once before, so that no page is new.
    """
    threads, copies = args["threads"], args["copies"]
    words = max(1, args["buffer_bytes"] // 8)
    pairs = [(np.zeros(words), np.ones(words)) for _ in range(threads)]

    gate = threading.Barrier(threads)
    spans: list[list[tuple[int, int]]] = [[] for _ in range(threads)]

    def work(index: int) -> None:
        np.copyto(*pairs[index])
        for _ in range(args["repeats"]):
            gate.wait()
            begin = time.perf_counter_ns()
            for _ in range(copies):
                np.copyto(*pairs[index])
            spans[index].append((begin, time.perf_counter_ns()))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(1, threads)]
    for worker in workers:
        worker.start()
    work(0)
    for worker in workers:
        worker.join()
    # From the first thread's start to the last one's end.
    seconds = [(max(e for _, e in s) - min(b for b, _ in s)) / 1e9 for s in zip(*spans, strict=True)]
    return {"seconds": seconds}, []
