"""Energy per call: the difference of a meter over a block of calls, beside what the idle machine draws."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from edgekd.errors import EdgeKDError
from edgekd.measure.meters import LONGEST_BLOCK_S, Meter

#: A block lasts so many updates of the slowest meter: its ends are then known to 5 % of the block.
_UPDATES = 20
_BLOCKS = 3


def measure_energy(
    meters: Sequence[Meter],
    run: Callable[[int], object],
    ns_per_call: float,
    *,
    block_s: float = 1.0,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Read every meter around an idle block and around three blocks of calls.

    Args:
        meters: that can be read here.
        run: makes so many calls and returns when they are done.
        ns_per_call: about; fixes the calls of a block.
        block_s: least length of a block in seconds.

    Returns:
        Meter -> joules per call (median and all blocks), watts busy and idle, calls and seconds per block; and
        meter -> why it gave nothing.
    """
    # A meter may ask for longer blocks than twenty updates of its counter.
    least = [max(_UPDATES * m.update_s, float(getattr(m, "window_s", 0.0))) for m in meters]
    seconds = max([block_s, *least])
    calls = max(1, math.ceil(seconds * 1e9 / ns_per_call))
    longest = calls * ns_per_call / 1e9
    if longest > LONGEST_BLOCK_S:
        why = f"a block of {calls} calls would last {longest:.0f} s, a counter may wrap twice in that time"
        return {}, {m.name: why for m in meters}
    absent: dict[str, str] = {}
    idle_s, idle = _over(meters, lambda: time.sleep(seconds), absent)
    blocks = [_over(meters, lambda: run(calls), absent) for _ in range(_BLOCKS)]
    found: dict[str, Any] = {}
    for meter in meters:
        if meter.name in absent:
            continue
        joules = [b[meter.name] for _, b in blocks]
        if not all(j > 0 for j in joules):
            # No machine computes for nothing.
            absent[meter.name] = f"its counter did not move in a block of {blocks[0][0]:.1f} s"
            continue
        busy = statistics.median(j / s for j, (s, _) in zip(joules, blocks, strict=True))
        idle_watts = idle[meter.name] / idle_s
        per_call = [j / calls for j in joules]
        above = [(j - idle_watts * s) / calls for j, (s, _) in zip(joules, blocks, strict=True)]
        found[meter.name] = {
            "joules_per_call": statistics.median(per_call),
            "joules_per_call_values": per_call,
            "joules_per_call_above_idle": statistics.median(above),
            "busy_watts": busy,
            "idle_watts": idle_watts,
            "calls_per_block": calls,
            "block_seconds": [s for s, _ in blocks],
            "idle_seconds": idle_s,
            "update_s": meter.update_s,
            "counts": dict(meter.describe()),
        }
    return found, absent


def _over(
    meters: Sequence[Meter], work: Callable[[], object], absent: dict[str, str]
) -> tuple[float, dict[str, float]]:
    """Seconds that ``work`` took, and each meter's joules over it."""
    before = _read(meters, absent)
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    after = _read(meters, absent)
    return seconds, {n: after[n] - j for n, j in before.items() if n in after}


def _read(meters: Sequence[Meter], absent: dict[str, str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for meter in meters:
        if meter.name in absent:
            continue
        try:
            found[meter.name] = meter.read_joules()
        except EdgeKDError as e:
            absent[meter.name] = str(e)
    return found
