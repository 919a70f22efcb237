"""The Task noun: makes two models' answers comparable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from edgekd.data.example import Array, Example
from edgekd.errors import DataError, UsageError
from edgekd.metrics import SUMS, Statistics, metric_value
from edgekd.spec import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIO:
    """What a task may know of a model.

    Attributes:
        role: ``"teacher"`` or ``"student"``: which of ``teacher.<input>`` and ``student.<input>`` arrays it takes.
        inputs, outputs: tensors at its boundary; the first dimension is the batch.
        prepare: the model's own preprocessing, by the task's keys.
        output: name and kind (``logits`` or ``probs``) of the output that answers; may be empty.
        rename: model input name -> data array name.
    """

    role: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    prepare: Mapping[str, Any] = field(default_factory=dict)
    output: Mapping[str, str] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A decoded answer.

    Attributes:
        value: what is compared with the label (for classifiers the class index).
        logits: float32 (classes,) where the task has them; kept in the evidence.
    """

    value: int | float | str
    logits: Array | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What :meth:`Task.score` gives where the metric is not a mean of fractions.

    Attributes:
        per_example: float64 (n,), finite: how right each answer is, higher is better; for flips and the worst examples.
        value: the metric over all examples, as the library computes it; checked against ``aggregate`` of ``statistics``.
        aggregate: how the metric is made, a key of :data:`edgekd.metrics.ADDITIVE` or ``average_precision``.
        statistics: what it is made of, ``{"sums": float64 (n, k)}`` for the additive ones.
        error: smaller values are better (an error metric).
        unit: ``fraction`` for metrics in [0, 1] (or [-1, 1]); else the label's unit, or empty.
    """

    per_example: Array
    value: float
    aggregate: str
    statistics: Statistics
    error: bool = False
    unit: str = "fraction"


@runtime_checkable
class Task(Protocol):
    """Data plus metric. Four methods; a ``python:`` task implements them and nothing else."""

    #: Name of the metric that :meth:`score` gives, e.g. ``"top1"``. Higher is better, unless :attr:`Scores.error` is set.
    metric: str

    def examples(self, split: str) -> Iterator[Example]:
        """The rows of a split (``train``, ``calibration``, ``select`` or ``test``), streamed."""
        ...

    def prepare(self, example: Example, model: ModelIO) -> Mapping[str, Array]:
        """One example as feeds, each with a leading batch dimension of 1."""
        ...

    def decode(self, outputs: Mapping[str, Array], model: ModelIO) -> Prediction:
        """One example's outputs, each with a leading batch dimension of 1, as a prediction."""
        ...

    def score(self, predictions: Sequence[Prediction], labels: Sequence[Any]) -> Array | Scores:
        """float64 (n,) in [0, 1], how right each prediction is; 0 or 1 throughout makes it a proportion.

        A metric that is not their mean gives :class:`Scores`.
        """
        ...


def split_of(data: Mapping[str, str], split: str) -> str:
    """The data reference of a split.

    Raises:
        UsageError: the task has none of that name.
    """
    if split not in data:
        raise UsageError(f"the task has no data for '{split}'", f"it has {', '.join(data) or 'none'}")
    return data[split]


#: Relative difference allowed between the library's value and the one made from the statistics.
_SAME_VALUE = 1e-6


def check_scores(scored: Array | Scores, n: int) -> Scores:
    """Whole scores from what a task gave; an array of fractions becomes their mean.

    Raises:
        DataError: not one finite number per example (of an array: in [0, 1]), or statistics that do not make the value.
    """
    if not isinstance(scored, Scores):
        scores = _one_each(scored, n)
        if scores.min(initial=0) < 0 or scores.max(initial=0) > 1:
            raise DataError(
                "the metric gave values outside [0, 1]",
                "score() must return fractions, or edgekd.tasks.Scores for another metric",
            )
        sums = np.stack([scores, np.ones(n)], axis=1)
        return Scores(
            per_example=scores, value=float(scores.mean()), aggregate="mean", statistics={SUMS: sums}
        )
    per_example = _one_each(scored.per_example, n)
    if not np.isfinite(scored.value):
        raise DataError(
            f"the metric is {scored.value} over these {n} examples",
            "it does not exist for this data: see the labels",
        )
    made = metric_value(scored.aggregate, scored.statistics, n)
    if not abs(made - scored.value) <= _SAME_VALUE * max(1.0, abs(scored.value)):
        raise DataError(
            f"the metric is {scored.value:.9g}, but its statistics make {made:.9g} (aggregate {scored.aggregate})",
            "score() must return the statistics that the metric is made of",
        )
    return replace(scored, per_example=per_example)


def _one_each(values: Array, n: int) -> Array:
    scores = np.asarray(values, dtype=np.float64)
    if scores.shape != (n,):
        raise DataError(
            f"the metric gave shape {scores.shape} for {n} examples", "score() must return one number each"
        )
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise DataError(f"the metric gave {scores[row]} for row {row}", "score() must return finite numbers")
    return scores


def parse_output(text: str) -> dict[str, str]:
    """Read ``NAME`` or ``NAME:logits`` or ``NAME:probs``.

    >>> parse_output("scores:probs")
    {'name': 'scores', 'kind': 'probs'}

    Raises:
        UsageError: no name.
    """
    name, _, kind = text.rpartition(":") if text.endswith((":logits", ":probs")) else (text, "", "logits")
    if not name:
        raise UsageError(f"output {text!r} names no output", "for example logits:logits")
    return {"name": name, "kind": kind}
