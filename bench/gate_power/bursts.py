"""When a load worker was busy, noted by the worker and read by the study: was a trial hit at all?

One line per event, written through at once: ``B`` a burst begins, ``E`` it ends, ``S`` measuring children were stopped;
then the monotonic clock's seconds, which every process of a machine shares (clock_gettime(2), CLOCK_MONOTONIC).
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Injected:
    """What fell into a span of time, all workers together.

    Attributes:
        bursts: that were busy within it; seconds: of it, summed over workers.
        stops: how often measuring children were stopped.
    """

    bursts: int
    seconds: float
    stops: int


class BurstLog:
    """A worker's own notes; without a path nothing is written."""

    def __init__(self, path: Path | None) -> None:
        self._fd = None if path is None else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def begin(self) -> None:
        self._note("B")

    def end(self) -> None:
        self._note("E")

    def stop(self) -> None:
        """Called just before children are stopped."""
        self._note("S")

    def _note(self, what: str) -> None:
        if self._fd is not None:
            os.write(self._fd, f"{what} {time.monotonic():.6f}\n".encode())


def _events(path: Path) -> list[tuple[str, float]]:
    """Whole lines; none where the worker has not begun yet."""
    with contextlib.suppress(FileNotFoundError):
        text = path.read_text()
        return [(line[0], float(line[2:])) for line in text[: text.rfind("\n") + 1].splitlines()]
    return []


def read_bursts(logs: Sequence[Path], begin_s: float, end_s: float) -> Injected:
    """Count what the workers noted between two moments of the monotonic clock; a burst without an end lasts on."""
    bursts, seconds, stops = 0, 0.0, 0
    for path in logs:
        since: float | None = None
        for what, at in [*_events(path), ("E", math.inf)]:
            if what == "B":
                since = at
            elif what == "S":
                stops += begin_s <= at <= end_s
            elif since is not None:
                inside = min(at, end_s) - max(since, begin_s)
                bursts += inside > 0
                seconds += max(0.0, inside)
                since = None
    return Injected(bursts=bursts, seconds=seconds, stops=stops)
