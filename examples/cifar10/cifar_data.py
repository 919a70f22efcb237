"""CIFAR-10 as this recipe reads it: 50,000 JPEG training images and 5,000 test images, below ``EDGEKD_DATA``.

The images are JPEG copies (quality 75): networks trained on the lossless set lose about 10 points on them, which is
why the recipe fine-tunes its teacher first.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edgekd.data import Example
from edgekd.errors import DataError
from edgekd.files import sha256_file

#: The last images of the training file are held out to choose by; the rest train.
SELECT = 5000


def data_root() -> Path:
    """``EDGEKD_DATA``, else ``shared/data`` beside the repository."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("EDGEKD_DATA") or default)


def _open(name: str) -> Path:
    path = data_root() / "vision" / name
    if not path.is_file():
        raise DataError(f"{path} does not exist", "set EDGEKD_DATA to the folder that holds vision/")
    return path


@dataclass(frozen=True)
class Train:
    """Rows [start, stop) of the training file, decoded as they are read."""

    start: int
    stop: int

    def __iter__(self) -> Iterator[Example]:
        with np.load(_open("cifar10_train_jpegbytes.npz")) as data:
            jpeg, offsets, labels = data["jpeg"], data["offsets"], data["labels"]
        for row in range(self.start, self.stop):
            with Image.open(io.BytesIO(jpeg[offsets[row] : offsets[row + 1]].tobytes())) as image:
                pixels = np.asarray(image.convert("RGB"))
            yield Example(id=f"train-{row}", inputs={"image": pixels}, label=int(labels[row]))

    @property
    def digest(self) -> str:
        path = _open("cifar10_train_jpegbytes.npz")
        return f"{sha256_file(path)}:{self.start}:{self.stop}"


@dataclass(frozen=True)
class Test:
    """The 5,000 test images: the first 500 of each class."""

    def __iter__(self) -> Iterator[Example]:
        with np.load(_open("cifar10_testA_jpegq75.npz")) as data:
            images, labels = data["images"], data["labels"]
        for row in range(len(labels)):
            yield Example(id=f"test-{row}", inputs={"image": images[row]}, label=int(labels[row]))

    @property
    def digest(self) -> str:
        path = _open("cifar10_testA_jpegq75.npz")
        return sha256_file(path)


def train() -> Train:
    return Train(0, 50_000 - SELECT)


def select() -> Train:
    return Train(50_000 - SELECT, 50_000)


def calibration() -> Train:
    return Train(0, 512)


def test() -> Test:
    return Test()
