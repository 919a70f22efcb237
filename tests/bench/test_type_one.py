"""The accuracy gates' error rates: the exact ones whole, the simulated ones in small."""

import itertools

import numpy as np
import pytest
from scipy.stats import multinomial
from type_one import FLIPS, SIZES, difference_chance, ratio_chance, simulate
from type_one_cases import SCENARIOS

from edgekd.metrics import metric_values
from edgekd.statistics.bootstrap import contrast_of
from edgekd.statistics.score_ratio import ratio_score
from edgekd.statistics.tango import normal_quantile, tango_score

Z = normal_quantile(0.95)


@pytest.mark.parametrize("margin", [0.005, 0.01, 0.03])
def test_a_student_at_the_margin_passes_at_most_one_time_in_twenty(margin):
    """METHOD, section 5; exact, of the 12 cells those that can be."""
    found = [difference_chance(n, flips, -margin, margin) for n in SIZES for flips in FLIPS]
    chances = [c for c in found if c is not None]
    assert len(chances) == 3 * sum(f >= margin for f in FLIPS)
    assert max(c.passes for c in chances) <= 0.055
    assert min(c.naive for c in chances) > 0.5  # the common rule tosses a coin


def test_the_relative_rule_keeps_it_too():
    cells = [(500, 0.01, 0.9), (500, 0.02, 0.7), (500, 0.05, 0.9)]
    assert max(ratio_chance(n, f, a, -0.01 * a).passes for n, f, a in cells) <= 0.055


@pytest.mark.parametrize("flips", [0.1, 0.3])
def test_the_sums_are_those_over_every_table(flips):
    n, accuracy, difference = 24, 0.7, -0.1
    lost, gained = (flips - difference) / 2, (flips + difference) / 2
    p = [accuracy - lost, gained, lost, 1 - accuracy - gained]
    ratio, tango = [0.0] * 3, [0.0] * 3
    for b, g, q in itertools.product(range(n + 1), repeat=3):
        if b + g + q > n:
            continue
        chance = multinomial.pmf([b, g, q, n - b - g - q], n, p)
        scores = ratio_score(b, g, q, n, 0.9), tango_score(g, q, n, difference)
        naive = b + g - 0.9 * (b + q) >= -1e-9, (g - q) / n >= difference - 1e-9
        for sums, score, passes in zip((ratio, tango), scores, naive, strict=True):
            sums[0] += chance * (score > Z)
            sums[1] += chance * (score < -Z)
            sums[2] += chance * passes
    exact = ratio_chance(n, flips, accuracy, difference, 0.9)
    assert (exact.passes, exact.rejects, exact.naive) == pytest.approx(ratio, abs=1e-6)
    exact = difference_chance(n, flips, difference, -difference)
    assert (exact.passes, exact.rejects, exact.naive) == pytest.approx(tango, abs=1e-6)


def test_flips_below_the_margin_are_impossible():
    assert difference_chance(500, 0.01, -0.03, 0.03) is None
    assert ratio_chance(500, 0.005, 0.9, -0.009) is None


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: f"{s.name}, {s.n}")
def test_a_population_is_what_it_says(scenario):
    a, b, _ = scenario.draw(np.random.RandomState(7), 200_000)
    ones = np.ones((1, 200_000))
    values = [metric_values(scenario.aggregate, s, ones) for s in (a, b)]
    assert contrast_of(*values, error=scenario.error)[0] == pytest.approx(scenario.truth, rel=0.05)


def test_clusters_that_are_not_told_make_an_interval_too_narrow():
    told, hidden = (s for s in SCENARIOS if s.n == 500 and "speakers" in s.name)
    assert hidden.ignores
    told, hidden = simulate(told, 150, draws=400), simulate(hidden, 150, draws=400)
    assert told.passes + told.rejects <= 0.15 * 150
    assert hidden.passes + hidden.rejects >= 0.30 * 150
