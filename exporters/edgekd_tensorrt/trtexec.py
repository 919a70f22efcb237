"""What ``trtexec`` writes: its summary and ``--exportTimes``, with the settings that give the numbers their meaning.

TensorRT 11 changed the defaults (CUDA graph on, copies excluded, spinning waits), so a latency without its version and
options says nothing. ``Latency = H2D + GPU Compute + D2H`` (TensorRT OSS, samples/common/sampleReporting.cpp).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekd.errors import EvidenceError
from edgekd_tensorrt.library import Version

_VERSION = re.compile(r"\[TensorRT v(\d+)\]")
_COMMAND = re.compile(r"&&&& RUNNING TensorRT\.trtexec \[TensorRT v\d+\](?: \[b\d+\])? # \S+ ?(.*)")
_FIGURES = re.compile(
    r"(?:^|\] )(Latency|Enqueue Time|H2D Latency|GPU Compute Time|D2H Latency): (min = .*)$"
)
_FIGURE = re.compile(r"(min|max|mean|median|percentile\((\d+(?:\.\d+)?)%\)) = ([0-9.eE+-]+|nan|inf)(?: ms)?")
_SUMS = {"Throughput": "throughput_qps", "Total Host Walltime": "host_walltime_s",
         "Total GPU Compute Time": "gpu_compute_s"}  # fmt: skip
_SUM = re.compile(r"(?:^|\] )(Throughput|Total Host Walltime|Total GPU Compute Time): ([0-9.eE+-]+)")
_PRINTED = re.compile(r"\] (CUDA Graph|Data transfers|Spin-wait|Separate profiling): (Enabled|Disabled)")
_KEYS = {"CUDA Graph": "cuda_graph", "Data transfers": "copies", "Spin-wait": "spin",
         "Separate profiling": "separate_profile"}  # fmt: skip
_OLD = {"cuda_graph": False, "copies": True, "spin": False, "separate_profile": False}
_NEW = {"cuda_graph": True, "copies": False, "spin": True, "separate_profile": True}
_SWITCHES = {
    "--useCudaGraph": ("cuda_graph", True), "--noCudaGraph": ("cuda_graph", False),
    "--noDataTransfers": ("copies", False), "--includeDataTransfers": ("copies", True),
    "--useSpinWait": ("spin", True), "--noSpinWait": ("spin", False),
    "--separateProfileRun": ("separate_profile", True),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TrtexecRun:
    """One run of trtexec.

    Attributes:
        version: of TensorRT; command: as trtexec repeats it.
        settings: ``cuda_graph``, ``copies`` (in the latency), ``spin``, ``separate_profile``: as they took effect.
        stated: those of them that the log says itself; others follow from the command and the version's defaults.
        milliseconds: ``Latency``, ``GPU Compute Time``, ... -> ``min``, ``mean``, ``median``, ``p99``, ...
        sums: ``throughput_qps``, ``host_walltime_s``, ``gpu_compute_s`` where printed.
        warnings: what trtexec says against its own numbers.
        passed: whether it ended well.
    """

    version: Version
    command: str
    settings: Mapping[str, bool]
    stated: tuple[str, ...]
    milliseconds: Mapping[str, Mapping[str, float]]
    sums: Mapping[str, float]
    warnings: tuple[str, ...]
    passed: bool


def version_of_number(number: int) -> Version:
    """trtexec's ``v100300``: from 10 on two digits each for minor and patch, before that (``v8601``) one and two.

    >>> version_of_number(110400)[:3]
    (11, 4, 0)
    """
    if number >= 100_000:
        return Version(number // 10_000, number // 100 % 100, number % 100, 0)
    return Version(number // 1000, number // 100 % 10, number % 100, 0)


def parse_trtexec(text: str) -> TrtexecRun:
    """Read what trtexec printed.

    Raises:
        EvidenceError: it does not say its version, or has no summary: numbers without them mean nothing.
    """
    found = _VERSION.search(text)
    if found is None:
        raise EvidenceError(
            "the text names no TensorRT version (&&&& RUNNING ... [TensorRT vN])", "keep all of it"
        )
    version = version_of_number(int(found[1]))
    run = _COMMAND.search(text)
    command = run[1].strip() if run else ""
    settings = dict(_NEW if version.major >= 11 else _OLD)
    for word in command.split():
        if word in _SWITCHES:
            key, on = _SWITCHES[word]
            settings[key] = on
    stated = {_KEYS[m[1]]: m[2] == "Enabled" for m in _PRINTED.finditer(text)}
    lines = [line.rstrip() for line in text.splitlines()]
    figures = [m for line in lines if (m := _FIGURES.search(line))]
    if not figures:
        raise EvidenceError(
            "the text has no performance summary of trtexec", "run it without --skipInference"
        )
    return TrtexecRun(
        version=version,
        command=command,
        settings={**settings, **stated},
        stated=tuple(sorted(stated)),
        milliseconds={m[1]: _read_figures(m[2]) for m in figures},
        sums={_SUMS[m[1]]: float(m[2]) for line in lines if (m := _SUM.search(line))},
        warnings=tuple(line.partition("[W] * ")[2] for line in lines if "[W] * " in line),
        passed="&&&& PASSED" in text,
    )


def _read_figures(text: str) -> dict[str, float]:
    return {(f"p{m[2]}" if m[2] else m[1]): float(m[3]) for m in _FIGURE.finditer(text)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrtexecTimes:
    """Raw times of ``--exportTimes``, in milliseconds, query by query; ``latency`` as trtexec defines it."""

    compute: tuple[float, ...]
    latency: tuple[float, ...]
    copies_in: tuple[float, ...]
    copies_out: tuple[float, ...]


def parse_times(text: str) -> TrtexecTimes:
    """Read ``--exportTimes``: ``computeMs`` (10 and 11), or the ends of it.

    Raises:
        EvidenceError: not such a file, or a query without its compute time.
    """
    try:
        value = json.loads(text)
    except ValueError as e:
        raise EvidenceError(f"--exportTimes is not JSON ({e})", "the run was cut short: repeat it") from e
    if not isinstance(value, list) or not value or not all(isinstance(q, dict) for q in value):
        raise EvidenceError("--exportTimes lists no queries", "repeat the run")
    compute = tuple(_span(q, "compute", i) for i, q in enumerate(value))
    into = tuple(_span(q, "h2d", i, 0.0) for i, q in enumerate(value))
    out = tuple(_span(q, "d2h", i, 0.0) for i, q in enumerate(value))
    latency = tuple(
        float(q.get("latencyMs", a + b + c)) for q, a, b, c in zip(value, into, compute, out, strict=True)
    )
    return TrtexecTimes(compute=compute, latency=latency, copies_in=into, copies_out=out)


def _span(query: Mapping[str, Any], what: str, index: int, absent: float | None = None) -> float:
    title = what[0].upper() + what[1:]
    try:
        if f"{what}Ms" in query:
            return float(query[f"{what}Ms"])
        if f"start{title}Ms" in query:
            return float(query[f"end{title}Ms"]) - float(query[f"start{title}Ms"])
    except (KeyError, TypeError, ValueError) as e:
        raise EvidenceError(
            f"query {index} of --exportTimes has no {what} time ({e!r})", "repeat the run"
        ) from e
    if absent is None:
        raise EvidenceError(f"query {index} of --exportTimes has no {what} time", "repeat the run")
    return absent
