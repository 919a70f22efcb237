"""The integers that fake quantization rounds activations to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """Ends of the integer type, and whether its zero point is 0 with a scale of magnitude / 127."""

    least: int
    greatest: int
    symmetric: bool


#: By the activation type of :data:`edgekd.quantize.config.VARIANTS`.
ROUNDINGS = {
    "uint8": Rounding(least=0, greatest=255, symmetric=False),
    "int8": Rounding(least=-128, greatest=127, symmetric=True),
}
