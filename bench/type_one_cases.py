"""Populations with a known contrast, of which the bootstrap's simulation draws its test sets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgekd.data.example import Array
from edgekd.metrics import SUMS, Statistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A population of pairs of which the bootstrap sees ``n`` at a time.

    Attributes:
        draw: random state, n -> statistics of baseline and of candidate, clusters.
        truth: the contrast in the population; margin: how far below it a limit is set to see the power.
        ignores: clusters are there and not told.
    """

    name: str
    aggregate: str
    n: int
    draw: Callable[[np.random.RandomState, int], tuple[Statistics, Statistics, Array | None]]
    truth: float
    margin: float
    error: bool = False
    ignores: bool = False


def _sums(*columns: Array) -> Statistics:
    return {SUMS: np.stack([np.asarray(c, np.float64) for c in columns], axis=1)}


def draw_fractions(share: float) -> Callable[..., tuple[Statistics, Statistics, None]]:
    """Skewed fractions (a token F1, a word accuracy); a ``share`` of examples loses much of its own."""

    def draw(random: np.random.RandomState, n: int) -> tuple[Statistics, Statistics, None]:
        a = random.beta(5, 1, n)
        b = np.where(random.random_sample(n) < share, a * random.beta(1, 3, n), a)
        return _sums(a, np.ones(n)), _sums(b, np.ones(n)), None

    return draw


def draw_f1(random: np.random.RandomState, n: int) -> tuple[Statistics, Statistics, None]:
    """20 % positives; on 20 % of the examples the candidate guesses anew, and finds 60 % of them, not 80 %."""
    positive = random.random_sample(n) < 0.2

    def guess(found: float) -> Array:
        return np.where(positive, random.random_sample(n) < found, random.random_sample(n) < 0.05)

    a = guess(0.8)
    b = np.where(random.random_sample(n) < 0.2, guess(0.6), a)
    made = [_sums(p & positive, p & ~positive, ~p & positive) for p in (a, b)]
    return made[0], made[1], None


def draw_regression(r2: bool) -> Callable[..., tuple[Statistics, Statistics, None]]:
    """Errors with the tails of Student's t with 6 degrees of freedom, correlated between the models."""

    def draw(random: np.random.RandomState, n: int) -> tuple[Statistics, Statistics, None]:
        y, a = random.randn(n), random.standard_t(6, n) * 0.5
        b = 0.9 * a + random.standard_t(6, n) * 0.3
        made = [_sums(e * e, y, y * y, np.ones(n)) if r2 else _sums(e * e, np.ones(n)) for e in (a, b)]
        return made[0], made[1], None

    return draw


def draw_speakers(random: np.random.RandomState, n: int) -> tuple[Statistics, Statistics, Array]:
    """Ten examples per speaker; the differences of a speaker correlate by 0.36."""
    count = n // 10
    of = np.repeat(np.arange(count), 10)
    effect = -0.05 + 0.1 * (0.6 * random.randn(count)[of] + 0.8 * random.randn(n))
    return _sums(np.full(n, 0.5), np.ones(n)), _sums(0.5 + effect, np.ones(n)), of


def draw_divergences(random: np.random.RandomState, n: int) -> tuple[Statistics, Statistics, None]:
    """Log-normal divergences, sigma 1, median 0.01."""
    return _sums(np.zeros(n), np.ones(n)), _sums(0.01 * np.exp(random.randn(n)), np.ones(n)), None


def _f1_truth() -> float:
    found, false = (0.2 * 0.8, 0.2 * (0.8 * 0.8 + 0.2 * 0.6)), 0.8 * 0.05
    a, b = (2 * tp / (tp + false + 0.2) for tp in found)
    return b - a


#: Variance of the errors of :func:`draw_regression`; a t with 6 degrees has 1.5.
_VAR_A, _VAR_B = 0.25 * 1.5, 0.81 * 0.25 * 1.5 + 0.09 * 1.5

SCENARIOS = (
    *(
        Scenario(
            name=f"mean of skewed fractions, {share:.0%} differ", aggregate="mean", n=n, draw=draw_fractions(share),
            truth=-share * 5 / 6 * 3 / 4, margin=0.02,
        )
        for share, n in ((0.10, 200), (0.10, 1000), (0.02, 500))
    ),
    *(Scenario(name="F1, 20 % positives", aggregate="f1", n=n, draw=draw_f1, truth=_f1_truth(), margin=0.05) for n in (500, 2000)),
    *(
        Scenario(
            name="RMSE, heavy tails", aggregate="root_mean", n=n, draw=draw_regression(False),
            truth=math.sqrt(_VAR_A) - math.sqrt(_VAR_B), margin=0.05, error=True,
        )
        for n in (200, 1000)
    ),
    *(
        Scenario(
            name="R2, heavy tails", aggregate="r2", n=n, draw=draw_regression(True), truth=_VAR_A - _VAR_B, margin=0.1,
        )
        for n in (200, 1000)
    ),
    *(
        Scenario(name=f"mean, {n // 10} speakers of 10", aggregate="mean", n=n, draw=draw_speakers, truth=-0.05, margin=0.02)
        for n in (200, 500)
    ),
    *(
        Scenario(
            name="mean KL divergence, log-normal", aggregate="mean", n=n, draw=draw_divergences,
            truth=-0.01 * math.exp(0.5), margin=0.01, error=True,
        )
        for n in (500, 2000)
    ),
    Scenario(
        name="mean, 50 speakers of 10, not told", aggregate="mean", n=500, draw=draw_speakers, truth=-0.05, margin=0.02,
        ignores=True,
    ),
)  # fmt: skip
