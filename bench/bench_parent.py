"""What the parent does while its children measure: it should sleep in the kernel."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.evidence import Measurement
from edgekd.measure import Protocol, Setting, arms_of, ledger, measure
from edgekd.target import parse_target
from edgekd.testing import write_fake

SETTING = Setting(
    target=parse_target("cpu:fake"), runtime_paths={"fake": "edgekd.testing:FakeRuntime"}, timeout_s=60
)
PROTOCOL = Protocol(min_restarts=2, max_restarts=2, rounds=60)


@pytest.mark.parametrize("call_us", [6, 800], ids=["calls of 6 us", "calls of 0.8 ms"])
def bench_parent_cpu(
    benchmark: Any,
    report_figure: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call_us: int,
) -> None:
    artifact = write_fake(tmp_path, latency_ns=(call_us * 1000,))
    feeds = {"x": np.zeros((1, 4), np.float32)}
    arms = arms_of(("a", artifact, feeds), [("b", artifact, feeds)])
    moments: list[tuple[float, float]] = []
    snapshot = ledger.snapshot

    def note_the_moment(*args: Any) -> ledger.Snapshot:
        # The protocol reads the ledger right before and right after the rounds of a restart; reading it costs too.
        if len(moments) % 2:
            moments.append((time.monotonic(), time.process_time()))
            return snapshot(*args)
        taken = snapshot(*args)
        moments.append((time.monotonic(), time.process_time()))
        return taken

    monkeypatch.setattr(ledger, "snapshot", note_the_moment)
    made: list[Measurement] = []
    benchmark.pedantic(
        lambda: made.append(measure(arms, SETTING, inputs={}, protocol=PROTOCOL)), rounds=1, iterations=1
    )
    pairs = list(zip(moments[::2], moments[1::2], strict=True))
    wall = sum(end[0] - begin[0] for begin, end in pairs)
    in_rounds = sum(end[1] - begin[1] for begin, end in pairs) / wall
    recorded = made[0].parent_cpu
    benchmark.extra_info.update(in_rounds=in_rounds, recorded=recorded, rounds_s=wall)
    calls = f"{call_us} us" if call_us < 100 else f"{call_us / 1000:g} ms"
    report_figure(f"parent's CPU in rounds, calls of {calls}", in_rounds * 100, "%", below=1)
    report_figure(
        f"parent's CPU as recorded, calls of {calls}", recorded * 100, "%", below=1, note="children's start included"
    )  # fmt: skip
