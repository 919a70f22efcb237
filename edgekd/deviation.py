"""Where two models part: tensor by tensor, in the order in which the first computes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.errors import DataError, ModelError
from edgekd.model import Model

#: Tensors fetched per pass: bounds the memory that intermediate results take.
TENSORS_PER_PASS = 24


class Probe(Protocol):
    """A model whose inner tensors can be had.

    Attributes:
        made_by: tensor -> the operator that makes it, in the order in which they are computed.
        modules: tensor -> the torch module that it was traced in; may lack some.
        outputs: those that are outputs of the model.
    """

    @property
    def path(self) -> Path: ...

    @property
    def made_by(self) -> Mapping[str, str]: ...

    @property
    def modules(self) -> Mapping[str, str]: ...

    @property
    def outputs(self) -> Sequence[str]: ...

    def fetch(
        self, names: Sequence[str], batches: Sequence[Mapping[str, Array]]
    ) -> Iterator[Mapping[str, Array]]:
        """The named tensors as their consumers see them, for each of the feeds; nothing may be fused away.

        Raises:
            ModelError: it cannot be run; DataError: feeds that do not fit.
        """
        ...


@runtime_checkable
class ProbingRuntime(Protocol):
    """A runtime plugin that can show inner tensors of its models; this is optional."""

    def open_probe(self, path: Path) -> Probe:
        """Read a model for probing.

        Raises:
            ModelError: it cannot be read.
        """
        ...


@runtime_checkable
class LayerComparingRuntime(Protocol):
    """A runtime plugin that can compare its file with the torch module it was made of, by its own tools; optional."""

    def compare_layers(
        self, model: Model, artifact: Artifact, feeds: Mapping[str, Array]
    ) -> Sequence[TensorDifference]:
        """How far each step of ``artifact`` is from torch on ``feeds``, in the order of execution.

        Raises:
            ModelError: an artifact of another model; UsageError: one that its tools cannot look into.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDifference:
    """How far one tensor of ``b`` is from the same tensor of ``a``, over all feeds.

    Attributes:
        name, op_type: the tensor and the operator of ``a`` that makes it.
        is_output: whether it is an output of ``a``.
        max_abs_error: max |a - b|; None where they cannot be subtracted (``problem`` says why).
        relative_error: max |a - b| / max |a|; None likewise, or where ``a`` is all zeros and ``b`` is not.
        sqnr_db: 10 log10(sum a^2 / sum (a - b)^2), in dB; None where equal or not defined.
        problem: other shapes, or NaN or infinity on one side only; else empty.
        module: the torch module that it was traced in; empty where neither file says.
    """

    name: str
    op_type: str
    is_output: bool
    max_abs_error: float | None
    relative_error: float | None
    sqnr_db: float | None
    problem: str
    module: str = ""

    def deviates(self, tolerance: float) -> bool:
        """Whether the relative error is beyond ``tolerance``."""
        if self.problem:
            return True
        if self.relative_error is None:
            return bool(self.max_abs_error)
        return self.relative_error > tolerance

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "op_type": self.op_type, "is_output": self.is_output,
            "max_abs_error": self.max_abs_error, "relative_error": self.relative_error, "sqnr_db": self.sqnr_db,
            "problem": self.problem, "module": self.module,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """The comparison of two models.

    Attributes:
        tensors: every tensor that both name alike, in the order in which ``a`` computes them.
        first: the first of them beyond the tolerance; None where all agree.
        tolerance: limit of the relative error, a fraction.
        feeds: how many feeds were compared.
        only_a: tensors of ``a`` that ``b`` has none of that name for.
    """

    tensors: tuple[TensorDifference, ...]
    first: TensorDifference | None
    tolerance: float
    feeds: int
    only_a: int

    def to_json(self) -> dict[str, Any]:
        return {
            "tensors": [t.to_json() for t in self.tensors],
            "first": self.first.to_json() if self.first else None,
            "tolerance": self.tolerance,
            "feeds": self.feeds,
            "only_a": self.only_a,
        }


@dataclass
class _Sums:
    """What is kept of one tensor between feeds."""

    error: float = 0.0
    peak: float = 0.0
    noise: float = 0.0
    signal: float = 0.0
    problem: str = ""

    def add(self, a: Array, b: Array) -> None:
        if a.shape != b.shape:
            self.problem = self.problem or f"shape {a.shape} against {b.shape}"
            return
        if a.dtype.kind in "OUS" or b.dtype.kind in "OUS":
            self.problem = self.problem or ("" if np.array_equal(a, b) else "texts differ")
            return
        x, y = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(x) & np.isfinite(y)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        if not (finite | same).all():
            self.problem = self.problem or "NaN or infinity on one side only"
        x, y = x[finite], y[finite]
        if x.size:
            difference = np.abs(x - y)
            self.error = max(self.error, float(difference.max()))
            self.peak = max(self.peak, float(np.abs(x).max()))
            self.noise += float(np.sum(difference**2))
            self.signal += float(np.sum(x**2))

    def result(self, name: str, op_type: str, is_output: bool, module: str = "") -> TensorDifference:
        relative = 0.0 if self.error == 0 else (self.error / self.peak if self.peak else None)
        sqnr = 10 * math.log10(self.signal / self.noise) if self.noise > 0 and self.signal > 0 else None
        return TensorDifference(
            name=name,
            op_type=op_type,
            is_output=is_output,
            max_abs_error=None if self.problem else self.error,
            relative_error=None if self.problem else relative,
            sqnr_db=None if self.problem else sqnr,
            problem=self.problem,
            module=module,
        )


def _groups(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), TENSORS_PER_PASS):
        yield names[start : start + TENSORS_PER_PASS]


def first_deviation(
    left: Probe, right: Probe, feeds: Iterable[Mapping[str, Array]], *, tolerance: float
) -> Deviation:
    """Compare every tensor that two models name alike, on the same feeds, in the order of the first.

    Memory holds ``TENSORS_PER_PASS`` tensors of each at a time.

    Args:
        left: the reference.
        right: what was made of it, e.g. its quantized twin.
        feeds: feeds that both take; kept in memory, a few are enough.
        tolerance: limit of max |a - b| / max |a| per tensor, a fraction >= 0.

    Raises:
        ModelError: a file that cannot be run, or files without a common tensor; DataError: no feeds, or feeds that do
        not fit.
    """
    if not tolerance >= 0:
        raise DataError(f"tolerance {tolerance} is not a fraction >= 0", "for example 0.01")
    batches = list(feeds)
    if not batches:
        raise DataError("there are no feeds to compare on", "give at least one")
    own = list(left.made_by)
    shared = [name for name in own if name in right.made_by]
    if not shared:
        raise ModelError(
            f"{left.path} and {right.path} have no tensor of the same name",
            "compare a file with one that was made from it",
        )
    sums = {name: _Sums() for name in shared}
    for group in _groups(shared):
        for want, have in zip(left.fetch(group, batches), right.fetch(group, batches), strict=True):
            for name in group:
                sums[name].add(want[name], have[name])
    tensors = tuple(
        sums[n].result(n, left.made_by[n], n in left.outputs, left.modules.get(n) or right.modules.get(n, ""))
        for n in shared
    )
    return deviation_of(tensors, tolerance=tolerance, feeds=len(batches), only_a=len(own) - len(shared))


def deviation_of(
    tensors: Sequence[TensorDifference], *, tolerance: float, feeds: int, only_a: int = 0
) -> Deviation:
    """The comparison that these differences, in order, make."""
    return Deviation(
        tensors=tuple(tensors),
        first=next((t for t in tensors if t.deviates(tolerance)), None),
        tolerance=tolerance,
        feeds=feeds,
        only_a=only_a,
    )
