"""Student's t for whole degrees of freedom, in closed form: the base install has no scipy.

M. Abramowitz and I. Stegun, *Handbook of Mathematical Functions*, 26.7.3 (odd) and 26.7.4 (even).
"""

from __future__ import annotations

import functools
import math

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import InputError


def t_cdf(t: float, df: int) -> float:
    """P(T <= t) for ``df`` >= 1 degrees of freedom.

    Raises:
        InputError: ``df`` < 1 or t is NaN.
    """
    if df < 1 or math.isnan(t):
        raise InputError(
            f"Student's t needs a number and at least 1 degree of freedom, got t={t}, df={df}", ""
        )
    if math.isinf(t):
        return 1.0 if t > 0 else 0.0
    theta = math.atan(t / math.sqrt(df))
    cos2 = math.cos(theta) ** 2
    total = 0.0
    if df % 2:
        term = math.cos(theta)
        for k in range(1, (df - 1) // 2 + 1):
            total += term
            term *= cos2 * (2 * k) / (2 * k + 1)
        inside = 2 / math.pi * (theta + math.sin(theta) * total)
    else:
        term = 1.0
        for k in range(1, df // 2 + 1):
            total += term
            term *= cos2 * (2 * k - 1) / (2 * k)
        inside = math.sin(theta) * total
    return 0.5 * (1.0 + inside)


@functools.lru_cache(maxsize=256)
def t_quantile(p: float, df: int) -> float:
    """The t with P(T <= t) = p, by bisection to full precision.

    Raises:
        InputError: p outside (0, 1) or ``df`` < 1.
    """
    if not 0 < p < 1:
        raise InputError(f"a quantile needs a probability in (0, 1), got {p}", "")
    if p < 0.5:
        return -t_quantile(1 - p, df)
    low, high = 0.0, 1.0
    while t_cdf(high, df) < p:
        low, high = high, high * 2
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        if t_cdf(middle, df) < p:
            low = middle
        else:
            high = middle


def t_interval(effects: Array, p: float) -> tuple[float, float, float]:
    """Mean of effects and its t bounds: estimate, lower, upper; unbounded for fewer than two.

    Args:
        effects: one per restart, float64 (restarts,), at least one.
        p: level of each bound, one-sided; 0.975 makes a two-sided interval of 95 %.
    """
    n, mean = len(effects), float(np.mean(effects))
    if n < 2:
        return mean, -math.inf, math.inf
    half = t_quantile(p, n - 1) * float(np.std(effects, ddof=1)) / math.sqrt(n)
    return mean, mean - half, mean + half
