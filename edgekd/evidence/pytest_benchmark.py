"""Reads pytest-benchmark's JSON: numbers of another run, to be shown beside this one's.

They are no evidence of a gate: against one stored baseline ``min:5%`` raised 36 % false alarms, the mean 92 %
(docs/concepts.md). A gate measures its baseline again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.documents import parse_json, read_plain_file
from edgekd.errors import EvidenceError


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBenchmark:
    """One benchmark of a file.

    Attributes:
        name, fullname, group: as pytest-benchmark names it; group may be empty.
        min_s, median_s, mean_s, stddev_s: seconds per iteration, over its rounds.
        rounds, iterations: rounds measured, and calls in each.
        data_s: seconds per iteration of every round, where the file has them (``--benchmark-save-data``).
        extra_info: whatever the test added.
    """

    name: str
    fullname: str
    group: str
    min_s: float
    median_s: float
    mean_s: float
    stddev_s: float
    rounds: int
    iterations: int
    data_s: tuple[float, ...]
    extra_info: Mapping[str, Any]


def read_benchmark_json(path: Path) -> tuple[StoredBenchmark, ...]:
    """Read a file of pytest-benchmark, or of ``--edgekd-benchmark-json``.

    Raises:
        EvidenceError: missing, not JSON, or not of that form.
    """
    try:
        value = parse_json(read_plain_file(path, EvidenceError))
    except FileNotFoundError as e:
        raise EvidenceError(f"{path} does not exist", "name a JSON that pytest-benchmark wrote") from e
    except OSError as e:
        raise EvidenceError(f"cannot read {path}: {e.strerror}", "check the path and its permissions") from e
    except ValueError as e:
        raise EvidenceError(f"{path} is not JSON ({e})", "name a JSON that pytest-benchmark wrote") from e
    try:
        return tuple(_benchmark(b) for b in value["benchmarks"])
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise EvidenceError(
            f"{path} is not a whole JSON of pytest-benchmark ({e!r})", "write it with --benchmark-json"
        ) from e


def _benchmark(value: Mapping[str, Any]) -> StoredBenchmark:
    stats = value["stats"]
    seconds = {name: float(stats[name]) for name in ("min", "median", "mean", "stddev")}
    for name, s in seconds.items():
        if not (math.isfinite(s) and s >= 0):
            raise ValueError(f"{name} of {value['fullname']} is {s}")
    return StoredBenchmark(
        name=str(value["name"]),
        fullname=str(value["fullname"]),
        group=str(value.get("group") or ""),
        min_s=seconds["min"],
        median_s=seconds["median"],
        mean_s=seconds["mean"],
        stddev_s=seconds["stddev"],
        rounds=int(stats["rounds"]),
        iterations=int(stats.get("iterations", 1)),
        data_s=tuple(float(s) for s in stats.get("data", ())),
        extra_info=dict(value.get("extra_info") or {}),
    )
