"""Log-mel spectrograms and cepstral coefficients of speech.

Windows, resampling and the cosine transform are scipy's. The filter bank is written here: the libraries that have one
bring numba or torch with them, which is much for thirty lines. Tests hold it to librosa's numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import DataError, UsageError
from edgekd.lazy import require

FEATURES = ("none", "log-mel", "mfcc")
FEATURE_KEYS = ("n_mels", "n_fft", "hop", "fmin", "fmax", "n_mfcc", "center", "log_offset")


def hz_to_mel(hz: Array | float) -> Array:
    """The mel scale of the HTK book (Young et al. 2006, version 3.4, equation 5.13).

    >>> round(float(hz_to_mel(1000.0)), 2)
    999.99
    """
    return np.asarray(2595.0 * np.log10(1.0 + np.asarray(hz, np.float64) / 700.0))


def _mel_to_hz(mel: Array) -> Array:
    return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0))


@lru_cache(maxsize=8)
def mel_filters(rate: int, n_fft: int, n_mels: int, fmin: float, fmax: float) -> Array:
    """Triangles with a peak of 1, evenly spaced in mel, float64 (n_mels, n_fft // 2 + 1), read-only.

    HTK book, section 5.6; the same as librosa's ``filters.mel(htk=True, norm=None)``.

    Raises:
        UsageError: a band so narrow that it holds no frequency of the transform.
    """
    edges = _mel_to_hz(np.linspace(hz_to_mel(fmin), hz_to_mel(fmax), n_mels + 2))
    frequencies = np.arange(n_fft // 2 + 1) * (rate / n_fft)
    rising = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    filters: Array = np.maximum(0.0, np.minimum(rising, falling))
    if not filters.any(axis=1).all():
        raise UsageError(
            f"{n_mels} mel bands from {fmin:g} to {fmax:g} Hz are too narrow for a transform of {n_fft} samples "
            f"at {rate} Hz",
            "raise prepare.n_fft or fmin, or lower n_mels",
        )
    filters.flags.writeable = False
    return filters


def log_mel(sound: Array, rate: int, keys: Mapping[str, Any]) -> Array:
    """Natural logarithm of the mel power spectrum, float32 (n_mels, frames).

    Args:
        sound: float32 (time,), at ``rate`` Hz.
        keys: ``n_mels`` (40), ``n_fft`` (window and transform, samples; 32 ms), ``hop`` (samples; half of ``n_fft``),
            ``fmin`` (20 Hz), ``fmax`` (half the rate), ``center`` (false: whole frames only; true: the ends are
            mirrored, so that frame i is centred on sample i * hop), ``log_offset`` (1e-6, added to the power).

    Raises:
        UsageError: a key that holds no such number; DataError: a recording shorter than one window.
    """
    n_fft = int(_positive(keys, "n_fft", round(rate * 0.032), whole=True))
    hop = int(_positive(keys, "hop", max(1, n_fft // 2), whole=True))
    n_mels = int(_positive(keys, "n_mels", 40, whole=True))
    fmin = _positive(keys, "fmin", 20.0, zero=True)
    fmax = _positive(keys, "fmax", rate / 2)
    if not fmin < fmax <= rate / 2:
        raise UsageError(
            f"prepare's fmin {fmin:g} and fmax {fmax:g} are no band at {rate} Hz",
            f"give fmin < fmax <= {rate / 2:g}",
        )
    offset = _positive(keys, "log_offset", 1e-6)
    center = keys.get("center", False)
    if not isinstance(center, bool):
        raise UsageError(f"prepare.center is {center!r}", "expected true or false")
    if len(sound) < (n_fft // 2 + 1 if center else n_fft):
        raise DataError(
            f"a recording of {len(sound)} samples is shorter than one window of {n_fft}",
            "pad it: prepare.duration_s",
        )
    samples = np.asarray(sound, np.float64)
    if center:
        samples = np.pad(samples, n_fft // 2, mode="reflect")
    window = require("scipy.signal", extra="data", purpose="speech features").get_window("hann", n_fft)
    frames = np.lib.stride_tricks.sliding_window_view(samples, n_fft)[::hop]
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2
    mel = power @ mel_filters(rate, n_fft, n_mels, fmin, fmax).T
    return np.log(mel + offset).T.astype(np.float32)


def mfcc(sound: Array, rate: int, keys: Mapping[str, Any]) -> Array:
    """The first ``n_mfcc`` (13) coefficients of the orthonormal DCT-II of :func:`log_mel`, float32 (n_mfcc, frames).

    Raises:
        UsageError, DataError: as :func:`log_mel`.
    """
    table = log_mel(sound, rate, keys)
    count = int(_positive(keys, "n_mfcc", min(13, len(table)), whole=True))
    if count > len(table):
        raise UsageError(
            f"prepare.n_mfcc is {count}, of {len(table)} mel bands", "give at most as many as n_mels"
        )
    fft = require("scipy.fft", extra="data", purpose="speech features")
    return np.asarray(fft.dct(table, type=2, axis=0, norm="ortho")[:count], np.float32)


def _positive(
    keys: Mapping[str, Any], name: str, default: float, *, whole: bool = False, zero: bool = False
) -> float:
    value = keys.get(name, default)
    fits = not isinstance(value, bool) and isinstance(value, int if whole else (int, float))
    if not fits or not (value >= 0 if zero else value > 0) or value == np.inf:
        noun = "a whole number" if whole else "a number"
        raise UsageError(f"prepare.{name} is {value!r}", f"expected {noun} {'from' if zero else 'above'} 0")
    return float(value)
