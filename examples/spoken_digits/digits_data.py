"""Free Spoken Digit Dataset, below ``EDGEKD_DATA``: takes 5 to 34 train, 35 to 39 choose, 40 to 49 judge."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekd.data import Example
from edgekd.errors import DataError
from edgekd.files import sha256_file

RATE_HZ = 8000


def _open() -> Path:
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    path = Path(os.environ.get("EDGEKD_DATA") or default) / "audio" / "fsdd_train.npz"
    if not path.is_file():
        raise DataError(f"{path} does not exist", "set EDGEKD_DATA to the folder that holds audio/")
    return path


@dataclass(frozen=True)
class Takes:
    """Recordings of the takes [start, stop) of every speaker and digit."""

    start: int
    stop: int

    def __iter__(self) -> Iterator[Example]:
        with np.load(_open()) as data:
            audio, offsets, labels = data["audio"], data["offsets"], data["labels"]
            takes, speakers = data["take"], data["speakers"][data["speaker"]]
        for row in np.flatnonzero((takes >= self.start) & (takes < self.stop)):
            yield Example(
                id=f"{speakers[row]}-{labels[row]}-{takes[row]}",
                inputs={"audio": audio[offsets[row] : offsets[row + 1]], "sample_rate": np.asarray(RATE_HZ)},
                label=int(labels[row]),
                slices={"speaker": str(speakers[row])},
            )

    @property
    def digest(self) -> str:
        return f"{sha256_file(_open())}:{self.start}:{self.stop}"


def train() -> Takes:
    return Takes(5, 35)


def select() -> Takes:
    return Takes(35, 40)


def test() -> Takes:
    return Takes(40, 50)
