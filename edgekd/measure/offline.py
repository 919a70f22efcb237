"""The offline scenario: samples per second. A sweep finds each arm's best batch; the race then measures it there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from edgekd.child.wire import encode
from edgekd.errors import ChildError
from edgekd.measure import ledger
from edgekd.measure.arm import Arm, Protocol, Setting, open_arm, warm_up

_BLOCK = encode({"call": "edgekd.measure.operations:run_block", "args": {}})

#: A batch counts as better when its throughput is this much higher, and two in a row that are not end the sweep.
GAIN = 0.02
#: No batch is tried whose call would last longer; the race would take minutes per restart.
CALL_CAP_S = 0.25
#: Nor is the sweep of one arm continued after this.
SWEEP_CAP_S = 60.0
#: Feeds of one call may take this share of the free memory.
FEEDS_SHARE = 0.1
MAX_BATCH = 1024
_BLOCKS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What a sweep saw.

    Attributes:
        best: the batch of the greatest throughput (the smallest that is within ``GAIN`` of it).
        rows: ``{"batch", "samples_per_s", "ms_per_call"}`` of every batch tried, in order.
        ended: why no larger batch was tried.
    """

    best: int
    rows: tuple[Mapping[str, float], ...]
    ended: str

    def to_json(self) -> dict[str, Any]:
        return {"best": self.best, "rows": [dict(r) for r in self.rows], "ended": self.ended}


def sweep_batches(
    arm_at: Callable[[int], Arm],
    setting: Setting,
    *,
    fixed: int | None = None,
    max_batch: int | None = None,
    first: int = 1,
) -> Sweep:
    """Try batches 1, 2, 4, ... until throughput stops rising, or memory, time or ``max_batch`` ends it.

    It only chooses: what is reported is measured afresh, in turns with the other arms.

    Args:
        arm_at: batch -> arm with feeds of that batch.
        fixed: the only batch that can be asked for.
        first: the least batch, which every other is a multiple of.

    Raises:
        ChildError: not even the first batch runs; ModelError, DataError: the model cannot be opened.
    """
    begin = time.monotonic()
    rows: list[dict[str, float]] = []
    best, behind = 0.0, 0
    batch, ended = fixed or first, ""
    arm = arm_at(batch)
    per_sample = sum(a.nbytes for a in arm.feeds.values()) / batch
    while True:
        if rows:
            if ended := _too_much(batch, rows[-1], per_sample, max_batch or MAX_BATCH, begin):
                break
            arm = arm_at(batch)
        try:
            row = _try(replace(arm, batch=batch), setting, batch)
        except ChildError as e:
            if e.outcome != "out of memory" or not rows:
                raise
            ended = f"batch {batch} ran out of memory"
            break
        rows.append(row)
        behind = 0 if row["samples_per_s"] > best * (1 + GAIN) else behind + 1
        best = max(best, row["samples_per_s"])
        if fixed is not None:
            each = " in each session" if first > 1 else ""
            ended = f"the model takes batches of {fixed // first} only{each}"
            break
        if behind == 2:
            ended = "throughput no longer rises"
            break
        batch *= 2
    chosen = next(r for r in rows if r["samples_per_s"] * (1 + GAIN) >= best)
    return Sweep(best=int(chosen["batch"]), rows=tuple(rows), ended=ended)


def _too_much(batch: int, last: Mapping[str, float], per_sample: float, max_batch: int, begin: float) -> str:
    """Why ``batch`` is not tried; empty when it is. Asked before its feeds are made."""
    if batch > max_batch:
        return f"{max_batch} is the greatest batch tried"
    if 2 * last["ms_per_call"] / 1e3 > CALL_CAP_S:
        return f"a call of batch {batch} would last more than {CALL_CAP_S:g} s"
    if time.monotonic() - begin > SWEEP_CAP_S:
        return f"the sweep lasted more than {SWEEP_CAP_S:g} s"
    available = ledger.available_memory_bytes()
    if available is not None and per_sample * batch > FEEDS_SHARE * available:
        return f"the inputs of batch {batch} would take {per_sample * batch / 2**20:.0f} MiB"
    return ""


def _try(arm: Arm, setting: Setting, batch: int) -> dict[str, float]:
    """One batch in a fresh child: the least of a few blocks, for what disturbs only slows."""
    protocol = Protocol(block_calls=2, block_ms=20.0, warm_s=0.05, warm_calls=3, warm_cap_s=1.0)
    with ExitStack() as stack:
        child, _ = open_arm(arm, setting, 0, stack)
        warm_up(child, protocol)
        blocks = [child.read(child.exchange(_BLOCK))[1][0] for _ in range(_BLOCKS)]
    call_ns = min(float(b.mean()) for b in blocks)
    return {"batch": batch, "samples_per_s": batch / call_ns * 1e9, "ms_per_call": call_ns / 1e6}
