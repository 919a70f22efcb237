"""Recordings at a model's own rate, length and features; teacher and student may want different ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgekd.data.example import Example
from edgekd.errors import DataError, UsageError
from edgekd.spec import TensorSpec
from edgekd.tasks import ModelIO
from edgekd.tasks.keywords import KeywordSpotting, prepare_recording

pytest.importorskip("scipy.signal")
TASK = KeywordSpotting(data={})


def recording(samples: np.ndarray, rate: int | None = 8000, **more: Any) -> Example:
    inputs = {"audio": samples, **more}
    return Example(
        id="a", inputs=inputs | ({} if rate is None else {"sample_rate": np.asarray(rate)}), label=0
    )


def model(*shape: int | str, **prepare: Any) -> ModelIO:
    spec = TensorSpec(name="x", dtype="float32", shape=("n", *shape))
    return ModelIO(role="student", inputs=(spec,), outputs=(), prepare=prepare)


def test_whole_numbers_become_fractions_of_their_range() -> None:
    for dtype, values, wanted in (
        (np.int16, [-32768, 0, 16384], [-1, 0, 0.5]),
        (np.int32, [-(2**31), 0, 2**30], [-1, 0, 0.5]),
        (np.uint8, [0, 128, 192], [-1, 0, 0.5]),
        (np.float64, [-1, 0, 0.5], [-1, 0, 0.5]),
    ):
        got = prepare_recording(np.asarray(values, dtype), None, {"layout": "NT"})
        assert (got.tolist(), got.dtype) == (wanted, np.float32)


def test_the_centre_is_kept_or_padded_with_silence() -> None:
    samples = np.arange(1.0, 9.0)
    assert prepare_recording(samples, 4, {"duration_s": 1}).tolist() == [3, 4, 5, 6]
    assert prepare_recording(samples[:2], 4, {"duration_s": 1, "layout": "NCT"}).tolist() == [[0, 1, 2, 0]]
    assert prepare_recording(samples[:2], 4, {"duration_s": 1, "mean": 1, "std": 2}).tolist() == [
        -0.5,
        0,
        0.5,
        -0.5,
    ]


def test_resampled_to_the_models_rate() -> None:
    wave = np.sin(2 * np.pi * 50 * np.arange(8000) / 8000)
    got = prepare_recording(wave, 8000, {"sample_rate": 16000})
    assert got.shape == (16000,)
    np.testing.assert_allclose(got[::2][50:-50], wave[50:-50], atol=2e-3)
    assert prepare_recording(wave, 8000, {"sample_rate": 8000}).tolist() == wave.astype(np.float32).tolist()


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("NFT", (40, 61)),
        ("NTF", (61, 40)),
        ("NCFT", (1, 40, 61)),
        ("NCTF", (1, 61, 40)),
        ("NTFC", (61, 40, 1)),
    ],
)
def test_layouts_of_features(layout: str, shape: tuple[int, ...]) -> None:
    samples = np.random.default_rng(0).standard_normal(7936)
    table = prepare_recording(samples, 8000, {"features": "log-mel"})
    got = prepare_recording(samples, 8000, {"features": "log-mel", "layout": layout})
    assert got.shape == shape
    turned = table.T if layout in ("NTF", "NCTF", "NTFC") else table
    np.testing.assert_array_equal(got.reshape(turned.shape), turned)
    scaled = prepare_recording(samples, 8000, {"features": "log-mel", "mean": [1.0] * 40, "std": 2})
    np.testing.assert_allclose(scaled, (table - 1) / 2, rtol=1e-6)


def test_teacher_and_student_take_their_own() -> None:
    example = recording(np.ones(8000, np.int16))
    assert TASK.prepare(example, model(40, 61, features="log-mel", duration_s=1.0))["x"].shape == (1, 40, 61)
    assert TASK.prepare(example, model(1, 13, 31, features="mfcc", hop=256, layout="NCFT"))["x"].shape == (
        1,
        1,
        13,
        31,
    )
    assert TASK.prepare(example, model(16000, sample_rate=16000))["x"].shape == (1, 16000)
    plain = ModelIO(
        role="teacher", inputs=(TensorSpec(name="x", dtype="int16", shape=("n", "t")),), outputs=()
    )
    assert TASK.prepare(example, plain)["x"].dtype == np.int16, "without keys as it is"
    named = recording(np.ones(4000, np.int16), **{"student.audio": np.ones(8000, np.int16)})
    assert TASK.prepare(named, model("t", layout="NT"))["x"].shape == (1, 8000), (
        "an array of the student's own"
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"window": 3}, "prepare key 'window' is not known; choose from sample_rate, duration_s"),
        ({"sample_rate": 16e3}, "prepare.sample_rate is 16000.0; give a whole number of Hz"),
        ({"duration_s": 0}, "prepare.duration_s is 0"),
        ({"duration_s": "1"}, "prepare.duration_s is '1'"),
        ({"features": "mel"}, "prepare.features 'mel' is not known; choose none, log-mel, mfcc"),
        ({"std": 0}, "prepare.std is 0; expected numbers above 0"),
        ({"std": float("nan")}, "prepare.std is nan"),
        ({"n_mels": 40}, "prepare.n_mels has no meaning without features"),
        ({"layout": "NFT"}, "prepare.layout 'NFT' is not known; choose NT, NCT, NTC"),
        ({"features": "log-mel", "layout": "NT"}, "prepare.layout 'NT' is not known; choose NFT"),
        ({"features": "log-mel", "mean": [1, 2]}, "do not fit 40 rows of features"),
    ],
)
def test_keys_that_do_not_fit(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TASK.prepare(recording(np.ones(8000, np.int16)), model("t", **keys))


def test_a_rate_that_is_needed_and_not_there() -> None:
    bare = recording(np.ones(8000, np.int16), None)
    for keys in ({"duration_s": 1}, {"features": "mfcc"}, {"sample_rate": 8000}):
        with pytest.raises(DataError, match="does not say its sample rate; add an array `sample_rate`"):
            TASK.prepare(bare, model("t", **keys))
    with pytest.raises(DataError, match="example a: sample_rate is array"):
        TASK.prepare(recording(np.ones(3), 0), model("t", layout="NT"))


@pytest.mark.parametrize("samples", [np.ones((8, 2)), np.asarray(["a"])])
def test_arrays_that_are_no_recording(samples: np.ndarray) -> None:
    with pytest.raises(DataError, match="mix others down"):
        TASK.prepare(recording(samples), model("t", layout="NT"))


def test_an_empty_recording_is_said_to_be_empty() -> None:
    with pytest.raises(DataError, match="the recording is empty; mend or drop it"):
        TASK.prepare(recording(np.zeros(0, np.int16)), model("t", layout="NT"))
