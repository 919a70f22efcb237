"""Time series: arrays (time,) or (channels, time), brought to a model's own rate, length and layout."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import DataError, UsageError
from edgekd.lazy import require
from edgekd.spec import TensorSpec
from edgekd.tasks.classification import Classification
from edgekd.tasks.keys import check_keys
from edgekd.tasks.task import ModelIO

SERIES_KEYS = ("resample", "mean", "std", "length", "align", "layout")
SERIES_LAYOUTS = ("NT", "NCT", "NTC")
ALIGNS = ("start", "centre", "end")


class TimeSeries(Classification):
    """Series in, a class index out.

    A series (time,) or (channels, time) is resampled, normalised, cut or padded and laid out by the model's own
    ``prepare`` keys; a model without any is fed the array as it is. Forecasting is ``regression`` with the same keys.
    """

    prepare_keys: ClassVar[tuple[str, ...]] = SERIES_KEYS

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", "time-series")
        super().__post_init__()

    def _prepare_one(self, array: Array, spec: TensorSpec, model: ModelIO) -> Array:
        check_keys(model.prepare, SERIES_KEYS)
        return prepare_series(array, spec, model.prepare) if model.prepare else np.asarray(array)


def prepare_series(array: Array, spec: TensorSpec, keys: Mapping[str, Any]) -> Array:
    """A series as a model wants it, of its input's dtype, in this order: rate, scale, length, layout.

    Args:
        array: (time,) or (channels, time).
        keys: ``resample`` (new rate / old), ``mean`` and ``std`` (a number, or one per channel), ``length`` with
            ``align`` (which part is kept, where the series lies in the padding of zeros), ``layout``.

    Raises:
        DataError: no series of numbers; UsageError: a key of no known value, or that does not fit the series.
    """
    if array.dtype.kind not in "fiu" or array.ndim not in (1, 2) or 0 in array.shape:
        raise DataError(
            f"a series of shape {tuple(array.shape)} and dtype {array.dtype} cannot be prepared",
            "series are numbers, (time,) or (channels, time)",
        )
    channels = np.atleast_2d(array).astype(np.float32)
    if "resample" in keys:
        channels = resample(channels, _ratio(keys["resample"]))
    channels = _scale(channels, keys)
    if "length" in keys:
        length = keys["length"]
        if type(length) is not int or length < 1:
            raise UsageError(f"prepare.length {length!r} is not a length", "give a whole number from 1 on")
        channels = fit(channels, length, keys.get("align", "start"))
    layout = keys.get("layout", "NT" if array.ndim == 1 else "NCT")
    return lay_out(channels, layout).astype(spec.dtype if spec.dtype.startswith("float") else np.float32)


def resample(channels: Array, ratio: Fraction) -> Array:
    """(channels, time) at ``ratio`` times its rate, by a polyphase filter (:func:`scipy.signal.resample_poly`)."""
    if ratio == 1:
        return channels
    signal = require("scipy.signal", extra="data", purpose="resampling")
    return np.asarray(signal.resample_poly(channels, ratio.numerator, ratio.denominator, axis=-1), np.float32)


def fit(channels: Array, length: int, align: str) -> Array:
    """(channels, time) cut, or padded with zeros, to ``length``.

    >>> fit(np.asarray([[1, 2, 3]]), 5, "centre").tolist(), fit(np.asarray([[1, 2, 3]]), 1, "end").tolist()
    ([[0, 1, 2, 3, 0]], [[3]])

    Raises:
        UsageError: an alignment of no known name.
    """
    if align not in ALIGNS:
        raise UsageError(f"prepare.align {align!r} is not known", f"choose {', '.join(ALIGNS)}")
    time = channels.shape[-1]
    spare = abs(time - length)
    before = {"start": 0, "centre": spare // 2, "end": spare}[align]
    if time >= length:
        return channels[..., before : before + length]
    return np.pad(channels, ((0, 0), (before, spare - before)))


def lay_out(channels: Array, layout: Any) -> Array:
    """(channels, time) without a batch dimension, as ``NT`` (one channel), ``NCT`` or ``NTC``.

    Raises:
        UsageError: another layout, or several channels as ``NT``.
    """
    if layout not in SERIES_LAYOUTS:
        raise UsageError(f"prepare.layout {layout!r} is not known", f"choose {', '.join(SERIES_LAYOUTS)}")
    if layout == "NT":
        if len(channels) != 1:
            raise UsageError(
                f"prepare.layout NT has no place for {len(channels)} channels", "choose NCT or NTC"
            )
        return np.asarray(channels[0])
    return channels if layout == "NCT" else channels.T


def _ratio(value: Any) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < np.inf:
        raise UsageError(f"prepare.resample is {value!r}", "give the new rate over the old, for example 0.5")
    # 16000/44100 written with six digits is meant as 160/441.
    ratio = Fraction(value).limit_denominator(1000)
    if ratio == 0:
        raise UsageError(f"prepare.resample is {value!r}", "give a ratio of 1/1000 or more")
    return ratio


def _scale(channels: Array, keys: Mapping[str, Any]) -> Array:
    scaled = channels
    for key, apply in (("mean", np.subtract), ("std", np.divide)):
        if key not in keys:
            continue
        try:
            value = np.asarray(keys[key], np.float32)
        except (TypeError, ValueError) as e:
            raise UsageError(f"prepare.{key} {keys[key]!r} is no number ({e})", "give numbers") from e
        if value.ndim > 1 or (value.ndim == 1 and len(value) != len(channels)):
            raise UsageError(
                f"prepare.{key} has shape {value.shape} for a series of {len(channels)} channels",
                "give one number, or one per channel",
            )
        scaled = apply(scaled, value if value.ndim == 0 else value[:, None])
    return scaled
