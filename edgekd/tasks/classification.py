"""Classification of arrays and of images."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgekd.data import open_source
from edgekd.data.example import Array, Example
from edgekd.errors import DataError, UsageError
from edgekd.lazy import require
from edgekd.metrics import SUMS
from edgekd.metrics.classification import f1_sums, macro_f1_sums, macro_recall_sums, mcc_sums
from edgekd.spec import TensorSpec
from edgekd.tasks.keys import check_feed, check_keys
from edgekd.tasks.task import ModelIO, Prediction, Scores, split_of

METRICS = ("top1", "top5", "f1", "macro_f1", "balanced_accuracy", "mcc")
#: Metrics of two classes, of which class 1 is the positive one.
BINARY_METRICS = ("f1", "mcc")
LAYOUTS = ("NCHW", "NHWC")
#: Quantized softmax outputs overshoot [0, 1] by up to one step of 1/255; logits overshoot by far more.
_PROBS_SLACK = 0.01
PREPARE_KEYS = ("scale", "mean", "std", "layout", "size")


def bind_inputs(example: Example, model: ModelIO) -> dict[str, Array]:
    """The example's array for each model input: renamed, by role, by name, else by position for a single one.

    Whole numbers as tables give them (int64, at most a matrix) become the input's own dtype where that loses nothing.

    Raises:
        DataError: an input has no array.
    """
    role = f"{model.role}."
    plain = [n for n in example.inputs if not n.startswith(("teacher.", "student."))]
    own = [n for n in example.inputs if n.startswith(role)]
    bound: dict[str, Array] = {}
    for spec in model.inputs:
        renamed = model.rename.get(spec.name)
        if renamed is not None and renamed not in example.inputs:
            raise DataError(
                f"the {model.role}'s input '{spec.name}' is mapped to '{renamed}', which the data does not have "
                f"(arrays: {', '.join(example.inputs) or 'none'})",
                f"correct --map {model.role}:{spec.name}=ARRAY",
            )
        for name in (renamed, role + spec.name, spec.name):
            if name is not None and name in example.inputs:
                bound[spec.name] = example.inputs[name]
                break
        else:
            single = own if len(own) == 1 else plain
            if len(model.inputs) != 1 or len(single) != 1:
                have = ", ".join(example.inputs) or "none"
                raise DataError(
                    f"the data has no array for the {model.role}'s input '{spec.name}' (arrays: {have})",
                    f"rename an array, or map it: --map {model.role}:{spec.name}=ARRAY",
                )
            bound[spec.name] = example.inputs[single[0]]
        bound[spec.name] = as_wanted(bound[spec.name], spec)
    return bound


def as_wanted(array: Array, spec: TensorSpec) -> Array:
    """Whole numbers in the dtype of a numeric input; what would change in it stays, to be refused."""
    # Three dimensions are a picture, whose pixels need more than another dtype.
    if array.dtype != np.int64 or array.ndim > 2 or not spec.dtype.startswith(("float", "int", "uint")):
        return array
    converted = array.astype(spec.dtype)
    return converted if np.array_equal(converted.astype(np.float64), array.astype(np.float64)) else array


def chosen_output(outputs: Mapping[str, Array], model: ModelIO) -> tuple[str, Array]:
    """Name and values of the output that answers.

    Raises:
        DataError: no such output, or several to choose from.
    """
    name = model.output.get("name")
    if name is None:
        if len(outputs) != 1:
            raise DataError(
                f"the {model.role} has {len(outputs)} outputs ({', '.join(outputs)})",
                "choose one: --output NAME:logits",
            )
        name = next(iter(outputs))
    if name not in outputs:
        raise DataError(f"the {model.role} has no output '{name}'", f"its outputs are {', '.join(outputs)}")
    return name, outputs[name]


def check_finite(values: Array, name: str, model: ModelIO) -> None:
    """Refuse an output that holds NaN or infinite values.

    Raises:
        DataError: naming it.
    """
    if not np.isfinite(values).all():
        raise DataError(
            f"the {model.role}'s output '{name}' holds NaN or infinite values",
            "the model is broken for this input: compare it with its source (`edgekd compare`)",
        )


def answer_of(outputs: Mapping[str, Array], model: ModelIO) -> Array:
    """The (classes,) scores of one example, as logits (log of the values where the output holds probabilities).

    Raises:
        DataError: no such output, several to choose from, not (1, classes), not finite, or no probabilities.
    """
    name, values = chosen_output(outputs, model)
    if values.ndim < 2 or values.shape[0] != 1 or values.size != values.shape[1]:
        raise DataError(
            f"the {model.role}'s output '{name}' has shape {tuple(values.shape)} per example; classification "
            "compares (1, classes)",
            "choose another --output, or bring your own --task python:module:factory",
        )
    scores = np.asarray(values, dtype=np.float32).reshape(-1)
    if scores.size < 2:
        raise DataError(
            f"the {model.role}'s output '{name}' has one class only", "classification needs two or more"
        )
    check_finite(scores, name, model)
    if model.output.get("kind") == "probs":
        if scores.min() < -_PROBS_SLACK or scores.max() > 1 + _PROBS_SLACK:
            raise DataError(
                f"the {model.role}'s output '{name}' runs from {scores.min():.3g} to {scores.max():.3g}, "
                "which are not probabilities",
                f"say --output {name}:logits",
            )
        scores = np.log(np.maximum(scores, np.float32(1e-12)))
    return scores


@dataclass(frozen=True)
class Classification:
    """Arrays in, a class index out.

    Args:
        data: split -> data reference.
        metric: ``top1``, ``top5``, ``f1`` and ``mcc`` (two classes), ``macro_f1`` or ``balanced_accuracy``.
        base: folder of relative references.
    """

    data: Mapping[str, str]
    metric: str = "top1"
    base: Path | None = None
    kind: str = field(default="classification", init=False)

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise UsageError(
                f"metric '{self.metric}' is not known for {self.kind}", f"choose from {', '.join(METRICS)}"
            )

    def examples(self, split: str) -> Iterator[Example]:
        return iter(open_source(split_of(self.data, split), self.base))

    def prepare(self, example: Example, model: ModelIO) -> dict[str, Array]:
        feeds = {}
        for spec in model.inputs:
            array = self._prepare_one(bind_inputs(example, model)[spec.name], spec, model)
            batch = np.ascontiguousarray(array)[None]
            check_feed(batch, spec, example, model, getattr(self, "prepare_keys", ()))
            feeds[spec.name] = batch
        return feeds

    def _prepare_one(self, array: Array, spec: TensorSpec, model: ModelIO) -> Array:
        return np.asarray(array)

    def decode(self, outputs: Mapping[str, Array], model: ModelIO) -> Prediction:
        logits = answer_of(outputs, model)
        return Prediction(value=int(logits.argmax()), logits=logits)

    def score(self, predictions: Sequence[Prediction], labels: Sequence[Any]) -> Array | Scores:
        scores = np.zeros(len(predictions), dtype=np.float64)
        for i, (prediction, label) in enumerate(zip(predictions, labels, strict=True)):
            if prediction.logits is None:
                raise DataError(f"row {i} has no class scores", "decode() must return logits")
            classes = prediction.logits.size
            if isinstance(label, bool) or not isinstance(label, (int, np.integer)):
                raise DataError(
                    f"row {i} has the label {label!r}",
                    "classification needs whole numbers from 0 in an array `label`",
                )
            if not 0 <= label < classes:
                raise DataError(
                    f"row {i} has the label {label}, the model has {classes} classes (0..{classes - 1})",
                    "check that data and model use the same classes",
                )
            if self.metric == "top5":
                if classes <= 5:
                    raise DataError(
                        f"top5 of a model with {classes} classes is always right", "use the metric top1"
                    )
                scores[i] = float(label in np.argsort(-prediction.logits, kind="stable")[:5])
            else:
                scores[i] = float(prediction.value == label)
        if self.metric in ("top1", "top5") or not predictions:
            return scores
        return self._scores(scores, predictions, np.asarray(labels, np.int64))

    def _scores(self, right: Array, predictions: Sequence[Prediction], labels: Array) -> Scores:
        """The other metrics: their value by scikit-learn, and what it is made of per example.

        Raises:
            DataError: labels or answers for which the metric does not exist.
        """
        said = np.asarray([p.value for p in predictions], np.int64)
        classes = max(0 if p.logits is None else p.logits.size for p in predictions)
        if self.metric in BINARY_METRICS and classes != 2:
            raise DataError(
                f"{self.metric} is a metric of two classes, the model has {classes}",
                "use macro_f1 or balanced_accuracy",
            )
        if len(set(labels.tolist())) < 2:
            raise DataError(
                f"all {len(labels):,} labels are {labels[0]}: {self.metric} does not exist for one class only",
                "give examples of every class",
            )
        if self.metric == "mcc" and len(set(said.tolist())) < 2:
            raise DataError(
                f"all {len(said):,} answers are {said[0]}: mcc does not exist for constant answers",
                "the model answers the same to everything: check its input, or use balanced_accuracy",
            )
        metrics = require("sklearn.metrics", extra="data", purpose=f"computing {self.metric}")
        rows = np.arange(len(labels))
        if self.metric == "f1":
            value, aggregate, sums = metrics.f1_score(labels, said), "f1", f1_sums(said, labels)
        elif self.metric == "mcc":
            value, aggregate = metrics.matthews_corrcoef(labels, said), "mcc"
            sums = mcc_sums(said, labels)
        elif self.metric == "macro_f1":
            value, aggregate = metrics.f1_score(labels, said, average="macro", zero_division=0), "macro_f1"
            sums = macro_f1_sums(said, labels, rows, len(rows))
        else:
            with (
                warnings.catch_warnings()
            ):  # an answer that is nobody's label is wrong, and no more than that
                warnings.simplefilter("ignore", UserWarning)
                value = metrics.balanced_accuracy_score(labels, said)
            aggregate, sums = "macro_recall", macro_recall_sums(said, labels)
        unit = "" if self.metric == "mcc" else "fraction"
        return Scores(
            per_example=right, value=float(value), aggregate=aggregate, statistics={SUMS: sums}, unit=unit
        )


class ImageClassification(Classification):
    """Images in, a class index out.

    A uint8 image (height, width, channels) is resized to ``size``, divided by ``scale``, normalised with ``mean``
    and ``std`` and laid out as ``layout`` (``NCHW`` or ``NHWC``), by the model's own ``prepare`` keys. An array
    that already has the model's dtype is fed as it is.
    """

    prepare_keys: ClassVar[tuple[str, ...]] = PREPARE_KEYS

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", "image-classification")
        super().__post_init__()

    def _prepare_one(self, array: Array, spec: TensorSpec, model: ModelIO) -> Array:
        check_keys(model.prepare, PREPARE_KEYS)
        if array.dtype != np.uint8 or not spec.dtype.startswith("float") or array.ndim != 3:
            return np.asarray(array)
        keys = model.prepare
        layout = keys.get("layout", "NCHW")
        if layout not in LAYOUTS:
            raise UsageError(f"prepare.layout {layout!r} is not known", f"choose {' or '.join(LAYOUTS)}")
        if "size" in keys:
            array = _resize(array, keys["size"])
        try:
            out: Array = array.astype(np.float32) / np.float32(keys.get("scale", 1.0))
            out = (out - np.asarray(keys.get("mean", 0.0), np.float32)) / np.asarray(
                keys.get("std", 1.0), np.float32
            )
        except (TypeError, ValueError) as e:
            raise UsageError(
                f"prepare's scale, mean and std do not fit an image of shape {array.shape} ({e})",
                "give one number, or one per channel; images are (height, width, channels)",
            ) from e
        return (out.transpose(2, 0, 1) if layout == "NCHW" else out).astype(spec.dtype)


def _resize(array: Array, size: Any) -> Array:
    """A uint8 image resized, bilinear, to ``size``: one number, or (height, width)."""
    wanted = [size, size] if isinstance(size, int) else size
    if not (
        isinstance(wanted, (list, tuple))
        and len(wanted) == 2
        and all(type(d) is int and d > 0 for d in wanted)
    ):
        raise UsageError(f"prepare.size {size!r} is not a size", "give one number, or [height, width]")
    height, width = wanted
    if array.shape[:2] == (height, width):
        return array
    if array.shape[2] not in (1, 3, 4):
        raise DataError(
            f"an image of shape {array.shape} cannot be resized",
            "images are (height, width, 1, 3 or 4 channels)",
        )
    image = require("PIL.Image", extra="data", purpose="resizing images")
    pixels = image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    return np.asarray(pixels.resize((width, height), image.Resampling.BILINEAR)).reshape(height, width, -1)
