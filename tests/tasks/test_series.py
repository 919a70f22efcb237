"""Series at a model's own rate, length and layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgekd.data.example import Example
from edgekd.errors import DataError, UsageError
from edgekd.spec import TensorSpec
from edgekd.tasks import ModelIO
from edgekd.tasks.series import TimeSeries, prepare_series

TWO = np.asarray([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])


def spec(*shape: int | str) -> TensorSpec:
    return TensorSpec(name="x", dtype="float32", shape=shape or ("n", "c", "t"))


def prepared(array: np.ndarray, **keys: Any) -> Any:
    return prepare_series(array, spec(), keys).tolist()


def test_layouts() -> None:
    assert prepared(TWO[0], layout="NT") == [1, 2, 3, 4]
    assert prepared(TWO[0], std=1) == [1, 2, 3, 4], "one channel stays as it is"
    assert prepared(TWO[0], layout="NCT") == [[1, 2, 3, 4]]
    assert prepared(TWO[0], layout="NTC") == [[1], [2], [3], [4]]
    assert prepared(TWO, layout="NTC") == [[1, 10], [2, 20], [3, 30], [4, 40]]
    assert prepared(TWO, std=1) == TWO.tolist()


def test_padding_comes_after_the_scale() -> None:
    got = prepared(TWO, mean=[1, 10], std=[1, 10], length=6, align="centre")
    assert got == [[0, 0, 1, 2, 3, 0]] * 2, "zeros are the mean"
    assert prepared(TWO[0], length=3) == [1, 2, 3]
    assert prepared(TWO[0], length=3, align="end") == [2, 3, 4]
    assert prepared(TWO[0], length=5) == [1, 2, 3, 4, 0]
    assert prepared(TWO[0], length=4) == [1, 2, 3, 4]


def test_resampling_keeps_a_slow_wave() -> None:
    t = np.arange(400) / 400
    wave = np.sin(2 * np.pi * 3 * t)
    half = prepare_series(wave, spec(), {"resample": 0.5})
    assert half.shape == (200,)
    np.testing.assert_allclose(half[10:-10], wave[::2][10:-10], atol=1e-3)
    assert prepare_series(wave, spec(), {"resample": 16000 / 44100}).shape == (146,)


def test_a_models_own_keys_decide() -> None:
    task = TimeSeries(data={})
    assert (task.kind, task.metric) == ("time-series", "top1")
    example = Example(id="a", inputs={"x": TWO.astype(np.float32)}, label=1)
    plain = ModelIO(role="teacher", inputs=(spec("n", 2, 4),), outputs=())
    np.testing.assert_array_equal(task.prepare(example, plain)["x"], TWO[None])
    other = ModelIO(
        role="student", inputs=(spec("n", 3, 2),), outputs=(), prepare={"length": 3, "layout": "NTC"}
    )
    assert task.prepare(example, other)["x"].tolist() == [[[1, 10], [2, 20], [3, 30]]]
    wrong = ModelIO(role="student", inputs=(spec("n", 3, 2),), outputs=(), prepare={"size": 3})
    with pytest.raises(UsageError, match="prepare key 'size' is not known; choose from resample, mean"):
        task.prepare(example, wrong)
    with pytest.raises(
        DataError, match=r"example a: input 'x' has shape \(1, 2, 4\), the model wants \(n,3,2\)"
    ):
        task.prepare(example, ModelIO(role="student", inputs=(spec("n", 3, 2),), outputs=()))
    with pytest.raises(UsageError, match="metric 'mae' is not known for time-series"):
        TimeSeries(data={}, metric="mae")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"layout": "NHWC"}, "prepare.layout 'NHWC' is not known; choose NT, NCT, NTC"),
        ({"layout": "NT"}, "NT has no place for 2 channels"),
        ({"length": 0}, "prepare.length 0 is not a length"),
        ({"length": 2.5}, "prepare.length 2.5"),
        ({"length": 2, "align": "middle"}, "prepare.align 'middle' is not known"),
        ({"mean": [1, 2, 3]}, r"prepare.mean has shape \(3,\) for a series of 2 channels"),
        ({"std": "wide"}, "prepare.std 'wide' is no number"),
        ({"std": 0}, "prepare.std is 0; expected numbers above 0"),
        ({"std": [1, -1]}, r"prepare.std is \[1, -1\]; expected numbers above 0"),
        ({"std": float("nan")}, "prepare.std is nan; expected finite numbers"),
        ({"mean": float("inf")}, "prepare.mean is inf; expected finite numbers"),
        ({"resample": 0}, "prepare.resample is 0"),
        ({"resample": True}, "prepare.resample is True"),
        ({"resample": 1e-9}, "1/1000 or more"),
    ],
)
def test_keys_that_do_not_fit(keys: dict[str, Any], message: str) -> None:
    example = Example(id="a", inputs={"x": TWO}, label=1)
    with pytest.raises(UsageError, match=message):
        TimeSeries(data={}).prepare(
            example, ModelIO(role="student", inputs=(spec(),), outputs=(), prepare=keys)
        )


@pytest.mark.parametrize("array", [np.zeros((2, 2, 2)), np.zeros(0), np.asarray(["a"]), np.asarray(1.0)])
def test_arrays_that_are_no_series(array: np.ndarray) -> None:
    with pytest.raises(DataError, match="cannot be prepared"):
        prepare_series(array, spec(), {"length": 3})
