"""Bounds of a quantile from counts alone: how many calls may be over, and how many calls that takes.

A call is over a limit or it is not, so the number over is binomial whatever the latencies look like. This is the rule
of MLPerf's early stopping (MLCommons inference policies, *Early Stopping Criterion*; LoadGen's ``early_stopping.cc``
with tolerance 0), which is the exact bound of C. Clopper and E. Pearson (*Biometrika* 26, 1934) read for one side.
It assumes that calls are independent; where stalls come in clusters it promises more than it can keep.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import InputError

#: Confidence of MLPerf's rule, one-sided.
CONFIDENCE = 0.99


def binomial_cdf(k: int, n: int, q: float) -> float:
    """P(X <= k) where X counts the successes of ``n`` independent trials of probability ``q``.

    Raises:
        InputError: n < 0 or q outside (0, 1).
    """
    if n < 0 or not 0 < q < 1:
        raise InputError(f"a binomial needs n >= 0 and a probability in (0, 1), got n={n}, q={q}")
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    if k > n * q:  # the other tail is the shorter sum, and the more exact one
        return 1.0 - binomial_cdf(n - k - 1, n, 1 - q)
    i = np.arange(k, dtype=np.float64)
    logs = np.concatenate(([0.0], np.cumsum(np.log((n - i) / (i + 1)) + math.log(q / (1 - q)))))
    top = float(logs.max())
    # The sum may exceed 1 in the last digit.
    return min(1.0, math.exp(n * math.log1p(-q) + top + math.log(float(np.exp(logs - top).sum()))))


def _check(level: float, confidence: float) -> None:
    if not (0 < level < 1 and 0.5 <= confidence < 1):
        raise InputError(
            f"a quantile's bound needs a level in (0, 1) and a confidence in [0.5, 1), got {level}, {confidence}"
        )


@functools.lru_cache(maxsize=1024)
def least_count(level: float, confidence: float = CONFIDENCE, over: int = 0) -> int:
    """The fewest calls that show the ``level`` quantile within a limit when ``over`` of them are beyond it.

    >>> [least_count(0.99, over=k) for k in (0, 1, 5)], [least_count(0.90, over=k) for k in (0, 1, 5)]
    ([459, 662, 1307], [44, 64, 127])

    Args:
        level: of the quantile, e.g. 0.99.
        confidence: one-sided.
        over: calls beyond the limit, >= 0.

    Raises:
        InputError: a level or confidence that is none, or ``over`` < 0.
    """
    _check(level, confidence)
    if over < 0:
        raise InputError(f"{over} calls cannot be over a limit")
    low, high = over, over + 1
    while binomial_cdf(over, high, 1 - level) > 1 - confidence:
        low, high = high, 2 * high
    while high - low > 1:  # P(X <= over) falls with n
        middle = (low + high) // 2
        if binomial_cdf(over, middle, 1 - level) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


@functools.lru_cache(maxsize=1024)
def most_over(count: int, level: float, confidence: float = CONFIDENCE) -> int:
    """The most of ``count`` calls that may be over a limit and still show the quantile within it; -1: too few calls.

    >>> [most_over(n, 0.99) for n in (458, 459, 661, 662, 1307)]
    [-1, 0, 0, 1, 5]
    """
    _check(level, confidence)
    low, high = -1, max(0, math.ceil(count * (1 - level)))
    while high - low > 1:
        middle = (low + high) // 2
        if binomial_cdf(middle, count, 1 - level) <= 1 - confidence:
            low = middle
        else:
            high = middle
    return low if binomial_cdf(high, count, 1 - level) > 1 - confidence else high


@functools.lru_cache(maxsize=1024)
def least_over(count: int, level: float, confidence: float = CONFIDENCE) -> int:
    """The fewest of ``count`` calls over a limit that show the quantile beyond it; ``count + 1``: too few calls.

    >>> least_over(459, 0.99), least_over(1, 0.99)
    (11, 2)
    """
    _check(level, confidence)
    low, high = 0, count + 1  # P(X >= 0) is 1; P(X >= count + 1) is 0
    while high - low > 1:
        middle = (low + high) // 2
        # P(X >= k) from the other tail: 1 - P(X <= k - 1) would lose its digits.
        if binomial_cdf(count - middle, count, level) <= 1 - confidence:
            high = middle
        else:
            low = middle
    return high


def quantile_bounds(calls: Array, level: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """One-sided confidence bounds of a quantile: order statistics, whatever the distribution.

    Args:
        calls: any order, any unit, shape (n,).
        level: of the quantile, e.g. 0.99.
        confidence: of each bound.

    Returns:
        lower (0 where there are too few calls), upper (infinite where there are too few).
    """
    ordered = np.sort(np.asarray(calls, np.float64))
    n = len(ordered)
    _check(level, confidence)
    if not n:
        return 0.0, math.inf
    most, least = most_over(n, level, confidence), least_over(n, level, confidence)
    # 1-based: the (n - most)-th has ``most`` calls above it; the (n + 1 - least)-th is itself one of ``least``.
    upper = float(ordered[n - most - 1]) if most >= 0 else math.inf
    lower = float(ordered[n - least]) if least <= n else 0.0
    return lower, upper
