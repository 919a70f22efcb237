"""MLPerf's early-stopping counts, and bounds of a quantile, against scipy and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from edgekd.errors import InputError
from edgekd.statistics.binomial import binomial_cdf, least_count, least_over, most_over, quantile_bounds


@pytest.mark.parametrize(
    ("level", "counts"), [(0.99, {0: 459, 1: 662, 5: 1307}), (0.90, {0: 44, 1: 64, 5: 127})]
)
def test_the_counts_of_the_method(level, counts):
    assert {over: least_count(level, 0.99, over) for over in counts} == counts


@given(n=st.integers(1, 3000), q=st.floats(0.001, 0.999), share=st.floats(0, 1))
def test_the_distribution_is_scipys(n, q, share):
    k = round(share * n)
    assert binomial_cdf(k, n, q) == pytest.approx(binom.cdf(k, n, q), rel=1e-9, abs=1e-12)


def test_a_million_calls_are_no_trouble():
    assert binomial_cdf(10_000, 1_000_000, 0.01) == pytest.approx(
        binom.cdf(10_000, 1_000_000, 0.01), rel=1e-8
    )
    assert (binomial_cdf(-1, 5, 0.5), binomial_cdf(5, 5, 0.5)) == (0.0, 1.0)


@given(
    level=st.sampled_from([0.5, 0.9, 0.99, 0.999]),
    confidence=st.sampled_from([0.9, 0.95, 0.99]),
    over=st.integers(0, 30),
)
def test_one_call_fewer_would_not_do(level, confidence, over):
    n = least_count(level, confidence, over)
    assert binom.cdf(over, n, 1 - level) <= 1 - confidence < binom.cdf(over, n - 1, 1 - level)
    assert most_over(n, level, confidence) == over
    assert most_over(n - 1, level, confidence) == over - 1


@given(
    n=st.integers(1, 2000),
    level=st.sampled_from([0.5, 0.9, 0.99]),
    confidence=st.sampled_from([0.9, 0.99]),
)
def test_the_bounds_are_clopper_and_pearsons(n, level, confidence):
    """Their one-sided bounds of a proportion, put beside ``1 - level``, give the same counts."""
    q = 1 - level
    upper = [beta.ppf(confidence, k + 1, n - k) if k < n else 1.0 for k in range(n + 1)]
    lower = [beta.ppf(1 - confidence, k, n - k + 1) if k else 0.0 for k in range(n + 1)]
    close = 1e-9  # scipy's quantile is a root too
    assert most_over(n, level, confidence) in {
        max([k for k, u in enumerate(upper) if u <= q + d], default=-1) for d in (-close, close)
    }
    assert least_over(n, level, confidence) in {
        min([k for k, low in enumerate(lower) if low >= q + d], default=n + 1) for d in (-close, close)
    }


def test_bounds_are_order_statistics():
    calls = np.arange(1, 1308)[::-1]  # 1..1307, in no order that matters
    lower, upper = quantile_bounds(calls, 0.99)
    assert upper == 1302  # five are above it
    assert lower == 1307 + 1 - least_over(1307, 0.99)
    assert quantile_bounds(calls[-458:], 0.99) == (458 + 1 - least_over(458, 0.99), math.inf)
    assert quantile_bounds(np.zeros(0), 0.99) == (0.0, math.inf)
    assert quantile_bounds(np.asarray([3.0]), 0.99) == (0.0, math.inf)


def test_each_bound_errs_as_often_as_it_says():
    rng = np.random.default_rng(1)
    truth = -math.log(1 - 0.9)  # of the exponential distribution
    found = [quantile_bounds(rng.exponential(size=200), 0.9, 0.95) for _ in range(2000)]
    assert sum(upper < truth for _, upper in found) / 2000 <= 0.065
    assert 0.02 <= sum(lower > truth for lower, _ in found) / 2000 <= 0.065


@pytest.mark.parametrize(
    "call",
    [
        lambda: binomial_cdf(0, -1, 0.5),
        lambda: binomial_cdf(0, 1, 1.5),
        lambda: least_count(1.0),
        lambda: least_count(0.99, 1.0),
        lambda: least_count(0.99, 0.99, -1),
        lambda: quantile_bounds(np.ones(3), 0.0),
    ],
)
def test_what_means_nothing_is_refused(call):
    with pytest.raises(InputError):
        call()
