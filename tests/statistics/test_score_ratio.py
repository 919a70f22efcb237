"""The score test of a relative rule, against a likelihood maximised by brute force."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from edgekd.errors import InputError
from edgekd.statistics.score_ratio import ratio_contrast_bounds, ratio_score
from edgekd.statistics.tango import normal_quantile, tango_interval, tango_score


def brute_score(both, gained, lost, n, share, contrast):
    """Two nested one-dimensional searches: over P(only A right), and P(both right) within it."""
    counts = (both, gained, lost, n - both - gained - lost)

    def cells(p_lost, p_both):
        p_gained = contrast + share * p_lost - (1 - share) * p_both
        return p_both, p_gained, p_lost, 1 - p_both - p_gained - p_lost

    def unlikely(p_lost, p_both):
        total = 0.0
        for x, p in zip(counts, cells(p_lost, p_both), strict=True):
            if p < -1e-12:
                return 1e9 - 1e9 * p
            if x:
                total -= x * math.log(max(p, 1e-300))
        return total

    def best_lost(p_both):
        # Both p_gained and P(neither) are linear in p_lost, so the feasible values are an interval.
        low = max(0.0, ((1 - share) * p_both - contrast) / share)
        high = (1 - p_both - contrast + (1 - share) * p_both) / (1 + share)
        if high <= low:
            return low
        found = minimize_scalar(
            lambda q: unlikely(q, p_both), bounds=(low, high), method="bounded", options={"xatol": 1e-12}
        ).x
        return min((low, found, high), key=lambda q: unlikely(q, p_both))

    p_both = minimize_scalar(
        lambda p: unlikely(best_lost(p), p), bounds=(0.0, 1.0), method="bounded", options={"xatol": 1e-11}
    ).x
    p = cells(best_lost(p_both), p_both)
    variance = p[1] + share**2 * p[2] + (1 - share) ** 2 * p[0] - contrast**2
    return (both + gained - share * (both + lost) - n * contrast) / math.sqrt(n * variance)


@pytest.mark.parametrize(
    ("both", "gained", "lost", "n"),
    [(430, 12, 20, 500), (40, 3, 9, 60), (17, 0, 3, 25), (17, 3, 0, 25), (50, 4, 6, 60), (880, 40, 60, 1000)],
)
@pytest.mark.parametrize(("share", "contrast"), [(0.99, 0.0), (0.9, 0.0), (0.99, -0.03), (0.95, 0.02)])
def test_score_agrees_with_brute_force(both, gained, lost, n, share, contrast):
    assert ratio_score(both, gained, lost, n, share, contrast) == pytest.approx(
        brute_score(both, gained, lost, n, share, contrast), rel=1e-6, abs=1e-6
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.data())
def test_a_share_of_one_is_tangos_test(n, data):
    gained = data.draw(st.integers(0, n))
    lost = data.draw(st.integers(0, n - gained))
    both = data.draw(st.integers(0, n - gained - lost))
    contrast = data.draw(st.integers(-90, 90)) / 100
    assert ratio_score(both, gained, lost, n, 1.0, contrast) == pytest.approx(
        tango_score(gained, lost, n, contrast), rel=1e-7, abs=1e-7
    )
    assert ratio_contrast_bounds(both, gained, lost, n, 1.0) == pytest.approx(
        tango_interval(gained, lost, n), abs=1e-9
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2000), st.floats(0.5, 1.0), st.data())
def test_bounds_decide_as_the_score_does(n, share, data):
    lost = data.draw(st.integers(0, n))
    gained = data.draw(st.integers(0, n - lost))
    both = data.draw(st.integers(0, n - gained - lost))
    lower, upper = ratio_contrast_bounds(both, gained, lost, n, share)
    estimate = (both + gained - share * (both + lost)) / n
    assert -share <= lower <= estimate + 1e-12
    assert estimate - 1e-12 <= upper <= 1
    z, critical = ratio_score(both, gained, lost, n, share), normal_quantile(0.95)
    if abs(abs(z) - critical) > 1e-6:
        assert (lower > 0) == (z > critical)
        assert (upper < 0) == (z < -critical)


def test_no_flip_has_a_closed_form():
    # All variance then is the rule's own: T = sqrt(x (1 - r) / r).
    assert ratio_score(400, 0, 0, 500, 0.99) == pytest.approx(math.sqrt(400 * 0.01 / 0.99), rel=1e-12)
    assert ratio_score(0, 0, 0, 500, 0.99) == 0.0


def test_a_million_pairs():
    lower, upper = ratio_contrast_bounds(880_000, 20_000, 24_000, 1_000_000, 0.99)
    y = np.repeat([0.01, 1.0, -0.99, 0.0], [880_000, 20_000, 24_000, 76_000])
    half = normal_quantile(0.95) * y.std() / 1000
    assert (lower, upper) == pytest.approx((y.mean() - half, y.mean() + half), abs=2e-6)


@pytest.mark.parametrize(
    ("counts", "share", "match"),
    [((3, 3, 3, 8), 0.99, "impossible"), ((-1, 0, 0, 5), 0.99, "impossible"), ((0, 0, 0, 0), 0.99, "impossible"),
     ((1, 1, 1, 5), 0.0, "positive share"), ((1, 1, 1, 5), math.nan, "positive share")],
)  # fmt: skip
def test_what_is_none_is_refused(counts, share, match):
    with pytest.raises(InputError, match=match):
        ratio_contrast_bounds(*counts, share)
