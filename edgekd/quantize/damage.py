"""What quantization or conversion did to a model's answers, whatever the runtime, and when that is no answer at all."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import DataError, ModelError
from edgekd.spec import TensorSpec
from edgekd.statistics.binomial import CONFIDENCE, binomial_cdf

#: What to try where a quantized model is broken.
FIX = (
    "try another --method, more examples, --activation-granularity channel or --smoothing 0.5 (OpenVINO), or keep layers in "
    "float"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a quantized or converted model must keep of its float source, or it is not measured.

    They tell a broken model from a lossy one, and are no accuracy gate: at 3 dB half of the answer's power is noise.

    Attributes:
        min_sqnr_db: least SQNR of any floating-point output over the examples, in dB.
        min_agreement: least share of rows (the last axis) whose greatest class is the same, for floating-point outputs,
            and of equal values, for outputs that are integers, booleans or texts. Refused is what falls below it
            beyond chance (binomial, confidence 0.99): 0 of 3 examples are still no proof, 0 of 7 are. Integers of many
            values are quantities: they may differ everywhere while their SQNR is at least ``min_sqnr_db``.
        decided_db: the agreement of floating-point outputs of shape (batch, classes) is asked for only where their SQNR,
            each row less its mean, is below this many dB. Above it noise is a tenth of the differences within a row,
            and where the greatest then changes it was a near tie, as rows of a regression or an embedding hold many.
            With more axes the last one need not hold classes: there it is asked below ``min_sqnr_db``.
        min_values: the SQNR is asked for from so many values upwards; of fewer, one near 0 decides it.
    """

    min_sqnr_db: float = 3.0
    min_agreement: float = 0.5
    decided_db: float = 20.0
    min_values: int = 8


#: What is asked of every artifact.
BOUNDS = Bounds()
#: Where damage is recorded and refused by somebody else; what is not finite or 0 everywhere is refused all the same.
ANYTHING = Bounds(min_sqnr_db=-math.inf, min_agreement=0.0)
#: An integer output of more different values than this holds quantities (pixels, counts), not classes.
_CLASSES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Answers before and after.

    Attributes:
        sqnr_db: output name -> 10 log10(sum a^2 / sum (a - b)^2), rounded to 0.01; None where every value is equal, and
            for outputs that are neither floats nor quantities. Of quantities a is less its mean.
        agreement: output name -> share of rows (the last axis) with the same greatest class, of floats; share of equal
            values, of integers, booleans and texts.
        examples: how many were compared.
        resized: output name -> batches in which its size, which depends on the data, was another: nothing else of them
            was compared. Only outputs that had any.
    """

    sqnr_db: Mapping[str, float | None]
    agreement: Mapping[str, float]
    examples: int
    resized: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "sqnr_db": dict(self.sqnr_db), "agreement": dict(self.agreement), "examples": self.examples, **self._resized()
        }  # fmt: skip

    def to_lineage(self) -> dict[str, Any]:
        """As an artifact's lineage holds it."""
        return {
            "sqnr_db": dict(self.sqnr_db),
            "agreement": dict(self.agreement),
            "checked_examples": self.examples,
            **self._resized(),
        }

    def _resized(self) -> dict[str, Any]:
        return {"resized_batches": dict(self.resized)} if self.resized else {}


def data_sized(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> dict[str, tuple[int, ...]]:
    """Output name -> axes whose size depends on the data (NonZero, NonMaxSuppression): symbolic, and no size of an input."""
    known = {d for spec in inputs for d in spec.shape}
    axes = {
        s.name: tuple(i for i, d in enumerate(s.shape) if isinstance(d, str) and d not in known)
        for s in outputs
    }
    return {name: found for name, found in axes.items() if found}


def compare_answers(
    before: Sequence[Mapping[str, Array]],
    after: Sequence[Mapping[str, Array]],
    *,
    bounds: Bounds = BOUNDS,
    fix: str = FIX,
) -> Damage:
    """Compare outputs of a float model and of what was made of it on the same batches of real examples.

    Args:
        before, after: one mapping of outputs per batch, in the same order.
        fix: what to try where the second is broken.

    Raises:
        DataError: no batches; ModelError: as :class:`Answers` says.
    """
    seen = Answers()
    for one, other in zip(before, after, strict=True):
        seen.add(one, other, fix=fix)
    return seen.damage(bounds, fix=fix)


@dataclass
class Answers:
    """Sums over pairs of answers, batch by batch, so that memory holds one batch.

    >>> seen = Answers()
    >>> seen.add({"y": np.array([[1.0, 3.0]])}, {"y": np.array([[1.0, 2.9]])})
    >>> seen.damage().sqnr_db
    {'y': 30.0}
    """

    examples: int = 0
    #: Of :func:`data_sized`.
    free: Mapping[str, Collection[int]] = field(default_factory=dict)
    _sums: dict[str, _Sums] = field(default_factory=dict)

    def add(self, before: Mapping[str, Array], after: Mapping[str, Array], *, fix: str = FIX) -> None:
        """One batch.

        Raises:
            ModelError: an output is missing, has another shape, or holds NaN or infinity where the float model has none.
        """
        rows = 1
        for name, a in before.items():
            b = after.get(name)
            sums = self._sums.setdefault(name, _Sums())
            if b is not None and b.shape != a.shape and _alike(a.shape, b.shape, self.free.get(name, ())):
                sums.resized += 1
                continue
            if b is None or b.shape != a.shape:
                found = "is missing" if b is None else f"has shape {b.shape}"
                raise ModelError(f"output '{name}' {found}, its float source has {a.shape}", fix)
            sums.add(name, a, b, fix)
            rows = max(rows, len(a) if a.ndim and 0 not in self.free.get(name, ()) else 1)
        self.examples += rows

    def damage(self, bounds: Bounds = BOUNDS, *, fix: str = FIX) -> Damage:
        """What all batches together say.

        Raises:
            DataError: there were none; ModelError: answers beyond ``bounds``, or without any finite value in the source.
        """
        if not self._sums:
            raise DataError("there are no real examples to compare answers on", "give at least one")
        for name, sums in self._sums.items():
            sums.check(name, bounds, fix)
        return Damage(
            sqnr_db={n: s.sqnr_db for n, s in self._sums.items()},
            agreement={n: s.same / s.asked for n, s in self._sums.items() if s.asked},
            examples=self.examples,
            resized={n: s.resized for n, s in self._sums.items() if s.resized},
        )


def _alike(one: Sequence[int], other: Sequence[int], free: Collection[int]) -> bool:
    """Whether two shapes differ along ``free`` axes only."""
    return len(one) == len(other) and all(
        a == b or i in free for i, (a, b) in enumerate(zip(one, other, strict=True))
    )


@dataclass
class _Sums:
    """Of one output: noise and signal, the same of what differs within a row, and how many answers are the same."""

    values: int = 0
    finite: int = 0
    resized: int = 0
    noise: float = 0.0
    power: float = 0.0
    total: float = 0.0
    row_noise: float = 0.0
    row_signal: float = 0.0
    same: int = 0
    asked: int = 0
    floating: bool = True
    #: Whether every row is one example's classes, rather than whatever lies along the last of more axes.
    classes: bool = True
    #: Different integers seen, no more than tell classes from quantities.
    seen: set[int] = field(default_factory=set)

    def add(self, name: str, before: Array, after: Array, fix: str) -> None:
        self.values += before.size
        if before.dtype.kind not in "fc":
            self.floating = False
            self.finite += before.size
            self.same += int(np.count_nonzero(before == after))
            self.asked += before.size
            if before.dtype.kind in "iu" and before.size:
                self.seen.update(np.unique(before)[: _CLASSES + 1].tolist())
                self._sum(before.astype(np.float64), after.astype(np.float64))
            return
        # Infinity has a place in answers, in masks for example; there its twin has to say the same.
        a, b = before.astype(np.float64), after.astype(np.float64)
        finite = np.isfinite(a)
        if not (np.isfinite(b) | ~finite).all():
            raise ModelError(
                f"output '{name}' holds NaN or infinity where its float source has a finite value", fix
            )
        if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
            raise ModelError(
                f"output '{name}' has other values where its float source holds NaN or infinity", fix
            )
        self.finite += int(np.count_nonzero(finite))
        self._sum(a[finite], b[finite])
        if a.ndim >= 2 and a.shape[-1] > 1:
            whole = finite.reshape(-1, a.shape[-1]).all(1)
            self._rows(a.reshape(-1, a.shape[-1])[whole], b.reshape(-1, a.shape[-1])[whole])
            self.classes = self.classes and a.ndim == 2

    def _sum(self, a: Array, b: Array) -> None:
        self.noise += float(np.sum((a - b) ** 2))
        self.power += float(np.sum(a**2))
        self.total += float(np.sum(a))

    def _rows(self, a: Array, b: Array) -> None:
        centred = a - a.mean(1, keepdims=True)
        self.row_signal += float(np.sum(centred**2))
        self.row_noise += float(np.sum((b - b.mean(1, keepdims=True) - centred) ** 2))
        self.same += int(np.count_nonzero(a.argmax(1) == b.argmax(1)))
        self.asked += len(a)

    @property
    def quantities(self) -> bool:
        return len(self.seen) > _CLASSES

    @property
    def signal(self) -> float:
        # Numbers of tokens or rows, drawn anew, would keep 3 dB of their mean.
        return self.power - self.total**2 / self.finite if self.quantities else self.power

    @property
    def sqnr_db(self) -> float | None:
        if not (self.floating or self.quantities):
            return None
        return _decibels(self.signal, self.noise) if self.signal and self.noise else None

    def check(self, name: str, bounds: Bounds, fix: str) -> None:
        if self.values and not self.finite:
            raise ModelError(
                f"output '{name}' of the float source has no finite value on any real example",
                "repair the float model",
            )
        enough = self.finite >= bounds.min_values
        if self.floating and enough and self.noise > 0 and self.signal == 0:
            raise ModelError(
                f"output '{name}' is 0 everywhere in its float source, and not here: it is broken", fix
            )
        where = f"on {self.values} values of real examples"
        low = enough and self.sqnr_db is not None and self.sqnr_db < bounds.min_sqnr_db
        if self.floating and low:
            raise ModelError(
                f"output '{name}' has {self.sqnr_db:.1f} dB of signal to noise against its float source {where} (at "
                f"least {bounds.min_sqnr_db:g} are asked): it is broken, not only less accurate",
                fix,
            )
        if self._disagrees(bounds) and (low or not self.quantities):
            what = "the greatest class" if self.floating else "the value"
            unit = "real examples" if self.classes else "rows of real examples"
            raise ModelError(
                f"output '{name}' has {what} of its float source for {self.same} of {self.asked} {unit} (at least "
                f"{bounds.min_agreement:.0%} are asked): it is broken, not only less accurate",
                fix,
            )

    def _disagrees(self, bounds: Bounds) -> bool:
        if not self.asked or self.same >= bounds.min_agreement * self.asked:
            return False
        if self.floating and self.row_noise == 0:
            return False
        decided_db = bounds.decided_db if self.classes else min(bounds.decided_db, bounds.min_sqnr_db)
        decided = self.floating and self.row_signal > 0
        if decided and _decibels(self.row_signal, self.row_noise) >= decided_db:
            return False
        chance = binomial_cdf(self.same, self.asked, min(bounds.min_agreement, 1 - 1e-9))
        return chance <= 1 - CONFIDENCE


def _decibels(signal: float, noise: float) -> float:
    return round(10 * math.log10(signal / noise), 2)
