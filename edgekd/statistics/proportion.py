"""Bounds of a single rate, such as the share of answers that flip: exact, one side at a time.

C. Clopper and E. Pearson (1934), *The use of confidence or fiducial limits illustrated in the case of the binomial*,
Biometrika 26, 404-413. Its one-sided error is at most alpha at every rate and size. Wilson's and Jeffreys' intervals
are shorter and exceed alpha near 0 (L. Brown, T. Cai and A. DasGupta 2001, Statistical Science 16), which is where
flip rates lie.
"""

from __future__ import annotations

import math

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import InputError
from edgekd.statistics.binomial import binomial_cdf, least_over, most_over, quantile_bounds
from edgekd.statistics.resample import cluster_codes
from edgekd.statistics.student_t import t_quantile
from edgekd.statistics.tango import normal_quantile

_TOLERANCE = 1e-12


def rate_bounds(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Both one-sided Clopper-Pearson bounds of a rate.

    Args:
        hits: of ``n`` independent examples.
        confidence: one-sided level of each bound.

    Returns:
        (lower, upper), fractions, to 1e-10; lower is 0 without a hit, upper 1 without a miss.

    >>> [round(x, 4) for x in rate_bounds(0, 100)]
    [0.0, 0.0295]

    Raises:
        InputError: impossible counts or level.
    """
    if n < 1 or not 0 <= hits <= n:
        raise InputError(
            f"{hits} of {n} examples is impossible", "give counts with 0 <= hits <= n and n >= 1"
        )
    if not 0.5 < confidence < 1:
        raise InputError(f"a one-sided confidence is in (0.5, 1), got {confidence}", "give 0.95")
    return 1.0 - _upper(n - hits, n, confidence), _upper(hits, n, confidence)


def examples_to_decide_rate(
    hits: int, n: int, limit: float, confidence: float = 0.95, power: float = 0.8
) -> int | None:
    """Examples after which this rate would be shown to be under a limit; None where none would.

    The normal approximation of a one-sample test, (z_a sqrt(L (1 - L)) + z_b sqrt(p (1 - p)))^2 / (L - p)^2 (J. Fleiss,
    *Statistical Methods for Rates and Proportions*, 1981, section 2.2), and never fewer than a test without a hit
    needs, ln(1 - c) / ln(1 - L).

    >>> examples_to_decide_rate(40, 1000, 0.05), examples_to_decide_rate(60, 1000, 0.05)
    (2740, None)
    """
    rate = hits / n
    if rate >= limit:
        return None
    wide = normal_quantile(confidence) * math.sqrt(limit * (1 - limit))
    own = normal_quantile(power) * math.sqrt(rate * (1 - rate))
    fewest = math.ceil(math.log(1 - confidence) / math.log1p(-limit)) if limit < 1 else 1
    return max(math.ceil((wide + own) ** 2 / (limit - rate) ** 2), fewest, n + 1)


def effective_examples(happened: Array, clusters: Array, confidence: float = 0.95) -> int:
    """How many independent examples say as much about a rate as these clustered ones.

    E. Korn and B. Graubard (1998), *Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data*, Survey Methodology 24, 193-201: n over the design effect, times the squared ratio of
    the t quantiles with n - 1 and with G - 1 degrees of freedom for G clusters.

    Args:
        happened: bool (n,); clusters: (n,), two or more of them.

    Returns:
        At most n; the number of clusters where all examples agree, which leaves nothing to estimate by.

    Raises:
        InputError: one cluster only.
    """
    n, rate = len(happened), float(np.mean(happened))
    codes, count = cluster_codes(clusters, n)
    if count < 2:
        raise InputError("one cluster has no spread between clusters", "give at least 20")
    if rate in (0.0, 1.0):
        return count
    excess = np.bincount(codes, weights=happened - rate)
    variance = count / (count - 1) * float((excess**2).sum()) / n**2
    few = t_quantile(confidence, count - 1) if count <= 1000 else normal_quantile(confidence)
    many = normal_quantile(confidence)
    if variance <= 0:
        return n
    return max(1, min(n, math.floor(rate * (1 - rate) / variance * (many / few) ** 2)))


def clustered_rate_bounds(happened: Array, clusters: Array, confidence: float = 0.95) -> tuple[float, float]:
    """:func:`rate_bounds` of clustered examples, by their effective number; counts are rounded to the wider side."""
    rate, n = float(np.mean(happened)), effective_examples(happened, clusters, confidence)
    hits = rate * n
    return rate_bounds(math.floor(hits), n, confidence)[0], rate_bounds(math.ceil(hits), n, confidence)[1]


def clustered_quantile_bounds(
    values: Array, level: float, clusters: Array | None, confidence: float = 0.95
) -> tuple[float, float]:
    """One-sided bounds of a quantile from order statistics; of clustered examples by their effective number.

    A quantile is bounded by bounding the share of examples beyond it (R. Woodruff 1952, *Confidence intervals for
    medians and other position measures*, JASA 47, 635-646).

    Args:
        values: float64 (n,).
        level: of the quantile; clusters: (n,), or None where examples are independent.

    Returns:
        lower (minus infinity where there are too few examples), upper (infinity where there are too few).
    """
    n = len(values)
    if clusters is None:
        lower, upper = quantile_bounds(values, level, confidence)
        return (lower if least_over(n, level, confidence) <= n else -math.inf), upper
    ordered = np.sort(values)
    # The sample's quantile as `quantile_bounds` counts it: ceil(level n) examples are at most as large.
    middle = ordered[max(0, math.ceil(level * n) - 1)]
    worth = effective_examples(values > middle, clusters, confidence)
    most, least = most_over(worth, level, confidence), least_over(worth, level, confidence)
    # The shares beyond are those of `worth` examples; the examples counted off are n of them.
    upper = float(ordered[n - math.floor(most / worth * n) - 1]) if most >= 0 else math.inf
    lower = float(ordered[max(0, n - math.ceil(least / worth * n))]) if least <= worth else -math.inf
    return lower, upper


def _upper(hits: int, n: int, confidence: float) -> float:
    """The rate at which ``hits`` or fewer have the chance 1 - confidence, by bisection."""
    if hits >= n:
        return 1.0
    alpha = 1.0 - confidence
    if hits == 0:
        return -math.expm1(math.log(alpha) / n)
    low, high = hits / n, 1.0
    step = 2.0 * normal_quantile(confidence) * math.sqrt(hits + 1.0) / n + 8.0 / n
    while low + step < 1.0:  # a near bracket: each look sums up to n terms
        if binomial_cdf(hits, n, low + step) <= alpha:
            high = low + step
            break
        low += step
    while high - low > _TOLERANCE:
        middle = (low + high) / 2
        if binomial_cdf(hits, n, middle) > alpha:
            low = middle
        else:
            high = middle
    return (low + high) / 2
