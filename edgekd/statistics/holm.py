"""Many questions at once: Holm's step-down correction.

S. Holm (1979), *A simple sequentially rejective multiple test procedure*, Scandinavian Journal of Statistics 6, 65-70.
However the questions depend on each other, the chance of any false rejection stays at most alpha.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgekd.errors import InputError


def normal_tail(z: float) -> float:
    """P(Z > z) of the standard normal distribution, exact in the far tail, too.

    >>> round(normal_tail(1.6448536269514722), 12), normal_tail(float("inf"))
    (0.05, 0.0)
    """
    return 0.5 * math.erfc(z / math.sqrt(2.0))


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values, in the order given: a question is rejected at alpha where its own is at most alpha.

    >>> holm_adjusted([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Raises:
        InputError: a value outside [0, 1].
    """
    if any(not 0.0 <= p <= 1.0 for p in p_values):
        raise InputError(f"p values are in [0, 1], got {next(p for p in p_values if not 0.0 <= p <= 1.0)}")
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for step, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - step) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def holm_rejected(p_values: Sequence[float], alpha: float = 0.05) -> list[bool]:
    """Which questions are rejected so that any false rejection among them has a chance of at most ``alpha``."""
    return [p <= alpha for p in holm_adjusted(p_values)]


def simultaneous_confidence(confidence: float, count: int) -> float:
    """Level of each of ``count`` bounds that hold together at ``confidence`` (Bonferroni).

    >>> round(simultaneous_confidence(0.95, 100), 6)
    0.9995
    """
    return 1.0 - (1.0 - confidence) / max(1, count)


def holm_levels(p_values: Sequence[float], alpha: float = 0.05) -> list[float]:
    """The one-sided confidence at which each hypothesis is tested by Holm's steps, in the order given.

    A bound at that confidence excludes the limit just where :func:`holm_rejected` rejects: step i of K tests at
    alpha / (K - i), and those behind the first step that fails are held to that step's.

    >>> [round(x, 4) for x in holm_levels([0.001, 0.04, 0.03])]
    [0.9833, 0.975, 0.975]
    """
    count = len(p_values)
    levels = [0.0] * count
    failed: float | None = None
    for step, index in enumerate(sorted(range(count), key=p_values.__getitem__)):
        own = alpha / (count - step)
        if failed is None and p_values[index] > own:
            failed = own
        levels[index] = 1.0 - (own if failed is None else failed)
    return levels
