"""The QuantConfig noun: how a model is quantized."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edgekd.errors import UsageError

#: Precisions of this version, in ONNX spelling.
DTYPES = ("int8",)
#: Which activation and weight types each runtime family wants.
VARIANTS = {"cpu": ("uint8", "int8"), "tensorrt": ("int8", "int8")}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantConfig:
    """A quantization.

    Attributes:
        dtype: ``int8``.
        mode: ``static`` (ranges from calibration data).
        granularity: of the weights: ``channel`` or ``tensor``; activations are per tensor.
        variant: ``cpu`` (u8 activations, s8 weights) or ``tensorrt`` (symmetric s8, s8).
        calibration: ``minmax``, ``entropy`` or ``percentile``.
        examples: how many calibration examples at most.
    """

    dtype: str = "int8"
    mode: str = "static"
    granularity: str = "channel"
    variant: str = "cpu"
    calibration: str = "minmax"
    examples: int = 256

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def check(self) -> None:
        """Raises UsageError where a field has no known value."""
        choices = {
            "dtype": DTYPES,
            "mode": ("static",),
            "granularity": ("channel", "tensor"),
            "variant": tuple(VARIANTS),
            "calibration": ("minmax", "entropy", "percentile"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UsageError(
                    f"{name} '{getattr(self, name)}' is not known", f"choose {' or '.join(allowed)}"
                )
        if self.examples < 1:
            raise UsageError(f"calibration needs at least 1 example, got {self.examples}", "raise it")
