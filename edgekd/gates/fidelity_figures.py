"""How far a candidate's answers are displaced from its reference's, whatever the labels say (METHOD, section 2).

Flips are counted, Kullback-Leibler divergences and calibration errors are computed from logits at temperature 1. They
bound displacement; they never replace a labelled test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import EvidenceError
from edgekd.evidence.evaluation import Evaluation
from edgekd.statistics.bca import LEAST_UNITS, Bounds
from edgekd.statistics.binomial import least_count
from edgekd.statistics.bootstrap import CONFIDENCE, additive_bounds
from edgekd.statistics.calibration import bound_change, gap_columns, mass_edges, width_edges
from edgekd.statistics.codes import number_names
from edgekd.statistics.proportion import clustered_quantile_bounds, clustered_rate_bounds, rate_bounds

#: Every figure, in the order of a report. ``agreement`` is 1 - ``flips``.
FIGURES = (
    "flips", "agreement", "kl_mean", "kl_median", "kl_p99", "kl_max", "ece_change", "ece_change_equal_mass",
)  # fmt: skip
_QUANTILES = {"kl_median": 0.5, "kl_p99": 0.99}
_EDGES: Mapping[str, Callable[[Array], Array]] = {
    "ece_change": lambda _: width_edges(),
    "ece_change_equal_mass": mass_edges,
}
#: Logits taken to float64 at once: 32 MiB per array.
_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One fidelity figure of a candidate against its reference.

    Attributes:
        name: one of :data:`FIGURES`.
        estimate: on these examples.
        lower, upper: at one-sided ``confidence`` each; None where there is none.
        n: examples; unit: ``"fraction"`` or ``"nats"``.
        method: how the bounds were found.
        trouble: why a bound is missing, as a sentence; empty where both are there, and for a maximum, which has none.
    """

    name: str
    estimate: float
    lower: float | None
    upper: float | None
    confidence: float
    n: int
    unit: str
    method: str
    trouble: str = ""


def fidelity_figures(
    candidate: Evaluation,
    reference: Evaluation,
    *,
    wanted: Collection[str] = FIGURES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Figure]:
    """Figures with one-sided bounds, of the same examples in the same order.

    Flips are bounded exactly (Clopper and Pearson), a mean by the BCa bootstrap, an ECE change by
    :func:`edgekd.statistics.calibration.bound_change`, a median and a 99th percentile by order statistics; a maximum is an
    estimate only. Where
    examples come in clusters the counts are those of as many independent examples as they are worth.

    Args:
        wanted: which of :data:`FIGURES`; logits are needed for all but flips and agreement.
        confidence: one-sided, of each bound; seed: of the resamples.

    Raises:
        EvidenceError: other examples; no logits, of another width, or not finite; a figure that is none.
    """
    if unknown := sorted(set(wanted) - set(FIGURES)):
        raise EvidenceError(f"there is no fidelity figure '{unknown[0]}'", f"there are {', '.join(FIGURES)}")
    if candidate.n != reference.n or candidate.n == 0 or not np.array_equal(candidate.ids, reference.ids):
        raise EvidenceError(
            f"{candidate.name} and {reference.name} were evaluated on other examples ({candidate.n:,} and "
            f"{reference.n:,})",
            "evaluate both on the same file",
        )
    names = set(wanted)
    made: dict[str, Figure] = {}
    if names & {"flips", "agreement"}:
        made |= _flips(_flipped(candidate, reference), candidate.clusters, confidence)
    if names - {"flips", "agreement"}:
        _check_logits(candidate, reference)
    if names & {"kl_mean", "kl_median", "kl_p99", "kl_max"}:
        made |= _divergence_figures(
            divergences(reference, candidate), names, candidate.clusters, confidence, seed
        )
    if names & set(_EDGES):
        made |= _calibration_figures(candidate, reference, names, confidence, seed)
    return {name: made[name] for name in FIGURES if name in names}


def divergences(reference: Evaluation, candidate: Evaluation) -> Array:
    """Kullback-Leibler divergence KL(reference || candidate) of each example's softmax at temperature 1.

    Returns:
        float64 (n,), nats, never negative.
    """
    return np.concatenate(
        [
            # Rounding can take the sum of two equal distributions a last digit below 0.
            np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0)
            for p, q in zip(_log_softmax(reference), _log_softmax(candidate), strict=True)
        ]
    )


def top_confidences(evaluation: Evaluation) -> Array:
    """Softmax probability of the likeliest class at temperature 1, float64 (n,)."""
    return np.concatenate([np.exp(block.max(axis=1)) for block in _log_softmax(evaluation)])


def _log_softmax(evaluation: Evaluation) -> Iterator[Array]:
    logits = _logits(evaluation)
    at_once = max(1, _BLOCK // logits.shape[1])
    for start in range(0, len(logits), at_once):
        block = logits[start : start + at_once].astype(np.float64)
        block -= block.max(axis=1, keepdims=True)
        block -= np.log(np.exp(block).sum(axis=1, keepdims=True))
        yield block


def _flipped(candidate: Evaluation, reference: Evaluation) -> Array:
    """Whether the decoded answers differ, bool (n,)."""
    mine, theirs = np.asarray(candidate.predictions), np.asarray(reference.predictions)
    if (
        mine.shape != theirs.shape
        or mine.ndim != 1
        or (mine.dtype.kind in "US") != (theirs.dtype.kind in "US")
    ):
        raise EvidenceError(
            f"answers of {candidate.name} and {reference.name} are of another kind ({mine.dtype} {mine.shape} and "
            f"{theirs.dtype} {theirs.shape})",
            "evaluate both with the same task",
        )
    return np.asarray(mine != theirs)


def _flips(flipped: Array, clusters: Array | None, confidence: float) -> dict[str, Figure]:
    rate, few = float(flipped.mean()), _too_few(clusters)
    bounds: tuple[float, float] | None = None
    if clusters is None:
        bounds = rate_bounds(int(flipped.sum()), len(flipped), confidence)
    elif not few:
        bounds = clustered_rate_bounds(flipped, clusters, confidence)
    low, high = bounds or (None, None)
    flips = Figure(
        name="flips", estimate=rate, lower=low, upper=high, confidence=confidence, n=len(flipped), unit="fraction",
        method="clopper-pearson" if clusters is None else "korn-graubard", trouble=few,
    )  # fmt: skip
    agreement = replace(
        flips,
        name="agreement",
        estimate=1.0 - rate,
        lower=None if high is None else 1.0 - high,
        upper=None if low is None else 1.0 - low,
    )
    return {"flips": flips, "agreement": agreement}


def _divergence_figures(
    nats: Array, names: AbstractSet[str], clusters: Array | None, confidence: float, seed: int
) -> dict[str, Figure]:
    n, few = len(nats), _too_few(clusters)
    made: dict[str, Figure] = {}
    if "kl_mean" in names:
        bounds = additive_bounds(
            [nats, np.ones(n)], _mean, clusters=clusters, confidence=confidence, seed=seed
        )
        made["kl_mean"] = _resampled("kl_mean", bounds, n, "nats")
    ordered = np.sort(nats)
    for name, level in _QUANTILES.items():
        if name not in names:
            continue
        low, high = (
            (-math.inf, math.inf) if few else clustered_quantile_bounds(nats, level, clusters, confidence)
        )
        trouble = few
        if not few and math.isinf(high):
            trouble = (
                f"{n:,} examples are too few for an upper bound of the {level:g} quantile; give at least "
                + (f"{least_count(level, confidence)}" if clusters is None else "more clusters")
            )
        made[name] = Figure(
            name=name, estimate=float(ordered[math.ceil(level * n) - 1]), lower=None if few else max(low, 0.0),  # a divergence is never negative
            upper=None if math.isinf(high) else high, confidence=confidence, n=n, unit="nats",
            method="order-statistics", trouble=trouble,
        )  # fmt: skip
    if "kl_max" in names:
        made["kl_max"] = Figure(
            name="kl_max", estimate=float(ordered[-1]), lower=None, upper=None, confidence=confidence, n=n,
            unit="nats", method="none",
        )  # fmt: skip
    return made


def _calibration_figures(
    candidate: Evaluation, reference: Evaluation, names: AbstractSet[str], confidence: float, seed: int
) -> dict[str, Figure]:
    sides = []
    for one in (reference, candidate):
        answers, labels = np.asarray(one.predictions), np.asarray(one.labels)
        if answers.shape != labels.shape or (answers.dtype.kind in "US") != (labels.dtype.kind in "US"):
            raise EvidenceError(
                f"answers and labels of {one.name} are of another kind ({answers.dtype} {answers.shape} and "
                f"{labels.dtype} {labels.shape})",
                "a calibration error needs one class per example",
            )
        sides.append((top_confidences(one), answers == labels))
    made: dict[str, Figure] = {}
    for name, edges in _EDGES.items():
        if name not in names:
            continue
        columns = [gap_columns(confidences, right, edges(confidences)) for confidences, right in sides]
        bounds = bound_change(*columns, clusters=candidate.clusters, confidence=confidence, seed=seed)
        made[name] = _resampled(name, bounds, candidate.n, "fraction")
    return made


def _resampled(name: str, bounds: Bounds, n: int, unit: str) -> Figure:
    return Figure(
        name=name, estimate=bounds.estimate, lower=bounds.lower, upper=bounds.upper, confidence=bounds.confidence, n=n,
        unit=unit, method=bounds.method, trouble=bounds.trouble,
    )  # fmt: skip


def _too_few(clusters: Array | None) -> str:
    if clusters is None or (count := len(number_names(clusters)[0])) >= LEAST_UNITS:
        return ""
    return f"{count} clusters are too few for bounds; give at least {LEAST_UNITS}"


def _mean(sums: Array) -> Array:
    return np.asarray(sums[:, 0] / sums[:, 1])


def _logits(evaluation: Evaluation) -> Array:
    if evaluation.logits is None:
        raise EvidenceError(
            f"the evaluation of {evaluation.name} has no logits, which divergences and calibration are made of",
            "ask for flips only, or use a task that stores logits",
        )
    return np.asarray(evaluation.logits)


def _check_logits(candidate: Evaluation, reference: Evaluation) -> None:
    mine, theirs = _logits(candidate), _logits(reference)
    if mine.shape != theirs.shape or mine.ndim != 2 or mine.shape[1] < 2:
        raise EvidenceError(
            f"logits of {candidate.name} are {mine.shape} and those of {reference.name} {theirs.shape}; both must be "
            "(examples, two or more classes)",
            "compare models with the same classes",
        )
    for one, logits in ((candidate, mine), (reference, theirs)):
        broken = ~np.isfinite(logits).all(axis=1)
        if broken.any():
            raise EvidenceError(
                f"logits of {one.name} are NaN or infinite in {int(broken.sum()):,} of {len(logits):,} examples, first "
                f"at id '{one.ids[int(np.argmax(broken))]}'",
                "mend the model and evaluate again",
            )
