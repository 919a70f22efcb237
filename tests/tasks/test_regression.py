"""Numbers in, numbers out: what a model answers, what it is compared with, and the metrics of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.errors import DataError, UsageError
from edgekd.evaluate.operations import decode_one
from edgekd.metrics import SUMS, metric_values
from edgekd.spec import TensorSpec
from edgekd.tasks import ModelIO, Prediction, check_scores
from edgekd.tasks.regression import Regression

sklearn = pytest.importorskip("sklearn.metrics")


def model(shape: tuple[int | str, ...] = ("n", 3), output: str = "", **prepare: Any) -> ModelIO:
    return ModelIO(
        role="student",
        inputs=(TensorSpec(name="x", dtype="float32", shape=shape),),
        outputs=(),
        prepare=prepare,
        output={"name": output} if output else {},
    )


def task(tmp_path: Path, metric: str = "mae", **arrays: Any) -> Regression:
    np.savez(tmp_path / "d.npz", **arrays)
    return Regression(data={"test": "d.npz"}, metric=metric, base=tmp_path)


def score(metric: str, truths: Any, answers: Any) -> Any:
    made = Regression(data={}, metric=metric)
    said = [Prediction(value=made.decode({"y": np.asarray(a)[None]}, model()).value) for a in answers]
    return check_scores(made.score(said, list(truths)), len(said))


@pytest.fixture
def numbers() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truths = rng.normal(5000, 1, 60)  # far from 0: careless sums would lose six digits
    return truths, (truths + rng.normal(0, 0.5, 60)).astype(np.float64)


def test_values_are_those_of_the_libraries(numbers: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = numbers
    stats = pytest.importorskip("scipy.stats")
    wanted = {
        "mae": sklearn.mean_absolute_error(y, p),
        "rmse": sklearn.root_mean_squared_error(y, p),
        "mape": sklearn.mean_absolute_percentage_error(y, p),
        "r2": sklearn.r2_score(y, p),
        "pearson": stats.pearsonr(y, p)[0],
    }
    for metric, value in wanted.items():
        scores = score(metric, y, p)
        assert scores.value == pytest.approx(value, rel=1e-12), metric
        assert scores.error is (metric in ("mae", "rmse", "mape"))
        assert scores.unit == {"mae": "label units", "rmse": "label units", "mape": "fraction"}.get(
            metric, ""
        )
        worst = int(np.argmax(np.abs(y - p)))
        assert scores.per_example.argmin() == worst, "the furthest answer is the least right"


@pytest.mark.parametrize("metric", ["mae", "rmse", "mape", "r2", "pearson"])
def test_weights_are_repeated_examples(metric: str, numbers: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = numbers
    counts = np.random.RandomState(0).multinomial(60, np.ones(60) / 60, size=3)
    values = metric_values(score(metric, y, p).aggregate, score(metric, y, p).statistics, counts)
    for row, value in zip(counts, values, strict=True):
        which = np.repeat(np.arange(60), row)
        assert value == pytest.approx(score(metric, y[which], p[which]).value, rel=1e-9)


def test_several_numbers_are_one_column(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    y, p = rng.normal(2, 1, (20, 3)), rng.normal(2, 1, (20, 3))
    assert score("mae", y, p).value == pytest.approx(sklearn.mean_absolute_error(y, p))
    assert score("rmse", y, p).value == pytest.approx(np.sqrt(((y - p) ** 2).mean()))
    assert score("r2", y, p).value == pytest.approx(sklearn.r2_score(y.ravel(), p.ravel()))
    assert score("mae", y, p).statistics[SUMS].shape == (20, 2)
    made = task(tmp_path, x=np.zeros((2, 3), np.float32), label=y[:2])
    assert [e.label.tolist() for e in made.examples("test")] == y[:2].tolist()


def test_one_number_is_a_number_and_several_are_text() -> None:
    made = Regression(data={})
    assert made.decode({"y": np.asarray([[0.1]], np.float32)}, model()).value == float(np.float32(0.1))
    assert made.decode({"y": np.asarray([2.5])}, model()).value == 2.5, (
        "an output (batch,) is one number each"
    )
    assert made.decode({"y": np.asarray([[[1.0], [2.0]]])}, model()).value == "[1.0, 2.0]"


def test_a_model_of_normalised_labels() -> None:
    made = Regression(data={})
    assert made.decode({"y": np.asarray([[2.0]])}, model(label_mean=10, label_std=0.5)).value == 11
    two = made.decode({"y": np.asarray([[2.0, 1.0]])}, model(label_mean=[10, 20], label_std=2))
    assert two.value == "[14.0, 22.0]"
    with pytest.raises(UsageError, match="label_mean and label_std do not fit 2 numbers"):
        made.decode({"y": np.asarray([[2.0, 1.0]])}, model(label_mean=[1, 2, 3]))


@pytest.mark.parametrize("value", [0, -0.5, float("nan"), float("inf"), None, [1, 0]])
@pytest.mark.parametrize("key", ["label_std", "std"])
def test_nothing_is_divided_by_or_multiplied_with_nothing(tmp_path: Path, key: str, value: Any) -> None:
    made = task(tmp_path, x=np.ones((1, 2), np.float32), label=[0.5])
    (example,) = made.examples("test")
    with pytest.raises(
        UsageError, match=rf"^prepare\.{key} is .*; expected (finite numbers|numbers above 0)$"
    ):
        made.prepare(example, model(("n", 2), **{key: value}))
    with pytest.raises(UsageError, match=rf"^prepare\.{key} is "):
        made.decode({"y": np.asarray([[2.0]])}, model(**{key: value}))
    with pytest.raises(UsageError, match=r"prepare\.label_mean is nan; expected finite numbers"):
        made.decode({"y": np.asarray([[2.0]])}, model(label_mean=float("nan")))


def test_a_model_without_keys_is_told_where_they_go(tmp_path: Path) -> None:
    made = task(tmp_path, x=np.ones((1, 2), np.float32), label=[0.5])
    (example,) = made.examples("test")
    with pytest.raises(DataError, match=r"the model wants .*; check .* --prepare ROLE:FILE"):
        made.prepare(example, model(("n", 3)))
    with pytest.raises(DataError, match=r"check the array's layout and size$"):
        made.prepare(example, model(("n", 3), mean=0))


def test_inputs_are_fed_as_they_are_or_normalised(tmp_path: Path) -> None:
    x = np.asarray([[1.0, 2.0, 4.0]], np.float32)
    made = task(tmp_path, x=x, label=[0.5])
    (example,) = made.examples("test")
    np.testing.assert_array_equal(made.prepare(example, model())["x"], x)
    got = made.prepare(example, model(mean=[1, 1, 2], std=2))["x"]
    assert (got.tolist(), got.dtype) == ([[0.0, 0.5, 1.0]], np.float32)
    series = made.prepare(example, model(("n", 1, 4), layout="NCT", length=4, align="end"))["x"]
    assert series.tolist() == [[[0.0, 1.0, 2.0, 4.0]]]
    with pytest.raises(UsageError, match=r"do not fit an array of shape \(3,\)"):
        made.prepare(example, model(mean=[1, 2]))
    with pytest.raises(UsageError, match="prepare key 'size' is not known; choose from resample"):
        made.prepare(example, model(size=3))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"y": np.asarray([[np.nan]])}, "output 'y' holds NaN"),
        ({"y": np.zeros((2, 1))}, r"has shape \(2, 1\) and dtype float64 per example"),
        ({"y": np.zeros((1, 0))}, "has shape"),
        ({"y": np.zeros(()), "z": np.zeros(1)}, "has 2 outputs"),
        ({"y": np.asarray([["a"]])}, "dtype <U1"),
    ],
)
def test_outputs_that_are_no_numbers(outputs: dict[str, np.ndarray], message: str) -> None:
    made = Regression(data={})
    with pytest.raises(DataError, match=message):
        decode_one(made, None, outputs, model())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "label",
    [
        "tall",
        float("nan"),
        float("inf"),
        "[1, 2",
        "",
        True,
        "true",
        "1_0.5",
        [1, True],
        "[true]",
        "null",
        "[" * 100_000,
    ],
    ids=lambda label: str(label)[:9],
)
def test_labels_that_are_no_numbers(tmp_path: Path, label: Any) -> None:
    (tmp_path / "d.jsonl").write_text(json.dumps({"x": [1.0], "label": label}) + "\n")
    made = Regression(data={"test": "d.jsonl"}, base=tmp_path)
    with pytest.raises(DataError, match="example 0 has the label"):
        list(made.examples("test"))


def test_labels_of_a_table(tmp_path: Path) -> None:
    rows = ("3", "3.75", '"[1, 2]"', "+1.31", ".5", " 1e-3", "-2.")
    (tmp_path / "d.csv").write_text("x,label\n" + "".join(f"1,{label}\n" for label in rows))
    made = Regression(data={"test": "d.csv"}, base=tmp_path)
    assert [np.asarray(e.label).tolist() for e in made.examples("test")] == [
        3.0, 3.75, [1.0, 2.0], 1.31, 0.5, 0.001, -2.0,
    ]  # fmt: skip


def test_boolean_labels_of_an_array_are_refused(tmp_path: Path) -> None:
    made = task(tmp_path, x=np.zeros((1, 3), np.float32), label=np.asarray([[True, False]]))
    with pytest.raises(DataError, match="example 0 has the label"):
        list(made.examples("test"))


@pytest.mark.parametrize(
    ("metric", "truths", "answers", "message"),
    [
        ("r2", [2, 2], [[1.0], [2.0]], "the labels are 2 throughout, so there is no r2; use the metric mae"),
        ("pearson", [1, 2], [[3.0], [3.0]], "the answers are 3 throughout"),
        ("pearson", [1, 1], [[3.0], [4.0]], "the labels are 1 throughout"),
        ("mape", [1, 0], [[3.0], [3.0]], "row 1 has a label of 0"),
        ("mae", [1, 2], [[3.0, 1.0], [3.0, 1.0]], "row 0: the model answers with 2 numbers, the label has 1"),
        ("mae", [[1, 1], [2, 1]], [[3.0], [3.0]], "row 0: the model answers with 1 numbers, the label has 2"),
        ("mae", [1, [2, 1]], [[3.0], [3.0, 1]], "row 1"),
    ],
)
def test_metrics_that_do_not_exist(metric: str, truths: Any, answers: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score(metric, truths, answers)


def test_unknown_metric_and_split() -> None:
    with pytest.raises(UsageError, match="metric 'top1' is not known for regression; choose mae, rmse"):
        Regression(data={}, metric="top1")
    with pytest.raises(UsageError, match="no data for 'test'"):
        list(Regression(data={}).examples("test"))
