"""A folder of images by class: ``folder/<class>/<file>``; classes are numbered in sorted order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from edgekd.data.example import Example
from edgekd.errors import DataError
from edgekd.files import digest_of, sha256_file
from edgekd.lazy import require
from edgekd.lfs_pointer import refuse_pointer_file

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"}


@dataclass(frozen=True)
class ImageFolder:
    """Images as uint8 (height, width, 3), input ``image``; the id is the path below the folder."""

    path: Path

    @cached_property
    def rows(self) -> list[tuple[Path, int]]:
        # Hidden folders (.git, .ipynb_checkpoints) would shift every class by one.
        classes = sorted(p for p in self.path.iterdir() if p.is_dir() and not p.name.startswith("."))
        found = [
            (file, label)
            for label, folder in enumerate(classes)
            for file in sorted(folder.iterdir())
            if file.suffix.lower() in _SUFFIXES and not file.name.startswith(".")
        ]
        if not found:
            raise DataError(f"{self.path} holds no images", "expected folder/<class>/<image file>")
        return found

    def __iter__(self) -> Iterator[Example]:
        image_module = require("PIL.Image", extra="data", purpose="decoding images")
        for file, label in self.rows:
            try:
                with image_module.open(file) as image:
                    pixels = np.asarray(image.convert("RGB"))
            except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError) as e:
                refuse_pointer_file(file)
                raise DataError(f"cannot decode {file} ({e})", "remove or replace the file") from e
            yield Example(id=str(file.relative_to(self.path)), inputs={"image": pixels}, label=label)

    @property
    def digest(self) -> str:
        return digest_of([[str(f.relative_to(self.path)), sha256_file(f), label] for f, label in self.rows])
