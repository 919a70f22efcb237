"""Holm's correction, by its definition and by its promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from edgekd.errors import InputError
from edgekd.statistics.holm import holm_adjusted, holm_rejected, normal_tail, simultaneous_confidence

P = st.lists(st.floats(0, 1), max_size=30)


@given(P, st.sampled_from([0.01, 0.05, 0.2]))
def test_adjusted_values_say_what_the_steps_do(p_values, alpha):
    """Step down by hand: reject the smallest while p <= alpha / (questions left), then stop."""
    wanted = [False] * len(p_values)
    for step, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if (len(p_values) - step) * p_values[i] > alpha:
            break
        wanted[i] = True
    assert holm_rejected(p_values, alpha) == wanted


@given(P)
def test_adjusted_values_lie_between_none_and_bonferroni(p_values):
    for p, adjusted in zip(p_values, holm_adjusted(p_values), strict=True):
        assert p <= adjusted <= min(1.0, len(p_values) * p)


def test_of_a_hundred_good_slices_hardly_ever_is_one_rejected():
    random = np.random.RandomState(0)
    false = sum(any(holm_rejected(list(random.random_sample(100)))) for _ in range(1000))
    assert 0.025 <= false / 1000 <= 0.075


def test_one_question_needs_no_correction():
    assert holm_rejected([0.05]) == [True]
    assert simultaneous_confidence(0.95, 1) == simultaneous_confidence(0.95, 0) == pytest.approx(0.95)


@pytest.mark.parametrize("z", [-40.0, -1.0, 0.0, 1.6448536269514722, 8.0, 30.0])
def test_the_tail_is_scipys(z):
    assert normal_tail(z) == pytest.approx(norm.sf(z), rel=1e-12)


def test_what_is_no_p_value_is_refused():
    with pytest.raises(InputError, match=r"in \[0, 1\], got nan"):
        holm_adjusted([0.5, float("nan")])
