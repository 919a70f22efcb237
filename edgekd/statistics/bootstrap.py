"""Paired bootstrap of two metric values: METHOD, section 2, for whatever is not a proportion of right answers.

Baseline and candidate are taken on the same resample of examples, or of clusters where examples come in groups that
are not independent (Davison and Hinkley 1997, section 3.8). A draw's numbers come from ``RandomState``, whose stream
is frozen (NumPy NEP 19). Sums are in floating point, whose last digits differ between machines; nothing here has a
step in them, so bounds agree to nine digits and more.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import EvidenceError
from edgekd.evidence.evaluation import Evaluation
from edgekd.metrics import ADDITIVE, SUMS, Statistics, metric_values
from edgekd.statistics.bca import LEAST_UNITS, Bounds, bounds_from_draws
from edgekd.statistics.resample import BLOCK, cluster_codes, draw_counts, make_units

CONFIDENCE = 0.95
DRAWS = 2000
#: Leave-out groups of a metric that is no function of sums; the acceleration they give is off by 0.002
#: (sqrt(6) / 6 G).
JACKKNIFE_GROUPS = 200
#: Units that must all agree before a metric without a known range is called unchanged: then at most 1 % of others
#: differ, at 95 % (1 - 0.05^(1/299) = 0.01).
IDENTICAL = 299


def contrast_of(reference: Array, candidate: Array, *, share: float = 1.0, error: bool = False) -> Array:
    """What is bounded: candidate - share * reference; where smaller is better, reference - share * candidate.

    Either way it is negative where the candidate is worse than the rule allows: with a share of 0.99 an error may be
    at most the reference's / 0.99.
    """
    return np.asarray(reference - share * candidate if error else candidate - share * reference)


def bca_bounds(
    reference: Evaluation,
    candidate: Evaluation,
    *,
    share: float = 1.0,
    confidence: float = CONFIDENCE,
    draws: int | None = None,
    seed: int = 0,
) -> Bounds:
    """Both one-sided bounds of the contrast of a metric between two evaluations of the same rows.

    Examples are resampled, or whole clusters where the evaluations have them.

    Args:
        reference, candidate: of the same rows in the same order, with the same metric.
        share: of the reference's value that is asked (:func:`contrast_of`); 1 makes the contrast a difference.
        confidence: one-sided, of each bound.
        draws: resamples; by default :func:`draws_for` the confidence. seed: of them.

    Returns:
        Bounds in the metric's unit; without any where they would not be worth their name, with the reason.

    Raises:
        EvidenceError: an unknown aggregate, or statistics that do not fit it or each other.
    """
    return contrast_bounds(
        reference.sufficient,
        candidate.sufficient,
        n=candidate.n,
        aggregate=candidate.aggregate,
        share=share,
        error=candidate.error,
        clusters=candidate.clusters,
        ids=candidate.ids,
        confidence=confidence,
        draws=draws,
        seed=seed,
    )


def draws_for(confidence: float) -> int:
    """2,000, and more where fewer than 20 of those would lie beyond a bound.

    >>> draws_for(0.95), draws_for(0.9995)
    (2000, 40000)
    """
    return max(DRAWS, math.ceil(round(20 / (1 - confidence), 6)))


def contrast_bounds(
    reference: Statistics,
    candidate: Statistics,
    *,
    n: int,
    aggregate: str,
    share: float = 1.0,
    error: bool = False,
    clusters: Array | None = None,
    ids: Array | None = None,
    confidence: float = CONFIDENCE,
    draws: int | None = None,
    seed: int = 0,
) -> Bounds:
    """:func:`bca_bounds` of bare statistics.

    Args:
        reference, candidate: statistics of the same ``n`` examples in the same order.
        aggregate: how the metric is made of them (:data:`edgekd.metrics.ADDITIVE`, or ``average_precision``).
        share, error: of :func:`contrast_of`.
        clusters: (n,), or None where examples are independent.
        ids: (n,); where a metric is no function of sums, they make the draws independent of the examples' order.
        confidence, draws, seed: as there.
    """
    if aggregate not in ADDITIVE:

        def values(weights: Array) -> Array:
            pair = [metric_values(aggregate, s, weights) for s in (reference, candidate)]
            return contrast_of(pair[0], pair[1], share=share, error=error)

        return weighted_bounds(
            values, n=n, clusters=clusters, ids=ids, confidence=confidence, draws=draws, seed=seed
        )
    columns: list[Array] = []
    for statistics in (reference, candidate):
        sums = statistics.get(SUMS)
        if sums is None or sums.ndim != 2 or len(sums) != n:
            shape = "none" if sums is None else str(sums.shape)
            raise EvidenceError(
                f"the metric {aggregate} needs statistics '{SUMS}' of {n:,} examples, got {shape}",
                "evaluate again",
            )
        if not np.isfinite(sums).all():
            row = int(np.flatnonzero(~np.isfinite(sums).all(axis=1))[0])
            raise EvidenceError(f"statistics '{SUMS}' are not finite, first in row {row}", "evaluate again")
        columns += list(np.asarray(sums, np.float64).T)
    width = reference[SUMS].shape[1]
    if candidate[SUMS].shape[1] != width:
        raise EvidenceError(
            f"statistics of {width} and {candidate[SUMS].shape[1]} columns cannot be compared",
            "evaluate both alike",
        )
    metric = ADDITIVE[aggregate]

    def of_sums(sums: Array) -> Array:
        return contrast_of(metric(sums[:, :width]), metric(sums[:, width:]), share=share, error=error)

    # One example's contrast of fractions is worst where all is lost, best where all is gained.
    reach = (-share, 1.0) if aggregate == "mean" and _are_fractions(columns) else None
    return additive_bounds(
        columns, of_sums, reach=reach, clusters=clusters, confidence=confidence, draws=draws, seed=seed
    )


def additive_bounds(
    columns: Sequence[Array],
    of_sums: Callable[[Array], Array],
    *,
    reach: tuple[float, float] | None = None,
    clusters: Array | None = None,
    confidence: float = CONFIDENCE,
    draws: int | None = None,
    seed: int = 0,
) -> Bounds:
    """BCa bounds of a function of sums over examples; the order of the examples does not matter.

    Args:
        columns: float64 (n,) each, c of them.
        of_sums: float64 (d, c) sums -> (d,) values, NaN where there is none. It must not change when all sums are
            multiplied by one number.
        reach: where the value is a mean over examples: the least and the greatest that one example can have.
        clusters, confidence, draws, seed: as in :func:`bca_bounds`.
    """
    random = np.random.RandomState(seed)
    draws = draws_for(confidence) if draws is None else draws
    units = make_units(columns, clusters, random)
    total = (units.counts[:, None] * units.rows).sum(axis=0)
    estimate = float(of_sums(total[None])[0])
    if units.units < LEAST_UNITS:
        return _too_few(estimate, units.units, clusters, confidence)
    values = np.concatenate(
        [of_sums(weights @ units.rows) for weights in draw_counts(units.counts, draws, random)]
    )
    left_out = of_sums(total - units.rows)
    bounds = bounds_from_draws(
        estimate, values, left_out, units.counts, units=units.units, confidence=confidence
    )
    return _bound_without_spread(bounds, reach)


def weighted_bounds(
    values: Callable[[Array], Array],
    *,
    n: int,
    clusters: Array | None = None,
    ids: Array | None = None,
    confidence: float = CONFIDENCE,
    draws: int | None = None,
    seed: int = 0,
) -> Bounds:
    """BCa bounds of any function of the examples' weights.

    Args:
        values: float64 (d, n) weights -> (d,) values, NaN where there is none.
        n, clusters, ids, confidence, draws, seed: as in :func:`bca_bounds`.
    """
    random = np.random.RandomState(seed)
    draws = draws_for(confidence) if draws is None else draws
    if clusters is not None:
        codes, count = cluster_codes(clusters, n)
    else:
        count = n
        codes = np.arange(n)
        if ids is not None:
            codes[np.argsort(np.asarray(ids), kind="stable")] = np.arange(n)
    estimate = float(values(np.ones((1, n)))[0])
    if count < LEAST_UNITS:
        return _too_few(estimate, count, clusters, confidence)
    at_once = max(1, BLOCK // n)
    found = []
    for weights in draw_counts(np.ones(count, np.int64), draws, random):
        for start in range(0, len(weights), at_once):
            found.append(values(weights[start : start + at_once][:, codes]))
    groups = np.arange(count) % min(count, JACKKNIFE_GROUPS)
    random.shuffle(groups)
    left_out = [
        values(
            (groups[None] != np.arange(g, min(g + at_once, groups.max() + 1))[:, None])[:, codes].astype(
                float
            )
        )
        for g in range(0, int(groups.max()) + 1, at_once)
    ]
    made = np.concatenate(left_out)
    bounds = bounds_from_draws(
        estimate, np.concatenate(found), made, np.ones(len(made)), units=count, confidence=confidence
    )
    return _bound_without_spread(bounds, None)


def _are_fractions(columns: Sequence[Array]) -> bool:
    """Whether a mean's columns are scores in [0, 1] over ones, of both."""
    scores, ones = columns[0::2], columns[1::2]
    return all(c.min() >= 0 and c.max() <= 1 for c in scores) and all((c == 1).all() for c in ones)


def _bound_without_spread(bounds: Bounds, reach: tuple[float, float] | None) -> Bounds:
    """Bounds where no resample differs from another: from the share of units that were not seen.

    All of n units agree, so with the confidence c at most 1 - (1 - c)^(1/n) of others do not (Clopper and Pearson
    1934; the "rule of three"), and those can at most be as bad, or as good, as an example can be.
    """
    if bounds.lower is None or bounds.upper is None or bounds.lower != bounds.upper:
        return bounds
    unseen = 1.0 - (1.0 - bounds.confidence) ** (1.0 / bounds.units)
    if reach is not None:
        lower, upper = ((1 - unseen) * bounds.estimate + unseen * extreme for extreme in reach)
        return dataclasses.replace(bounds, lower=lower, upper=upper, method="unseen-share")
    if bounds.units >= IDENTICAL:
        return dataclasses.replace(bounds, method="no-spread")
    return dataclasses.replace(
        bounds,
        lower=None,
        upper=None,
        method="no-spread",
        trouble=(
            f"all {bounds.units:,} examples or clusters say the same, which leaves up to {unseen:.1%} of others "
            f"unseen; give at least {IDENTICAL}"
        ),
    )


def _too_few(estimate: float, units: int, clusters: Array | None, confidence: float) -> Bounds:
    what = "examples" if clusters is None else "clusters"
    return Bounds(
        estimate=estimate if math.isfinite(estimate) else math.nan,
        lower=None,
        upper=None,
        confidence=confidence,
        units=units,
        draws=0,
        trouble=f"{units} {what} are too few for bounds; give at least {LEAST_UNITS}",
    )
