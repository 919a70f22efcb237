"""Arrays of a document: an .npz beside it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from edgekd.data.example import Array


def load_rows(path: Path) -> dict[str, Array]:
    """Every array of an .npz file, by name.

    Raises:
        OSError: it cannot be read; ValueError, EOFError, zipfile.BadZipFile, zlib.error: it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            return {k: data[k] for k in data.files}
    except zipfile.BadZipFile:
        # zipfile says so of a disk that fails, too: read plainly, the two can be told apart.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as data:
            return {k: data[k] for k in data.files}
