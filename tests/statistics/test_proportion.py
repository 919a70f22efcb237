"""Bounds of a rate and of quantiles, exact, and of clustered examples by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom, norm, t

from edgekd.errors import InputError
from edgekd.statistics.binomial import quantile_bounds
from edgekd.statistics.proportion import (
    clustered_quantile_bounds,
    clustered_rate_bounds,
    effective_examples,
    examples_to_decide_rate,
    rate_bounds,
)


@given(st.integers(1, 20_000), st.floats(0, 1), st.sampled_from([0.9, 0.95, 0.9995]))
def test_bounds_are_scipys(n, share, confidence):
    k = round(share * n)
    lower, upper = rate_bounds(k, n, confidence)
    assert lower == pytest.approx(beta.ppf(1 - confidence, k, n - k + 1) if k else 0.0, abs=1e-9)
    assert upper == pytest.approx(beta.ppf(confidence, k + 1, n - k) if k < n else 1.0, abs=1e-9)


@pytest.mark.parametrize(("n", "rate"), [(30, 0.05), (200, 0.01), (1000, 0.05)])
def test_a_rate_at_the_limit_passes_at_most_one_time_in_twenty(n, rate):
    near = range(int(n * rate + 8 * math.sqrt(n * rate)))
    passes = sum(binom.pmf(k, n, rate) for k in near if rate_bounds(k, n)[1] < rate)
    rejects = sum(binom.pmf(k, n, rate) for k in near if rate_bounds(k, n)[0] > rate)
    assert max(passes, rejects) <= 0.05


def test_a_million_examples():
    k, n = 68_000, 1_000_000
    assert rate_bounds(k, n) == pytest.approx(
        (beta.ppf(0.05, k, n - k + 1), beta.ppf(0.95, k + 1, n - k)), abs=1e-9
    )


@pytest.mark.parametrize(
    ("k", "n", "confidence"), [(1, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 0.5), (1, 2, 1.0)]
)
def test_what_is_none_is_refused(k, n, confidence):
    with pytest.raises(InputError):
        rate_bounds(k, n, confidence)


def test_as_many_examples_as_were_told_decide():
    wanted = examples_to_decide_rate(40, 1000, 0.05)
    chance = sum(
        binom.pmf(k, wanted, 0.04) for k in range(80, wanted // 20) if rate_bounds(k, wanted)[1] < 0.05
    )
    assert chance == pytest.approx(0.8, abs=0.03)
    assert examples_to_decide_rate(0, 10, 0.01) == math.ceil(math.log(0.05) / math.log(0.99)) == 299
    assert examples_to_decide_rate(50, 1000, 0.05) is None


def test_independent_clusters_of_one_lose_next_to_nothing():
    happened = np.arange(2000) % 10 == 0
    assert effective_examples(happened, np.arange(2000)) == pytest.approx(2000, rel=0.01)
    assert effective_examples(np.zeros(60, bool), np.repeat(np.arange(20), 3)) == 20


def test_copies_count_once():
    happened = np.repeat(np.arange(300) % 10 == 0, 20)
    assert effective_examples(happened, np.repeat(np.arange(300), 20)) == pytest.approx(300, rel=0.03)


def test_the_effective_number_is_korns_and_graubards():
    """Their n over the design effect, and the t quantiles, by hand."""
    random = np.random.RandomState(4)
    clusters = np.repeat(np.arange(24), 30)
    happened = random.random_sample(720) < np.repeat(random.beta(2, 18, 24), 30)
    p = happened.mean()
    totals = np.array([(happened[clusters == c] - p).sum() for c in range(24)])
    design = 24 / 23 * (totals**2).sum() / 720**2 / (p * (1 - p) / 720)
    wanted = 720 / design * (norm.ppf(0.95) / t.ppf(0.95, 23)) ** 2
    assert effective_examples(happened, clusters) == math.floor(wanted) < 600


def test_quantiles_of_copies_are_those_of_the_originals():
    x = np.random.RandomState(0).randn(300)
    copies, clusters = np.repeat(x, 20), np.repeat(np.arange(300), 20)
    for level in (0.5, 0.95):
        wanted = quantile_bounds(x, level, 0.95)
        found = clustered_quantile_bounds(copies, level, clusters)
        ranks = [np.searchsorted(np.sort(x), [w, f]) for w, f in zip(wanted, found, strict=True)]
        assert all(abs(int(a) - int(b)) <= 4 for a, b in ranks)


def test_one_cluster_is_refused():
    with pytest.raises(InputError, match="one cluster"):
        effective_examples(np.arange(10) < 3, np.zeros(10))


def test_clustered_bounds_hold_where_plain_ones_do_not():
    random = np.random.RandomState(1)
    wrong, plain, quantile = 0, 0, 0
    clusters = np.repeat(np.arange(40), 25)
    for _ in range(300):
        x = 0.7 * random.randn(40)[clusters] + math.sqrt(0.51) * random.randn(1000)
        happened = x > 1.2815515655446004  # one in ten
        wrong += clustered_rate_bounds(happened, clusters)[1] < 0.1
        plain += rate_bounds(int(happened.sum()), 1000)[1] < 0.1
        quantile += clustered_quantile_bounds(x, 0.5, clusters)[1] < 0
    assert wrong <= 0.08 * 300
    assert quantile <= 0.08 * 300
    assert plain > 0.12 * 300


def test_quantiles_of_independent_examples_are_order_statistics():
    x = np.random.RandomState(0).randn(500)
    assert clustered_quantile_bounds(x, 0.99, None) == quantile_bounds(x, 0.99, 0.95)
    alone = clustered_quantile_bounds(x, 0.5, np.arange(500))
    assert alone == pytest.approx(quantile_bounds(x, 0.5, 0.95), abs=0.03)
    assert clustered_quantile_bounds(x[:10], 0.99, None)[1] == math.inf
