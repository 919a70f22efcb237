"""What a model's ``prepare`` may say: the task's own keys, and numbers that arrays can be normalised with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgekd.data.example import Array, Example
from edgekd.errors import DataError, UsageError
from edgekd.spec import TensorSpec
from edgekd.tasks.task import ModelIO

#: Keys whose numbers are subtracted or added, and those that are divided by or multiplied with.
_SHIFTS = ("mean", "label_mean")
_SCALES = ("scale", "std", "label_std")


def check_keys(prepare: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse what no task of these keys can do.

    Raises:
        UsageError: a key that is not among ``known``, or a mean or scale that would make NaN or nothing of an array.
    """
    if unknown := sorted(set(prepare) - set(known), key=str):
        raise UsageError(f"prepare key '{unknown[0]}' is not known", f"choose from {', '.join(known)}")
    for name in (*_SHIFTS, *_SCALES):
        if name not in prepare:
            continue
        try:
            with np.errstate(over="ignore"):  # too large for float32 is infinite, and refused
                value = np.asarray(prepare[name], np.float32)
        except (TypeError, ValueError, OverflowError):
            continue  # no numbers: told by who applies them, with the shape that they should have
        if not np.isfinite(value).all():
            raise UsageError(f"prepare.{name} is {prepare[name]!r}", "expected finite numbers")
        if name in _SCALES and not (value > 0).all():
            raise UsageError(f"prepare.{name} is {prepare[name]!r}", "expected numbers above 0")


def check_feed(
    batch: Array, spec: TensorSpec, example: Example, model: ModelIO, known: Sequence[str] = ()
) -> None:
    """Refuse a feed that the model cannot take.

    Args:
        batch: with a leading batch dimension of 1.
        known: ``prepare`` keys of the task.

    Raises:
        DataError: naming the example; and where keys can be given, if the model has none.
    """
    # A model of one larger batch size is fed several examples; each of them is checked alone.
    one = spec if spec.dynamic_batch else replace(spec, shape=(1, *spec.shape[1:]))
    try:
        one.check(batch, where=f"example {example.id}")
    except DataError as e:
        if model.prepare or not known:
            raise
        raise DataError(
            e.what, f"{e.fix}, or say how the model wants it: prepare keys, --prepare ROLE:FILE"
        ) from e
