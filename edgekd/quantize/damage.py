"""What quantization did to a model's answers, whatever the runtime that gave them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import ModelError


def output_sqnr(
    before: Mapping[str, Array],
    after: Mapping[str, Array],
    *,
    fix: str = "try another --method, or more examples",
) -> dict[str, float | None]:
    """Output name -> SQNR, 10 log10(sum a^2 / sum (a - b)^2) in dB, rounded to 0.01; None where it has no value.

    Args:
        before, after: outputs of the float and of the quantized model on the same feeds.
        fix: what to try where the quantized model is broken.

    Raises:
        ModelError: NaN or infinity where the float model gave none.
    """
    sqnr: dict[str, float | None] = {}
    for name, want in before.items():
        a, b = want.astype(np.float64), after[name].astype(np.float64)
        if np.isfinite(a).all() and not np.isfinite(b).all():
            raise ModelError(f"quantized output '{name}' holds NaN or infinity", fix)
        noise, signal = float(np.sum((a - b) ** 2)), float(np.sum(a**2))
        exact = noise == 0 or signal == 0 or not math.isfinite(noise / signal)
        sqnr[name] = None if exact else round(10 * math.log10(signal / noise), 2)
    return sqnr
