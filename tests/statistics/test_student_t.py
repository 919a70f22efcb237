"""Student's t without scipy, against scipy."""

import pytest
from scipy.stats import t as reference

from edgekd.errors import InputError
from edgekd.statistics.student_t import t_cdf, t_quantile


@pytest.mark.parametrize("df", [*range(1, 21), 31, 64, 99])
def test_cdf_and_quantile_agree_with_scipy(df):
    for x in (-30.0, -3.2, -1.0, 0.0, 0.4, 2.5, 12.0):
        assert t_cdf(x, df) == pytest.approx(reference.cdf(x, df), abs=1e-10)
    for p in (0.0005, 0.016, 0.3, 0.5, 0.9, 0.984, 0.9995):
        assert t_quantile(p, df) == pytest.approx(reference.ppf(p, df), rel=1e-10, abs=1e-10)


def test_tails_end():
    assert t_cdf(float("inf"), 3) == 1.0
    assert t_cdf(float("-inf"), 3) == 0.0


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1])
def test_quantile_refuses_what_is_no_probability(p):
    with pytest.raises(InputError, match="probability"):
        t_quantile(p, 3)


def test_no_degree_of_freedom_is_refused():
    with pytest.raises(InputError, match="degree"):
        t_cdf(1.0, 0)
