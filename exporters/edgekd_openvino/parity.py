"""Parity of IR files: strict in float32, a share of each output where weights or values were rounded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.parity import (
    PARITY_ATOL,
    PARITY_RTOL,
    Parity,
    check_parity,
    compare_real,
    parity_batches,
    parity_feeds,
)  # fmt: skip
from edgekd.spec import TensorSpec
from edgekd.target import Placement, Session, SessionOptions
from edgekd.tolerance import read_tolerances

#: float16: by this share of its largest value an output may differ. Weights are rounded by up to 2**-11, small ones by
#: more; ONNX Runtime with weights rounded alike agrees to float32 tolerances.
FLOAT16_SHARE = 0.05
#: int8: by this share of its root mean square an output may differ, over all feeds. Two executions of one quantized
#: model round ties differently, and a step in an early layer grows; a wrong conversion differs by about all of it.
INT8_SHARE = 0.3
#: Seeded feeds are standard normal; so many standard deviations to either side fill the range of a quantized input.
_SPREAD = 3.0


class _View:
    """A session that answers with some of its outputs only, and as shares of what is called ``largest``."""

    def __init__(self, session: Session, names: Sequence[str], largest: Mapping[str, float]) -> None:
        self.inputs: tuple[TensorSpec, ...] = session.inputs
        self.outputs: tuple[TensorSpec, ...] = tuple(s for s in session.outputs if s.name in names)
        self.placement: Placement = session.placement
        self._session, self._names, self._largest = session, tuple(names), dict(largest)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        made = self._session.run(feeds)
        return {n: made[n] / self._largest[n] if n in self._largest else made[n] for n in self._names}

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        return self._session.bind(feeds)

    def close(self) -> None:
        self._session.close()


def parity_options() -> SessionOptions:
    """How sessions are opened that only compare answers: float32, few threads."""
    return SessionOptions(
        threads=min(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    )


def compare(
    reference: Session,
    candidate: Session,
    options: Mapping[str, Any],
    dtype: str,
    names: Sequence[str],
    ranges: Mapping[str, tuple[float, float]],
) -> dict[str, Any]:
    """Check a candidate against its reference on :func:`edgekd.parity.parity_feeds`, for ``lineage["parity"]``.

    Args:
        options: of the exporter: ``shapes``, ``feeds``, ``atol``, ``rtol``.
        dtype: of the candidate: how much may differ.
        names: outputs to compare.
        ranges: input -> what its quantizer can tell apart; empty for a float model.

    Raises:
        ModelError: beyond the tolerance.
    """
    shapes = options.get("shapes") or {}
    feeds: Iterable[Mapping[str, Array]] = (
        _in_range(f, ranges) for f in parity_feeds(candidate.inputs, shapes)
    )
    real = options.get("feeds") or ()
    batches = parity_batches(candidate.inputs, shapes)
    if dtype not in ("float32", "float16"):
        _, share = tolerances(options, dtype)
        found = _compare_rounded(_View(reference, names, {}), candidate, feeds, share, batches)
        damage = compare_real(_View(reference, names, {}), candidate, real, dtype)
        found = replace(found, real=damage)
        return {**found.to_json(), "relative_to": "root mean square of each output"}
    rounded = dtype == "float16"
    atol, rtol = tolerances(options, dtype)
    largest: dict[str, float] = {}
    if rounded:
        feeds = list(feeds)
        largest = _largest(_View(reference, names, {}), feeds)
    parity = check_parity(
        _View(reference, names, largest),
        _View(candidate, names, largest),
        feeds,
        atol=atol,
        rtol=rtol,
        batches=batches,
    )
    parity = replace(parity, real=compare_real(_View(reference, names, {}), candidate, real, dtype))
    return {**parity.to_json(), "relative_to": "largest value of each output" if rounded else "1"}


def tolerances(options: Mapping[str, Any], dtype: str) -> tuple[float, float]:
    """``atol`` and ``rtol`` of a candidate of ``dtype``, from its options or as usual.

    Of float32 as in :func:`edgekd.parity.check_parity`; of float16 alike, of outputs in shares of their largest value
    (so ``rtol`` 0 leaves the whole of ``atol``); of int8 ``rtol`` alone counts, a share of the root mean square.

    Raises:
        UsageError: not a finite number >= 0.
    """
    usual = {"float32": (PARITY_ATOL, PARITY_RTOL), "float16": (FLOAT16_SHARE, 0.0)}
    return read_tolerances(options, *usual.get(dtype, (0.0, INT8_SHARE)))


def _compare_rounded(
    reference: Session,
    candidate: Session,
    feeds: Iterable[Mapping[str, Array]],
    share: float,
    batches: tuple[int, ...],
) -> Parity:
    """Compare two executions of one quantized model by root mean square, over all feeds together.

    Raises:
        ModelError: an output differs by more than ``share``, or in shape or dtype, or in being a number.
    """
    here, there = reference.placement.runtime, candidate.placement.runtime
    noise: dict[str, float] = {}
    signal: dict[str, float] = {}
    worst, count = 0.0, 0
    for fed in feeds:
        count += 1
        expected, got = reference.run(fed), candidate.run(fed)
        for name, want in expected.items():
            have = got[name]
            if have.shape != want.shape or have.dtype != want.dtype:
                raise ModelError(
                    f"output '{name}' is {want.dtype}{want.shape} in {here} and {have.dtype}{have.shape} in {there}",
                    "the export is wrong: do not use it",
                )
            difference = np.abs(want.astype(np.float64) - have.astype(np.float64))
            worst = max(worst, float(np.max(difference, initial=0.0)))
            noise[name] = noise.get(name, 0.0) + float(np.sum(difference**2))
            signal[name] = signal.get(name, 0.0) + float(np.sum(want.astype(np.float64) ** 2))
    for name, power in noise.items():
        if not power <= share**2 * signal[name]:
            raise ModelError(
                f"output '{name}' differs between {here} and {there} by {np.sqrt(power / max(signal[name], 1e-300)):.2g} "
                f"of its root mean square (limit {share:g})",
                "the export is wrong: do not use it",
            )
    return Parity(max_abs_error=worst, feeds=count, atol=0.0, rtol=share, batches=batches, reference=here)


def _largest(session: Session, feeds: Iterable[Mapping[str, Array]]) -> dict[str, float]:
    """Output -> largest absolute value over all feeds, where that is a number above 0."""
    found: dict[str, float] = {}
    for fed in feeds:
        for name, made in session.run(fed).items():
            if made.dtype.kind == "f" and made.size:
                found[name] = max(found.get(name, 0.0), float(np.max(np.abs(made))))
    return {name: value for name, value in found.items() if 0 < value < float("inf")}


def _in_range(feeds: Mapping[str, Array], ranges: Mapping[str, tuple[float, float]]) -> dict[str, Array]:
    """Feeds spread over the range of each quantized input: others would all be one step of its scale."""
    spread = dict(feeds)
    for name, (low, high) in ranges.items():
        if name in spread and spread[name].dtype.kind == "f":
            middle, half = (low + high) / 2, (high - low) / 2
            made = np.clip(middle + half / _SPREAD * spread[name], low, high)
            spread[name] = np.asarray(made, dtype=spread[name].dtype)
    return spread
