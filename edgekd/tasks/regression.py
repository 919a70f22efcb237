"""Regression: arrays in, one or several numbers out; forecasting where the numbers are a series' next ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgekd.data import open_source
from edgekd.data.example import Array, Example
from edgekd.errors import DataError, UsageError
from edgekd.tasks.classification import bind_inputs, check_finite, chosen_output
from edgekd.tasks.keys import check_feed, check_keys
from edgekd.tasks.numbers import REGRESSION_METRICS, score_numbers
from edgekd.tasks.series import SERIES_KEYS, prepare_series
from edgekd.tasks.task import ModelIO, Prediction, Scores, split_of

REGRESSION_KEYS = (*SERIES_KEYS, "label_mean", "label_std")


@dataclass(frozen=True)
class Regression:
    """Arrays in, numbers out.

    The answering output (1, ...) and the label hold the same count of numbers; with several, the metric is over all
    of them together. Arrays are fed as they are, or prepared by the keys of ``time-series``; ``mean`` and ``std``
    without a ``layout`` are of the array's last dimension. A model that was trained on normalised labels says so with
    ``label_mean`` and ``label_std``.

    Args:
        data: split -> data reference.
        metric: ``mae``, ``rmse``, ``mape``, ``r2`` or ``pearson``.
        base: folder of relative references.
    """

    prepare_keys: ClassVar[tuple[str, ...]] = REGRESSION_KEYS
    data: Mapping[str, str]
    metric: str = "mae"
    base: Path | None = None
    kind: str = field(default="regression", init=False)

    def __post_init__(self) -> None:
        if self.metric not in REGRESSION_METRICS:
            raise UsageError(
                f"metric '{self.metric}' is not known for {self.kind}",
                f"choose {', '.join(REGRESSION_METRICS)}",
            )

    def examples(self, split: str) -> Iterator[Example]:
        for example in open_source(split_of(self.data, split), self.base):
            yield example if example.label is None else replace(example, label=_label(example))

    def prepare(self, example: Example, model: ModelIO) -> dict[str, Array]:
        check_keys(model.prepare, REGRESSION_KEYS)
        keys = {k: v for k, v in model.prepare.items() if k in SERIES_KEYS}
        feeds = {}
        bound = bind_inputs(example, model)
        for spec in model.inputs:
            array = np.asarray(bound[spec.name])
            if keys and not set(keys) <= {"mean", "std"}:
                array = prepare_series(array, spec, keys)
            elif keys:
                array = _normalise(array, keys).astype(
                    spec.dtype if spec.dtype.startswith("float") else np.float32
                )
            batch = np.ascontiguousarray(array)[None]
            check_feed(batch, spec, example, model, REGRESSION_KEYS)
            feeds[spec.name] = batch
        return feeds

    def decode(self, outputs: Mapping[str, Array], model: ModelIO) -> Prediction:
        """A number, or JSON text of a list of numbers where the model answers with several."""
        numbers = _numbers_of(outputs, model)
        value = float(numbers[0]) if len(numbers) == 1 else json.dumps(numbers.tolist())
        return Prediction(value=value)

    def score(self, predictions: Sequence[Prediction], labels: Sequence[Any]) -> Scores:
        answers = [
            np.atleast_1d(json.loads(p.value) if isinstance(p.value, str) else p.value) for p in predictions
        ]
        truths = [np.asarray(label, np.float64).reshape(-1) for label in labels]
        for row, (answer, truth) in enumerate(zip(answers, truths, strict=True)):
            if answer.shape != truth.shape or answer.shape != answers[0].shape:
                raise DataError(
                    f"row {row}: the model answers with {len(answer)} numbers, the label has {len(truth)}",
                    "every label needs as many numbers as the model's output",
                )
        return score_numbers(self.metric, np.stack(truths), np.stack(answers).astype(np.float64))


def _label(example: Example) -> Any:
    """The label as a float, or as an array of floats."""
    value = example.label
    try:
        given = _parsed(value) if isinstance(value, str) else value
        if _holds_booleans(given):
            raise ValueError("a boolean is no number")
        numbers = np.asarray(given, np.float64)
    except (TypeError, ValueError, RecursionError) as e:
        raise DataError(
            f"example {example.id} has the label {str(value)[:60]!r}", "regression needs numbers as labels"
        ) from e
    if not numbers.size or not np.isfinite(numbers).all():
        raise DataError(f"example {example.id} has the label {value}", "regression needs finite numbers")
    return float(numbers) if numbers.ndim == 0 else numbers


def _parsed(text: str) -> Any:
    """A label of a table: a number as :func:`float` reads it, or a JSON list."""
    if text.lstrip().startswith("["):
        return json.loads(text)
    if "_" in text:  # which float() takes for a separator
        raise ValueError("not a number")
    return float(text)


def _holds_booleans(value: Any) -> bool:
    if isinstance(value, list):
        return any(_holds_booleans(item) for item in value)
    return isinstance(value, bool) or getattr(value, "dtype", None) == np.bool_


def _normalise(array: Array, keys: Mapping[str, Any]) -> Array:
    try:
        mean, std = (np.asarray(keys.get(k, d), np.float64) for k, d in (("mean", 0.0), ("std", 1.0)))
        return np.asarray((array - mean) / std).reshape(array.shape)
    except (TypeError, ValueError) as e:
        raise UsageError(
            f"prepare's mean and std do not fit an array of shape {array.shape} ({e})",
            "give one number, or one per column of its last dimension",
        ) from e


def _numbers_of(outputs: Mapping[str, Array], model: ModelIO) -> Array:
    """The float64 (k,) numbers of one example, in the labels' units."""
    name, values = chosen_output(outputs, model)
    if values.ndim < 1 or values.shape[0] != 1 or not values.size or values.dtype.kind not in "fiu":
        raise DataError(
            f"the {model.role}'s output '{name}' has shape {tuple(values.shape)} and dtype {values.dtype} per "
            "example; regression compares (1, numbers)",
            "choose another --output",
        )
    numbers = values.reshape(-1).astype(np.float64)
    check_finite(numbers, name, model)
    check_keys(model.prepare, REGRESSION_KEYS)
    scale = {k: model.prepare.get(k, d) for k, d in (("label_mean", 0.0), ("label_std", 1.0))}
    try:
        mean, std = (np.asarray(v, np.float64).reshape(-1) for v in scale.values())
        numbers = (numbers * std + mean).reshape(numbers.shape)
    except (TypeError, ValueError) as e:
        raise UsageError(
            f"prepare's label_mean and label_std do not fit {len(numbers)} numbers ({e})",
            "give one number, or one per number of the output",
        ) from e
    if not np.isfinite(numbers).all():
        raise UsageError("prepare's label_mean and label_std make infinite numbers", "give smaller ones")
    return numbers
