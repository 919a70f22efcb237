"""Calibration examples on disk, whatever quantizer reads them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import DataError
from edgekd.files import digest_of, storage_error
from edgekd.spec import TensorSpec, draw_feeds

#: As :data:`edgekd.parity.PARITY_SEED`: what is drawn to check a result is the same everywhere.
_DRAW_SEED = 20_000
_NO_SHAPES: Mapping[str, tuple[tuple[int, ...], ...]] = MappingProxyType({})


@dataclass
class CalibrationSpool:
    """Calibration feeds on disk, one file per batch: memory holds one batch, and they can be read again.

    A filled one may be handed to an exporter as the feeds of several quantizations of one file: nothing is then read,
    prepared or spooled again, and what a calibrator found lies beside it (:meth:`beside`).

    Attributes:
        examples: examples spooled so far.
        batches: files written so far.
        constant: inputs of which every value seen so far is equal.
        source: what the examples are: ``data``, or ``drawn`` where none were given (:func:`spooled`).
    """

    folder: Path
    inputs: tuple[TensorSpec, ...]
    examples: int = 0
    batches: int = 0
    source: str = "data"
    _digest: Any = field(default_factory=hashlib.sha256)
    _range: dict[str, tuple[float, float]] = field(default_factory=dict)
    #: Floating-point inputs of more than one value per example.
    _wide: set[str] = field(default_factory=set)

    def fill(self, feeds: Iterable[Mapping[str, Array]], limit: int) -> None:
        """Check and write feeds until ``limit`` examples are there.

        Raises:
            DataError: none at all, feeds that do not fit the model, NaN or infinity, or floating-point inputs of which every
            value is the same. Integers and booleans may be constant (a mask of texts of one length is), and so may
            floats of one value per example, or of some inputs beside others (the first state of an RNN is).
        """
        for batch in feeds:
            if self.examples >= limit:
                break
            self._add(batch, limit - self.examples)
        if self.examples == 0:
            raise DataError("the calibration data is empty", "give at least one example")
        if self._wide and self._wide <= set(self.constant):
            name = next(s.name for s in self.inputs if s.name in self._wide)
            raise DataError(
                f"the calibration data is constant: every value of input '{name}' is {self._range[name][0]:g} in "
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
        # A fixed batch is stacked too, along the first axis.
        sizes = {len(a) for a in arrays.values()} if stacked else {_fixed_batch(self.inputs)}
        if len(sizes) != 1:
            raise DataError(f"{where}: inputs differ in batch size ({sorted(sizes)})", "stack them alike")
        if 0 in sizes:
            return
        for name, array in sorted(arrays.items()):
            if np.issubdtype(array.dtype, np.floating) and array.size > max(sizes):
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
        # What fills up the last of the fixed batches is no example.
        self.examples += min(sizes.pop(), room)

    def batch(self, index: int) -> dict[str, Array]:
        """One batch of feeds, read back."""
        with np.load(self.folder / f"{index}.npz", allow_pickle=False) as arrays:
            return {s.name: arrays[f"arr_{i}"] for i, s in enumerate(self.inputs)}

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return map(self.batch, range(self.batches))

    def beside(self, what: str, key: Mapping[str, Any]) -> Path:
        """Where a quantizer keeps what it works out of these examples, to find it there the next time.

        Args:
            key: everything that decides it, beside the examples and the float file.
        """
        return self.folder / f"{what}-{digest_of(key).removeprefix('sha256:')[:16]}.json"

    @property
    def digest(self) -> str:
        """``sha256:…`` over every batch's names, dtypes, shapes and bytes."""
        return f"sha256:{self._digest.hexdigest()}"

    @property
    def constant(self) -> list[str]:
        return sorted(name for name, (low, high) in self._range.items() if low == high)


def _fixed_batch(inputs: tuple[TensorSpec, ...]) -> int:
    """Examples per call of a model that takes only so many; 1 where its inputs do not agree."""
    sizes = {s.shape[0] for s in inputs if s.shape and isinstance(s.shape[0], int)}
    return int(sizes.pop()) if len(sizes) == 1 else 1


def spooled(
    feeds: Iterable[Mapping[str, Array]],
    folder: Path,
    inputs: tuple[TensorSpec, ...],
    limit: int,
    *,
    draw: int = 0,
    shapes: Mapping[str, tuple[tuple[int, ...], ...]] = _NO_SHAPES,
) -> CalibrationSpool:
    """``feeds`` themselves where they are a filled spool, else a new one in ``folder``.

    Args:
        draw: how many seeded examples to draw where ``feeds`` holds none, to check a result on that took no data; 0
            refuses that.
        shapes: of :func:`edgekd.spec.parse_shapes`, for what is drawn.

    Raises:
        DataError: as :meth:`CalibrationSpool.fill`; UsageError: a size that nothing says, of what is drawn.
    """
    if isinstance(feeds, CalibrationSpool):
        return feeds
    spool = CalibrationSpool(folder=folder, inputs=inputs)
    given = iter(feeds)
    first = next(given, None)
    if first is None and draw:
        spool.source = "drawn"
        spool.fill((draw_feeds(inputs, seed=_DRAW_SEED + i, shapes=shapes) for i in range(draw)), draw)
    else:
        spool.fill(itertools.chain([] if first is None else [first], given), limit)
    return spool
