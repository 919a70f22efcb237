"""pytest-benchmark's JSON: the arms of a run's measurements as benchmarks, for its ``compare`` and for dashboards.

The fields are those of pytest-benchmark 5 (``stats.py``: ``Stats.fields``; ``plugin.py``:
``pytest_benchmark_generate_json``). Each timed call is one of its rounds; times are seconds.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.evidence.measurement import BASELINE, TWIN, Measurement, load_measurement
from edgekd.evidence.run import Evidence, load_run
from edgekd.gates.verdict import VERDICT_FILE, Verdict, load_verdict

#: The version of pytest-benchmark whose fields these are.
FORMAT_VERSION = "5.1.0"


def benchmark_rows(folder: Path, fullname: str) -> list[dict[str, Any]]:
    """One benchmark per arm of the measurements that a run folder was judged by; none where none was measured.

    Args:
        folder: holds ``run.json``, ``verdict.json`` and the evidence.
        fullname: of the test; an arm's is ``test_speed[latency:student]``, after the test's own parameters.

    Raises:
        EvidenceError: no run, or evidence that was altered.
    """
    run, verdict = load_run(folder), load_verdict(folder / VERDICT_FILE)
    rows: list[dict[str, Any]] = []
    several = len(run.selected) > 1
    for candidate in run.candidates:
        if run.selected.get(candidate.target) != candidate.artifact:
            continue
        for gate, path in _measurements(candidate.test or candidate.select):
            measurement = load_measurement(folder / path)
            for arm in measurement.arms:
                # Scenarios of queries, not of blocks, leave arms without any.
                blocks = [b for r in measurement.restarts for b in r.blocks.get(arm, ()) if len(b)]
                if arm != TWIN and blocks:
                    stats = _stats(np.concatenate(blocks))
                    asked = f"{candidate.target}:{gate}" if several else gate
                    rows.append(_row(fullname, asked, arm, measurement, verdict, stats))
    return rows


def render_pytest_benchmark(folders: Sequence[Path]) -> str:
    """The file of run folders: each run's name stands for the test; time and machine are the first run's.

    ``commit_info`` knows nothing: a run does not record the sources that it was made from.

    Raises:
        EvidenceError: no run, or evidence that was altered.
    """
    runs = [load_run(folder) for folder in folders]
    rows = [
        row for folder, run in zip(folders, runs, strict=True) for row in benchmark_rows(folder, run.name)
    ]
    first = runs[0]
    known = first.environment.get("machine")
    known = known if isinstance(known, Mapping) else first.environment
    machine = {
        "node": "", "processor": str(known.get("cpu") or ""), "machine": str(known.get("machine") or ""),
        "python_version": str(first.environment.get("python") or ""), "release": str(known.get("kernel") or ""),
        "system": str(known.get("system") or ""), "cpu": {"count": known.get("cpus"), "brand_raw": known.get("cpu")},
    }  # fmt: skip
    commit = {
        "id": "unversioned", "time": None, "author_time": None, "dirty": False, "project": first.name,
        "branch": "(unknown)",
    }  # fmt: skip
    return benchmark_document(
        rows, machine=machine, commit=commit, at=first.collected_at or "unknown"
    ).decode()


def _measurements(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """(gate, path) of every measurement, each path once: gates of later versions come along."""
    seen = set()
    for gate in (f.name for f in fields(evidence)):
        path = getattr(getattr(evidence, gate), "measurement", "")
        if path and path not in seen:
            seen.add(path)
            yield gate, path


def _row(
    fullname: str, gate: str, arm: str, measurement: Measurement, verdict: Verdict, stats: Mapping[str, Any]
) -> dict[str, Any]:
    record = measurement.arms[arm]
    label = f"{gate}:{record['name']}"
    stem, bracket, param = fullname.partition("[")
    whole = f"{stem}[{param[:-1]}-{label}]" if bracket else f"{stem}[{label}]"
    judged = [g for g in verdict.gates if g.artifact == record.get("artifact") and arm != BASELINE]
    return {
        "group": fullname,
        "name": whole.rpartition("::")[2],
        "fullname": whole,
        "params": None,
        "param": None,
        "extra_info": {
            "artifact": record.get("artifact"),
            "target": measurement.target,
            "scenario": measurement.scenario,
            "batch": record.get("batch", measurement.batch),
            "threads": record.get("threads", measurement.threads),
            "sessions": record.get("sessions", 1),
            "restarts": len(measurement.restarts),
            "gates": [g.to_json() for g in judged],
            "note": "judged beside its baseline in the same run; numbers of two runs are not comparable",
        },
        # Every call is timed on its own, without calibration.
        "options": {
            "disable_gc": True, "timer": "perf_counter_ns", "min_rounds": 1, "max_time": 0.0, "min_time": 0.0,
            "warmup": True,
        },
        "stats": dict(stats),
    }  # fmt: skip


def _stats(calls_ns: Array) -> dict[str, Any]:
    """pytest-benchmark's statistics; int64 (calls,) nanoseconds in, seconds out. Quartiles by linear interpolation."""
    s = np.sort(np.asarray(calls_ns, np.float64)) * 1e-9
    q1, median, q3 = (float(q) for q in np.quantile(s, (0.25, 0.5, 0.75)))
    mean, iqr = float(s.mean()), q3 - q1
    stddev = float(s.std(ddof=1)) if len(s) > 1 else 0.0
    inside = s[(s >= q1 - 1.5 * iqr) & (s <= q3 + 1.5 * iqr)]
    far = int((np.abs(s - mean) > stddev).sum())
    total = math.fsum(s)
    return {
        "min": float(s[0]), "max": float(s[-1]), "mean": mean, "stddev": stddev, "rounds": len(s), "median": median,
        "iqr": iqr, "q1": q1, "q3": q3, "iqr_outliers": len(s) - len(inside), "stddev_outliers": far,
        "outliers": f"{far};{len(s) - len(inside)}", "ld15iqr": float(inside[0]), "hd15iqr": float(inside[-1]),
        "ops": len(s) / total, "total": total, "iterations": 1,
    }  # fmt: skip


def machine_info() -> dict[str, Any]:
    """pytest-benchmark's description of this machine, without its CPU package; where it is installed it is asked."""
    return {
        "node": platform.node(), "processor": platform.processor(), "machine": platform.machine(),
        "python_compiler": platform.python_compiler(), "python_implementation": platform.python_implementation(),
        "python_implementation_version": platform.python_version(), "python_version": platform.python_version(),
        "python_build": list(platform.python_build()), "release": platform.release(), "system": platform.system(),
        "cpu": {"count": os.cpu_count()},
    }  # fmt: skip


def commit_info() -> dict[str, Any]:
    """What pytest-benchmark writes where it finds no version control."""
    return {
        "id": "unversioned", "time": None, "author_time": None, "dirty": False, "project": Path.cwd().name,
        "branch": "(unknown)",
    }  # fmt: skip


def benchmark_document(
    rows: Sequence[Mapping[str, Any]], *, machine: Mapping[str, Any], commit: Mapping[str, Any], at: str = ""
) -> bytes:
    """The whole file, UTF-8; ``at`` is its time, ISO 8601, and empty stands for now."""
    document = {
        "machine_info": dict(machine),
        "commit_info": dict(commit),
        "benchmarks": [dict(r) for r in rows],
        "datetime": at or time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        "version": FORMAT_VERSION,
    }
    return (json.dumps(document, indent=1, ensure_ascii=True, default=str) + "\n").encode()
