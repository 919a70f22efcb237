"""Speech features against librosa 0.11.0, whose numbers stand here (htk=True, norm=None, Hann window)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgekd.errors import DataError, UsageError
from edgekd.tasks.features import log_mel, mel_filters, mfcc

pytest.importorskip("scipy.signal")
KEYS = {"n_mels": 20, "n_fft": 256, "hop": 128, "fmin": 20, "fmax": 4000}


@pytest.fixture
def sound() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(4000).astype(np.float32) * 0.1


def test_filters_are_librosas() -> None:
    filters = mel_filters(8000, 256, 20, 20.0, 4000.0)
    assert filters.sum() == pytest.approx(119.86724242433272)
    assert filters[3, 8:15].round(8).tolist() == [
        0.09891779, 0.45418076, 0.80944372, 0.84936952, 0.52446811, 0.19956671, 0.0,
    ]  # fmt: skip


def test_spectrogram_is_librosas(sound: np.ndarray) -> None:
    whole = log_mel(sound, 8000, KEYS)
    assert whole.shape == (20, 30)
    assert whole[[0, 5, 19], 2].tolist() == pytest.approx([0.71858490, 0.80924439, 2.85246992], abs=1e-4)
    assert whole.mean() == pytest.approx(1.47756088, abs=1e-4)
    centred = log_mel(sound, 8000, {**KEYS, "center": True})
    assert centred.shape == (20, 32)
    assert centred[[0, 5, 19], 2].tolist() == pytest.approx([0.00157471, 1.06681800, 2.39080715], abs=1e-4)
    assert centred[3, [0, -1]].tolist() == pytest.approx([2.27534914, 0.63762635], abs=1e-4)


def test_coefficients_are_librosas(sound: np.ndarray) -> None:
    got = mfcc(sound, 8000, KEYS)
    assert got.shape == (13, 30)
    assert got[[0, 1, 12], 2].tolist() == pytest.approx([6.11594009, -3.15867901, -0.00579464], abs=1e-4)
    assert mfcc(sound, 8000, {**KEYS, "n_mfcc": 4}).shape == (4, 30)


def test_a_tone_rings_in_its_band() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000)
    bands = log_mel(tone, 8000, {"n_mels": 40}).mean(axis=1)
    filters = mel_filters(8000, 256, 40, 20.0, 4000.0)
    assert bands.argmax() == filters[:, 1000 * 256 // 8000].argmax()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"n_mels": 0}, "prepare.n_mels is 0"),
        ({"n_fft": 25.6}, "prepare.n_fft is 25.6; expected a whole number above 0"),
        ({"fmax": 5000}, "fmin 20 and fmax 5000 are no band at 8000 Hz"),
        ({"fmin": 4000}, "are no band"),
        ({"fmin": -1}, "prepare.fmin is -1; expected a number from 0"),
        ({"n_mels": 200}, "200 mel bands from 20 to 4000 Hz are too narrow for a transform of 256"),
        ({"center": 1}, "prepare.center is 1"),
        ({"hop": True}, "prepare.hop is True"),
    ],
)
def test_keys_that_do_not_fit(sound: np.ndarray, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        log_mel(sound, 8000, keys)


def test_too_many_coefficients_and_too_short_a_recording(sound: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"prepare\.n_mfcc is 30, of 20 mel bands"):
        mfcc(sound, 8000, {"n_mels": 20, "n_mfcc": 30})
    with pytest.raises(DataError, match="of 200 samples is shorter than one window of 256"):
        log_mel(sound[:200], 8000, {})
