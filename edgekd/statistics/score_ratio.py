"""Score test of a relative rule for paired proportions: is p_B at least a share r of p_A?

H0 is p_B - r p_A = delta, with delta 0 for the rule itself. The variance is taken at the restricted
maximum-likelihood estimate, as in N.-S. Tang, M.-L. Tang and I. Chan (2003), *On tests of equivalence via non-unity
relative risk for matched-pair design*, Statistics in Medicine 22, 1217-1233, and J. Nam and W. Blackwelder (2002),
*Analysis of the ratio of marginal probabilities in a matched-pair setting*, Statistics in Medicine 21, 689-699. With
r = 1 it is Tango's test of the difference.
"""

from __future__ import annotations

import math

from edgekd.errors import InputError
from edgekd.statistics.tango import normal_quantile

#: Width at which a bound is taken as found.
_TOLERANCE = 1e-12


def ratio_score(both: int, gained: int, lost: int, n: int, share: float, contrast: float = 0.0) -> float:
    """Score statistic of H0: p_B - share * p_A is ``contrast``; standard normal under H0.

    Args:
        both: pairs in which both are right.
        gained: pairs in which only the candidate (B) is right; lost: only the baseline (A); n: all pairs.
        share: r, > 0; 0.99 asks for 99 % of the baseline's right answers.
        contrast: delta, in (-share, 1).

    Returns:
        Positive where the observed contrast lies above; infinite where H0 leaves no variance.

    Raises:
        InputError: impossible counts, share or contrast.
    """
    _check(both, gained, lost, n, share)
    if not -share <= contrast <= 1:
        raise InputError(f"a contrast of {contrast} is outside [-{share:g}, 1]", "give a possible one")
    excess = (both + gained) - share * (both + lost) - n * contrast
    variance = n * restricted_variance(both, gained, lost, n, share, contrast)
    if variance <= 0:
        return 0.0 if abs(excess) < 1e-9 else math.copysign(math.inf, excess)
    return excess / math.sqrt(variance)


def ratio_contrast_bounds(
    both: int, gained: int, lost: int, n: int, share: float, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Both one-sided bounds of the contrast p_B - share * p_A: where its score is the normal quantile.

    The rule holds where the lower bound is above 0 and is broken where the upper one is below, which is what
    :func:`ratio_score` at contrast 0 says, too.

    Args:
        both, gained, lost, n, share: as in :func:`ratio_score`.
        confidence: one-sided level of each bound.

    Returns:
        (lower, upper), fractions in [-share, 1], to 1e-10.

    Raises:
        InputError: impossible counts, share or level.
    """
    _check(both, gained, lost, n, share)
    if not 0.5 < confidence < 1:
        raise InputError(f"a one-sided confidence is in (0.5, 1), got {confidence}", "give 0.95")
    z = normal_quantile(confidence)
    estimate = ((both + gained) - share * (both + lost)) / n
    estimate = min(max(estimate, -share), 1.0)
    bounds = []
    for edge, wanted in ((-share, z), (1.0, -z)):
        near, far = estimate, edge
        while abs(far - near) > _TOLERANCE:  # the score falls with the contrast
            middle = (near + far) / 2
            if abs(ratio_score(both, gained, lost, n, share, middle)) > abs(wanted):
                far = middle
            else:
                near = middle
        bounds.append((near + far) / 2)
    return bounds[0], bounds[1]


def restricted_variance(
    both: int, gained: int, lost: int, n: int, share: float, contrast: float = 0.0
) -> float:
    """Variance of one pair's y_B - share * y_A at the restricted maximum-likelihood estimate.

    With Lagrange's multiplier t a cell of x pairs in which that quantity is ``contrast + e`` has the restricted
    probability (x / n) / (1 + t e), and t solves sum e x / (1 + t e) = 0. The sum falls with t, so there is one
    solution; for contrast 0 it is the root of a quadratic (Tang et al. 2003, appendix), else of a cubic, found here by
    Newton's method kept within a bracket.
    """
    # Without its own pairs a cell may still have a probability: the one that the constraint asks for.
    e = (1.0 - contrast, -share - contrast, 1.0 - share - contrast, -contrast)
    x = (gained / n, lost / n, both / n, (n - both - gained - lost) / n)
    if e[0] <= 0 or e[1] >= 0:
        return 0.0  # everybody gains, or everybody loses
    low, high = -1.0 / e[0], -1.0 / e[1]
    t = 0.0
    for edge, own in ((low, 0), (high, 1)):
        if x[own] > 0:
            continue
        rest = sum(e[i] * x[i] / (1.0 + edge * e[i]) for i in range(4) if i != own and x[i] > 0)
        if (rest <= 0) if own == 0 else (rest >= 0):
            p_own = -rest / e[own]
            others = sum(e[i] ** 2 * x[i] / (1.0 + edge * e[i]) for i in range(4) if i != own and x[i] > 0)
            return others + e[own] ** 2 * p_own
    for _ in range(200):
        terms = [(e[i], x[i], 1.0 + t * e[i]) for i in range(4) if x[i] > 0]
        value = sum(ei * xi / d for ei, xi, d in terms)
        if value > 0:
            low = t
        else:
            high = t
        slope = -sum(ei * ei * xi / (d * d) for ei, xi, d in terms)
        step = t - value / slope if slope else t
        if not low < step < high:
            step = (low + high) / 2
        if abs(step - t) <= 1e-15 * max(1.0, abs(t)):
            break
        t = step
    return sum(ei * ei * xi / d for ei, xi, d in ((e[i], x[i], 1.0 + t * e[i]) for i in range(4) if x[i] > 0))


def _check(both: int, gained: int, lost: int, n: int, share: float) -> None:
    if n <= 0 or min(both, gained, lost) < 0 or both + gained + lost > n:
        raise InputError(
            f"{both} both right, {gained} gained and {lost} lost of {n} pairs is impossible",
            "give counts with 0 <= both + gained + lost <= n and n >= 1",
        )
    if not (math.isfinite(share) and share > 0):
        raise InputError(f"a relative rule asks for a positive share, got {share}", "give 0.99")
