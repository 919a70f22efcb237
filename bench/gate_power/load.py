"""A load generator of real processes: bursts of work at random times; it ends with the process that started it.

Each worker is pinned to one CPU and alternates between idle and busy, both exponentially distributed in length:

- ``cpu``     small matrix products that live in the second-level cache;
- ``memory``  copies of an array that no cache holds;
- ``mixed``   one or the other, drawn for every burst;
- ``fifo``    a SCHED_FIFO hog, 5 ms in every 15 while busy: it stands in for steal, which a guest cannot make;
- ``stop``    SIGSTOP and SIGCONT to another process's measuring children, 60 ms in every 100 while busy: it stands in
              for a cgroup's CPU quota.

Every worker notes when its bursts begin and end, so that a trial can say whether one fell into it (bursts.py).

``python bench/gate_power/load.py --condition loaded --seconds 60`` loads the machine for a minute.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

if __name__ == "__main__":  # the workers' way
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gate_power.bursts import BurstLog, Injected, read_bursts

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_MEMORY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One worker's habits: kind, and the mean length of its bursts and pauses in seconds."""

    kind: str
    on_s: float
    off_s: float


#: Per CPU of the affinity set (``stop``: once), by condition. Bursts of ``burst``, ``throttle`` and ``steal`` are rare:
#: about one falls into one restart of a comparison.
CONDITIONS: Mapping[str, tuple[Worker, ...]] = {
    "quiet": (),
    "loaded": (Worker(kind="mixed", on_s=0.2, off_s=0.2),),
    "burst": (Worker(kind="mixed", on_s=1.0, off_s=4.0),),
    "throttle": (Worker(kind="stop", on_s=1.0, off_s=4.0),),
    "steal": (Worker(kind="fifo", on_s=1.0, off_s=4.0),),
}


def tie_to_parent(parent: int) -> None:
    """Die when the parent does.

    Raises:
        SystemExit: the parent is dead already.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


def busy(kind: str, rng: random.Random, until: float) -> None:
    """Work of one kind until a moment of the monotonic clock."""
    if kind == "mixed":
        kind = "memory" if rng.random() < 0.3 else "cpu"
    if kind == "memory":
        source = np.ones(_MEMORY_BYTES // 8)
        target = np.empty_like(source)
        while time.monotonic() < until:
            np.copyto(target, source)
        return
    a = np.ones((128, 128), np.float32)
    if kind == "cpu":
        while time.monotonic() < until:
            a @ a
        return
    while time.monotonic() < until:  # fifo
        slice_end = min(until, time.monotonic() + 0.005)
        while time.monotonic() < slice_end:
            a @ a
        time.sleep(0.010)


def measuring_children(parent: int) -> list[int]:
    """Children of a process that measure for EdgeKD."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError):
            # proc(5): the fields after the command's closing bracket are state and parent.
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) != parent:
                continue
            if b"edgekd.child" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def _signal_all(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def stop_and_go(parent: int, until: float, log: BurstLog) -> None:
    """Stop the measuring children for 60 ms of every 100, all at once, until a moment of the monotonic clock."""
    while time.monotonic() < until:
        pids = measuring_children(parent)
        if pids:
            log.stop()
        _signal_all(pids, signal.SIGSTOP)
        try:
            time.sleep(0.06)
        finally:
            _signal_all(pids, signal.SIGCONT)
        time.sleep(0.04)


def work(kind: str, on_s: float, off_s: float, seed: int, victim: int, log: BurstLog) -> None:
    """A worker's life: it never returns."""
    rng = random.Random(seed)
    if kind == "fifo":
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    while True:
        time.sleep(rng.expovariate(1 / off_s))
        until = time.monotonic() + rng.expovariate(1 / on_s)
        log.begin()
        if kind == "stop":
            stop_and_go(victim, until, log)
        else:
            busy(kind, rng, until)
        log.end()


def may_use_fifo() -> bool:
    """Whether this process may take real-time priority."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return False
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return True


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU time that processes have used so far."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # proc(5): utime and stime
    return ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The running workers of a condition; none in quiet."""

    workers: Sequence[subprocess.Popen[bytes]]
    logs: Sequence[Path]

    @property
    def pids(self) -> list[int]:
        return [w.pid for w in self.workers]

    def injected(self, begin_s: float, end_s: float) -> Injected | None:
        """What the workers did between two moments of the monotonic clock; None where there are none."""
        return read_bursts(self.logs, begin_s, end_s) if self.workers else None

    def check(self) -> None:
        """Raises RuntimeError: a worker has ended."""
        if any(w.poll() is not None for w in self.workers):
            raise RuntimeError("a load worker has ended; start again, the trials so far are kept")


@contextlib.contextmanager
def load(condition: str, *, seed: int, cpus: Sequence[int]) -> Iterator[Load]:
    """The workers of a condition, for as long as the context lasts.

    Raises:
        PermissionError: ``steal`` without the right to real-time priority.
        RuntimeError: a worker ended at once.
    """
    workers: list[subprocess.Popen[bytes]] = []
    jobs = []
    for habit in CONDITIONS[condition]:
        jobs += [(habit, cpu) for cpu in (cpus if habit.kind != "stop" else cpus[:1])]
        if habit.kind == "fifo" and not may_use_fifo():
            raise PermissionError(
                f"condition {condition} needs SCHED_FIFO, which this user may not take; run as root"
            )
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="gate-power-load-") as folder:
        logs = [Path(folder) / f"{index}.log" for index in range(len(jobs))]
        try:
            for index, (habit, cpu) in enumerate(jobs):
                command = [
                    sys.executable, str(Path(__file__).resolve()), "--worker", habit.kind, "--on", str(habit.on_s),
                    "--off", str(habit.off_s), "--cpu", str(cpu), "--seed", str(seed + index),
                    "--parent", str(os.getpid()), "--log", str(logs[index]),
                ]  # fmt: skip
                workers.append(
                    subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, start_new_session=True)
                )
            running = Load(workers=tuple(workers), logs=tuple(logs))
            if workers:
                time.sleep(0.5)
            running.check()
            yield running
        finally:
            for w in workers:
                w.terminate()
            for w in workers:
                w.wait()
            if workers and any(h.kind == "stop" for h, _ in jobs):
                _signal_all(measuring_children(os.getpid()), signal.SIGCONT)


def main() -> None:
    parser = argparse.ArgumentParser(description="Load this machine with bursts of work at random times.")
    parser.add_argument("--condition", choices=sorted(CONDITIONS), default="loaded")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--worker", choices=["cpu", "memory", "mixed", "fifo", "stop"], help=argparse.SUPPRESS
    )
    parser.add_argument("--on", type=float, default=0.2, help=argparse.SUPPRESS)
    parser.add_argument("--off", type=float, default=0.2, help=argparse.SUPPRESS)
    parser.add_argument("--cpu", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--parent", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        tie_to_parent(args.parent)
        # A stopper must run when those that it stops do not: it is pinned nowhere.
        if args.worker != "stop":
            os.sched_setaffinity(0, [args.cpu])
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        work(args.worker, args.on, args.off, args.seed, args.parent, BurstLog(args.log))
    with load(args.condition, seed=args.seed, cpus=sorted(os.sched_getaffinity(0))):
        time.sleep(args.seconds)


if __name__ == "__main__":
    main()
