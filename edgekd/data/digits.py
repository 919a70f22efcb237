"""``sklearn:digits``: 1,797 real handwritten digits, 8 x 8 pixels, inside a dependency.

Source: Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI; shipped by scikit-learn.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from edgekd.data.example import Array, Example
from edgekd.errors import UsageError
from edgekd.files import digest_of
from edgekd.lazy import require

#: Disjoint but for calibration, which is the first part of train: rows of one fixed permutation (seed 0).
SPLITS = {"train": (0, 1077), "calibration": (0, 256), "select": (1077, 1347), "test": (1347, 1797)}


@dataclass(frozen=True)
class Digits:
    """Rows of scikit-learn's digits; input ``image`` is float32 (1, 8, 8) in [0, 1], read-only."""

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


def _installed_file() -> Path | None:
    """scikit-learn's own file of digits; None where it is not where it has always been."""
    spec = find_spec("sklearn")  # finds the package without importing it
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return path
    return None


@lru_cache(maxsize=1)
def _read_digits() -> tuple[Array, Array]:
    """Images, float32 (1797, 1, 8, 8) in [0, 1], and labels, int64 (1797,).

    Importing scikit-learn takes a second, its file of 64 pixels and a label per line a few milliseconds: a cached run
    reads the file.
    """
    path = _installed_file()
    if path is None:
        datasets = require("sklearn.datasets", extra="data", purpose="reading sklearn:digits")
        pixels, target = datasets.load_digits(return_X_y=True)
    else:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            table = np.loadtxt(lines, delimiter=",")
        pixels, target = table[:, :-1], table[:, -1]
    images = np.ascontiguousarray(pixels.reshape(-1, 1, 8, 8) / 16.0, dtype=np.float32)
    labels = np.ascontiguousarray(target, dtype=np.int64)
    # One copy serves the whole process.
    images.flags.writeable = labels.flags.writeable = False
    return images, labels


def open_sklearn(body: str, selection: str) -> Digits:
    """Open ``sklearn:digits``, whole or one named split.

    Raises:
        UsageError: another data set, or a split that is not one of :data:`SPLITS`.
        MissingDependencyError: scikit-learn is not installed.
    """
    if body != "sklearn:digits":
        raise UsageError(f"data {body!r} is not known", "the built-in set is sklearn:digits")
    images, labels = _read_digits()
    rows = np.arange(len(labels))
    if selection.isalpha():
        if selection not in SPLITS:
            raise UsageError(
                f"sklearn:digits has no split '{selection}'", f"choose one of {', '.join(SPLITS)}"
            )
        start, stop = SPLITS[selection]
        rows = np.random.default_rng(0).permutation(len(labels))[start:stop]
    return Digits(images, labels, rows)
