"""Between floats and the integers at the boundary of a quantized ``.tflite``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import DataError

ENTRY = "model.tflite"
#: Element types that carry a scale and a zero point.
QUANTIZED = ("int8", "uint8", "int16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """How a tensor of the file stands for real values: real = scale * (stored - zero_point).

    LiteRT documentation, "LiteRT 8-bit quantization specification".

    Attributes:
        dtype: as stored: ``int8``, ``uint8`` or ``int16``.
        scale: > 0; zero_point: within the type.
    """

    dtype: str
    scale: float
    zero_point: int

    def quantize(self, values: Array, name: str) -> Array:
        """float32 values as stored integers: rounded half to even, clipped to the type's range.

        Raises:
            DataError: NaN, which no integer stands for.
        """
        if np.isnan(values).any():
            raise DataError(
                f"input '{name}' holds NaN, which {self.dtype} has no value for", "repair the example"
            )
        limits = np.iinfo(self.dtype)
        # float64: an int16 range times a small scale is beyond float32's 24 bits.
        stored = np.rint(values.astype(np.float64) / self.scale) + self.zero_point
        clipped: Array = np.clip(stored, limits.min, limits.max)
        return clipped.astype(self.dtype)

    def dequantize(self, stored: Array) -> Array:
        """Stored integers as float32."""
        real: Array = (stored.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)
        return real

    def to_json(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "scale": self.scale, "zero_point": self.zero_point}


def affine_of(dtype: str, quantization: tuple[float, int]) -> Affine | None:
    """The interpreter's ``(scale, zero_point)`` of a tensor, where it stands for real values."""
    scale, zero_point = float(quantization[0]), int(quantization[1])
    if dtype not in QUANTIZED or not scale > 0:
        return None
    return Affine(dtype=dtype, scale=scale, zero_point=zero_point)
