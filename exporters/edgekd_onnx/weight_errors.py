"""What quantization did to each weight, by ONNX Runtime's own comparison of a Q/DQ file with its float source."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import ModelError
from edgekd.lazy import require
from edgekd_onnx.writing import one_line, quiet


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightError:
    """One weight before and after.

    Attributes:
        name: of the initializer; shape: its sizes.
        sqnr_db: 10 log10(sum w^2 / sum (w - w')^2), in dB; None where they are equal.
        max_abs_error: max |w - w'|.
    """

    name: str
    shape: tuple[int, ...]
    sqnr_db: float | None
    max_abs_error: float

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "shape": list(self.shape)}


def weight_errors(float_path: Path, quantized_path: Path) -> list[WeightError]:
    """Every weight that both files hold, the most damaged first; empty where the second has no Q/DQ weights.

    Pairs weights with ``onnxruntime.quantization.qdq_loss_debug.create_weight_matching``.

    Raises:
        ModelError: a file that cannot be read.
    """
    debug = require(
        "onnxruntime.quantization.qdq_loss_debug", extra="ort", purpose="comparing quantized weights"
    )
    try:
        with quiet():
            pairs = debug.create_weight_matching(str(float_path), str(quantized_path))
    except (ValueError, KeyError, OSError, RuntimeError) as e:
        raise ModelError(
            f"the weights of {float_path} and {quantized_path} cannot be paired ({one_line(e)})",
            "compare a Q/DQ file with the float file that it was made of",
        ) from e
    found = []
    for name, pair in pairs.items():
        before, after = (np.asarray(pair[k], dtype=np.float64) for k in ("float", "dequantized"))
        if before.shape != after.shape:
            continue
        noise, signal = float(((before - after) ** 2).sum()), float((before**2).sum())
        found.append(
            WeightError(
                name=name,
                shape=before.shape,
                sqnr_db=10 * math.log10(signal / noise) if noise > 0 and signal > 0 else None,
                max_abs_error=float(np.abs(before - after).max(initial=0.0)),
            )
        )
    return sorted(found, key=lambda w: (math.inf if w.sqnr_db is None else w.sqnr_db, w.name))
