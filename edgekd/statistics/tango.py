"""Tango's score test and interval for the difference of two paired proportions.

T. Tango (1998), *Equivalence test and confidence interval for the difference in proportions for the paired-sample
design*, Statistics in Medicine 17, 891-908. The restricted maximum-likelihood estimate has a closed form (his
equation 6), so the score is exact; the interval inverts it by bisection.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from edgekd.errors import InputError

#: Width at which a bound is taken as found, a fraction.
_TOLERANCE = 1e-12


def normal_quantile(p: float) -> float:
    """Quantile of the standard normal distribution, 0 < p < 1."""
    return NormalDist().inv_cdf(p)


def _check(gained: int, lost: int, n: int) -> None:
    if n <= 0 or gained < 0 or lost < 0 or gained + lost > n:
        raise InputError(
            f"{gained} gained and {lost} lost of {n} pairs is impossible",
            "give counts with 0 <= gained + lost <= n and n >= 1",
        )


def tango_score(gained: int, lost: int, n: int, difference: float) -> float:
    """Score statistic of H0: the true difference is ``difference``; standard normal under H0.

    Args:
        gained: pairs in which only the candidate is right (Tango's b).
        lost: pairs in which only the baseline is right (Tango's c).
        n: all pairs.
        difference: candidate minus baseline under H0, in [-1, 1].

    Returns:
        Positive where the observed difference lies above ``difference``; 0 where both agree exactly.

    Raises:
        InputError: impossible counts or difference.
    """
    _check(gained, lost, n)
    if not -1.0 <= difference <= 1.0:
        raise InputError(f"a difference of proportions is in [-1, 1], got {difference}", "give a fraction")
    if difference < 0:
        # Mirrored, so that both terms of the variance are non-negative.
        return -tango_score(lost, gained, n, -difference)
    excess = (gained - lost) - n * difference
    a = 2.0 * n
    b = -(gained + lost) + (2.0 * n - gained + lost) * difference
    c = -lost * difference * (1.0 - difference)
    root = math.sqrt(b * b - 4.0 * a * c)
    q = (root - b) / (2.0 * a)
    variance = n * (2.0 * q + difference * (1.0 - difference))
    if variance <= 0:
        return 0.0 if excess == 0 else math.copysign(math.inf, excess)
    return excess / math.sqrt(variance)


def tango_interval(gained: int, lost: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Both one-sided score bounds of the difference candidate minus baseline.

    Args:
        gained, lost, n: as in :func:`tango_score`.
        confidence: one-sided level of each bound; 0.95 twice is the usual two-sided 90 % interval.

    Returns:
        (lower, upper), fractions in [-1, 1], to 1e-10.

    Raises:
        InputError: impossible counts or level.
    """
    _check(gained, lost, n)
    if not 0.5 < confidence < 1:
        raise InputError(f"a one-sided confidence is in (0.5, 1), got {confidence}", "give 0.95")
    z = normal_quantile(confidence)
    lower = _lower(gained, lost, n, z)
    return lower, -_lower(lost, gained, n, z)


def _lower(gained: int, lost: int, n: int, z: float) -> float:
    """The difference below the observed one at which the score, which falls with it, is ``z``."""
    low, high = -1.0, (gained - lost) / n
    if high <= low or tango_score(gained, lost, n, low) <= z:
        return low
    while high - low > _TOLERANCE:
        middle = (low + high) / 2
        if tango_score(gained, lost, n, middle) > z:
            low = middle
        else:
            high = middle
    return (low + high) / 2
