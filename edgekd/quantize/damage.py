"""What quantization or conversion did to a model's answers, whatever the runtime, and when that is no answer at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import DataError, ModelError
from edgekd.statistics.binomial import CONFIDENCE, binomial_cdf

#: What to try where a quantized model is broken.
FIX = "try another --method, more examples, or keep layers in float"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a quantized or converted model must keep of its float source, or it is not measured.

    They tell a broken model from a lossy one, and are no accuracy gate: at 3 dB half of the answer's power is noise.

    Attributes:
        min_sqnr_db: least SQNR of any floating-point output over the examples, in dB.
        min_agreement: least share of examples whose greatest class is the same, for floating-point outputs of shape
            (batch, classes), and of equal values, for outputs that are integers, booleans or texts. Refused is what
            falls below it beyond chance (binomial, confidence 0.99): 0 of 3 examples are still no proof, 0 of 7 are.
        decided_db: the agreement of floating-point outputs is asked for only where their SQNR, each row less its mean,
            is below this many dB. Above it noise is a tenth of the differences within a row, and where the greatest
            then changes it was a near tie, as rows of a regression or an embedding hold many.
    """

    min_sqnr_db: float = 3.0
    min_agreement: float = 0.5
    decided_db: float = 20.0


#: What is asked of every artifact.
BOUNDS = Bounds()
#: Where damage is recorded and refused by somebody else; what is not finite or 0 everywhere is refused all the same.
ANYTHING = Bounds(min_sqnr_db=-math.inf, min_agreement=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Answers before and after.

    Attributes:
        sqnr_db: output name -> 10 log10(sum a^2 / sum (a - b)^2), rounded to 0.01; None where every value is equal, and
            for outputs that are no floats.
        agreement: output name -> share of examples with the same greatest class, of floats that are (batch, classes);
            share of equal values, of integers, booleans and texts.
        examples: how many were compared.
    """

    sqnr_db: Mapping[str, float | None]
    agreement: Mapping[str, float]
    examples: int

    def to_json(self) -> dict[str, Any]:
        return {"sqnr_db": dict(self.sqnr_db), "agreement": dict(self.agreement), "examples": self.examples}

    def to_lineage(self) -> dict[str, Any]:
        """As an artifact's lineage holds it."""
        return {
            "sqnr_db": dict(self.sqnr_db),
            "agreement": dict(self.agreement),
            "checked_examples": self.examples,
        }


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
    _sums: dict[str, _Sums] = field(default_factory=dict)

    def add(self, before: Mapping[str, Array], after: Mapping[str, Array], *, fix: str = FIX) -> None:
        """One batch.

        Raises:
            ModelError: an output is missing, has another shape, or holds NaN or infinity where the float model has none.
        """
        rows = 1
        for name, a in before.items():
            b = after.get(name)
            if b is None or b.shape != a.shape:
                found = "is missing" if b is None else f"has shape {b.shape}"
                raise ModelError(f"output '{name}' {found}, its float source has {a.shape}", fix)
            self._sums.setdefault(name, _Sums()).add(name, a, b, fix)
            rows = max(rows, len(a) if a.ndim else 1)
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
        )


@dataclass
class _Sums:
    """Of one output: noise and signal, the same of what differs within a row, and how many answers are the same."""

    values: int = 0
    finite: int = 0
    noise: float = 0.0
    signal: float = 0.0
    row_noise: float = 0.0
    row_signal: float = 0.0
    same: int = 0
    asked: int = 0
    floating: bool = True

    def add(self, name: str, before: Array, after: Array, fix: str) -> None:
        self.values += before.size
        if before.dtype.kind not in "fc":
            self.floating = False
            self.finite += before.size
            self.same += int(np.count_nonzero(before == after))
            self.asked += before.size
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
        difference = np.where(finite, b, 0.0) - np.where(finite, a, 0.0)
        self.noise += float(np.sum(difference**2))
        self.signal += float(np.sum(a[finite] ** 2))
        if a.ndim == 2 and a.shape[1] > 1 and finite.all():
            centred = a - a.mean(1, keepdims=True)
            self.row_signal += float(np.sum(centred**2))
            self.row_noise += float(np.sum((b - b.mean(1, keepdims=True) - centred) ** 2))
            self.same += int(np.count_nonzero(a.argmax(1) == b.argmax(1)))
            self.asked += len(a)

    @property
    def sqnr_db(self) -> float | None:
        return _decibels(self.signal, self.noise) if self.signal and self.noise else None

    def check(self, name: str, bounds: Bounds, fix: str) -> None:
        if self.values and not self.finite:
            raise ModelError(
                f"output '{name}' of the float source has no finite value on any real example",
                "repair the float model",
            )
        if self.noise > 0 and self.signal == 0:
            raise ModelError(
                f"output '{name}' is 0 everywhere in its float source, and not here: it is broken", fix
            )
        where = f"on {self.values} values of real examples"
        if self.sqnr_db is not None and self.sqnr_db < bounds.min_sqnr_db:
            raise ModelError(
                f"output '{name}' has {self.sqnr_db:.1f} dB of signal to noise against its float source {where} (at "
                f"least {bounds.min_sqnr_db:g} are asked): it is broken, not only less accurate",
                fix,
            )
        if self._disagrees(bounds):
            what = "the greatest class" if self.floating else "the value"
            raise ModelError(
                f"output '{name}' has {what} of its float source for {self.same} of {self.asked} real examples (at least "
                f"{bounds.min_agreement:.0%} are asked): it is broken, not only less accurate",
                fix,
            )

    def _disagrees(self, bounds: Bounds) -> bool:
        if not self.asked or self.same >= bounds.min_agreement * self.asked:
            return False
        if self.floating and self.row_noise == 0:
            return False
        decided = self.floating and self.row_signal > 0
        if decided and _decibels(self.row_signal, self.row_noise) >= bounds.decided_db:
            return False
        chance = binomial_cdf(self.same, self.asked, min(bounds.min_agreement, 1 - 1e-9))
        return chance <= 1 - CONFIDENCE


def _decibels(signal: float, noise: float) -> float:
    return round(10 * math.log10(signal / noise), 2)
