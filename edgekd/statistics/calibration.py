"""Expected calibration error (ECE): how far top-label confidence is from accuracy, over bins of confidence.

C. Guo, G. Pleiss, Y. Sun and K. Weinberger (2017), *On Calibration of Modern Neural Networks*, ICML, section 2: bins of
equal width, 15 in their experiments. Bins of equal mass: J. Nixon et al. (2019), *Measuring Calibration in Deep
Learning*, CVPR workshops.

An estimated ECE is too large, since every bin adds the size of its noise. In the change between two models that does
not cancel: a model without any error shows more noise than one with a little. Bounds of a change therefore put the
estimate of the one against an estimate of the other that is never too large (:func:`least_gaps`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from edgekd.data.example import Array
from edgekd.statistics.bca import LEAST_UNITS, Bounds, widened_quantile
from edgekd.statistics.resample import draw_counts, make_units

BINS = 15
METHOD = "debiased-bootstrap"


def width_edges(bins: int = BINS) -> Array:
    """Inner edges of bins of equal width, float64 (bins - 1,)."""
    return np.arange(1, bins) / bins


def mass_edges(confidences: Array, bins: int = BINS) -> Array:
    """Inner edges that put as many examples into each bin; equal confidences share a bin.

    Args:
        confidences: float64 (n,), n >= 1.

    Returns:
        float64 (bins - 1,): the greatest confidence of each bin but the last.
    """
    ordered = np.sort(confidences)
    last = [math.ceil(len(ordered) * i / bins) - 1 for i in range(1, bins)]
    return np.asarray(ordered[np.maximum(last, 0)])


def gap_columns(confidences: Array, right: Array, edges: Array) -> list[Array]:
    """What an ECE is made of: per example its confidence minus its rightness, in the column of its bin.

    Args:
        confidences: float64 (n,); right: bool (n,).
        edges: inner edges, ascending; an edge belongs to the bin below it (Guo et al.: ((m - 1) / M, m / M]).

    Returns:
        Columns of float64 (n,), one per bin that is not empty.
    """
    bins = np.searchsorted(edges, confidences, side="left")
    gaps = confidences - right
    return [np.where(bins == b, gaps, 0.0) for b in np.unique(bins)]


def expected_calibration_error(confidences: Array, right: Array, edges: Array) -> float:
    """ECE of n >= 1 examples, a fraction: the sum over bins of |gap| / n."""
    return math.fsum(abs(float(c.sum())) for c in gap_columns(confidences, right, edges)) / len(confidences)


def least_gaps(gaps: Array, errors: Array) -> Array:
    """Sizes of gaps with the size of their noise taken off, so that their expectation is at most the true size.

    With a gap of m standard errors |g| is too large by 2 phi(m) - 2 m Phi(-m) <= sqrt(2 / pi) exp(-m^2 / 2) of them
    (the folded normal distribution), and (2 / sqrt(pi)) exp(-g^2 / 2), which is taken off, has the expectation
    sqrt(2 / pi) exp(-m^2 / 4): never less, the same at m = 0, and nothing where the gap is plain.

    Args:
        gaps, errors: float64 (bins,), gaps and their standard errors.
    """
    scale = np.where(errors > 0, errors, 1.0)
    return np.asarray(np.abs(gaps) - errors * 2.0 / math.sqrt(math.pi) * np.exp(-0.5 * (gaps / scale) ** 2))


def bound_change(
    reference: Sequence[Array],
    candidate: Sequence[Array],
    *,
    clusters: Array | None = None,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Bounds:
    """Bounds of the candidate's ECE minus the reference's; their error is at most one-sided 1 - ``confidence``.

    The spread is that of paired resamples of examples, or of clusters, with the bins left where the whole sample puts
    them; the upper bound starts from the candidate's estimate less the reference's :func:`least_gaps`, the lower one
    the other way round.

    Args:
        reference, candidate: :func:`gap_columns` of the same examples.
        clusters: (n,), or None where examples are independent; draws: resamples; seed: of them.
    """
    n = len(reference[0])
    random = np.random.RandomState(seed)
    units = make_units([*reference, *candidate], clusters, random)
    split = len(reference)
    weights = units.counts.astype(np.float64)
    gaps = weights @ units.rows / n
    rows = units.rows - weights @ units.rows / weights.sum()
    errors = np.sqrt(weights @ rows**2) / n

    def change(values: Array) -> Array:
        sizes = np.abs(values)
        return np.asarray(sizes[..., split:].sum(axis=-1) - sizes[..., :split].sum(axis=-1))

    estimate = float(change(gaps))
    if units.units < LEAST_UNITS:
        what = "examples" if clusters is None else "clusters"
        return Bounds(
            estimate=estimate, lower=None, upper=None, confidence=confidence, units=units.units, draws=0,
            method=METHOD, trouble=f"{units.units} {what} are too few for bounds; give at least {LEAST_UNITS}",
        )  # fmt: skip
    drawn = np.concatenate([change(w @ units.rows / n) for w in draw_counts(units.counts, draws, random)])
    level = NormalDist().cdf(widened_quantile(confidence, units.units))
    below, above = np.quantile(drawn - drawn.mean(), [1.0 - level, level])
    sizes, least = np.abs(gaps), least_gaps(gaps, errors)
    lower = least[split:].sum() - sizes[:split].sum() + below
    upper = sizes[split:].sum() - least[:split].sum() + above
    return Bounds(
        estimate=estimate, lower=float(lower), upper=float(upper), confidence=confidence, units=units.units,
        draws=len(drawn), method=METHOD,
    )  # fmt: skip
