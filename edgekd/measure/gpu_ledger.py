"""What a GPU did while we measured: clocks, temperature, power, throttling, other users. Nothing is ever set."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekd.errors import EdgeKDError
from edgekd.measure.nvml import Gpu, GpuReading, find_gpu

#: Readings per second while a restart is measured.
RATE_HZ = 10.0

#: Bits of nvmlDeviceGetCurrentClocksEventReasons (NVIDIA's nvml.h, nvmlClocksEventReasons).
REASONS: Mapping[int, str] = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "SW power cap",
    0x8: "HW slowdown",
    0x10: "sync boost",
    0x20: "SW thermal slowdown",
    0x40: "HW thermal slowdown",
    0x80: "HW power brake",
    0x100: "display clocks",
}
#: Those that make a restart not count. A software power cap is normal under a heavy matrix product: recorded only.
THROTTLED = ("HW slowdown", "SW thermal slowdown", "HW thermal slowdown", "HW power brake")

_NUMBERS = ("sm_mhz", "memory_mhz", "temperature_c", "power_w", "utilisation")


def reason_names(bits: int) -> list[str]:
    """Names of the bits that are set.

    >>> reason_names(0x44)
    ['SW power cap', 'HW thermal slowdown']
    """
    known = [name for bit, name in REASONS.items() if bits & bit]
    unknown = bits & ~sum(REASONS)
    return [*known, f"0x{unknown:x}"] if unknown else known


def entries_of(readings: Sequence[GpuReading], own: set[int]) -> dict[str, Any]:
    """The ledger's entries of a GPU.

    Args:
        readings: before, during and after; at least one.
        own: process numbers of the children that measure.

    Returns:
        Medians, least and greatest of each number; reason -> share of readings; which of them throttle. A reading
        that the driver never gave is None.
    """
    found: dict[str, Any] = {"readings": len(readings)}
    for name in _NUMBERS:
        values = [getattr(r, name) for r in readings if getattr(r, name) is not None]
        found[name] = statistics.median(values) if values else None
        if values:
            found[f"{name}_min"], found[f"{name}_max"] = min(values), max(values)
    bits = [r.reasons for r in readings if r.reasons is not None]
    named = [reason_names(b) for b in bits]
    shares = {name: sum(name in n for n in named) / len(named) for n in named for name in n}
    found["reasons"] = shares if bits else None
    found["throttled"] = {n: shares[n] for n in THROTTLED if n in shares} if bits else None
    seen = [r.processes for r in readings if r.processes is not None]
    found["other_processes"] = max(_others(p, own) for p in seen) if seen else None
    return found


def _others(processes: Sequence[int], own: set[int]) -> int:
    """Processes on the GPU that are not ours; by their number alone where process numbers are of another namespace."""
    if own and not own & set(processes):
        return max(0, len(processes) - len(own))
    return len(set(processes) - own)


@dataclass(slots=True)
class NoGpu:
    """Watches nothing: another device than a GPU."""

    def begin(self, own: set[int]) -> None:
        """Nothing to do."""

    def end(self) -> dict[str, Any] | None:
        """No entries."""
        return None


@dataclass(slots=True)
class UnreadGpu:
    """A GPU that cannot be asked; the entries say why."""

    why: str

    def begin(self, own: set[int]) -> None:
        """Nothing to do."""

    def end(self) -> dict[str, Any] | None:
        return {"unavailable": {"reason": self.why}, **dict.fromkeys((*_NUMBERS, "reasons", "throttled"))}


class GpuWatch:
    """Reads one GPU at the beginning, ten times a second, and at the end.

    Args:
        gpu: what to read.
        period_s: between two readings of the thread.
    """

    def __init__(self, gpu: Gpu, period_s: float = 1 / RATE_HZ) -> None:
        self._gpu, self._period_s = gpu, period_s
        self._readings: list[GpuReading] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._own: set[int] = set()
        self._begun = 0.0

    def begin(self, own: set[int]) -> None:
        """Read once and start the thread.

        Args:
            own: process numbers that are ours; the set may grow until the end.
        """
        self._own, self._begun = own, time.monotonic()
        self._readings = [self._gpu.read()]
        self._stop.clear()
        # A daemon: a race that ends by an error leaves nothing that keeps the process alive.
        self._thread = threading.Thread(target=self._watch, name="gpu-watch", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(self._period_s):
            self._readings.append(self._gpu.read())

    def end(self) -> dict[str, Any] | None:
        """Stop the thread, read once more, and say what was seen."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._readings.append(self._gpu.read())
        made = entries_of(self._readings, self._own)
        return {
            **made,
            "identity": self._gpu.identity(),
            "before": self._readings[0].to_json(),
            "after": self._readings[-1].to_json(),
            "seconds": time.monotonic() - self._begun,
        }


def watch_for(device: str) -> GpuWatch | UnreadGpu | NoGpu:
    """What watches a target's device while a restart is measured."""
    if device != "cuda":
        return NoGpu()
    try:
        return GpuWatch(find_gpu())
    except EdgeKDError as e:
        return UnreadGpu(str(e))
