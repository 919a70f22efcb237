"""SST-2 sentences as word numbers, below ``EDGEKD_DATA``: 6,920 to train on, 872 to judge on."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from edgekd.data import Example
from edgekd.errors import DataError
from edgekd.files import sha256_file

#: Tokens of a sentence, cut or filled up with 0; words seen at least twice in the training part have a number, others 1.
LENGTH = 40
VOCABULARY = 8000
#: Training sentences held out to choose by.
SELECT = 1000


def data_root() -> Path:
    """``EDGEKD_DATA``, else ``shared/data`` beside the repository."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("EDGEKD_DATA") or default)


def _open(name: str) -> Path:
    path = data_root() / "text" / name
    if not path.is_file():
        raise DataError(f"{path} does not exist", "set EDGEKD_DATA to the folder that holds text/")
    return path


def _read(name: str) -> list[tuple[list[str], int]]:
    rows = [line.split("\t") for line in _open(name).read_text(encoding="utf-8").splitlines()]
    return [(re.findall(r"[a-z0-9']+|[^\sa-z0-9]", text.lower()), int(label)) for text, label in rows]


@lru_cache(maxsize=1)
def vocabulary() -> dict[str, int]:
    """Word -> number from 2, the most frequent first; of the sentences that train, not of those held out."""
    counts = Counter(word for words, _ in _read("sst2_train.tsv")[:-SELECT] for word in words)
    kept = [w for w, count in sorted(counts.items(), key=lambda c: (-c[1], c[0])) if count > 1]
    return {word: k + 2 for k, word in enumerate(kept[: VOCABULARY - 2])}


@dataclass(frozen=True)
class Sentences:
    """Rows [start, stop) of one file."""

    name: str
    start: int | None
    stop: int | None

    def __iter__(self) -> Iterator[Example]:
        known = vocabulary()
        rows = _read(self.name)
        for row in range(*slice(self.start, self.stop).indices(len(rows))):
            words, label = rows[row]
            ids = np.zeros(LENGTH, np.int64)
            found = [known.get(w, 1) for w in words[:LENGTH]]
            ids[: len(found)] = found
            yield Example(id=f"{self.name}-{row}", inputs={"tokens": ids}, label=label)

    @property
    def digest(self) -> str:
        return f"{sha256_file(_open(self.name))}:{self.start}:{self.stop}"


def train() -> Sentences:
    return Sentences("sst2_train.tsv", None, -SELECT)


def select() -> Sentences:
    return Sentences("sst2_train.tsv", -SELECT, None)


def calibration() -> Sentences:
    return Sentences("sst2_train.tsv", 0, 512)


def test() -> Sentences:
    return Sentences("sst2_dev.tsv", None, None)
