"""Whether a converted model answers as its source does: the feeds to try, and the comparison of two sessions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.quantize.damage import Answers, Bounds, Damage, data_sized
from edgekd.spec import TensorSpec, concrete_shape, draw_feeds
from edgekd.target import Session

#: Batches that parity is checked at; 5 is neither what an example input has nor a power of two.
PARITY_BATCHES = (1, 2, 5)
PARITY_SEED = 20_000
#: float32 sums in another order: |reference - candidate| <= atol + rtol |reference|.
PARITY_ATOL = 1e-4
PARITY_RTOL = 1e-3

#: What a conversion must keep on real examples, by the precision that it computes in. Float32 sums in another order
#: leave 90 dB and more, TF32 (11 significant bits) 50 to 60, float16 (11) about 60, bfloat16 (8) about 40; a deep network
#: loses some of that. A wrong conversion is near 0 dB, whatever the precision.
REAL_BOUNDS: Mapping[str, Bounds] = {
    "float32": Bounds(min_sqnr_db=40.0, min_agreement=0.98, min_values=1),
    "float16": Bounds(min_sqnr_db=25.0, min_agreement=0.9, min_values=1),
    "bfloat16": Bounds(min_sqnr_db=15.0, min_agreement=0.9, min_values=1),
}
#: Of two executions of one quantized model: ties round differently, and a step in an early layer grows.
ROUNDED_BOUNDS = Bounds(min_sqnr_db=10.0, min_agreement=0.75)
_WRONG = "the export is wrong: do not use it"

Shapes = Mapping[str, tuple[tuple[int, ...], ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far a candidate was from its reference.

    Attributes:
        max_abs_error: over all outputs and feeds; max_abs: the reference's greatest value; feeds: how many were compared.
        atol, rtol: what was allowed; batches: sizes of the leading dimension that were tried.
        reference: what it was compared with, e.g. ``torch 2.13.0``.
        real: how the answers compare on real examples; None where none were given.
    """

    max_abs_error: float
    max_abs: float = 0.0
    feeds: int
    atol: float
    rtol: float
    batches: tuple[int, ...]
    reference: str
    real: Damage | None = None

    def to_json(self) -> dict[str, Any]:
        """For ``lineage["parity"]`` of an artifact."""
        return {
            "max_abs_error": self.max_abs_error, "max_abs": self.max_abs, "feeds": self.feeds, "atol": self.atol, "rtol": self.rtol,
            "batches": list(self.batches), "seed": PARITY_SEED, "reference": self.reference,
            **({"real": self.real.to_json()} if self.real else {}),
        }  # fmt: skip


def batch_feeds(inputs: Sequence[TensorSpec], shapes: Shapes, seed: int, batch: int) -> dict[str, Array]:
    """Seeded feeds whose leading symbolic dimensions are ``batch`` even where ``shapes`` gives another."""
    sized = {}
    for spec in inputs:
        shape = concrete_shape(spec, shapes, batch)
        sized[spec.name] = ((batch, *shape[1:]) if spec.dynamic_batch else shape,) * 3
    return draw_feeds(inputs, seed=seed, shapes=sized, batch=batch)


def parity_batches(inputs: Sequence[TensorSpec], shapes: Shapes) -> tuple[int, ...]:
    """Batches to try: 1, 2 and the greatest that ``shapes`` allows (5 where they say nothing); none but 1 where fixed."""
    if not any(s.dynamic_batch for s in inputs):
        return (1,)
    ends = [shapes[s.name] for s in inputs if s.dynamic_batch and s.name in shapes]
    low = max((e[0][0] for e in ends), default=1)
    high = min((e[2][0] for e in ends), default=PARITY_BATCHES[-1])
    if all(e[0] == e[1] == e[2] for e in ends):  # one size was given, for the other dimensions
        low, high = PARITY_BATCHES[0], PARITY_BATCHES[-1]
    return tuple(sorted({max(low, min(high, n)) for n in (*PARITY_BATCHES[:2], high)}))


def parity_feeds(inputs: Sequence[TensorSpec], shapes: Shapes) -> Iterator[Mapping[str, Array]]:
    """Feeds at every batch of :func:`parity_batches`, then at the least, usual and greatest of ``shapes``.

    Equal specs and shapes give equal bytes.
    """
    for batch in parity_batches(inputs, shapes):
        yield batch_feeds(inputs, shapes, PARITY_SEED + batch, batch)
    if any(low != high for low, _, high in shapes.values()):
        for end in (0, 1, 2):
            sized = {name: (sizes[end],) * 3 for name, sizes in shapes.items()}
            yield draw_feeds(inputs, seed=PARITY_SEED + 100 + end, shapes=sized)


def compare_real(
    reference: Session,
    candidate: Session,
    real: Iterable[Mapping[str, Array]],
    dtype: str,
    *,
    names: Mapping[str, str] | None = None,
) -> Damage | None:
    """Compare two sessions on real examples, by the bounds of the precision; None where there are no examples.

    Element by element, as :func:`check_parity` compares drawn feeds, real answers would be too strict for what rounds
    (a logit near 0 beside one of 30) and too lenient for what answers with small numbers.

    Args:
        dtype: what the candidate computes in, of :data:`REAL_BOUNDS`; another is quantized.
        names: output of the reference -> output of the candidate, where they differ.

    Raises:
        ModelError: beyond the bounds.
    """
    seen = Answers(free=data_sized(reference.inputs, reference.outputs))
    for fed in real:
        expected, got = reference.run(fed), candidate.run(fed)
        named = {n: got[(names or {}).get(n, n)] for n in expected if (names or {}).get(n, n) in got}
        seen.add(expected, named, fix=_WRONG)
    return seen.damage(REAL_BOUNDS.get(dtype, ROUNDED_BOUNDS), fix=_WRONG) if seen.examples else None


def check_parity(
    reference: Session,
    candidate: Session,
    feeds: Iterable[Mapping[str, Array]],
    *,
    atol: float = PARITY_ATOL,
    rtol: float = PARITY_RTOL,
    batches: tuple[int, ...] = (),
    names: Mapping[str, str] | None = None,
    real: Iterable[Mapping[str, Array]] = (),
    dtype: str = "float32",
) -> Parity:
    """Compare two sessions on the same feeds: |reference - candidate| <= atol + rtol |reference|.

    Where there is an ``rtol``, ``atol`` is no more than that share of the greatest value that the reference answers with:
    a model whose answers are all near 0 would equal any other otherwise. Integers and booleans are equal or not.

    Args:
        batches: for the record.
        names: output of the reference -> output of the candidate, where they differ.
        real: real examples, which are compared by :func:`compare_real` for ``dtype``.

    Raises:
        ModelError: beyond the tolerance, another shape or dtype, NaN in only one (names the worst output), or nothing to
        compare: no feeds, or no finite value.
    """
    here, there = reference.placement.runtime, candidate.placement.runtime
    worst = greatest = 0.0
    count = finite = 0
    for fed in feeds:
        expected, got = reference.run(fed), candidate.run(fed)
        count += 1
        peak = max((_peak(v) for v in expected.values()), default=0.0)
        greatest = max(greatest, peak)
        allowed = min(atol, rtol * peak) if rtol > 0 else atol
        for name, want in expected.items():
            have = got.get((names or {}).get(name, name))
            if have is None or have.shape != want.shape or have.dtype != want.dtype:
                found = "nothing" if have is None else f"{have.dtype}{have.shape}"
                raise ModelError(
                    f"output '{name}' is {want.dtype}{want.shape} in {here} and {found} in {there}",
                    _WRONG,
                )
            if want.size == 0:
                continue
            if want.dtype.kind in "iub":
                if not np.array_equal(want, have):
                    differ = int(np.count_nonzero(want != have))
                    raise ModelError(
                        f"output '{name}' differs between {here} and {there} in {differ} of {want.size} whole numbers "
                        f"(batch {_batch_of(fed)})",
                        _WRONG,
                    )
                finite += want.size
                continue
            a, b = want.astype(np.float64), have.astype(np.float64)
            finite += int(np.count_nonzero(np.isfinite(a)))
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            with np.errstate(invalid="ignore"):
                error = np.where(same, 0.0, np.abs(a - b))
                excess = error - (allowed + rtol * np.abs(a))
            largest = float(np.max(error))
            if not np.all(excess[~same] <= 0):
                raise ModelError(
                    f"output '{name}' differs by {largest:.3g} between {here} and {there} "
                    f"(tolerance {allowed:g} + {rtol:g} x |value|, batch {_batch_of(fed)})",
                    _WRONG,
                )
            worst = max(worst, largest)
    if not finite:
        what = "none of its answers is finite" if count else "there were no feeds"
        raise ModelError(
            f"{there} cannot be compared with {here}: {what}", "give a model that answers on its own inputs"
        )
    on_real = compare_real(reference, candidate, real, dtype, names=names)
    return Parity(
        max_abs_error=worst,
        max_abs=greatest,
        feeds=count,
        atol=atol,
        rtol=rtol,
        batches=batches,
        reference=here,
        real=on_real,
    )


def _peak(values: Array) -> float:
    """The greatest finite magnitude; 0 for integers and booleans."""
    if values.dtype.kind in "iub" or not values.size:
        return 0.0
    size = np.abs(values.astype(np.float64))
    return float(np.max(size, initial=0.0, where=np.isfinite(size)))


def _batch_of(feeds: Mapping[str, Array]) -> object:
    first = next(iter(feeds.values()), None)
    return first.shape[0] if first is not None and first.ndim else "none"
