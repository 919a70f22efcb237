"""What a search compares: mixtures, their times, and what became of each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from edgekd.quantize.config import QuantConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """One way to run the model.

    Attributes:
        target: ``device:runtime``.
        config: the quantization, with the layers that stay in float; None is the float model.
        settings: of the runtime's session, sorted, e.g. ``(("precision", "bf16"),)``.
    """

    target: str
    config: QuantConfig | None = None
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def kept(self) -> tuple[str, ...]:
        """Layers in float."""
        return () if self.config is None else self.config.keep_float

    def keeping(self, layers: Iterable[str]) -> Mixture:
        """The same with these layers in float.

        Raises:
            ValueError: of the float model.
        """
        if self.config is None:
            raise ValueError("the float model has no layers to keep in float")
        return replace(self, config=replace(self.config, keep_float=tuple(sorted(layers))))

    @property
    def label(self) -> str:
        """For readers, unique within a search: ``cpu:onnxruntime int8 channel minmax, 3 in float (5f0a)``."""
        parts = ["float32"]
        if self.config is not None:
            c = self.config
            ranges = "trained" if c.ranges else c.calibration
            parts = [c.dtype, c.granularity, ranges if c.mode == "static" else c.mode]
            parts += ["channel activations"] if c.activation_granularity == "channel" else []
            parts += [f"smoothed {c.smoothing:g}"] if c.smoothing else []
        text = " ".join([self.target, *parts, *(f"{k}={v}" for k, v in self.settings)])
        if not self.kept:
            return text
        which = hashlib.sha256("\n".join(self.kept).encode()).hexdigest()[:4]
        return f"{text}, {len(self.kept)} in float ({which})"

    def to_json(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "quantization": None if self.config is None else self.config.to_json(),
            "settings": dict(self.settings),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Ratio to the float model's time, with its interval over restarts."""

    ratio: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What became of a mixture on the selection split.

    Attributes:
        decision: ``pass``, ``reject``, ``inconclusive``; ``error`` where it could not be made or run, ``slower`` where its
            time ended it before its accuracy was asked, ``skipped`` where the same files miss under other settings.
        difference: score minus the float model's; None where there is none.
        interval: its two one-sided bounds.
        n: examples that decided: fewer than all where it was clearly rejected before.
        assured: it passes with so much room that a test of the same size is likely to agree.
        size_bytes: 0 where it could not be made.
        reason: one sentence.
        latency: None where it was not timed.
        wanted: examples that would decide an inconclusive one; None where none would.
    """

    mixture: Mixture
    decision: str
    difference: float | None = None
    interval: tuple[float, float] | None = None
    n: int = 0
    assured: bool = False
    size_bytes: int = 0
    reason: str = ""
    latency: Latency | None = None
    wanted: int | None = None

    @property
    def holds(self) -> bool:
        return self.decision == "pass"
