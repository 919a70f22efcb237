"""Statistics of classification metrics: what they make is what scikit-learn computes, under any weights."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.errors import DataError
from edgekd.metrics import SUMS, metric_values
from edgekd.metrics.classification import (
    f1_sums,
    macro_f1_sums,
    macro_recall_sums,
    mcc_sums,
    right_and_all,
)

sklearn_metrics = pytest.importorskip("sklearn.metrics")


def test_by_hand() -> None:
    said, labels = np.asarray([1, 1, 0, 0]), np.asarray([1, 0, 1, 0])
    assert f1_sums(said, labels).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert mcc_sums(said, labels).tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0]]
    assert macro_recall_sums(said, labels).tolist() == [
        [0, 0, 1, 1],
        [0, 1, 0, 0],
        [0, 0, 0, 1],
        [1, 1, 0, 0],
    ]
    rows = np.asarray([0, 0, 2, 2])
    assert right_and_all(said, labels, rows, 3).tolist() == [[1, 2], [0, 0], [1, 2]]
    assert macro_f1_sums(said, labels, rows, 3).tolist() == [[0, 0, 1, 1, 1, 0], [0] * 6, [1, 1, 0, 0, 0, 1]]


@pytest.mark.parametrize("name", ["f1", "mcc", "macro_f1", "macro_recall"])
def test_resampled_values_are_the_librarys(name: str) -> None:
    """A bootstrap draw counts each example so often; the library sees the examples repeated."""
    rng = np.random.default_rng(0)
    classes = 2 if name in ("f1", "mcc") else 5
    labels = rng.integers(0, classes, 80)
    said = np.where(rng.random(80) < 0.6, labels, rng.integers(0, classes, 80))
    rows = np.arange(80)
    sums = {
        "f1": lambda: f1_sums(said, labels),
        "mcc": lambda: mcc_sums(said, labels),
        "macro_f1": lambda: macro_f1_sums(said, labels, rows, 80),
        "macro_recall": lambda: macro_recall_sums(said, labels),
    }[name]()
    library = {
        "f1": sklearn_metrics.f1_score,
        "mcc": sklearn_metrics.matthews_corrcoef,
        "macro_f1": lambda y, p: sklearn_metrics.f1_score(y, p, average="macro"),
        "macro_recall": sklearn_metrics.balanced_accuracy_score,
    }[name]
    draws = rng.integers(0, 80, (20, 80))
    weights = np.stack([np.bincount(d, minlength=80) for d in draws]).astype(float)
    expected = [library(labels[d], said[d]) for d in draws]
    np.testing.assert_allclose(metric_values(name, {SUMS: sums}, weights), expected, atol=1e-12)


def test_words_of_sentences_are_counted_with_their_sentence() -> None:
    rng = np.random.default_rng(1)
    labels = np.asarray(["O", "B-PER", "I-PER"])[rng.integers(0, 3, 200)]
    said = np.where(rng.random(200) < 0.7, labels, "O")
    groups = np.sort(rng.integers(0, 30, 200))
    weights = rng.integers(0, 3, (5, 30)).astype(float)
    made = metric_values("macro_f1", {SUMS: macro_f1_sums(said, labels, groups, 30)}, weights)
    expected = [
        sklearn_metrics.f1_score(labels, said, average="macro", sample_weight=w[groups]) for w in weights
    ]
    np.testing.assert_allclose(made, expected, atol=1e-12)


def test_too_many_classes_to_keep() -> None:
    with pytest.raises(DataError, match=r"20,000 examples of 60,000 counts each are too many"):
        rows = np.arange(20_000)
        macro_f1_sums(rows, rows, rows, 20_000)
