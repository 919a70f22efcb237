"""The calibration error against a plain reference, and the bounds of its change by simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.statistics.calibration import (
    bound_change,
    expected_calibration_error,
    gap_columns,
    least_gaps,
    mass_edges,
    width_edges,
)


def plain_ece(confidences, right, bins=15):
    """Guo et al. 2017, equation 3, bin by bin."""
    total = 0.0
    for m in range(bins):
        inside = (confidences > m / bins) & (confidences <= (m + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidences[inside].mean())
    return total


@given(st.integers(1, 400), st.integers(0, 2**31 - 1))
def test_equal_width_is_the_plain_definition(n, seed):
    random = np.random.RandomState(seed)
    confidences, right = random.random_sample(n), random.random_sample(n) < 0.7
    assert expected_calibration_error(confidences, right, width_edges()) == pytest.approx(
        plain_ece(confidences, right), abs=1e-12
    )


def test_a_model_that_is_always_sure_and_right_half_the_time():
    confidences, right = np.full(100, 0.9), np.arange(100) % 2 == 0
    for edges in (width_edges(), mass_edges(confidences)):
        assert expected_calibration_error(confidences, right, edges) == pytest.approx(0.4)


def test_an_edge_belongs_to_the_bin_below():
    columns = gap_columns(np.array([3 / 15, 3 / 15 + 1e-9, 4 / 15]), np.zeros(3, bool), width_edges())
    assert [np.count_nonzero(c) for c in columns] == [1, 2]


def test_equal_mass_fills_its_bins_and_keeps_ties_together():
    confidences = np.random.RandomState(0).random_sample(1500)
    bins = np.searchsorted(mass_edges(confidences), confidences, side="left")
    assert set(np.bincount(bins)) == {100}
    tied = np.r_[np.full(700, 1.0), np.linspace(0.1, 0.9, 300)]
    columns = gap_columns(tied, np.zeros(1000), mass_edges(tied))
    assert max(int((c != 0).sum()) for c in columns) >= 700
    order = np.random.RandomState(1).permutation(1000)
    assert expected_calibration_error(tied[order], np.arange(1000)[order] % 3 == 0, mass_edges(tied)) == (
        pytest.approx(expected_calibration_error(tied, np.arange(1000) % 3 == 0, mass_edges(tied)), abs=1e-12)
    )


@pytest.mark.parametrize("gap", [0.0, 0.3, 1.0, 2.0, 5.0])
def test_what_is_taken_off_a_gap_is_enough_and_no_more_where_it_is_plain(gap):
    """Mean of the size less its noise, over a fine grid of the normal distribution."""
    x = np.linspace(-9, 9, 20_001)
    weight = np.exp(-x * x / 2)
    mean = (weight * least_gaps(gap + x, np.ones_like(x))).sum() / weight.sum()
    assert mean <= gap + 1e-9
    assert mean >= gap - 0.5
    if gap == 0.0 or gap == 5.0:
        assert mean == pytest.approx(gap, abs=0.01)


def draw(random, n, reference_over, candidate_over):
    """Pairs of confidences of the same answers, whose accuracy is a confidence less what a model is over-confident."""
    own = random.uniform(0.4, 0.9, n)
    a, b = own + reference_over, np.clip(own + candidate_over + 0.02 * random.randn(n), 0, 1)
    return a, b, random.random_sample(n) < own


@pytest.mark.parametrize(("reference_over", "candidate_over"), [(0.0, 0.03), (0.05, 0.08), (0.03, 0.0)])
def test_a_change_at_its_limit_is_seldom_passed_or_rejected(reference_over, candidate_over):
    """Also of a reference without any error, whose estimate is all noise."""
    random = np.random.RandomState(11)
    truth = candidate_over - reference_over
    passes = rejects = 0
    for seed in range(60):
        a, b, right = draw(random, 1000, reference_over, candidate_over)
        columns = [gap_columns(c, right, width_edges()) for c in (a, b)]
        found = bound_change(*columns, draws=150, seed=seed)
        passes += found.upper < truth
        rejects += found.lower > truth
    assert passes <= 0.1 * 60
    assert rejects <= 0.1 * 60


def test_a_plain_change_is_seen():
    a, b, right = draw(np.random.RandomState(0), 20_000, 0.05, 0.10)
    found = bound_change(*(gap_columns(c, right, width_edges()) for c in (a, b)), draws=300)
    assert 0.03 < found.lower < found.estimate < found.upper < 0.07


def test_too_few_examples_have_no_bounds():
    a, b, right = draw(np.random.RandomState(0), 19, 0.05, 0.10)
    found = bound_change(*(gap_columns(c, right, width_edges()) for c in (a, b)))
    assert found.upper is None
    assert "19 examples are too few" in found.trouble
