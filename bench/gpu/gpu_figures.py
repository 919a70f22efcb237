"""From measurements to the figures of the page: plain data, nothing rounded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgekd.evidence.measurement import BASELINE, TWIN, Measurement
from edgekd.gates.quantiles import log_interval
from edgekd.gates.statistic import restart_effects

#: trtexec warns of a coefficient of variation above this (TensorRT OSS, samples/common/sampleReporting.cpp).
UNSTABLE = 0.025


def _ms(blocks: Sequence[Any]) -> float | None:
    return float(np.median(np.concatenate(blocks))) / 1e6 if blocks else None


def _ratio(measurement: Measurement, arm: str) -> list[float | None]:
    """[ratio to the baseline, lower, upper]: mean of the restarts' effects and its 95 % t interval.

    One restart has no interval: its bounds are None.
    """
    ratio, lower, upper = (float(v) for v in log_interval(restart_effects(measurement, arm)))
    bounded = lower > 0 and math.isfinite(upper)
    return [ratio, lower, upper] if bounded else [ratio, None, None]


def cold(measurement: Measurement) -> Measurement | None:
    """The measurement with the cold calls in place of the warm ones; None where there are none."""
    if not all(r.cold_blocks for r in measurement.restarts):
        return None
    return replace(
        measurement, restarts=tuple(replace(r, blocks=r.cold_blocks) for r in measurement.restarts)
    )


def figures_of(measurement: Measurement, labels: Mapping[str, str]) -> dict[str, Any]:
    """The figures of one race.

    Args:
        labels: arm -> cell; the baseline and its twin among them.
    """
    if not measurement.restarts:
        return {"rows": [], "redrawn": list(measurement.redrawn), "clock": None}
    without_cache = cold(measurement)
    rows = []
    for arm in measurement.arms:
        warm = [b for r in measurement.restarts for b in r.blocks[arm]]
        by_round = [float(np.std(b) / np.mean(b)) for b in warm]
        waited = np.concatenate([b for r in measurement.restarts for b in r.single_calls(arm)])
        child = measurement.restarts[-1].children[arm]
        detail = child["placement"]["detail"]
        low = detail.get("low_precision") or {}
        rows.append(
            {
                "label": labels[arm],
                "arm": arm,
                "warm_ms": _ms(warm),
                "cold_ms": _ms([b for r in measurement.restarts for b in r.cold_blocks.get(arm, ())]),
                "wall_p50_ms": float(np.quantile(waited, 0.5, method="inverted_cdf")) / 1e6,
                "wall_p99_ms": float(np.quantile(waited, 0.99, method="inverted_cdf")) / 1e6
                if len(waited) >= 1000
                else None,
                "calls": len(waited),
                "ratio": _ratio(measurement, arm),
                "cold_ratio": None if without_cache is None else _ratio(without_cache, arm),
                "variation": float(np.median(by_round)),
                "replays": (measurement.restarts[-1].warmup[arm].get("device") or {}).get("replays"),
                "runtime": child["placement"]["runtime"],
                "macs_share": low.get("macs_share"),
                "compiled": detail.get("compiled"),
                "prepare_s": detail.get("prepare_s"),
                "steady": all(r.warmup[arm].get("steady") for r in measurement.restarts),
            }
        )
    return {
        "rows": rows,
        "a_a": _ratio(measurement, TWIN),
        "a_a_cold": None if without_cache is None else _ratio(without_cache, TWIN),
        "clock": measurement.environment.get("clock", "wall"),
        "clock_reason": measurement.environment.get("clock_reason"),
        "device_timing": measurement.restarts[-1].warmup[BASELINE].get("device"),
        "redrawn": list(measurement.redrawn),
        "restarts": len(measurement.restarts),
        "gpu": [r.ledger.get("gpu") for r in measurement.restarts],
    }


def beyond_noise(row: Mapping[str, Any], a_a: Sequence[float | None]) -> bool:
    """Whether a ratio is told from 1 by its own interval, and lies further from 1 than A/A does anywhere.

    Without an interval (one restart) nothing is told from noise.
    """
    ratio, lower, upper = row["ratio"]
    known = [v for v in a_a if v is not None]
    if lower is None or upper is None or len(known) != len(a_a):
        return False
    return bool((lower > 1 or upper < 1) and abs(math.log(ratio)) > max(abs(math.log(v)) for v in known))


def numerics(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, float]:
    """Relative error ||found - wanted|| / ||wanted|| over all outputs, and the greatest difference."""
    a = np.concatenate([np.asarray(found[k], np.float64).ravel() for k in wanted])
    b = np.concatenate([np.asarray(v, np.float64).ravel() for v in wanted.values()])
    return {
        "relative": float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-30)),
        "greatest": float(np.abs(a - b).max()),
    }
