"""One trial: what ``edgekd gate --baseline A --student B --max-regression 0.02`` does, through the same functions."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifact import Artifact
from edgekd.errors import EdgeKDError
from edgekd.evidence import Measurement, load_measurement, save_measurement
from edgekd.evidence.measurement import BASELINE, CANDIDATE, TWIN
from edgekd.gates.latency import judge_latency
from edgekd.gates.verdict import Gate
from edgekd.measure import Protocol, Setting
from edgekd.pipeline.collect import Comparison, Feeds, measure_comparison
from edgekd.stages import StageStore

_DISTURBED = 1.25


def judge(measurement: Measurement, limit: float, arm: str = CANDIDATE) -> Gate:
    """The regression gate's answer."""
    return judge_latency(measurement, arm, max_ratio=limit, gate="regression", against="baseline")


def gate_record(gate: Gate) -> dict[str, Any]:
    """What of an answer is kept, and compared when it is replayed."""
    return {
        "decision": gate.decision,
        "estimate": gate.estimate,
        "interval": list(gate.interval) if gate.interval else None,
        "reason": gate.reason,
        "method": gate.method,
        "detail": dict(gate.detail or {}),
    }


def run_trials(
    baseline: Artifact,
    students: Mapping[str, Artifact],
    *,
    setting: Setting,
    limit: float,
    seed: int,
    work: Path,
    keep: Path | None,
) -> dict[str, dict[str, Any]]:
    """Compare artifacts with their baseline in one measurement; each is judged by itself.

    Args:
        students: by effect; with one it is what ``edgekd gate`` does.
        limit: greatest ratio, 1.02 for ``--max-regression 0.02``.
        seed: of the trial's shuffles; the gate itself uses 0.
        work: a folder that is emptied: the evidence's way over the disk is part of the trial.
        keep: where the evidence stays; None throws it away.
    """
    shutil.rmtree(work, ignore_errors=True)
    comparison = Comparison(
        baseline=("baseline", baseline), candidates=list(students.items()), limits=dict.fromkeys(students, limit),
        feeds=Feeds(), setting=setting, occasion="test", baseline_role="baseline",
    )  # fmt: skip
    arms = {e: CANDIDATE if i == 0 else f"{CANDIDATE}_{i + 1}" for i, e in enumerate(students)}
    begin = time.monotonic()
    try:
        measurement = measure_comparison(
            comparison,
            StageStore(work),
            remeasure=True,
            decided=lambda m: all(judge(m, limit, a).decision in ("pass", "reject") for a in arms.values()),
            protocol=Protocol(seed=seed),
        )
    except EdgeKDError as e:
        failed = {"decision": "error", "reason": str(e), "wall_s": time.monotonic() - begin, "restarts": 0}
        return {effect: {**failed, "arm": arms[effect], "candidates": len(students)} for effect in students}
    gates = {e: judge(measurement, limit, a) for e, a in arms.items()}
    wall_s = time.monotonic() - begin
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        save_measurement(measurement, keep / "measurement.json")
    return {
        effect: {
            **gate_record(gate),
            "arm": arms[effect],
            "wall_s": wall_s,
            "candidates": len(students),
            "restarts": len(measurement.restarts),
            "redrawn": list(measurement.redrawn),
            "parent_cpu": measurement.parent_cpu,
            "block_minima_ns": block_minima(measurement, arms[effect]),
            "disturbed_calls": disturbed_calls(measurement),
            "ledger": ledger_summary(measurement),
        }
        for effect, gate in gates.items()
    }


def block_minima(measurement: Measurement, candidate: str) -> dict[str, list[list[int]]]:
    """Per restart, the minimum of every block in nanoseconds: what most rules need. The judged arm is ``candidate``."""
    arms = {BASELINE: BASELINE, TWIN: TWIN, CANDIDATE: candidate}
    return {
        name: [[int(b.min()) for b in r.blocks[arm]] for r in measurement.restarts]
        for name, arm in arms.items()
    }


def disturbed_calls(measurement: Measurement) -> float | None:
    """Share of calls that took at least 1.25 times the fastest one of their arm and restart: how loud it was.

    None where every restart was redrawn.
    """
    calls = disturbed = 0
    for restart in measurement.restarts:
        for blocks in restart.blocks.values():
            ns = np.concatenate(blocks)
            calls += len(ns)
            disturbed += int((ns >= _DISTURBED * ns.min()).sum())
    return disturbed / calls if calls else None


def ledger_summary(measurement: Measurement) -> dict[str, Any]:
    """Over the restarts that were kept: the greatest and the mean of every number in the ledger."""
    names = sorted({k for r in measurement.restarts for k in r.ledger})
    summary: dict[str, Any] = {}
    for name in names:
        values = [r.ledger.get(name) for r in measurement.restarts]
        numbers = [float(v) for v in values if isinstance(v, (int, float)) and math.isfinite(v)]
        if numbers:
            summary[name] = {"max": max(numbers), "mean": sum(numbers) / len(numbers), "known": len(numbers)}
    steady = [bool(w.get("steady")) for r in measurement.restarts for w in r.warmup.values()]
    summary["warmups_steady"] = {"steady": sum(steady), "of": len(steady)}
    return summary


def replay(folder: Path, stored: Mapping[str, Any], limit: float) -> float | None:
    """Judge kept evidence again and compare with the stored answer.

    Returns:
        The greatest relative difference of estimate and interval; None where the decision or a value is another.
    """
    again = gate_record(judge(load_measurement(folder / "measurement.json"), limit, stored["arm"]))
    if again["decision"] != stored["decision"]:
        return None
    pairs = [(again["estimate"], stored["estimate"])]
    pairs += list(zip(again["interval"] or [], stored["interval"] or [], strict=False))
    if any((a is None) != (b is None) for a, b in pairs) or bool(again["interval"]) != bool(
        stored["interval"]
    ):
        return None
    return max((abs(a - b) / abs(b) for a, b in pairs if a is not None and b), default=0.0)


def protocol_record() -> dict[str, Any]:
    """The protocol's default numbers."""
    return asdict(Protocol())
