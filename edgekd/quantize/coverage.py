"""Whether calibration covers the data: values of inner tensors beyond the range that calibration gave them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.deviation import TENSORS_PER_PASS, Probe
from edgekd.errors import DataError, ModelError

#: Only values beyond the range by this share of it count: rounding of the scale moves its ends by half a step of 255.
_SLACK = 1 / 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """From where on a tensor is told of.

    Attributes:
        max_clipped: share of its values beyond the range. Min-max ranges of a few examples of the same distribution leave
            far less than one in 1,000.
        max_beyond: or one value so far beyond, in units of the range, however rare.
    """

    max_clipped: float = 1e-3
    max_beyond: float = 1.0


#: By :attr:`edgekd.quantize.config.QuantConfig.calibration`. The other methods clip outliers by intention, entropy some per
#: mille of the values, so that only more than that tells of other data.
LIMITS: Mapping[str, Limits] = {
    "minmax": Limits(),
    "percentile": Limits(max_beyond=float("inf")),
    "entropy": Limits(max_clipped=1e-2, max_beyond=float("inf")),
    "mse": Limits(max_clipped=1e-2, max_beyond=float("inf")),
}

#: Tensor name -> (low, high) that its quantized form can hold.
Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorCoverage:
    """One quantized tensor on data that it was not calibrated on.

    Attributes:
        name: in the float file.
        low, high: what its quantized form can hold, in the tensor's own unit.
        seen_low, seen_high: least and greatest value on the other data.
        clipped: share of its values beyond the range, a fraction.
        beyond: how far the farthest is outside, in units of high - low.
    """

    name: str
    low: float
    high: float
    seen_low: float
    seen_high: float
    clipped: float
    beyond: float

    def covered(self, limits: Limits) -> bool:
        """Whether calibration has seen what the data holds."""
        return self.clipped <= limits.max_clipped and self.beyond <= limits.max_beyond

    def __str__(self) -> str:
        return (
            f"'{self.name}' was calibrated on [{self.low:.4g}, {self.high:.4g}] and holds [{self.seen_low:.4g}, "
            f"{self.seen_high:.4g}]: {self.clipped:.2%} of its values are clipped"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """All quantized tensors.

    Attributes:
        tensors: the worst first: by share of values clipped, then by how far beyond.
        examples: of the other data.
    """

    tensors: tuple[TensorCoverage, ...]
    examples: int
    limits: Limits

    @property
    def uncovered(self) -> tuple[TensorCoverage, ...]:
        return tuple(t for t in self.tensors if not t.covered(self.limits))

    @property
    def sentence(self) -> str:
        """What to tell; empty where calibration covers the data."""
        worst = self.uncovered
        if not worst:
            return ""
        more = (
            f" ({len(worst)} of {len(self.tensors)} quantized tensors are like it)" if len(worst) > 1 else ""
        )
        return (
            f"Calibration does not cover the data: on {self.examples} other examples {worst[0]}{more}; calibrate on more "
            "examples, or on some that are like these"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "examples": self.examples,
            "max_clipped": self.limits.max_clipped,
            "max_beyond": None if np.isinf(self.limits.max_beyond) else self.limits.max_beyond,
            "sentence": self.sentence,
            "tensors": [t.to_json() for t in self.tensors],
        }


@runtime_checkable
class RangedExporter(Protocol):
    """An exporter that can read calibrated ranges out of its quantized files; this is optional."""

    def quantized_ranges(self, quantized: Artifact, source: Artifact) -> Ranges:
        """Activation tensor, by its name in ``source`` -> the range that it has in ``quantized``.

        Raises:
            ModelError: the file cannot be read.
        """
        ...


@dataclass
class _Seen:
    """What is kept of one tensor between batches."""

    values: int = 0
    outside: int = 0
    low: float = np.inf
    high: float = -np.inf

    def add(self, name: str, values: Array, low: float, high: float) -> None:
        if not np.isfinite(values).all():
            raise ModelError(
                f"tensor '{name}' of the float model holds NaN or infinity", "repair the model or the data"
            )
        slack = _SLACK * (high - low)
        self.values += values.size
        self.outside += int(np.count_nonzero((values < low - slack) | (values > high + slack)))
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))


def measure_coverage(
    probe: Probe, ranges: Ranges, batches: Sequence[Mapping[str, Array]], limits: Limits = LIMITS["minmax"]
) -> Coverage:
    """Run the float model on data that it was not calibrated on, and compare its inner tensors with their ranges.

    Memory holds :data:`edgekd.deviation.TENSORS_PER_PASS` tensors of one batch.

    Args:
        probe: of the float file; tensors that it does not have (a quantizer names some anew) are left out.
        ranges: of the quantized file.
        batches: feeds; inputs of the model count as tensors.

    Raises:
        DataError: no batches; ModelError: no tensor of ``ranges`` is in the float file, or NaN in one.
    """
    if not batches:
        raise DataError("there are no examples to compare ranges on", "give at least one")
    inputs = [n for n in ranges if n in batches[0]]
    inner = [n for n in ranges if n in probe.made_by]
    if not inputs and not inner:
        raise ModelError(
            f"none of the {len(ranges)} quantized tensors is in {probe.path}",
            "give the float file that was quantized",
        )
    seen = {name: _Seen() for name in (*inputs, *inner)}
    for name in inputs:
        for feeds in batches:
            seen[name].add(name, feeds[name], *ranges[name])
    for start in range(0, len(inner), TENSORS_PER_PASS):
        group = inner[start : start + TENSORS_PER_PASS]
        for made in probe.fetch(group, batches):
            for name in group:
                seen[name].add(name, made[name], *ranges[name])
    examples = sum(len(next(iter(feeds.values()))) for feeds in batches)
    return coverage_of(
        {n: (s.low, s.high, s.outside / s.values) for n, s in seen.items() if s.values},
        ranges,
        examples,
        limits,
    )


def coverage_of(
    seen: Mapping[str, tuple[float, float, float]],
    ranges: Ranges,
    examples: int,
    limits: Limits = LIMITS["minmax"],
) -> Coverage:
    """The comparison, worst first.

    Args:
        seen: tensor -> least value, greatest value, share of values outside its range.

    Raises:
        ModelError: a range that is none.
    """
    found = []
    for name, (least, greatest, clipped) in seen.items():
        low, high = ranges[name]
        width = high - low
        if not width > 0:
            raise ModelError(
                f"tensor '{name}' is quantized to the range [{low:g}, {high:g}]", "quantize it again"
            )
        found.append(
            TensorCoverage(
                name=name, low=low, high=high, seen_low=least, seen_high=greatest, clipped=clipped,
                beyond=max(0.0, low - least, greatest - high) / width,
            )
        )  # fmt: skip
    found.sort(key=lambda t: (t.covered(limits), -t.clipped, -t.beyond, t.name))
    return Coverage(tensors=tuple(found), examples=examples, limits=limits)


def stack_batches(feeds: Iterable[Mapping[str, Array]], limit: int) -> list[Mapping[str, Array]]:
    """Feeds until ``limit`` examples are there."""
    found: list[Mapping[str, Array]] = []
    count = 0
    for batch in feeds:
        if count >= limit:
            break
        found.append(batch)
        count += len(next(iter(batch.values())))
    return found
