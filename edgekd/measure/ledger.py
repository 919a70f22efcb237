"""What the machine did while we measured. A reading that is not to be had is None, never zero."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Redraw limits of METHOD 1, step 8.
MAX_STEAL = 0.05
MAX_CLOCK_MOVE = 0.03
#: A machine that stood still for longer while we measured was suspended or migrated.
MAX_SUSPENDED_S = 0.01


def _read(path: str, root: Path) -> str | None:
    try:
        return (root / path).read_text()
    except OSError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Counters at one moment; see :func:`snapshot`."""

    at_s: float
    steal: int | None
    total: int | None
    idle: Mapping[int, int]
    pressure_us: int | None
    throttled_us: int | None
    throttled: int | None
    clock_mhz: Mapping[int, float]
    temperature_c: float | None
    realtime_s: float = 0.0
    boottime_s: float | None = None


def _boottime_s() -> float | None:
    """CLOCK_BOOTTIME, which goes on through a suspend where CLOCK_MONOTONIC stops (clock_gettime(2))."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _proc_stat(root: Path) -> tuple[int | None, int | None, dict[int, int]]:
    text = _read("proc/stat", root)
    steal = total = None
    idle: dict[int, int] = {}
    for line in (text or "").splitlines():
        match = re.match(r"cpu(\d*) ", line)
        if not match:
            continue
        # proc(5): user nice system idle iowait irq softirq steal; guest time is already in user.
        fields = [int(f) for f in line.split()[1:9]]
        if match[1] == "":
            steal, total = (fields[7] if len(fields) > 7 else None), sum(fields)
        else:
            idle[int(match[1])] = fields[3] + fields[4]
    return steal, total, idle


def _cgroup_cpu(root: Path) -> tuple[int | None, int | None]:
    """Throttled microseconds and periods of this process's cgroup (v2), or of the nearest parent that tells."""
    own = _read("proc/self/cgroup", root) or ""
    path = next((line.split("::", 1)[1] for line in own.splitlines() if line.startswith("0::")), "/")
    while True:
        text = _read(f"sys/fs/cgroup/{path.strip('/')}/cpu.stat", root)
        if text is not None:
            values = dict(line.split() for line in text.splitlines() if len(line.split()) == 2)
            micro, count = values.get("throttled_usec"), values.get("nr_throttled")
            return (int(micro) if micro else None), (int(count) if count else None)
        if path.strip("/") == "":
            return None, None
        path = path.rpartition("/")[0]


def _clocks(cpus: Sequence[int], root: Path) -> dict[int, float]:
    clocks: dict[int, float] = {}
    for cpu in cpus:
        text = _read(f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq", root)
        if text is not None:
            with contextlib.suppress(ValueError):
                clocks[cpu] = int(text) / 1000.0
    return clocks


def _temperature(root: Path) -> float | None:
    readings = []
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*/temp")):
        with contextlib.suppress(OSError, ValueError):
            readings.append(int(zone.read_text()) / 1000.0)
    return max(readings) if readings else None


def snapshot(cpus: Sequence[int], root: Path = Path("/")) -> Snapshot:
    """Read every counter once.

    Args:
        cpus: CPUs whose clock matters.
        root: where ``proc`` and ``sys`` are; another folder in tests.
    """
    steal, total, idle = _proc_stat(root)
    throttled_us, throttled = _cgroup_cpu(root)
    pressure = re.search(r"^some .*total=(\d+)", _read("proc/pressure/cpu", root) or "", re.M)
    return Snapshot(
        at_s=time.monotonic(),
        steal=steal,
        total=total,
        idle=idle,
        pressure_us=int(pressure[1]) if pressure else None,
        throttled_us=throttled_us,
        throttled=throttled,
        clock_mhz=_clocks(cpus, root),
        temperature_c=_temperature(root),
        realtime_s=time.time(),
        boottime_s=_boottime_s(),
    )


def ledger_between(before: Snapshot, after: Snapshot) -> dict[str, Any]:
    """The entries of one restart: shares are fractions of the time between the snapshots.

    ``absent`` names the readings that this machine does not give. ``wall_clock_step_s`` is how far somebody set the
    wall clock meanwhile: timings do not use that clock.
    """
    seconds = max(after.at_s - before.at_s, 1e-9)

    def difference(a: int | None, b: int | None) -> int | None:
        return None if a is None or b is None else b - a

    steal, total = difference(before.steal, after.steal), difference(before.total, after.total)
    pressure = difference(before.pressure_us, after.pressure_us)
    ticks = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
    moves = [
        abs(after.clock_mhz[c] / mhz - 1)
        for c, mhz in before.clock_mhz.items()
        if c in after.clock_mhz and mhz
    ]
    entries = {
        "seconds": seconds,
        "wall_clock_step_s": after.realtime_s - before.realtime_s - seconds,
        "suspended_s": None
        if before.boottime_s is None or after.boottime_s is None
        else after.boottime_s - before.boottime_s - seconds,
        "steal": None if steal is None or not total else steal / total,
        "idle": {
            str(c): (after.idle[c] - v) / ticks / seconds for c, v in before.idle.items() if c in after.idle
        }
        or None,
        "pressure_some": None if pressure is None else pressure / 1e6 / seconds,
        "throttled_us": difference(before.throttled_us, after.throttled_us),
        "throttled_periods": difference(before.throttled, after.throttled),
        "clock_mhz": {str(c): v for c, v in after.clock_mhz.items()} or None,
        "clock_move": max(moves) if moves else None,
        "temperature_c": after.temperature_c,
    }
    return {**entries, "absent": [name for name, value in entries.items() if value is None]}


def with_switches(entries: Mapping[str, Any], children: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The entries of a restart with the involuntary switches of its children; absent where one does not tell."""
    switches = [child.get("involuntary_switches") for child in children.values()]
    known = [s for s in switches if s is not None]
    if len(known) == len(switches):
        return {**entries, "involuntary_switches": sum(known)}
    return {**entries, "involuntary_switches": None, "absent": [*entries["absent"], "involuntary_switches"]}


def with_gpu(entries: Mapping[str, Any], on_gpu: Mapping[str, Any] | None) -> dict[str, Any]:
    """The entries of a restart with those of its GPU, of :class:`edgekd.measure.gpu_ledger.GpuWatch`.

    Args:
        on_gpu: None where the target is none.
    """
    if on_gpu is None:
        return dict(entries)
    silent = [f"gpu.{name}" for name, value in on_gpu.items() if value is None]
    return {**entries, "gpu": dict(on_gpu), "absent": [*entries["absent"], *silent]}


def by_device_events(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a restart whose blocks are times of a device, which the processor's clock has no part in."""
    return {**entries, "timed_by": "device events"}


def redraw_reason(entries: Mapping[str, Any]) -> str:
    """Why a restart does not count; empty when it does. Sees the ledger only, never a timing.

    The processor's clock and its cgroup's quota are no reason where the blocks are by device events.
    """
    steal, move = entries.get("steal"), entries.get("clock_move")
    on_processor = entries.get("timed_by") != "device events"
    if steal is not None and steal > MAX_STEAL:
        return f"steal {steal:.1%} of CPU time (limit {MAX_STEAL:.0%})"
    suspended = entries.get("suspended_s")
    if suspended is not None and suspended > MAX_SUSPENDED_S:
        return f"the machine stood still for {suspended:.2f} s"
    if on_processor and entries.get("throttled_us"):
        return f"cgroup throttled for {entries['throttled_us'] / 1000:.0f} ms"
    if on_processor and move is not None and move > MAX_CLOCK_MOVE:
        return f"clock moved {move:.1%} (limit {MAX_CLOCK_MOVE:.0%})"
    throttled = (entries.get("gpu") or {}).get("throttled")
    if throttled:
        return f"the GPU was throttled ({', '.join(sorted(throttled))})"
    return ""


def machine(root: Path = Path("/")) -> dict[str, Any]:
    """What does not change during a run: CPU model and flags, cores, memory, governor, kernel, boot."""
    cpuinfo = _read("proc/cpuinfo", root) or ""
    model = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", cpuinfo, re.M)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.M)
    known = {
        "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16", "asimddp",
        "i8mm", "bf16", "sve",
    }  # fmt: skip
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _read("proc/meminfo", root) or "", re.M)
    governor = _read("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", root)
    boot = _read("proc/sys/kernel/random/boot_id", root)
    return {
        "system": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cpu": model[1].strip() if model else platform.processor() or None,
        "cpu_flags": sorted(known & set(flags[1].split())) if flags else None,
        "cpus": os.cpu_count(),
        "memory_bytes": int(memory[1]) * 1024 if memory else None,
        "governor": governor.strip() if governor else None,
        "boot_id": boot.strip() if boot else None,
    }


def available_memory_bytes(root: Path = Path("/")) -> int | None:
    """Memory that can be had without swapping; None where the system does not tell."""
    match = re.search(r"^MemAvailable:\s*(\d+) kB", _read("proc/meminfo", root) or "", re.M)
    return int(match[1]) * 1024 if match else None
