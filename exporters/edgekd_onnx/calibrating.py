"""Activation ranges that ONNX Runtime's calibrators do not offer: those of least squared error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.lazy import require
from edgekd.quantize.spool import CalibrationSpool

#: Shares of a tensor's greatest magnitude that are tried as the clipping threshold.
_STEPS = 100
_LEVELS = 255


class SpoolReader:
    """Feeds ONNX Runtime's calibrator from a spool, in strides, so that histograms are folded batch by batch."""

    def __init__(self, spool: CalibrationSpool) -> None:
        self._spool = spool
        self._next, self._end = 0, spool.batches

    def __len__(self) -> int:
        return self._spool.batches

    def set_range(self, start_index: int, end_index: int) -> None:
        self._next, self._end = start_index, end_index

    def get_next(self) -> dict[str, Array] | None:
        if self._next >= self._end:
            return None
        self._next += 1
        return self._spool.batch(self._next - 1)


def least_error_range(
    counts: Array, edges: Array, low: float, high: float, *, symmetric: bool
) -> tuple[float, float]:
    """The range whose 8-bit grid has the least squared error over a histogram of values.

    Thresholds from 1% to 100% of the greatest magnitude are tried, both ends clipped to them; the error of a bin is that
    of its centre, rounded and clipped as ``QuantizeLinear`` does it.

    Args:
        counts: (bins,) values per bin; edges: (bins + 1,); low, high: least and greatest value seen.
        symmetric: whether the range must be (-t, t).

    Returns:
        (lowest, highest); 0 is always inside, as the zero point needs it.
    """
    low, high = min(0.0, float(low)), max(0.0, float(high))
    greatest = max(-low, high)
    if greatest == 0:
        return low, high
    used = counts > 0
    weights = counts[used].astype(np.float64)
    # A bin may reach past the values that it holds.
    centres = np.clip(((edges[:-1] + edges[1:]) / 2)[used].astype(np.float64), low, high)
    best, found = np.inf, (low, high)
    for step in range(_STEPS, 0, -1):
        at = greatest * step / _STEPS
        bottom, top = (-at, at) if symmetric else (max(low, -at), min(high, at))
        scale = (top - bottom) / _LEVELS
        zero = np.round(-bottom / scale)
        levels = np.clip(np.round(centres / scale) + zero, 0, _LEVELS)
        error = float(np.sum(weights * ((levels - zero) * scale - centres) ** 2))
        if error < best:
            best, found = error, (bottom, top)
    return found


def write_ranges(
    model: Path, spool: CalibrationSpool, out: Path, *, operators: Sequence[str], symmetric: bool, large: bool
) -> None:
    """Write ranges of least squared error as a calibration cache for ``quantize_static``.

    ONNX Runtime's percentile calibrator collects the histograms (2,048 bins over (-max, max) of the first batch, more
    of the same width where later ones go beyond).
    """
    calibrate = require("onnxruntime.quantization.calibrate", extra="ort", purpose="calibrating")
    method = calibrate.CalibrationMethod
    calibrator = calibrate.create_calibrator(
        model, list(operators), augmented_model_path=str(out.with_name("augmented.onnx")),
        calibrate_method=method.Percentile, use_external_data_format=large, extra_options={"symmetric": False},
    )  # fmt: skip
    reader = SpoolReader(spool)
    for batch in range(len(reader)):
        reader.set_range(batch, batch + 1)
        calibrator.collect_data(reader)
    ranges: dict[str, Any] = {}
    for name, (counts, edges, low, high, *_) in sorted(calibrator.collector.get_histogram_dict().items()):
        found = least_error_range(counts, edges, low, high, symmetric=symmetric)
        ranges[name] = tuple(np.array(v, np.float32) for v in found)
    calibrate.save_tensors_data(calibrate.TensorsData(method.MinMax, ranges), out)
