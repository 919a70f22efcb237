"""From per-example statistics to a metric, for all examples or for many weightings of them at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import EvidenceError
from edgekd.metrics.statistics import SUMS, Statistics


def _divide(a: Array, b: Array) -> Array:
    """a / b, and NaN where b is 0: a metric that does not exist is not 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(b == 0, np.nan, a / np.where(b == 0, 1.0, b)))


def _ratio(s: Array) -> Array:
    return _divide(s[..., 0], s[..., 1])


def _root_mean(s: Array) -> Array:
    return np.sqrt(_ratio(s))


def _exp_ratio(s: Array) -> Array:
    return np.exp(_ratio(s))


def _r2(s: Array) -> Array:
    residual, y, yy, n = (s[..., i] for i in range(4))
    return 1.0 - _divide(residual, yy - _divide(y * y, n))


def _f1(s: Array) -> Array:
    tp, fp, fn = (s[..., i] for i in range(3))
    return _divide(2 * tp, 2 * tp + fp + fn)


def _macro_f1(s: Array) -> Array:
    tp, fp, fn = (s[..., i::3] for i in range(3))
    present = (tp + fp + fn) > 0
    return _divide(
        np.where(present, np.nan_to_num(_divide(2 * tp, 2 * tp + fp + fn)), 0).sum(-1), present.sum(-1)
    )


def _macro_recall(s: Array) -> Array:
    right, all_ = s[..., 0::2], s[..., 1::2]
    present = all_ > 0
    return _divide(np.where(present, np.nan_to_num(_divide(right, all_)), 0).sum(-1), present.sum(-1))


def _pearson(s: Array) -> Array:
    x, y, xx, yy, xy, n = (s[..., i] for i in range(6))
    covariance = xy - _divide(x * y, n)
    return _divide(covariance, np.sqrt((xx - _divide(x * x, n)) * (yy - _divide(y * y, n))))


def _mcc(s: Array) -> Array:
    tp, tn, fp, fn = (s[..., i] for i in range(4))
    return _divide(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))


#: name -> function of sums (..., k) giving (...). Columns, per example:
#: ``mean``, ``ratio``: numerator, denominator (a mean has 1 there); ``root_mean``: squared error, 1;
#: ``exp_ratio``: negative log-likelihood, tokens (perplexity); ``r2``: squared residual, y, y squared, 1;
#: ``f1``: true positives, false positives, false negatives; ``macro_f1``: those three for each class in turn;
#: ``macro_recall``: right, all, for each class in turn (balanced accuracy); ``pearson``: x, y, xx, yy, xy, 1;
#: ``mcc``: tp, tn, fp, fn.
ADDITIVE: Mapping[str, Callable[[Array], Array]] = {
    "mean": _ratio,
    "ratio": _ratio,
    "root_mean": _root_mean,
    "exp_ratio": _exp_ratio,
    "r2": _r2,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "macro_recall": _macro_recall,
    "pearson": _pearson,
    "mcc": _mcc,
}


#: Columns of ``sums``; a tuple: any whole number of so many.
_COLUMNS: Mapping[str, int | tuple[int]] = {
    "mean": 2, "ratio": 2, "root_mean": 2, "exp_ratio": 2, "r2": 4, "f1": 3, "macro_f1": (3,), "macro_recall": (2,),
    "pearson": 6, "mcc": 4,
}  # fmt: skip


def check_columns(aggregate: str, statistics: Statistics) -> None:
    """Refuse sums that an additive metric is not made of.

    Raises:
        EvidenceError: none, or of another number of columns.
    """
    sums, wanted = statistics.get(SUMS), _COLUMNS[aggregate]
    columns = sums.shape[1] if sums is not None and sums.ndim == 2 else 0
    fits = columns == wanted if isinstance(wanted, int) else columns > 0 and columns % wanted[0] == 0
    if not fits:
        told = wanted if isinstance(wanted, int) else f"a multiple of {wanted[0]}"
        raise EvidenceError(
            f"the metric {aggregate} is made of sums with {told} columns, there are {columns}",
            "evaluate again",
        )


def metric_values(aggregate: str, statistics: Statistics, weights: Array) -> Array:
    """The metric under several weightings of the examples.

    Args:
        aggregate: a key of :data:`ADDITIVE`, or ``average_precision``.
        statistics: as the evaluation stores them.
        weights: float64 (d, n), how often each example counts.

    Returns:
        float64 (d,); NaN where a weighting leaves the metric undefined.

    Raises:
        EvidenceError: an unknown aggregate, or statistics that it is not made of.
    """
    if aggregate in ADDITIVE:
        check_columns(aggregate, statistics)
        return np.asarray(ADDITIVE[aggregate](np.asarray(weights, np.float64) @ statistics[SUMS]), np.float64)
    if aggregate == "average_precision":
        from edgekd.metrics.detection import average_precision

        return average_precision(statistics, weights)
    raise EvidenceError(
        f"the metric is aggregated by '{aggregate}', which this version does not know",
        f"it knows {', '.join(ADDITIVE)} and average_precision",
    )


def metric_value(aggregate: str, statistics: Statistics, n: int) -> float:
    """The metric over all ``n`` examples."""
    return float(metric_values(aggregate, statistics, np.ones((1, n)))[0])


def take_statistics(aggregate: str, statistics: Statistics, rows: Array) -> Statistics:
    """The statistics of some examples.

    Args:
        rows: int (k,), each at most once.

    Raises:
        EvidenceError: an unknown aggregate.
    """
    if not statistics or aggregate in ADDITIVE:
        return {name: values[rows] for name, values in statistics.items()}
    if aggregate == "average_precision":
        from edgekd.metrics.detection import take_images

        return take_images(statistics, rows)
    raise EvidenceError(
        f"the metric is aggregated by '{aggregate}', which this version does not know",
        "use the version that wrote it",
    )
