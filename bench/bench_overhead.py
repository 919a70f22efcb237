"""What the timing loop itself costs per call, over a loop that only calls."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.measure.operations import time_calls
from edgekd.target import SessionOptions
from edgekd.testing import FakeRuntime, write_fake

CALLS = 2_000
ROUNDS = 400


def call_only(run: Callable[[], object], count: int) -> None:
    for _ in range(count):
        run()


def bench_overhead_per_timed_call(benchmark: Any, report_figure: Callable[..., None], tmp_path: Path) -> None:
    session = FakeRuntime().open(write_fake(tmp_path).path, SessionOptions())
    run = session.bind({"x": np.zeros((1, 4), np.float32)})
    loops: dict[str, Callable[[Callable[[], object], int], object]] = {"bare": call_only, "timed": time_calls}
    blocks: dict[str, list[float]] = {name: [] for name in loops}
    rng = random.Random(0)
    for _ in range(ROUNDS):
        for name in rng.sample(sorted(loops), len(loops)):
            start = time.perf_counter_ns()
            loops[name](run, CALLS)
            blocks[name].append((time.perf_counter_ns() - start) / CALLS)
    best = {name: min(values) for name, values in blocks.items()}
    paired = sorted(t - b for t, b in zip(blocks["timed"], blocks["bare"], strict=True))
    overhead = best["timed"] - best["bare"]
    benchmark.extra_info.update(
        overhead_ns=overhead, median_overhead_ns=paired[len(paired) // 2], bare_ns=best["bare"],
        timed_ns=best["timed"], calls=CALLS, rounds=ROUNDS,
    )  # fmt: skip
    report_figure(
        "harness overhead per timed call", overhead, "ns", below=2000,
        note=f"{best['timed']:.0f} ns timed, {best['bare']:.0f} ns bare, best of {ROUNDS} blocks each",
    )  # fmt: skip
    benchmark.pedantic(time_calls, args=(run, CALLS), rounds=50, warmup_rounds=5)
