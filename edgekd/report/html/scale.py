"""Axes: where a value lies, and which ticks say so."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_MARKS = (
    (1.0,),
    (1.0, 3.0),
    (1.0, 2.0, 5.0),
    (1.0, 2.0, 3.0, 5.0, 7.0),
    tuple(float(i) for i in range(1, 10)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A linear or logarithmic axis from ``low`` to ``high``."""

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value lies, from 0 (low) to 1 (high); values beyond an end lie at that end.

        >>> Scale(low=0.1, high=10, log=True).at(1)
        0.5
        """
        if self.log:
            # Nothing at or below 0 has a place on a logarithmic axis.
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, share))

    def ticks(self, wanted: int = 5) -> list[float]:
        """About ``wanted`` round values within the axis.

        >>> Scale(low=-0.013, high=0.004).ticks(4)
        [-0.01, -0.005, 0.0]
        """
        if self.log:
            return self._log_ticks(wanted)
        rough = (self.high - self.low) / max(1, wanted)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(s * power for s in _STEPS if s * power >= rough * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        # Rounded to the step's own digits, so that 0.30000000000000004 reads 0.3.
        digits = max(0, 2 - math.floor(math.log10(step)))
        return [round(i * step, digits) + 0.0 for i in range(first, last + 1)]

    def spaced(self, wanted: int, least: float) -> list[float]:
        """Ticks whose places differ by ``least`` of the axis or more, the roundest kept.

        >>> Scale(low=0.55, high=5, log=True).spaced(5, 0.1)
        [0.7, 1.0, 2.0, 3.0, 5.0]
        """
        kept: list[float] = []
        for tick in sorted(self.ticks(wanted), key=_roughness):
            if all(abs(self.at(tick) - self.at(k)) >= least for k in kept):
                kept.append(tick)
        return sorted(kept)

    def _log_ticks(self, wanted: int) -> list[float]:
        tens = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        found: list[float] = []
        for marks in _MARKS:
            tried = [float(f"{m}e{t}") for t in tens for m in marks]
            tried = [t for t in tried if self.low * (1 - 1e-9) <= t <= self.high * (1 + 1e-9)]
            if len(tried) > 1.6 * wanted and found:
                break
            found = tried
            if len(found) >= wanted:
                break
        return found if len(found) >= 2 else Scale(low=self.low, high=self.high).ticks(wanted)


def _roughness(tick: float) -> int:
    mantissa = f"{abs(tick):e}".partition("e")[0].rstrip("0").rstrip(".")
    return ("0", "1", "5", "2", "3", "7").index(mantissa) if mantissa in ("0", "1", "5", "2", "3", "7") else 9


def scale_over(values: Iterable[float | None], *, log: bool = False, pad: float = 0.06) -> Scale:
    """An axis that holds all finite values, with a margin of ``pad`` of its length at both ends."""
    finite = [v for v in values if v is not None and math.isfinite(v) and (v > 0 or not log)]
    low, high = (min(finite), max(finite)) if finite else (1.0, 1.0) if log else (0.0, 0.0)
    if log:
        room = max((high / low) ** pad, 1.02)
        return Scale(low=low / room, high=high * room, log=True)
    room = (high - low) * pad or (abs(high) or 1.0) * 0.5
    return Scale(low=low - room, high=high + room)
