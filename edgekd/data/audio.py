"""A folder of recordings by class: ``folder/<class>/<file>.wav``; classes are numbered in sorted order."""

from __future__ import annotations

import struct
import warnings
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


def _classes(path: Path) -> list[Path]:
    # Hidden folders (.git, .ipynb_checkpoints) would shift every class by one.
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _is_recording(file: Path) -> bool:
    return file.suffix.lower() == ".wav" and not file.name.startswith(".")


def holds_recordings(path: Path) -> bool:
    """Whether any file in the folder's classes is a recording."""
    return any(_is_recording(file) for folder in _classes(path) for file in folder.iterdir())


@dataclass(frozen=True)
class AudioFolder:
    """Recordings, input ``audio``: (time,), or (time, channels), as the file has them; ``sample_rate`` int64 (), Hz.

    The id is the path below the folder.
    """

    path: Path

    @cached_property
    def rows(self) -> list[tuple[Path, int]]:
        return [
            (file, label)
            for label, folder in enumerate(_classes(self.path))
            for file in sorted(folder.iterdir())
            if _is_recording(file)
        ]

    def __iter__(self) -> Iterator[Example]:
        wavfile = require("scipy.io.wavfile", extra="data", purpose="reading .wav")
        for file, label in self.rows:
            try:
                with warnings.catch_warnings():
                    # It warns of files that are cut short, and of chunks of notes, which it skips.
                    warnings.simplefilter("error", wavfile.WavFileWarning)
                    warnings.filterwarnings("ignore", r"Chunk \(non-data\)", wavfile.WavFileWarning)
                    rate, samples = wavfile.read(file)
            except (
                OSError,
                ValueError,
                EOFError,
                struct.error,
                UnboundLocalError,  # scipy's, of a size of 0 in the header
                wavfile.WavFileWarning,
            ) as e:
                refuse_pointer_file(file)
                why = "its header claims no data" if isinstance(e, UnboundLocalError) else e
                raise DataError(f"cannot read {file} ({why})", "remove or replace the file") from e
            yield Example(
                id=str(file.relative_to(self.path)),
                inputs={"audio": samples, "sample_rate": np.asarray(rate, np.int64)},
                label=label,
            )

    @property
    def digest(self) -> str:
        return digest_of([[str(f.relative_to(self.path)), sha256_file(f), label] for f, label in self.rows])
