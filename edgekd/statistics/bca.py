"""Bias-corrected and accelerated bounds from resampled values.

B. Efron (1987), *Better bootstrap confidence intervals*, JASA 82, 171-185; B. Efron and R. Tibshirani (1993), *An
Introduction to the Bootstrap*, chapter 14; A. Davison and D. Hinkley (1997), *Bootstrap Methods and their
Application*, section 5.3. With few units a bootstrap is too narrow; T. Hesterberg (2015, *What Teachers Should Know
About the Bootstrap*, The American Statistician 69, section 5.2) widens its levels to those of Student's t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from edgekd.data.example import Array
from edgekd.statistics.student_t import t_quantile

#: Fewer units than this carry no bootstrap: it cannot show tails that the sample does not have.
LEAST_UNITS = 20
#: Largest share of resamples in which the metric may be undefined.
UNDEFINED = 0.01
#: Resamples that must lie beyond a bound; with fewer it is an extreme, and the extreme of a longer run is wider.
BEYOND = 5
#: Draws this close to the estimate, in units of their spread, are equal to it: their sums were only added in another
#: order. Without it the bias correction would hang on the last digit.
_TIE = 1e-9
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Both one-sided bounds of a figure.

    Attributes:
        estimate: over all examples; NaN where the metric does not exist.
        lower, upper: at one-sided ``confidence`` each; both None where there are none.
        units: independent examples or clusters; draws: resamples; undefined: those without a value.
        method: ``"bca-bootstrap"``, or how a case without spread was bounded.
        trouble: why there are no bounds, as a sentence; empty when there are.
    """

    estimate: float
    lower: float | None
    upper: float | None
    confidence: float
    units: int
    draws: int
    undefined: int = 0
    method: str = "bca-bootstrap"
    trouble: str = ""


def widened_quantile(confidence: float, units: int) -> float:
    """Hesterberg's replacement of the normal quantile: sqrt(n / (n - 1)) times Student's t with n - 1 degrees."""
    df = units - 1
    if df > 200:  # Abramowitz and Stegun 26.7.5; t_quantile sums df / 2 terms
        z = _NORMAL.inv_cdf(confidence)
        t = z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
    else:
        t = t_quantile(confidence, df)
    return math.sqrt(units / df) * t


def bounds_from_draws(
    estimate: float,
    values: Array,
    left_out: Array,
    left_out_counts: Array,
    *,
    units: int,
    confidence: float,
    quantile: float | None = None,
) -> Bounds:
    """BCa bounds.

    Args:
        estimate: the figure over all units.
        values: the figure in each resample, float64 (draws,), NaN where it does not exist.
        left_out: the figure without one unit (or group of units), float64 (u,).
        left_out_counts: how many units each of these stands for, (u,).
        units: independent units.
        confidence: one-sided, of each bound.
        quantile: the normal quantile of ``confidence``, or what takes its place; widened for few units by default.

    Returns:
        Bounds, or the reason why there are none. Where every resample gives the estimate both bounds are equal to it.
    """
    finite = values[np.isfinite(values)]
    undefined = len(values) - len(finite)

    def none(trouble: str) -> Bounds:
        return Bounds(
            estimate=estimate,
            lower=None,
            upper=None,
            confidence=confidence,
            units=units,
            draws=len(values),
            undefined=undefined,
            trouble=trouble,
        )

    if not math.isfinite(estimate):
        return none("the metric has no value on these examples")
    if undefined > UNDEFINED * len(values):
        return none(
            f"the metric has no value in {undefined:,} of {len(values):,} resamples; give more examples"
        )
    z = widened_quantile(confidence, units) if quantile is None else quantile
    spread = float(finite.max() - finite.min())
    tie = _TIE * spread
    if spread <= 1e-12 * max(1.0, abs(estimate)):
        levels = (0.5, 0.5)
    else:
        below = np.count_nonzero(finite < estimate - tie) + 0.5 * np.count_nonzero(
            np.abs(finite - estimate) <= tie
        )
        share = below / len(finite)
        if not 0 < share < 1:
            side = "above" if share == 0 else "below"
            return none(
                f"every resample lies {side} the estimate, so its bias cannot be corrected; give more examples"
            )
        bias, acceleration = _NORMAL.inv_cdf(share), _acceleration(left_out, left_out_counts)
        found = [_level(bias, acceleration, q) for q in (-z, z)]
        least = BEYOND / len(values)
        if not all(least <= level <= 1 - least for level in found):
            return none(
                f"the resamples are too skewed for bounds at {confidence:.3g} "
                f"(bias {bias:.2f}, acceleration {acceleration:.2f}); give more examples"
            )
        levels = (found[0], found[1])
    # A resample without a value counts as the worst, on either side.
    padding = np.full(undefined, math.inf)
    low = float(np.quantile(np.concatenate([-padding, finite]), levels[0]))
    high = float(np.quantile(np.concatenate([finite, padding]), levels[1]))
    if not (math.isfinite(low) and math.isfinite(high)):
        return none(
            f"the metric has no value in {undefined:,} of {len(values):,} resamples; give more examples"
        )
    return Bounds(
        estimate=estimate,
        lower=low,
        upper=high,
        confidence=confidence,
        units=units,
        draws=len(values),
        undefined=undefined,
    )


def _acceleration(left_out: Array, counts: Array) -> float:
    """Skewness of the jackknife over 6 (Efron and Tibshirani 1993, equation 14.15); units that leave none are left out."""
    finite = np.isfinite(left_out)
    values, weights = left_out[finite], counts[finite].astype(np.float64)
    if not len(values):
        return 0.0
    away = (weights * values).sum() / weights.sum() - values
    scale = float(np.abs(away).max())
    if scale == 0:
        return 0.0
    away = away / scale
    return float((weights * away**3).sum() / (6.0 * (weights * away**2).sum() ** 1.5))


def _level(bias: float, acceleration: float, z: float) -> float:
    """The share of resamples below a bound (equation 14.10); NaN where the skewness leaves none."""
    rest = 1.0 - acceleration * (bias + z)
    return math.nan if rest <= 0 else _NORMAL.cdf(bias + (bias + z) / rest)
