"""Ranges that a network was trained with: the file beside its weights, and the quantization that uses them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekd.errors import EvidenceError, UsageError
from edgekd.files import read_json, write_json
from edgekd.quantize.config import QuantConfig

TRAINED_SCHEMA = "edgekd.quantization/1"
TRAINED_FILE = "quantization.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRanges:
    """What fake quantization left beside the weights.

    Attributes:
        granularity, variant: of :class:`QuantConfig`, as trained.
        ranges: tensor of the ONNX export, batch norms folded -> (low, high).
        parity: the Q/DQ graph against the fake-quantized module on training examples: ``sqnr_db``, ``agreement``,
            ``examples``.
    """

    granularity: str
    variant: str
    ranges: Mapping[str, tuple[float, float]]
    parity: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write ``quantization.json`` into a model folder."""
        value = {
            "schema": TRAINED_SCHEMA,
            "dtype": "int8",
            "granularity": self.granularity,
            "variant": self.variant,
            "ranges": {name: list(ends) for name, ends in sorted(self.ranges.items())},
            "parity": dict(self.parity),
        }
        write_json(folder / TRAINED_FILE, value)

    def applied(self, config: QuantConfig, name: str) -> QuantConfig:
        """``config`` with these ranges, where it is static int8; other quantizations take none.

        Args:
            name: of the model, for messages.

        Raises:
            UsageError: another granularity or variant than the network was trained for, or a calibration method.
        """
        if (config.dtype, config.mode) != ("int8", "static"):
            return config
        for what in ("granularity", "variant"):
            asked, trained = getattr(config, what), getattr(self, what)
            if asked != trained:
                raise UsageError(
                    f"{name} was trained with fake quantization for {what} '{trained}', asked for '{asked}'",
                    f"ask for {trained}, or train with distill.fake_quant.{what}: {asked}",
                )
        if config.calibration != "minmax":
            raise UsageError(
                f"{name} was trained with fake quantization, its ranges come from training, asked for calibration "
                f"'{config.calibration}'",
                "leave --method out (in a recipe, calibration)",
            )
        return replace(config, ranges=tuple((n, *ends) for n, ends in sorted(self.ranges.items())))


def load_trained(path: Path) -> TrainedRanges:
    """Read ``quantization.json`` back.

    Raises:
        EvidenceError: missing, damaged, or ranges that are no ranges.
    """
    value = read_json(path, TRAINED_SCHEMA)
    try:
        ranges = {str(n): (float(low), float(high)) for n, (low, high) in value["ranges"].items()}
        made = TrainedRanges(
            granularity=str(value["granularity"]),
            variant=str(value["variant"]),
            ranges=ranges,
            parity=dict(value.get("parity", {})),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise EvidenceError(f"{path} is incomplete ({e!r})", "train the model again") from e
    for name, (low, high) in ranges.items():
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise EvidenceError(f"{path}: the range of '{name}' is {low} to {high}", "train the model again")
    return made
