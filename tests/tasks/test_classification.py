"""Classification: binding, preparing, decoding and scoring."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.data import Example
from edgekd.errors import DataError, UsageError
from edgekd.spec import TensorSpec
from edgekd.tasks import ModelIO, Prediction, check_scores
from edgekd.tasks.classification import Classification, ImageClassification, answer_of, bind_inputs

A, B, C = (np.full(2, v, np.float32) for v in (1, 2, 3))


def io(
    *names: str,
    role: str = "student",
    prepare: Mapping[str, Any] | None = None,
    output: Mapping[str, str] | None = None,
    rename: Mapping[str, str] | None = None,
    shape: tuple[int | str, ...] = ("N", 2),
    dtype: str = "float32",
) -> ModelIO:
    return ModelIO(
        role=role,
        inputs=tuple(TensorSpec(name=n, dtype=dtype, shape=shape) for n in names or ("image",)),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=("N", 10)),),
        prepare=prepare or {},
        output=output or {},
        rename=rename or {},
    )


def example(**inputs: np.ndarray) -> Example:
    return Example(id="7", inputs={n.replace("__", "."): a for n, a in inputs.items()}, label=0)


def classification(metric: str = "top1") -> Classification:
    return Classification(data={}, metric=metric)


def logits(*values: float) -> np.ndarray:
    return np.asarray([values], np.float32)


class TestBind:
    def test_by_name(self) -> None:
        bound = bind_inputs(example(b=B, a=A, unused=C), io("a", "b"))
        assert bound["a"] is A
        assert bound["b"] is B

    def test_a_single_array_binds_by_position(self) -> None:
        assert bind_inputs(example(image=A), io("input.1"))["input.1"] is A

    def test_by_role(self) -> None:
        row = example(teacher__x=A, student__x=B)
        assert bind_inputs(row, io("x", role="teacher"))["x"] is A
        assert bind_inputs(row, io("x", role="student"))["x"] is B

    def test_the_role_wins_over_the_plain_name(self) -> None:
        row = example(x=A, student__x=B)
        assert bind_inputs(row, io("x", role="student"))["x"] is B
        assert bind_inputs(row, io("x", role="teacher"))["x"] is A

    def test_the_roles_single_array_binds_by_position(self) -> None:
        row = example(teacher__large=A, student__small=B)
        assert bind_inputs(row, io("in", role="teacher"))["in"] is A
        assert bind_inputs(row, io("in", role="student"))["in"] is B

    def test_renamed(self) -> None:
        row = example(x=A, y=B)
        assert bind_inputs(row, io("x", rename={"x": "y"}))["x"] is B

    def test_a_rename_that_leads_nowhere_is_refused(self) -> None:
        """Not silently bound to another array of the input's own name."""
        with pytest.raises(
            DataError, match=r"input 'x' is mapped to 'typo', which the data does not have \(arrays: x"
        ):
            bind_inputs(example(x=A), io("x", rename={"x": "typo"}))

    @pytest.mark.parametrize(
        ("row", "model"),
        [
            (example(a=A, c=C), io("a", "b")),
            (example(p=A, q=B), io("x")),
            (example(), io("x")),
            (example(student__p=A, student__q=B), io("x")),
            (example(teacher__p=A), io("x", role="student")),
        ],
    )
    def test_nothing_to_bind(self, row: Example, model: ModelIO) -> None:
        with pytest.raises(
            DataError, match=r"the data has no array for the student's input '(b|x)' .*--map student:"
        ):
            bind_inputs(row, model)

    @pytest.mark.parametrize("dtype", ["int32", "uint8", "float32", "float16"])
    def test_whole_numbers_of_a_table_become_what_the_input_wants(self, dtype: str) -> None:
        row = example(x=np.asarray([3, 200], np.int64))
        bound = bind_inputs(row, io("x", dtype=dtype))["x"]
        assert bound.dtype == dtype
        assert bound.tolist() == [3, 200]

    @pytest.mark.parametrize(
        ("array", "dtype"),
        [
            (np.asarray([2**24 + 1]), "float32"),
            (np.asarray([-1]), "uint8"),
            (np.asarray([2**31]), "int32"),
            (np.zeros((2, 2, 3), np.int64), "float32"),
            (np.asarray([1, 2], np.int16), "float32"),
            (np.asarray([1.0, 2.0]), "int64"),
        ],
    )
    def test_what_would_lose_something_stays_to_be_refused(self, array: np.ndarray, dtype: str) -> None:
        assert bind_inputs(example(x=array), io("x", dtype=dtype))["x"] is array


class TestPrepare:
    def test_arrays_get_a_batch_dimension(self) -> None:
        feeds = classification().prepare(example(x=A), io("x"))
        assert feeds["x"].tolist() == [[1, 1]]
        assert feeds["x"].dtype == np.float32

    def test_what_the_model_cannot_take_is_refused(self) -> None:
        with pytest.raises(
            DataError, match=r"example 7: input 'x' has shape \(1, 2\), the model wants \(N,3\)"
        ):
            classification().prepare(example(x=A), io("x", shape=("N", 3)))
        with pytest.raises(DataError, match="example 7: input 'x' has dtype float64"):
            classification().prepare(example(x=A.astype(np.float64)), io("x"))


PIXELS = np.asarray([[[10, 20, 30], [40, 50, 60]]], np.uint8)  # height 1, width 2, 3 channels
PREPARE = {"scale": 10, "mean": [1.0, 2.0, 3.0], "std": [1.0, 2.0, 4.0]}


class TestImages:
    def prepare(self, image: np.ndarray, shape: tuple[int | str, ...], **keys: Any) -> np.ndarray:
        model = io("image", prepare=keys, shape=shape, dtype=keys.pop("dtype", "float32"))
        return ImageClassification(data={}).prepare(example(image=image), model)["image"]

    def test_by_hand(self) -> None:
        """(pixel / 10 - mean) / std, channels first."""
        made = self.prepare(PIXELS, ("N", 3, 1, 2), **PREPARE)
        assert made.dtype == np.float32
        assert made.flags.c_contiguous
        np.testing.assert_allclose(made, [[[[0, 3]], [[0, 1.5]], [[0, 0.75]]]])

    def test_channels_last(self) -> None:
        made = self.prepare(PIXELS, ("N", 1, 2, 3), **PREPARE, layout="NHWC")
        np.testing.assert_allclose(made, [[[[0, 0, 0], [3, 1.5, 0.75]]]])

    def test_no_keys_only_converts(self) -> None:
        np.testing.assert_array_equal(self.prepare(PIXELS, ("N", 3, 1, 2))[0, :, 0, 1], [40, 50, 60])

    def test_half_precision_models(self) -> None:
        assert self.prepare(PIXELS, ("N", 3, 1, 2), scale=255, dtype="float16").dtype == np.float16

    def test_integer_models_get_the_pixels(self) -> None:
        made = self.prepare(PIXELS, ("N", 1, 2, 3), dtype="uint8", **PREPARE)
        np.testing.assert_array_equal(made[0], PIXELS)

    def test_arrays_that_are_prepared_already_are_fed_as_they_are(self) -> None:
        ready = np.full((3, 1, 2), 0.25, np.float32)
        np.testing.assert_array_equal(self.prepare(ready, ("N", 3, 1, 2), **PREPARE)[0], ready)

    @pytest.mark.parametrize("size", [4, [4, 4], (4, 4)])
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_resize(self, size: object, channels: int) -> None:
        pytest.importorskip("PIL")
        image = np.full((8, 6, channels), 200, np.uint8)
        made = self.prepare(image, ("N", channels, 4, 4), size=size)
        assert made.shape == (1, channels, 4, 4)
        assert (made == 200).all()

    def test_resize_is_height_then_width(self) -> None:
        pytest.importorskip("PIL")
        assert self.prepare(np.zeros((8, 8, 3), np.uint8), ("N", 3, 2, 5), size=[2, 5]).shape == (1, 3, 2, 5)

    def test_the_right_size_is_not_touched(self) -> None:
        np.testing.assert_array_equal(
            self.prepare(PIXELS, ("N", 3, 1, 2), size=[1, 2])[0, :, 0, 0], [10, 20, 30]
        )

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ({"meen": 1}, "prepare key 'meen' is not known; choose from scale, mean, std, layout, size"),
            ({"layout": "NCWH"}, "prepare.layout 'NCWH' is not known; choose NCHW or NHWC"),
            ({"size": "32"}, "prepare.size '32' is not a size"),
            ({"size": [32]}, "prepare.size"),
            ({"size": 0}, "prepare.size 0 is not a size"),
            ({"size": [1.5, 2]}, "prepare.size"),
            ({"mean": [1, 2]}, r"scale, mean and std do not fit an image of shape \(1, 2, 3\)"),
            ({"std": [1, 0, 1]}, r"prepare\.std is \[1, 0, 1\]; expected numbers above 0"),
            ({"std": float("nan")}, r"prepare\.std is nan; expected finite numbers"),
            ({"scale": 0}, r"prepare\.scale is 0; expected numbers above 0"),
            ({"std": "one"}, "scale, mean and std do not fit"),
            ({"scale": [1, 2]}, "scale, mean and std do not fit"),
        ],
    )
    def test_wrong_keys(self, keys: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            self.prepare(PIXELS, ("N", 3, 1, 2), **keys)

    def test_channels_first_pixels_are_refused(self) -> None:
        with pytest.raises(UsageError, match=r"images are \(height, width, channels\)"):
            self.prepare(np.zeros((3, 1, 2), np.uint8), ("N", 3, 1, 2), **PREPARE)
        with pytest.raises(DataError, match="cannot be resized"):
            self.prepare(np.zeros((3, 9, 9), np.uint8), ("N", 3, 8, 8), size=8)


class TestDecode:
    def test_logits(self) -> None:
        made = classification().decode({"logits": logits(1, 3, 2)}, io())
        assert (made.value, type(made.value)) == (1, int)
        assert made.logits is not None
        assert made.logits.dtype == np.float32
        assert made.logits.tolist() == [1, 3, 2]

    def test_probabilities_become_logarithms(self) -> None:
        made = answer_of({"p": logits(0.25, 0.75, 0)}, io(output={"name": "p", "kind": "probs"}))
        np.testing.assert_allclose(np.exp(made), [0.25, 0.75, 1e-12], rtol=1e-5)

    def test_the_named_output_is_taken(self) -> None:
        outputs = {"aux": logits(9, 0), "main": logits(0, 1)}
        assert classification().decode(outputs, io(output={"name": "main", "kind": "logits"})).value == 1

    def test_trailing_dimensions_of_one(self) -> None:
        assert answer_of({"x": np.zeros((1, 4, 1, 1), np.float32)}, io()).shape == (4,)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, bad: float) -> None:
        with pytest.raises(DataError, match="the student's output 'logits' holds NaN or infinite values"):
            answer_of({"logits": logits(0, bad, 1)}, io())

    @pytest.mark.parametrize("shape", [(3,), (1, 4, 4), (2, 3), (1, 3, 8, 8), (), (1, 0)])
    def test_shapes_that_are_no_classes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(DataError, match=r"has shape .* classification compares|one class only"):
            answer_of({"logits": np.zeros(shape, np.float32)}, io())

    def test_one_class(self) -> None:
        with pytest.raises(DataError, match="has one class only; classification needs two or more"):
            answer_of({"logits": logits(1)}, io())

    def test_several_outputs_and_none_chosen(self) -> None:
        with pytest.raises(DataError, match=r"the teacher has 2 outputs \(a, b\); choose one: --output NAME"):
            answer_of({"a": logits(1, 2), "b": logits(1, 2)}, io(role="teacher"))

    def test_an_output_that_is_not_there(self) -> None:
        with pytest.raises(DataError, match="the student has no output 'probs'; its outputs are logits"):
            answer_of({"logits": logits(1, 2)}, io(output={"name": "probs"}))

    @pytest.mark.parametrize("values", [(-3.0, 1.0, 0.5), (0.2, 7.0, 0.1)])
    def test_logits_called_probabilities_are_refused(self, values: tuple[float, ...]) -> None:
        """Their logarithm would tie all negative classes and change the answer."""
        with pytest.raises(DataError, match="which are not probabilities; say --output x:logits"):
            answer_of({"x": logits(*values)}, io(output={"name": "x", "kind": "probs"}))


def predictions(*rows: tuple[float, ...]) -> list[Prediction]:
    return [classification().decode({"x": logits(*r)}, io()) for r in rows]


class TestScore:
    def test_top1(self) -> None:
        scores = classification().score(predictions((0, 1), (0, 1), (3, 2)), [1, 0, np.int64(0)])
        assert scores.dtype == np.float64
        assert scores.tolist() == [1, 0, 1]

    def test_top5(self) -> None:
        row = (5.0, 4.0, 3.0, 2.0, 1.0, 0.0, -1.0)
        scores = classification("top5").score(predictions(*[row] * 7), list(range(7)))
        assert scores.tolist() == [1, 1, 1, 1, 1, 0, 0]

    @pytest.mark.parametrize("metric", ["f1", "macro_f1", "balanced_accuracy", "mcc"])
    def test_value_by_the_library_is_what_the_statistics_make(self, metric: str) -> None:
        """check_scores compares both; the value itself against scikit-learn's own words for it."""
        sklearn = pytest.importorskip("sklearn.metrics")
        rng = np.random.default_rng(5)
        labels = rng.integers(0, 2, 60)
        said = predictions(*rng.standard_normal((60, 2)).tolist())
        found = check_scores(classification(metric).score(said, labels.tolist()), 60)
        answers = [p.value for p in said]
        report = sklearn.classification_report(labels, answers, output_dict=True)
        expected = {
            "f1": report["1"]["f1-score"],
            "macro_f1": report["macro avg"]["f1-score"],
            "balanced_accuracy": report["macro avg"]["recall"],
            "mcc": float(np.corrcoef(labels, answers)[0, 1]),
        }
        assert found.value == pytest.approx(expected[metric])
        assert found.unit == ("" if metric == "mcc" else "fraction")  # a correlation is no percentage
        assert found.per_example.tolist() == (labels == np.asarray(answers)).astype(float).tolist()

    @pytest.mark.parametrize("metric", ["macro_f1", "balanced_accuracy"])
    def test_an_answer_that_is_nobodys_label(self, metric: str) -> None:
        pytest.importorskip("sklearn")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scored = classification(metric).score(predictions((1, 0, 0), (0, 0, 1), (0, 1, 0)), [0, 1, 1])
        assert check_scores(scored, 3).value == pytest.approx(
            {"macro_f1": 5 / 9, "balanced_accuracy": 0.75}[metric]
        )

    def test_metrics_that_do_not_exist_for_these_labels_or_answers(self) -> None:
        pytest.importorskip("sklearn")
        two = predictions((0, 1), (1, 0))
        with pytest.raises(
            DataError, match="all 2 labels are 1: balanced_accuracy does not exist for one class"
        ):
            classification("balanced_accuracy").score(two, [1, 1])
        with pytest.raises(DataError, match="all 2 answers are 1: mcc does not exist for constant answers"):
            classification("mcc").score(predictions((0, 1), (0, 1)), [0, 1])
        with pytest.raises(DataError, match="f1 is a metric of two classes, the model has 3; use macro_f1"):
            classification("f1").score(predictions((0, 1, 2), (1, 0, 0)), [0, 1])

    def test_top5_ties_go_to_the_first(self) -> None:
        scores = classification("top5").score(predictions(*[(0.0,) * 7] * 7), list(range(7)))
        assert scores.tolist() == [1, 1, 1, 1, 1, 0, 0]

    def test_top5_of_five_classes_would_pass_anything(self) -> None:
        with pytest.raises(
            DataError, match="top5 of a model with 5 classes is always right; use the metric top1"
        ):
            classification("top5").score(predictions((1, 2, 3, 4, 5)), [0])

    @pytest.mark.parametrize("label", [2, -1, 10**9])
    def test_labels_out_of_range(self, label: int) -> None:
        with pytest.raises(
            DataError, match=rf"row 1 has the label {label}, the model has 2 classes \(0..1\)"
        ):
            classification().score(predictions((0, 1), (0, 1)), [0, label])

    @pytest.mark.parametrize("label", [1.0, "1", None, True, np.float32(1), np.bool_(True), np.zeros(2)])
    def test_labels_that_are_no_classes(self, label: object) -> None:
        with pytest.raises(DataError, match=r"row 0 has the label .*needs whole numbers from 0"):
            classification().score(predictions((0, 1)), [label])

    def test_predictions_without_scores(self) -> None:
        with pytest.raises(DataError, match="row 0 has no class scores"):
            classification().score([Prediction(value=1)], [1])

    def test_as_many_labels_as_predictions(self) -> None:
        with pytest.raises(ValueError, match="shorter"):
            classification().score(predictions((0, 1), (0, 1)), [0])


def test_metric_and_split_that_are_not_known(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match="metric 'bleu' is not known for classification; choose from top1, top5, f1, macro_f1",
    ):
        classification("bleu")
    with pytest.raises(UsageError, match="not known for image-classification"):
        ImageClassification(data={}, metric="bleu")
    np.savez(tmp_path / "d.npz", x=np.zeros((3, 2)), label=np.arange(3))
    task = Classification(data={"test": "d.npz#1:"}, base=tmp_path)
    assert [e.label for e in task.examples("test")] == [1, 2]
    with pytest.raises(UsageError, match="the task has no data for 'select'; it has test"):
        task.examples("select")
