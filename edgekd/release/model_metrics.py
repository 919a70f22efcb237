"""Figures of a verdict as a model card states them: value, interval, and what they are of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from edgekd.gates.verdict import Gate


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One figure.

    Attributes:
        label: what was measured, against what, where; value, lower, upper: in ``unit``, not rounded.
        confidence: one-sided level of each bound; None without bounds.
        alone: a score of the student by itself, which nothing judged.
    """

    label: str
    value: float
    lower: float | None
    upper: float | None
    confidence: float | None
    unit: str
    slice: str
    gate: Gate
    alone: bool = False

    def to_cyclonedx(self) -> dict[str, Any]:
        """A ``performanceMetric`` of CycloneDX 1.6, whose figures are text."""
        made: dict[str, Any] = {"type": self.label, "value": repr(self.value)}
        if self.slice:
            made["slice"] = self.slice
        bounds = {
            name: repr(bound)
            for name, bound in (("lowerBound", self.lower), ("upperBound", self.upper))
            if bound is not None
        }
        return {**made, "confidenceInterval": bounds} if bounds else made


def metric_of(gate: Gate) -> Metric | None:
    """The figure that a gate judged; None where it has none."""
    if gate.estimate is None or not math.isfinite(gate.estimate):
        return None
    lower, upper = (None, None) if gate.interval is None else gate.interval
    against = f" against {gate.against}" if gate.against else ""
    what = gate.metric if gate.metric in gate.gate or not gate.metric else f"{gate.gate} ({gate.metric})"
    unit = f", {gate.unit}" if gate.unit else ""
    return Metric(
        label=f"{what or gate.gate}{against} on {gate.target}{unit}",
        value=float(gate.estimate),
        lower=_finite(lower),
        upper=_finite(upper),
        confidence=gate.confidence,
        unit=gate.unit,
        slice=gate.slice or "",
        gate=gate,
    )


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def figures_of(gate: Gate) -> list[Metric]:
    """A gate's figures: how the student scored by itself, where that was compared, and what was judged."""
    found = []
    mean = gate.detail.get("candidate_mean")
    if gate.gate == "accuracy" and isinstance(mean, float) and math.isfinite(mean):
        found.append(
            Metric(
                label=f"{gate.metric} on {gate.target}",
                value=mean,
                lower=None,
                upper=None,
                confidence=None,
                unit=gate.unit,
                slice="",
                gate=gate,
                alone=True,
            )
        )
    judged = metric_of(gate)
    return found if judged is None else [*found, judged]
