"""Calibration examples on disk, whatever quantizer reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import DataError
from edgekd.files import storage_error
from edgekd.spec import TensorSpec


@dataclass
class CalibrationSpool:
    """Calibration feeds on disk, one file per batch: memory holds one batch, and they can be read again.

    Attributes:
        examples: examples spooled so far.
        batches: files written so far.
        constant: inputs of which every value seen so far is equal.
    """

    folder: Path
    inputs: tuple[TensorSpec, ...]
    examples: int = 0
    batches: int = 0
    _digest: Any = field(default_factory=hashlib.sha256)
    _range: dict[str, tuple[float, float]] = field(default_factory=dict)
    #: Floating-point inputs of more than one value per example.
    _wide: set[str] = field(default_factory=set)

    def fill(self, feeds: Iterable[Mapping[str, Array]], limit: int) -> None:
        """Check and write feeds until ``limit`` examples are there.

        Raises:
            DataError: none at all, feeds that do not fit the model, NaN or infinity, or a floating-point input whose every
            value is the same. Integers and booleans may be constant (a mask of texts of one length is), and so may
            floats of one value per example.
        """
        for batch in feeds:
            if self.examples >= limit:
                break
            self._add(batch, limit - self.examples)
        if self.examples == 0:
            raise DataError("the calibration data is empty", "give at least one example")
        for spec in self.inputs:
            if spec.name in self.constant and spec.name in self._wide:
                raise DataError(
                    f"the calibration data is constant: every value of input '{spec.name}' is {self._range[spec.name][0]:g} in "
                    f"{self.examples} example(s)",
                    "give real examples of what the model will see",
                )

    def _add(self, feeds: Mapping[str, Array], room: int) -> None:
        where = f"calibration batch {self.batches}"
        arrays: dict[str, Array] = {}
        stacked = all(s.dynamic_batch for s in self.inputs)
        for spec in self.inputs:
            if spec.name not in feeds:
                raise DataError(f"{where}: input '{spec.name}' is missing", f"the model wants {spec}")
            array = np.asarray(feeds[spec.name])
            spec.check(array, where=where)
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise DataError(
                    f"{where}: input '{spec.name}' holds NaN or infinity", "remove or repair those examples"
                )
            arrays[spec.name] = array[:room] if stacked else array
        sizes = {len(a) for a in arrays.values()} if stacked else {1}
        if len(sizes) != 1:
            raise DataError(f"{where}: inputs differ in batch size ({sorted(sizes)})", "stack them alike")
        if 0 in sizes:
            return
        for name, array in sorted(arrays.items()):
            if np.issubdtype(array.dtype, np.floating) and array.size > (len(array) if stacked else 1):
                self._wide.add(name)
            self._digest.update(f"{name}|{array.dtype}|{array.shape}|".encode())
            self._digest.update(np.require(array, requirements="C").tobytes())
            low, high = float(array.min()), float(array.max())
            before = self._range.get(name, (low, high))
            self._range[name] = (min(low, before[0]), max(high, before[1]))
        path = self.folder / f"{self.batches}.npz"
        try:
            # Positions rather than names: an input may be called "file" or hold a slash.
            np.savez(path, *(arrays[s.name] for s in self.inputs))
        except OSError as e:
            raise storage_error(e, path) from e
        self.batches += 1
        self.examples += sizes.pop()

    def batch(self, index: int) -> dict[str, Array]:
        """One batch of feeds, read back."""
        with np.load(self.folder / f"{index}.npz", allow_pickle=False) as arrays:
            return {s.name: arrays[f"arr_{i}"] for i, s in enumerate(self.inputs)}

    @property
    def digest(self) -> str:
        """``sha256:…`` over every batch's names, dtypes, shapes and bytes."""
        return f"sha256:{self._digest.hexdigest()}"

    @property
    def constant(self) -> list[str]:
        return sorted(name for name, (low, high) in self._range.items() if low == high)
