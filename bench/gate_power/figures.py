"""EdgeKD's own figures from stored trials: decisions, errors of the ratio, seconds, restarts, and whether it was hit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from edgekd.gates.statistic import WALL_MINIMUM
from gate_power.models import EFFECTS
from gate_power.rates import rate
from gate_power.rules import Trial, group_of

DECISIONS = ("pass", "reject", "inconclusive", "error")
#: One study's trials, in the order they were made.
Study = Sequence[Trial]


def was_hit(trial: Trial, condition: str) -> bool | None:
    """Whether an injection fell into the trial's measurement; None where that was not recorded, or nothing is injected.

    For ``throttle``, measuring children must really have been stopped; for the others a worker must have been busy.
    """
    injected = trial.get("injected")
    if not injected:
        return None
    return bool(injected["stops"] if condition == "throttle" else injected["bursts"])


def true_ratio(planted: Mapping[str, Any]) -> float:
    """The measured ratio of a copy, or by construction where it was not calibrated."""
    return float(planted["built"] if planted["ratio"] is None else planted["ratio"])


def own_figures(
    studies: Sequence[Study], planted: Mapping[str, Mapping[str, Any]], condition: str
) -> dict[str, dict[str, Any]]:
    """Effect -> EdgeKD's decisions, ratio errors (points of per cent), seconds, restarts.

    Seconds are those of trials that had one candidate; a measurement of several is no comparison's time.
    """
    figures: dict[str, dict[str, Any]] = {}
    for effect in EFFECTS:
        trials = [t for study in studies for t in study if t["effect"] == effect]
        if trials:
            figures[effect] = _figures_of(trials, planted[effect], condition)
    return figures


def _figures_of(trials: Study, planted: Mapping[str, Any], condition: str) -> dict[str, Any]:
    made = [t["edgekd"] for t in trials]
    details = [m.get("detail") or {} for m in made]
    estimates = np.asarray([m["estimate"] for m in made if m.get("estimate")])
    errors = 100 * np.abs(estimates - true_ratio(planted))
    built = 100 * np.abs(estimates - planted["built"])
    alone = [m["wall_s"] for m in made if m.get("candidates", 1) == 1]
    hits = [m["decision"] for t, m in zip(trials, made, strict=True) if was_hit(t, condition)]
    widened = [m["decision"] for m, d in zip(made, details, strict=True) if d.get("widened")]
    restarts = [d.get("restarts", m.get("restarts", 0)) for m, d in zip(made, details, strict=True)]
    return {
        "trials": len(made),
        "decisions": {d: asdict(rate(sum(m["decision"] == d for m in made), len(made))) for d in DECISIONS},
        "ratio_error_median": _median(errors),
        "ratio_error_p95": _p95(errors),
        "ratio_error_built_median": _median(built),
        "bias": float(100 * (estimates.mean() - true_ratio(planted))) if len(estimates) else None,
        "alone": {"trials": len(alone), "wall_s_median": _median(alone), "wall_s_p95": _p95(alone)},
        "restarts_mean": float(np.mean(restarts)),
        "widened": {"trials": len(widened), "inconclusive": widened.count("inconclusive")},
        "statistics": dict(Counter(d.get("statistic", WALL_MINIMUM) for d in details if "a_a_ratio" in d)),
        "hit": {"trials": len(hits), "rejected": hits.count("reject")},
        "restart_scatter": _scatter([m for m in made if m.get("block_minima_ns")]),
    }


def _median(values: Any) -> float | None:
    return float(np.median(values)) if len(values) else None


def _p95(values: Any) -> float | None:
    return float(np.percentile(values, 95)) if len(values) else None


def _scatter(made: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """Median over trials of the standard deviation between restarts, per cent: of B/A and of A'/A, block minima."""
    found: dict[str, list[float]] = {}
    for m in made:
        minima = {arm: np.log(np.asarray(v, np.float64)) for arm, v in m["block_minima_ns"].items()}
        base = minima.pop("baseline")
        if len(base) > 1:
            for arm, logs in minima.items():
                found.setdefault(arm, []).append(100 * float(np.std(np.median(logs - base, axis=1), ddof=1)))
    return {arm: float(np.median(v)) for arm, v in found.items()} or None


def measurement_figures(studies: Sequence[Study]) -> dict[str, Any]:
    """What is of a measurement, not of a candidate: each is counted once, however many trials share it.

    Returns:
        ``measurements``; ``by_candidates``: candidates -> measurements, their seconds; ``redrawn`` restarts;
        ``disturbed_calls``, ``load_cpus`` (CPUs' worth of time that the load used): medians, None where not recorded.
    """
    first = {(i, group_of(t)): t for i, study in enumerate(studies) for t in reversed(study)}
    trials = list(first.values())
    seconds: dict[int, list[float]] = {}
    for t in trials:
        seconds.setdefault(int(t["edgekd"].get("candidates", 1)), []).append(float(t["edgekd"]["wall_s"]))
    disturbed = [x for t in trials if (x := t["edgekd"].get("disturbed_calls")) is not None]
    states = [t["machine"] for t in trials if "machine" in t]
    used = [s["load_cpu_s"] / s["seconds"] for s in states if s.get("load_cpu_s") is not None]
    return {
        "measurements": len(trials),
        "by_candidates": {
            k: {"measurements": len(v), "wall_s_median": _median(v), "wall_s_p95": _p95(v)}
            for k, v in sorted(seconds.items())
        },
        "redrawn": sum(len(t["edgekd"].get("redrawn", ())) for t in trials),
        "disturbed_calls": _median(disturbed),
        "load_cpus": _median(used),
    }
