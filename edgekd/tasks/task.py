"""The Task noun: makes two models' answers comparable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from edgekd.data.example import Array, Example
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


@runtime_checkable
class Task(Protocol):
    """Data plus metric. Four methods; a ``python:`` task implements them and nothing else."""

    #: Name of the metric that :meth:`score` gives, e.g. ``"top1"``. Higher is better.
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

    def score(self, predictions: Sequence[Prediction], labels: Sequence[Any]) -> Array:
        """float64 (n,) in [0, 1]: how right each prediction is. 0 or 1 throughout makes it a proportion."""
        ...


def check_scores(scores: Array, n: int) -> Array:
    """Refuse scores that cannot be judged.

    Raises:
        DataError: not one finite number in [0, 1] per example.
    """
    from edgekd.errors import DataError

    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != (n,):
        raise DataError(
            f"the metric gave shape {scores.shape} for {n} examples", "score() must return one number each"
        )
    if not np.isfinite(scores).all() or scores.min(initial=0) < 0 or scores.max(initial=0) > 1:
        raise DataError(
            "the metric gave values outside [0, 1] or not finite", "score() must return fractions"
        )
    return scores


def parse_output(text: str) -> dict[str, str]:
    """Read ``NAME`` or ``NAME:logits`` or ``NAME:probs``.

    >>> parse_output("scores:probs")
    {'name': 'scores', 'kind': 'probs'}

    Raises:
        UsageError: no name.
    """
    from edgekd.errors import UsageError

    name, _, kind = text.rpartition(":") if text.endswith((":logits", ":probs")) else (text, "", "logits")
    if not name:
        raise UsageError(f"output {text!r} names no output", "for example logits:logits")
    return {"name": name, "kind": kind}
