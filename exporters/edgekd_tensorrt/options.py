"""How an engine is to be built: every option, read from Python values or from ``NAME=VALUE`` strings."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekd.errors import UsageError

HARDWARE = {
    "none": "NONE",
    "ampere_plus": "AMPERE_PLUS",
    "same_compute_capability": "SAME_COMPUTE_CAPABILITY",
}
REFIT = ("none", "identical", "full")

#: Own options of the exporter, as ``edgekd export --option NAME=VALUE`` takes them.
OPTIONS: Mapping[str, str] = {
    "profiles": "optimisation profiles, taken literally: x=1x3x8x8:2x3x8x8:4x3x8x8;x=8x3x8x8 (inputs by commas)",
    "values": "values of shape tensors per profile: n=1:4:8;n=16 (several numbers by x)",
    "builds": "build this many times (1 to 9) and compare; the first is the artifact, all are kept",
    "workspace_mib": "most scratch memory a layer may use, MiB (default 4096)",
    "optimization_level": "builder optimisation level, 0 to 5 (default 3)",
    "tf32": "true lets float32 products round to TF32 (default false)",
    "hardware": "none, ampere_plus or same_compute_capability: GPUs beside this one that the engine may run on",
    "version_compatible": "true: runs on newer TensorRT too, slower",
    "lean_runtime": "true: a version-compatible engine carries its own runtime, which is code to be allowed",
    "timing_cache": "a pinned timing cache file, read and never written; off: none (default: kept by EdgeKD)",
    "timing_cache_sha256": "SHA-256 that the pinned timing cache must have",
    "cache_miss": "build (default) or error: fail where a tactic is not in the timing cache",
    "refit": "none, identical (the same weights only, full speed) or full: weights can be replaced later",
    "strip": "true: a plan without weights, with the ONNX file beside it that it is refitted from",
    "weight_streaming": "true: weights may stay on the host",
    "max_aux_streams": "most auxiliary streams, 0 or more (default: TensorRT's choice)",
    "avg_timing_iterations": "timings averaged per tactic, 1 or more (default: TensorRT's choice)",
    "inspector": "false leaves the engine inspector's dump out of the artifact",
    "timeout_s": "time limit of one build, seconds (default 3600)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """See :data:`OPTIONS` for each field; ``profiles`` and ``values`` are read apart."""

    builds: int = 1
    workspace_mib: int = 4096
    optimization_level: int = 3
    tf32: bool = False
    hardware: str = "none"
    version_compatible: bool = False
    lean_runtime: bool = False
    timing_cache: str = ""
    timing_cache_sha256: str = ""
    cache_miss: str = "build"
    refit: str = "none"
    strip: bool = False
    weight_streaming: bool = False
    max_aux_streams: int | None = None
    avg_timing_iterations: int | None = None
    inspector: bool = True
    timeout_s: float = 3600.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def flags(self) -> tuple[str, ...]:
        """Builder flags that must be on, by name; all others that EdgeKD knows must be off."""
        found = set()
        if self.tf32:
            found.add("TF32")
        if self.refit == "identical" or (self.strip and self.refit == "none"):
            # Only the weights that it was built with come back: as fast as one that cannot be refitted.
            found.add("REFIT_IDENTICAL")
        if self.refit == "full":
            found.add("REFIT")
        if self.strip:
            found.add("STRIP_PLAN")
        if self.weight_streaming:
            found.add("WEIGHT_STREAMING")
        if self.version_compatible:
            found.add("VERSION_COMPATIBLE")
            if not self.lean_runtime:
                found.add("EXCLUDE_LEAN_RUNTIME")
        if self.cache_miss == "error":
            found.add("ERROR_ON_TIMING_CACHE_MISS")
        return tuple(sorted(found))


_RANGES = {"builds": (1, 9), "workspace_mib": (1, 1 << 24), "optimization_level": (0, 5), "max_aux_streams": (0, 64),
           "avg_timing_iterations": (1, 1000)}  # fmt: skip
_CHOICES = {"hardware": tuple(HARDWARE), "cache_miss": ("build", "error"), "refit": REFIT}
_FLAGS = ("tf32", "version_compatible", "lean_runtime", "strip", "weight_streaming", "inspector")


def _boolean(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise UsageError(f"{name} {value!r} is not true or false", f"write {name}=true or {name}=false")


def _integer(name: str, value: object) -> int:
    low, high = _RANGES[name]
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole and not (isinstance(value, str) and re.fullmatch(r"\d{1,9}", value)):
        raise UsageError(f"{name} {value!r} is not a whole number", f"choose {low} to {high}")
    if not low <= int(str(value)) <= high:
        raise UsageError(f"{name} {value} is out of range", f"choose {low} to {high}")
    return int(str(value))


def read_options(options: Mapping[str, Any]) -> BuildOptions:
    """The own options among ``options``; those that every exporter has are left to the caller.

    Raises:
        UsageError: a value that an option cannot have, or two that contradict each other.
    """
    made: dict[str, Any] = {}
    for name, value in options.items():
        if name in ("profiles", "values") or name not in OPTIONS or value is None:
            continue
        if name in _FLAGS:
            made[name] = _boolean(name, value)
        elif name in _RANGES:
            made[name] = _integer(name, value)
        elif name in _CHOICES:
            if value not in _CHOICES[name]:
                raise UsageError(f"{name} {value!r} is not known", f"choose {', '.join(_CHOICES[name])}")
            made[name] = value
        elif name == "timeout_s":
            made[name] = _seconds(value)
        else:
            made[name] = str(value)
    found = BuildOptions(**made)
    _refuse_contradictions(found)
    return found


def _seconds(value: object) -> float:
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise UsageError(f"timeout_s {value!r} is not a number of seconds", "for example timeout_s=3600")
    return seconds


def _refuse_contradictions(found: BuildOptions) -> None:
    pinned = found.timing_cache not in ("", "off")
    if found.cache_miss == "error" and (found.timing_cache == "off" or found.optimization_level == 0):
        raise UsageError(
            "cache_miss=error needs a timing cache, and there is none with timing_cache=off or optimization_level=0",
            "leave one of them out",
        )
    if found.timing_cache_sha256 and not pinned:
        raise UsageError("timing_cache_sha256 is given without timing_cache=FILE", "name the file")
    if found.timing_cache_sha256 and not re.fullmatch(r"[0-9a-f]{64}", found.timing_cache_sha256):
        raise UsageError(
            f"timing_cache_sha256 {found.timing_cache_sha256!r} is not 64 hex digits",
            "as sha256sum prints it",
        )
    if pinned and not Path(found.timing_cache).is_file():
        raise UsageError(f"the timing cache {found.timing_cache} does not exist", "check the path")
    if found.lean_runtime and not found.version_compatible:
        raise UsageError("lean_runtime=true is for version_compatible=true only", "ask for both")


def refuse_unknown(options: Mapping[str, Any], common: tuple[str, ...]) -> None:
    """Raises UsageError for an option that neither ``common`` nor :data:`OPTIONS` has."""
    for name in options:
        if name not in common and name not in OPTIONS:
            known = (*common, *OPTIONS)
            close = difflib.get_close_matches(str(name), known, n=1)
            raise UsageError(
                f"the tensorrt exporter has no option '{name}'",
                f"did you mean '{close[0]}'?" if close else f"it knows {', '.join(known)}",
            )
