"""Metrics of regression: the value by scikit-learn and scipy, and the sums that it is made of."""

from __future__ import annotations

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import DataError
from edgekd.lazy import require
from edgekd.metrics import SUMS
from edgekd.tasks.task import Scores

REGRESSION_METRICS = ("mae", "rmse", "mape", "r2", "pearson")
LABEL_UNIT = "label units"


def score_numbers(metric: str, truths: Array, answers: Array) -> Scores:
    """Score numbers against numbers; several per example count together, as one long column.

    Per example, how right an answer is: minus its mean absolute error (for ``mape``, relative to the label).

    Args:
        metric: one of :data:`REGRESSION_METRICS`.
        truths, answers: float64 (n, k), finite.

    Raises:
        DataError: a metric that does not exist for these numbers: labels of 0 for ``mape``, constant labels for
        ``r2``, constant labels or answers for ``pearson``.
        MissingDependencyError: scikit-learn (scipy) is not installed.
    """
    n, k = truths.shape
    y, p = truths.reshape(-1), answers.reshape(-1)
    error = np.abs(truths - answers)
    ones = np.ones(n)
    if metric == "pearson":
        return _pearson(truths, answers, error)
    library = require("sklearn.metrics", extra="data", purpose=f"the metric {metric}")
    if metric == "mae":
        return Scores(
            per_example=-error.mean(axis=1),
            value=float(library.mean_absolute_error(y, p)),
            aggregate="mean",
            statistics={SUMS: np.stack([error.mean(axis=1), ones], axis=1)},
            error=True,
            unit=LABEL_UNIT,
        )
    if metric == "rmse":
        return Scores(
            per_example=-error.mean(axis=1),
            value=float(np.sqrt(library.mean_squared_error(y, p))),
            aggregate="root_mean",
            statistics={SUMS: np.stack([(error**2).mean(axis=1), ones], axis=1)},
            error=True,
            unit=LABEL_UNIT,
        )
    if metric == "mape":
        zero = np.flatnonzero((truths == 0).any(axis=1))
        if len(zero):
            raise DataError(
                f"row {zero[0]} has a label of 0, and mape divides by the label", "use the metric mae or rmse"
            )
        relative = (error / np.abs(truths)).mean(axis=1)
        return Scores(
            per_example=-relative,
            value=float(library.mean_absolute_percentage_error(y, p)),
            aggregate="mean",
            statistics={SUMS: np.stack([relative, ones], axis=1)},
            error=True,
        )
    _check_spread(y, "labels", metric)
    # Around the mean: the sums of squares of labels far from 0 would cancel.
    centred = truths - y.mean()
    sums = [(error**2).sum(axis=1), centred.sum(axis=1), (centred**2).sum(axis=1), ones * k]
    return Scores(
        per_example=-error.mean(axis=1),
        value=float(library.r2_score(y, p)),
        aggregate="r2",
        statistics={SUMS: np.stack(sums, axis=1)},
        unit="",
    )


def _pearson(truths: Array, answers: Array, error: Array) -> Scores:
    library = require("scipy.stats", extra="data", purpose="the metric pearson")
    y, p = truths.reshape(-1), answers.reshape(-1)
    _check_spread(y, "labels", "pearson")
    _check_spread(p, "answers", "pearson")
    a, b = answers - p.mean(), truths - y.mean()
    sums = [v.sum(axis=1) for v in (a, b, a * a, b * b, a * b, np.ones_like(a))]
    return Scores(
        per_example=-error.mean(axis=1),
        value=float(library.pearsonr(p, y)[0]),
        aggregate="pearson",
        statistics={SUMS: np.stack(sums, axis=1)},
        unit="",
    )


def _check_spread(values: Array, noun: str, metric: str) -> None:
    if values.min() == values.max():
        raise DataError(
            f"the {noun} are {values[0]:g} throughout, so there is no {metric}", "use the metric mae or rmse"
        )
