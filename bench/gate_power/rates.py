"""How often each rule rejects, with Wilson intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gate_power.models import EFFECTS
from gate_power.rules import Trial, rules

_Z95 = 1.959963984540054


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (Wilson 1927, JASA 22, 209).

    >>> [round(x, 4) for x in wilson(0, 67)]
    [0.0, 0.0542]
    """
    if n == 0:
        return 0.0, 1.0
    share, z2 = hits / n, _Z95 * _Z95
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == n else middle + half)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """``hits`` of ``n`` with Wilson's 95 % interval, as shares."""

    hits: int
    n: int
    low: float
    high: float

    @property
    def share(self) -> float:
        return self.hits / self.n if self.n else math.nan


def rate(hits: int, n: int) -> Rate:
    low, high = wilson(hits, n)
    return Rate(hits=hits, n=n, low=low, high=high)


def rejections(trials: Sequence[Trial], limit: float) -> dict[str, dict[str, Rate]]:
    """Rule -> effect -> how often it rejects; effects without trials are left out."""
    table: dict[str, dict[str, Rate]] = {}
    for named in rules(limit):
        answers: dict[str, list[bool]] = {}
        for i, trial in enumerate(trials):
            answer = named.rule(trials, i)
            if answer is not None:
                answers.setdefault(str(trial["effect"]), []).append(answer)
        table[named.name] = {e: rate(sum(answers[e]), len(answers[e])) for e in EFFECTS if e in answers}
    return table


def total(tables: Sequence[Mapping[str, Mapping[str, Rate]]]) -> dict[str, dict[str, Rate]]:
    """Several studies' rejections as one; each was judged by itself, so no baseline is taken from another study."""
    found: dict[str, dict[str, Rate]] = {}
    for name in tables[0]:
        for effect in EFFECTS:
            parts = [t[name][effect] for t in tables if effect in t[name]]
            if parts:
                found.setdefault(name, {})[effect] = rate(sum(p.hits for p in parts), sum(p.n for p in parts))
    return found
