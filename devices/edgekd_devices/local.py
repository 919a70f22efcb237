"""This machine's processor as a device, and device profiles."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from edgekd.errors import InputError, MissingDependencyError, UsageError

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


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """What is known about a device; unknown is None, never zero.

    Attributes:
        name: the profile's name.
        arch: as ``uname -m`` says: ``x86_64``, ``aarch64``.
        dtypes: precisions with instructions of their own, in ONNX spelling.
        features: processor features that decide how fast a precision is, in Linux's spelling.
        processors: logical processors that this process may use.
        memory_bytes: memory of the machine, or of its container where that is less.
        price_usd_per_hour: what an hour on it costs.
        power_source: ``mains``, ``battery`` or ``unknown``.
    """

    name: str
    arch: str
    dtypes: tuple[str, ...]
    features: tuple[str, ...] = ()
    processors: int | None = None
    memory_bytes: int | None = None
    price_usd_per_hour: float | None = None
    power_source: str = "unknown"


def _parse_toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib.loads(text)
    try:
        tomli = importlib.import_module("tomli")
    except ImportError as e:
        raise MissingDependencyError(
            "reading device profiles needs Python 3.11, or the package 'tomli' before it", "pip install tomli"
        ) from e
    return dict(tomli.loads(text))


def list_profiles() -> tuple[str, ...]:
    """Names of the profiles that ship with EdgeKD, sorted."""
    folder = resources.files("edgekd_devices") / "profiles"
    return tuple(sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml")))


def load_profile(name: str) -> DeviceProfile:
    """Read a profile that ships with EdgeKD.

    Raises:
        UsageError: no such profile; MissingDependencyError: no TOML reader before Python 3.11.
    """
    if name not in list_profiles():
        raise UsageError(f"no device profile is called '{name}'", f"known: {', '.join(list_profiles())}")
    text = (resources.files("edgekd_devices") / "profiles" / f"{name}.toml").read_text(encoding="utf-8")
    return parse_profile(text, where=f"{name}.toml")


def parse_profile(text: str, *, where: str) -> DeviceProfile:
    """Read a profile from TOML.

    Raises:
        InputError: not TOML, an unknown key, or a key that is missing.
    """
    try:
        value: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in _parse_toml(text).items()
        }
        return DeviceProfile(**value)
    except (ValueError, TypeError) as e:
        raise InputError(
            f"device profile {where} cannot be read ({e})",
            "it has name, arch, dtypes, features, processors, memory_bytes, price_usd_per_hour and power_source",
        ) from e


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
