"""``sklearn:digits``: 1,797 real handwritten digits, 8 x 8 pixels, inside a dependency.

Source: Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI; shipped by scikit-learn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgekd.data.example import Array, Example
from edgekd.errors import UsageError
from edgekd.files import digest_of
from edgekd.lazy import require

#: Disjoint but for calibration, which is the first part of train: rows of one fixed permutation (seed 0).
SPLITS = {"train": (0, 1077), "calibration": (0, 256), "select": (1077, 1347), "test": (1347, 1797)}


@dataclass(frozen=True)
class Digits:
    """Rows of scikit-learn's digits; input ``image`` is float32 (1, 8, 8) in [0, 1]."""

    images: Array
    labels: Array
    rows: Array

    def __iter__(self) -> Iterator[Example]:
        for row in self.rows:
            yield Example(id=str(row), inputs={"image": self.images[row]}, label=int(self.labels[row]))

    @property
    def digest(self) -> str:
        data = hashlib.sha256(self.images.tobytes() + self.labels.tobytes()).hexdigest()
        return digest_of(["sklearn:digits", data, [int(r) for r in self.rows]])


def open_sklearn(body: str, selection: str) -> Digits:
    """Open ``sklearn:digits``, whole or one named split.

    Raises:
        UsageError: another data set, or a split that is not one of :data:`SPLITS`.
    """
    if body != "sklearn:digits":
        raise UsageError(f"data {body!r} is not known", "the built-in set is sklearn:digits")
    datasets = require("sklearn.datasets", extra="data", purpose="reading sklearn:digits")
    raw = datasets.load_digits()
    images = np.ascontiguousarray(raw.images[:, None] / 16.0, dtype=np.float32)
    labels = np.ascontiguousarray(raw.target, dtype=np.int64)
    rows = np.arange(len(labels))
    if selection.isalpha():
        if selection not in SPLITS:
            raise UsageError(
                f"sklearn:digits has no split '{selection}'", f"choose one of {', '.join(SPLITS)}"
            )
        start, stop = SPLITS[selection]
        rows = np.random.default_rng(0).permutation(len(labels))[start:stop]
    return Digits(images, labels, rows)
