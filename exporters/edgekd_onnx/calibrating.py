"""Activation ranges that ``quantize_static`` does not find by itself: of least squared error, and beside masks."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.lazy import require
from edgekd.quantize.spool import CalibrationSpool
from edgekd_onnx.masks import Masks, is_great

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
    model: Path,
    spool: CalibrationSpool,
    out: Path,
    *,
    method: str,
    operators: Sequence[str],
    symmetric: bool,
    large: bool,
    masks: Masks,
) -> None:
    """Write ranges as a calibration cache for ``quantize_static``, without those of masks.

    All but ``mse`` are what ``quantize_static`` itself would find. For ``mse`` ONNX Runtime's percentile calibrator
    collects the histograms (2,048 bins over (-max, max) of the first batch, more of the same width where later ones go
    beyond).

    Args:
        method: minmax, entropy, percentile or mse.
    """
    calibrate = require("onnxruntime.quantization.calibrate", extra="ort", purpose="calibrating")
    kinds = {"minmax": "MinMaxCalibrater", "entropy": "EntropyCalibrater"}
    calibrator = getattr(calibrate, kinds.get(method, "PercentileCalibrater"))(
        model, list(operators), augmented_model_path=str(out.with_name("augmented.onnx")),
        use_external_data_format=large, symmetric=symmetric and method in ("entropy", "percentile"),
    )  # fmt: skip
    select = calibrator.select_tensors_to_calibrate

    def selected(proto: Any) -> Any:
        tensors, infos = select(proto)
        return {t for t in tensors if t not in masks.tensors}, infos

    calibrator.select_tensors_to_calibrate = selected
    great: set[str] = set()
    if method != "minmax":
        _leave_out(calibrator, masks.doubtful, great)
    calibrator.augment_graph()
    calibrator.create_inference_session()
    reader = SpoolReader(spool)
    if method == "minmax":
        calibrator.collect_data(reader)
    else:
        for batch in range(len(reader)):
            reader.set_range(batch, batch + 1)
            calibrator.collect_data(reader)
    for name in great:
        calibrator.collector.histogram_dict.pop(name, None)
    if method == "mse":
        found = _least_error_ranges(calibrator.collector.get_histogram_dict(), symmetric=symmetric)
        made = calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, found)
    else:
        made = calibrator.compute_data()
    for name in masks.doubtful & set(made.keys()):
        if is_great(*(float(np.ravel(v)[0]) for v in made[name].range_value)):
            del made.data[name]
    calibrate.save_tensors_data(made, out)


def _leave_out(calibrator: Any, doubtful: Container[str], great: set[str]) -> None:
    """Keep values of masks out of histograms, which have no bins for them, and note the tensors in ``great``."""
    calibrate = require("onnxruntime.quantization.calibrate", extra="ort", purpose="calibrating")
    calibrator.collector = calibrate.HistogramCollector(
        method=calibrator.method, symmetric=calibrator.symmetric, num_bins=calibrator.num_bins,
        num_quantized_bins=calibrator.num_quantized_bins, percentile=calibrator.percentile, scenario=calibrator.scenario,
    )  # fmt: skip
    collect = calibrator.collector.collect

    def collected(values: Mapping[str, Sequence[Array]]) -> None:
        for name, arrays in values.items():
            if name in doubtful and any(
                is_great(float(a.min()), float(a.max())) for a in arrays if np.size(a)
            ):
                great.add(name)
        collect({name: arrays for name, arrays in values.items() if name not in great})

    calibrator.collector.collect = collected


def _least_error_ranges(histograms: Mapping[str, Any], *, symmetric: bool) -> dict[str, Any]:
    ranges: dict[str, Any] = {}
    for name, (counts, edges, low, high, *_) in sorted(histograms.items()):
        found = least_error_range(counts, edges, low, high, symmetric=symmetric)
        ranges[name] = tuple(np.array(v, np.float32) for v in found)
    return ranges


def ranged(cache: Path) -> frozenset[str]:
    """Tensors that have a range in a calibration cache."""
    calibrate = require("onnxruntime.quantization.calibrate", extra="ort", purpose="calibrating")
    return frozenset(calibrate.load_tensors_data(cache).keys())
