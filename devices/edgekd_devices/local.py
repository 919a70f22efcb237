"""This machine's processor as a device."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from edgekd_devices.profile import DeviceProfile

_CPUINFO = Path("/proc/cpuinfo")
_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")

#: Names of processor features in /proc/cpuinfo (Linux, arch/x86/include/asm/cpufeatures.h and
#: arch/arm64/kernel/cpuinfo.c) that decide how fast a precision is -> the precision.
_FEATURES: Mapping[str, str] = {
    "avx2": "", "avx512f": "", "sve": "", "sve2": "",
    "avx_vnni": "int8", "avx512_vnni": "int8", "amx_int8": "int8", "asimddp": "int8", "i8mm": "int8",
    "avx512_bf16": "bfloat16", "amx_bf16": "bfloat16", "bf16": "bfloat16",
    "avx512_fp16": "float16", "asimdhp": "float16",
}  # fmt: skip


def cpu_features(cpuinfo: str) -> tuple[str, ...]:
    """The features of ``/proc/cpuinfo`` that matter here, sorted; a feature that one core lacks does not count.

    >>> cpu_features("flags\\t\\t: fpu avx2 avx512_vnni\\n")
    ('avx2', 'avx512_vnni')
    """
    per_core = [
        set(line.partition(":")[2].split())
        for line in cpuinfo.splitlines()
        if line.partition(":")[0].strip() in ("flags", "Features")
    ]
    return tuple(sorted(set.intersection(*per_core) & set(_FEATURES))) if per_core else ()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # not Linux, or hidden by the container: unknown
        return ""


def _memory_bytes() -> int | None:
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not POSIX
        return None
    limit = _read(_MEMORY_LIMIT).strip()
    return min(found, int(limit)) if limit.isdigit() else found


class LocalCpu:
    """The processor that this process runs on."""

    name = "cpu"

    def profile(self) -> DeviceProfile:
        """This machine, as it is now: affinity and container limits count."""
        features = cpu_features(_read(_CPUINFO))
        native = {_FEATURES[f] for f in features} - {""}
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return DeviceProfile(
            name=self.name,
            arch=platform.machine(),
            dtypes=("float32", "float64", *sorted(native)),
            features=features,
            processors=usable,
            memory_bytes=_memory_bytes(),
        )
