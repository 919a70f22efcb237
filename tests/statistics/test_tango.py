"""Tango's score against a likelihood maximised by brute force, and its error rate at the margin."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from edgekd.errors import InputError
from edgekd.statistics.tango import normal_quantile, tango_interval, tango_score


def brute_score(gained: int, lost: int, n: int, difference: float) -> float:
    """The score with the restricted MLE found by numerical search over P(only the baseline is right)."""
    low, high = max(0.0, -difference), (1 - difference) / 2
    tie = n - gained - lost

    def unlikely(q: float) -> float:
        total = 0.0
        for count, p in ((gained, q + difference), (lost, q), (tie, 1 - 2 * q - difference)):
            if count:
                total -= count * math.log(max(p, 1e-300))
        return total

    q = minimize_scalar(unlikely, bounds=(low, high), method="bounded", options={"xatol": 1e-13}).x
    for edge in (low, high):
        if unlikely(edge) < unlikely(q):
            q = edge
    variance = n * (2 * q + difference - difference**2)
    return (gained - lost - n * difference) / math.sqrt(variance)


@pytest.mark.parametrize(
    ("gained", "lost", "n"),
    [(12, 2, 44), (0, 7, 50), (7, 0, 50), (1, 0, 3), (40, 60, 1000), (5, 250, 5000), (3, 3, 10)],
)
@pytest.mark.parametrize("difference", [-0.3, -0.03, -0.01, 0.02, 0.25])
def test_score_agrees_with_brute_force(gained, lost, n, difference):
    assert tango_score(gained, lost, n, difference) == pytest.approx(
        brute_score(gained, lost, n, difference), rel=1e-6, abs=1e-6
    )


@pytest.mark.parametrize(("gained", "lost", "n"), [(12, 2, 44), (0, 7, 50), (40, 60, 1000), (5, 250, 5000)])
def test_bounds_agree_with_brute_force(gained, lost, n):
    z = normal_quantile(0.95)
    for bound, wanted in zip(tango_interval(gained, lost, n), (z, -z), strict=True):
        assert brute_score(gained, lost, n, bound) == pytest.approx(wanted, abs=1e-5)
        slope = (
            brute_score(gained, lost, n, bound + 1e-4) - brute_score(gained, lost, n, bound - 1e-4)
        ) / 2e-4
        assert abs((brute_score(gained, lost, n, bound) - wanted) / slope) < 1e-6


def test_published_examples():
    # Tango 1998, section 5: 44 patients, b = 0, c = 1 ... the all-agreeing case has a closed form, z^2 / (n + z^2).
    z = normal_quantile(0.95)
    lower, upper = tango_interval(0, 0, 10)
    assert upper == pytest.approx(z * z / (10 + z * z), abs=1e-10)
    assert lower == pytest.approx(-upper, abs=1e-10)


@pytest.mark.parametrize(
    ("gained", "lost", "n", "closed"), [(10, 0, 10, 1.0), (0, 10, 10, -1.0), (1, 0, 1, 1.0), (0, 1, 1, -1.0)]
)
def test_all_pairs_flipping_one_way_reaches_the_edge(gained, lost, n, closed):
    interval = tango_interval(gained, lost, n)
    assert closed in interval
    assert -1 <= interval[0] < interval[1] <= 1


def test_a_million_pairs():
    n, gained, lost = 1_000_000, 24_000, 26_000
    lower, upper = tango_interval(gained, lost, n)
    half = normal_quantile(0.95) * math.sqrt(0.05 - 0.002**2) / math.sqrt(n)
    assert lower == pytest.approx(-0.002 - half, abs=1e-6)
    assert upper == pytest.approx(-0.002 + half, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.data())
def test_bounds_hold_the_estimate_and_mirror(n, data):
    gained = data.draw(st.integers(0, n))
    lost = data.draw(st.integers(0, n - gained))
    lower, upper = tango_interval(gained, lost, n)
    assert -1 <= lower <= (gained - lost) / n <= upper <= 1
    mirrored = tango_interval(lost, gained, n)
    assert mirrored == pytest.approx((-upper, -lower), abs=1e-10)


@pytest.mark.parametrize(("gained", "lost", "n"), [(-1, 0, 5), (3, 3, 5), (0, 0, 0)])
def test_impossible_counts_are_refused(gained, lost, n):
    with pytest.raises(InputError, match="impossible"):
        tango_interval(gained, lost, n)


@pytest.mark.parametrize("n", [500, 2000, 10000])
@pytest.mark.parametrize("flips", [0.01, 0.02, 0.05, 0.10])
def test_type_one_error_at_the_margin(n, flips):
    """A student truly at the margin passes at most 5.5 % of the time; exact over the binomial of flips.

    The margin is 1 point; with 1 % flips every flip is a loss.
    """
    margin = 0.01
    z = normal_quantile(0.95)
    p_lost = (flips + margin) / 2 / flips
    spread = 6 * math.sqrt(n * flips)
    chance = 0.0
    for m in range(max(0, int(n * flips - spread)), min(n, int(n * flips + spread)) + 1):
        # The score falls with the losses, so passing is having at most `worst` of them.
        low, high = -1, m
        while low < high:
            middle = (low + high + 1) // 2
            if tango_score(m - middle, middle, n, -margin) > z:
                low = middle
            else:
                high = middle - 1
        if low >= 0:
            chance += binom.pmf(m, n, flips) * binom.cdf(low, m, p_lost)
    assert chance <= 0.055
    assert chance >= 0.02  # and it is not merely refusing everything


def test_score_falls_with_the_hypothesis():
    grid = np.linspace(-0.99, 0.99, 199)
    scores = [tango_score(7, 12, 80, float(d)) for d in grid]
    assert all(a > b for a, b in itertools.pairwise(scores))
