"""What F1, macro F1, balanced accuracy and Matthews' correlation are made of, per example; numpy only.

An example may hold several answers (the tags of a sentence): ``groups`` says which example each belongs to.
"""

from __future__ import annotations

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import DataError

#: A table of statistics beyond this is refused: it would be kept in the evidence and resampled.
_MOST_BYTES = 1 << 29


def _table(rows: int, columns: int) -> Array:
    if rows * columns * 8 > _MOST_BYTES:
        raise DataError(
            f"{rows:,} examples of {columns:,} counts each are too many to keep",
            "use a metric that is not made class by class (top1, token_accuracy), or fewer examples",
        )
    return np.zeros((rows, columns), dtype=np.float64)


def right_and_all(predicted: Array, labels: Array, groups: Array, n: int) -> Array:
    """Sums of aggregate ``ratio``, which make accuracy: right answers and all answers of each example.

    Args:
        predicted, labels: (m,), comparable; groups: int (m,) in [0, n).

    Returns:
        float64 (n, 2).
    """
    return np.stack(
        [np.bincount(groups, predicted == labels, n), np.bincount(groups, minlength=n).astype(np.float64)],
        axis=1,
    )


def f1_sums(predicted: Array, labels: Array, positive: int = 1) -> Array:
    """Sums of aggregate ``f1``: float64 (n, 3), true positives, false positives, false negatives.

    F1 = 2 tp / (2 tp + fp + fn) (van Rijsbergen, Information Retrieval, 2nd ed. 1979, chapter 7).
    """
    said, is_ = predicted == positive, labels == positive
    return np.stack([said & is_, said & ~is_, ~said & is_], axis=1).astype(np.float64)


def macro_f1_sums(predicted: Array, labels: Array, groups: Array, n: int) -> Array:
    """Sums of aggregate ``macro_f1``: tp, fp and fn of each class that is a label or an answer, in turn.

    Args:
        predicted, labels: (m,), comparable; groups: int (m,) in [0, n).

    Returns:
        float64 (n, 3 classes).

    Raises:
        DataError: too many classes and examples to keep.
    """
    classes, codes = np.unique(np.concatenate([labels, predicted]), return_inverse=True)
    truth, said = codes[: len(labels)], codes[len(labels) :]
    sums = _table(n, 3 * len(classes))
    right = truth == said
    np.add.at(sums, (groups[right], 3 * truth[right]), 1.0)
    np.add.at(sums, (groups[~right], 3 * said[~right] + 1), 1.0)
    np.add.at(sums, (groups[~right], 3 * truth[~right] + 2), 1.0)
    return sums


def macro_recall_sums(predicted: Array, labels: Array) -> Array:
    """Sums of aggregate ``macro_recall``, which is balanced accuracy: right and all of each labelled class in turn.

    Balanced accuracy is the mean recall over the classes (Brodersen et al. 2010, The balanced accuracy and its
    posterior distribution).

    Returns:
        float64 (n, 2 classes).

    Raises:
        DataError: too many classes and examples to keep.
    """
    classes, codes = np.unique(labels, return_inverse=True)
    sums = _table(len(labels), 2 * len(classes))
    rows = np.arange(len(labels))
    sums[rows, 2 * codes] = predicted == labels
    sums[rows, 2 * codes + 1] = 1.0
    return sums


def mcc_sums(predicted: Array, labels: Array, positive: int = 1) -> Array:
    """Sums of aggregate ``mcc``: float64 (n, 4), tp, tn, fp, fn (Matthews 1975, BBA 405(2), 442-451)."""
    said, is_ = predicted == positive, labels == positive
    return np.stack([said & is_, ~said & ~is_, said & ~is_, ~said & is_], axis=1).astype(np.float64)
