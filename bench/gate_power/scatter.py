"""What scatters between restarts: A against itself under several ways of starting a process, and by rounds.

A restart's effect is the median over its rounds. What two halves of the rounds agree on is the restart's own (page
placement, address layout); the rest is noise that more rounds average away.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekd.artifact import Artifact
from edgekd.evidence import Measurement
from edgekd.evidence.measurement import BASELINE
from edgekd.measure import Protocol, arms_of, measure
from edgekd.models import open_reference
from edgekd.pipeline.collect import Feeds
from edgekd.stages import StageStore
from gate_power.calibrate import setting

#: personality(2): children inherit it, and their addresses are the same in every start.
_ADDR_NO_RANDOMIZE = 0x0040000
_ROUNDS = 30


@contextlib.contextmanager
def _same_addresses() -> Iterator[None]:
    libc = ctypes.CDLL(None, use_errno=True)
    before = libc.personality(0xFFFFFFFF)
    if before < 0 or libc.personality(before | _ADDR_NO_RANDOMIZE) < 0:
        raise PermissionError(f"personality(2) was refused: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        libc.personality(before)


@contextlib.contextmanager
def _huge_pages() -> Iterator[None]:
    """glibc's allocator asks for transparent huge pages (manual, Memory Allocation Tunables, 2.35 and later)."""
    before = os.environ.get("GLIBC_TUNABLES")
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    try:
        yield
    finally:
        del os.environ["GLIBC_TUNABLES"]
        if before is not None:
            os.environ["GLIBC_TUNABLES"] = before


VARIANTS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "as shipped": contextlib.nullcontext,
    "same addresses (no ASLR)": _same_addresses,
    "huge pages for malloc": _huge_pages,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scatter:
    """Of one variant, as shares (0.01 is 1 %).

    Attributes:
        pairs: how many effects of equal models; three per restart.
        by_rounds: rounds used -> root mean square of the effects.
        between: what two halves of a restart's rounds agree on, as a standard deviation; 0 where it is not seen.
        round_noise: robust standard deviation of a round's log ratio within its restart.
    """

    pairs: int
    by_rounds: dict[int, float]
    between: float
    round_noise: float


def _logs(measurement: Measurement) -> NDArray[np.float64]:
    """Log ratios of block minima, (3 pairs x restarts, rounds)."""
    arms = [
        np.asarray([[float(b.min()) for b in r.blocks[a]] for r in measurement.restarts])
        for a in measurement.arms
    ]
    pairs = [np.log(arms[j] / arms[i]) for i in range(3) for j in range(i + 1, 3)]
    return np.concatenate(pairs)


def scatter_of(logs: NDArray[np.float64]) -> Scatter:
    """Components of the scatter.

    Args:
        logs: log ratios of equal models, (pairs, rounds).
    """
    rounds = logs.shape[1]
    used = [k for k in (5, 10, 15, 20, 30) if k <= rounds]
    halves = np.median(logs[:, ::2], axis=1), np.median(logs[:, 1::2], axis=1)
    shared = float(np.mean(halves[0] * halves[1]))
    own = np.median(logs, axis=1, keepdims=True)
    return Scatter(
        pairs=len(logs),
        by_rounds={k: float(np.sqrt(np.mean(np.square(np.median(logs[:, :k], axis=1))))) for k in used},
        between=math.sqrt(max(0.0, shared)),
        round_noise=float(1.4826 * np.median(np.abs(logs - own))),
    )


def study(
    model: Path, *, restarts: int, work: Path, shapes: Sequence[str] = (), say: Callable[[str], None]
) -> dict[str, Scatter]:
    """Measure ``model`` against itself, variant by variant in random order, one restart at a time.

    Args:
        restarts: per variant.
        shapes: as ``--shape``.
    """
    from edgekd.spec import parse_shapes

    opened = open_reference(str(model), weights=None, base=None, store=StageStore(work / "store"))
    if not isinstance(opened, Artifact):
        raise ValueError(f"{model} is no exported model; give an .onnx file")
    feeds = Feeds(shapes=parse_shapes(list(shapes))).of(opened, "student", 1)
    arms = arms_of((BASELINE, opened, feeds), [("again", opened, feeds)])
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in VARIANTS}
    rng = random.Random(0)
    for i in range(restarts):
        order = list(VARIANTS)
        rng.shuffle(order)
        for name in order:
            protocol = Protocol(min_restarts=1, max_restarts=1, rounds=_ROUNDS, seed=rng.randrange(1 << 30))
            with VARIANTS[name]():
                made = measure(arms, setting(), inputs={}, protocol=protocol)
            if made.restarts:  # else the ledger threw it away
                found[name].append(_logs(made))
        say(f"{i + 1}/{restarts} restarts of each variant")
    return {name: scatter_of(np.concatenate(logs)) for name, logs in found.items() if logs}


def table(found: dict[str, Scatter]) -> list[str]:
    """Markdown: a row per variant, in per cent."""
    rounds = sorted({k for s in found.values() for k in s.by_rounds})
    head = ["started", "pairs", *(f"{k} rounds" for k in rounds), "of the restart itself", "noise of a round"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, s in found.items():
        cells = [name, str(s.pairs), *(f"{100 * s.by_rounds[k]:.2f} %" for k in rounds)]
        lines.append(
            "| " + " | ".join([*cells, f"{100 * s.between:.2f} %", f"{100 * s.round_noise:.2f} %"]) + " |"
        )
    return lines
