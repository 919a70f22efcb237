"""This machine's own peaks, measured: a matrix product through the same runtime, and copies in each level of memory."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from edgekd.artifact import Artifact
from edgekd.child import ChildProcess, Limits
from edgekd.measure import ledger
from edgekd.measure.arm import Setting, cpus_for
from edgekd.spec import draw_feeds

_HERE = "edgekd.measure.inspection"

#: Sides of the matrices, in the order they are tried; after the second, only while the next fits the time.
_SIDES = (256, 512, 1024, 2048, 4096)
#: A peak is taken as METHOD 1, step 5 takes a model's speed: the minimum of each block, the median over blocks.
_BLOCKS = 5
_BLOCK_S = 0.02

#: Without cache sizes to go by, a buffer that no cache of 2026 holds.
_BEYOND_CACHE_BYTES = 256 << 20
_COPY_S = 0.001
_COPIES_PER_BLOCK = 5
_MEMORY_SHARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputePeak:
    """The best rate of a matrix product in one dtype.

    Attributes:
        dtype: of its arithmetic; ``threads``: of the session.
        flops_per_s: 2 x multiply-accumulates per second of the best size.
        sizes: side of the matrices, calls per block, the fastest call of each block in seconds and their median.
    """

    dtype: str
    threads: int
    flops_per_s: float
    sizes: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "sizes": [dict(s) for s in self.sizes]}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLevel:
    """The rate of copies that stay in one level of memory.

    Attributes:
        name: ``L2``, ``L3``, ``memory``. ``holds_bytes``: its size; None for memory itself.
        bytes_per_s: read and written together, as in STREAM's Copy (McCalpin 1995).
        buffer_bytes, threads, copies: of each of two buffers per thread, and copies per repeat.
        seconds: of the fastest repeat of each block; their median makes the rate.
    """

    name: str
    holds_bytes: int | None
    bytes_per_s: float
    buffer_bytes: int
    threads: int
    copies: int
    seconds: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": list(self.seconds)}


def measure_compute_peak(
    dtype: str,
    threads: int,
    setting: Setting,
    write_product: Callable[[str, int, Path], Artifact],
    *,
    budget_s: float = 0.6,
) -> ComputePeak:
    """Time square products through ``setting``'s runtime, ever larger while the next takes less than ``budget_s``.

    Args:
        write_product: see :class:`edgekd.workload.CountingExporter`.

    Raises:
        UsageError: no product in that dtype; ChildError, ModelError: it does not run.
    """
    limits = Limits(timeout_s=setting.timeout_s, cpus=cpus_for(0, threads), threads=threads)
    sizes: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="edgekd-peak-") as folder:
        with ChildProcess(f"measuring the {dtype} peak of {setting.target}", limits) as child:
            for side in _SIDES:
                ahead_s = sizes[-1]["seconds_per_call"] * 8 * (_BLOCKS + 2) if sizes else 0.0
                if len(sizes) >= 2 and ahead_s > budget_s:
                    break
                place = Path(folder) / str(side)
                place.mkdir()
                artifact = write_product(dtype, side, place)
                feeds = draw_feeds(artifact.inputs, seed=0, shapes={})
                args = {
                    "runtime": setting.runtime_paths[artifact.format],
                    "path": str(artifact.path),
                    "device": setting.target.device,
                    "provider": setting.target.provider,
                    "threads": threads,
                    "settings": {},
                    "feeds": list(feeds),
                }
                child.request(f"{_HERE}:load", args, list(feeds.values()))
                settled, _ = child.request(f"{_HERE}:settle", {"seconds": _BLOCK_S})
                calls = max(1, round(_BLOCK_S * 1e9 / settled["ns_per_call"]))
                blocks = [
                    child.request(f"{_HERE}:run_calls", {"count": calls})[0]["least_ns"] / 1e9
                    for _ in range(_BLOCKS)
                ]
                sizes.append(
                    {
                        "side": side,
                        "calls_per_block": calls,
                        "seconds_per_call": median(blocks),
                        "seconds_per_call_values": blocks,
                        "flops_per_s": 2 * side**3 / median(blocks),
                    }
                )
    best = max(s["flops_per_s"] for s in sizes)
    return ComputePeak(dtype=dtype, threads=threads, flops_per_s=best, sizes=tuple(sizes))


def cache_sizes(root: Path = Path("/")) -> dict[int, int]:
    """Level -> bytes of CPU 0's data or unified cache (sysfs, cpu/cpu0/cache/index*); empty where not told."""
    found: dict[int, int] = {}
    for index in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind, level, size = ((index / n).read_text().strip() for n in ("type", "level", "size"))
        except OSError:
            continue
        match = re.fullmatch(r"(\d+)([KMG]?)", size)
        if kind != "Instruction" and match and level.isdigit():
            found[int(level)] = int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]
    return found


def plan_levels(
    caches: dict[int, int], threads: int, available_bytes: int | None
) -> list[tuple[str, int | None, int]]:
    """(name, bytes it holds, bytes of each of a thread's two buffers), from the inside out; L1 is left out.

    A cache is measured with half of it in use; memory with twice the last cache, at least 64 MiB, at most a quarter
    of what is free. L2 is each CPU's own, the last level is shared.
    """
    levels: list[tuple[str, int | None, int]] = []
    outer = sorted(level for level in caches if level > 1)
    for level in outer:
        own = level == 2 and len(outer) > 1
        holds = caches[level] * (threads if own else 1)
        levels.append((f"L{level}", holds, holds // threads // 4))
    last = caches[outer[-1]] if outer else 0
    beyond = max(2 * last, 64 << 20) if outer else _BEYOND_CACHE_BYTES
    if available_bytes is not None:
        beyond = min(beyond, int(available_bytes * _MEMORY_SHARE / 2))
    levels.append(("memory", None, beyond // threads))
    return levels


def measure_memory_levels(
    threads: int, timeout_s: float = 300.0, root: Path = Path("/")
) -> tuple[MemoryLevel, ...]:
    """Copy in each level of memory, from the inside out, in ``threads`` threads of one child.

    Raises:
        ChildError: the child died, as for lack of memory.
    """
    limits = Limits(timeout_s=timeout_s, cpus=cpus_for(0, threads), threads=threads)
    levels = []
    with ChildProcess("measuring the memory rate", limits) as child:
        for name, holds, buffer in plan_levels(
            cache_sizes(root), threads, ledger.available_memory_bytes(root)
        ):
            args = {"buffer_bytes": buffer, "threads": threads, "copies": 1, "repeats": 1}
            (once,) = child.request(f"{_HERE}:copy_buffers", args)[0]["seconds"]
            copies = max(1, round(_COPY_S / max(once, 1e-6)))
            args |= {"copies": copies, "repeats": _BLOCKS * _COPIES_PER_BLOCK}
            every = child.request(f"{_HERE}:copy_buffers", args)[0]["seconds"]
            seconds = [min(every[i : i + _COPIES_PER_BLOCK]) for i in range(0, len(every), _COPIES_PER_BLOCK)]
            levels.append(
                MemoryLevel(
                    name=name, holds_bytes=holds, bytes_per_s=2 * buffer * threads * copies / median(seconds),
                    buffer_bytes=buffer, threads=threads, copies=copies, seconds=tuple(seconds),
                )
            )  # fmt: skip
    return tuple(levels)
