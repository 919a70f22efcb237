"""The paired bootstrap against scipy's, where it must refuse, and what it must not depend on.

Its error rates are simulated in bench/type_one.py.
"""

import math

import numpy as np
import pytest
from scipy import stats

from edgekd.errors import EvidenceError
from edgekd.evidence.evaluation import Evaluation
from edgekd.statistics import resample
from edgekd.statistics.bca import bounds_from_draws, widened_quantile
from edgekd.statistics.bootstrap import (
    additive_bounds,
    bca_bounds,
    contrast_bounds,
    contrast_of,
    draws_for,
    weighted_bounds,
)
from edgekd.statistics.resample import draw_counts, make_units


def sums(*columns):
    return {"sums": np.stack([np.asarray(c, np.float64) for c in columns], axis=1)}


def skewed(n, seed=0):
    random = np.random.RandomState(seed)
    a = random.beta(5, 1, n)
    b = np.where(random.random_sample(n) < 0.15, a * random.beta(1, 3, n), a)
    return sums(a, np.ones(n)), sums(b, np.ones(n))


def evaluation(scores, **more):
    n = len(scores)
    ids = np.array([f"e{i:04d}" for i in range(n)])
    return Evaluation(
        name="x", artifact="a", target="cpu", metric="m", split="test", data="d", ids=ids, scores=np.asarray(scores),
        predictions=np.zeros(n), labels=np.zeros(n), logits=None, **more,
    )  # fmt: skip


@pytest.mark.parametrize("aggregate", ["mean", "f1", "root_mean"])
def test_bounds_are_scipys_but_for_the_draws(aggregate):
    n, random = 300, np.random.RandomState(3)
    if aggregate == "mean":
        a, b = skewed(n)
        metric = lambda s: s[0].sum(-1) / s[1].sum(-1)  # noqa: E731
    elif aggregate == "f1":
        y, p, q = random.random_sample((3, n)) < 0.4
        a, b = (sums(p & y, p & ~y, ~p & y) for p in (p | y, q | y))
        metric = lambda s: 2 * s[0].sum(-1) / (2 * s[0] + s[1] + s[2]).sum(-1)  # noqa: E731
    else:
        e = random.standard_t(6, n)
        a, b = sums(e**2, np.ones(n)), sums((e + 0.3 * random.randn(n)) ** 2, np.ones(n))
        metric = lambda s: np.sqrt(s[0].sum(-1) / s[1].sum(-1))  # noqa: E731
    columns = [*a["sums"].T, *b["sums"].T]
    half = len(columns) // 2
    wanted = stats.bootstrap(
        columns, lambda *c, axis=-1: metric(c[half:]) - metric(c[:half]), paired=True, vectorized=True,
        method="BCa", confidence_level=0.90, n_resamples=20_000, rng=np.random.default_rng(1),
    )  # fmt: skip
    found = contrast_bounds(a, b, n=n, aggregate=aggregate, draws=20_000)
    low, high = wanted.confidence_interval
    width = high - low
    # Ours are wider by Hesterberg's factor for 300 examples, a third of a per cent.
    assert found.lower == pytest.approx(low, abs=0.02 * width)
    assert found.upper == pytest.approx(high, abs=0.02 * width)


def test_bca_of_given_draws_is_scipys():
    random = np.random.RandomState(5)
    x = random.lognormal(size=60)
    values = np.array([random.choice(x, 60).mean() for _ in range(3000)])
    left_out = (x.sum() - x) / 59
    found = bounds_from_draws(
        x.mean(), values, left_out, np.ones(60), units=60, confidence=0.95, quantile=stats.norm.ppf(0.95)
    )
    made = stats.bootstrap((x,), np.mean, method="BCa", confidence_level=0.9, n_resamples=0,
                           bootstrap_result=type("R", (), {"bootstrap_distribution": values})())  # fmt: skip
    assert (found.lower, found.upper) == pytest.approx(tuple(made.confidence_interval), rel=1e-9)


def test_a_relative_rule_and_an_error_are_negative_where_worse():
    a, b = np.array([0.8, 2.0]), np.array([0.79, 2.1])
    assert contrast_of(a, b, share=0.99) == pytest.approx([0.79 - 0.792, 2.1 - 1.98])
    assert contrast_of(a, b, error=True) == pytest.approx([0.01, -0.1])
    assert contrast_of(a, b, share=0.99, error=True) == pytest.approx([0.8 - 0.7821, 2.0 - 2.079])


def test_the_order_of_examples_does_not_matter(monkeypatch):
    monkeypatch.setattr(resample, "GROUPS", 200)
    order = np.random.RandomState(9).permutation(1000)
    clusters = np.array([f"s{i % 70}" for i in range(1000)])
    continuous = skewed(1000)
    few = tuple(sums(np.round(s["sums"][:, 0], 1), np.ones(1000)) for s in continuous)
    for a, b, c in ((*continuous, None), (*few, None), (*continuous, clusters)):
        mixed = contrast_bounds(
            {"sums": a["sums"][order]}, {"sums": b["sums"][order]}, n=1000, aggregate="mean",
            clusters=None if c is None else c[order],
        )  # fmt: skip
        plain = contrast_bounds(a, b, n=1000, aggregate="mean", clusters=c)
        assert (mixed.lower, mixed.upper) == pytest.approx((plain.lower, plain.upper), rel=1e-12)


def test_the_last_digits_of_sums_do_not_move_a_bound():
    """What another machine's order of addition does; ties with the estimate are the place where it could."""
    random = np.random.RandomState(2)
    estimate = 0.1
    values = estimate + 0.01 * random.randn(2000)
    values[:400] = estimate
    left_out = estimate + 1e-4 * random.randn(50)
    made = [
        bounds_from_draws(estimate, values * off, left_out, np.ones(50), units=50, confidence=0.95)
        for off in (1.0, 1 - 1e-15, 1 + 1e-15)
    ]
    for one in made[1:]:
        assert (one.lower, one.upper) == pytest.approx((made[0].lower, made[0].upper), rel=1e-12)
    # As many above as below, and a tie is half of each: nothing to correct.
    centred = np.r_[np.linspace(-2, 2, 1000), np.zeros(1000)]
    flat = bounds_from_draws(0.0, centred, np.zeros(50), np.ones(50), units=50, confidence=0.95)
    assert flat.lower == pytest.approx(-flat.upper)


def test_counts_of_equal_rows_resample_as_rows_do():
    counts = np.array([50, 30, 20])
    drawn = np.concatenate(list(draw_counts(counts, 4000, np.random.RandomState(0))))
    assert drawn.shape == (4000, 3)
    assert (drawn.sum(axis=1) == 100).all()
    assert drawn.mean(axis=0) == pytest.approx(counts, abs=0.5)
    assert drawn.var(axis=0) == pytest.approx(counts * (1 - counts / 100), rel=0.1)
    each = np.concatenate(list(draw_counts(np.ones(100, int), 4000, np.random.RandomState(0))))
    assert (each.sum(axis=1) == 100).all()
    assert each.var(axis=0).mean() == pytest.approx(0.99, rel=0.05)


def test_equal_rows_are_counted_together_and_many_are_grouped(monkeypatch):
    random = np.random.RandomState(0)
    right = (random.random_sample(5000) < 0.9).astype(float)
    units = make_units([right, np.ones(5000)], None, random)
    assert sorted(units.counts) == sorted([right.sum(), 5000 - right.sum()])
    monkeypatch.setattr(resample, "GROUPS", 500)
    grouped = make_units([random.randn(5000), np.ones(5000)], None, random)
    assert grouped.rows.shape == (500, 2)
    assert (grouped.rows[:, 1] == 10).all()
    assert grouped.units == 5000


def test_groups_give_the_same_bounds(monkeypatch):
    a, b = skewed(6000)
    plain = contrast_bounds(a, b, n=6000, aggregate="mean", draws=4000)
    monkeypatch.setattr(resample, "GROUPS", 1500)
    grouped = contrast_bounds(a, b, n=6000, aggregate="mean", draws=4000)
    width = plain.upper - plain.lower
    assert (grouped.lower, grouped.upper) == pytest.approx((plain.lower, plain.upper), abs=0.06 * width)


def test_clusters_are_drawn_whole():
    a, b = skewed(200)
    copies = [{"sums": np.repeat(s["sums"], 10, axis=0)} for s in (a, b)]
    once = contrast_bounds(a, b, n=200, aggregate="mean")
    told = contrast_bounds(*copies, n=2000, aggregate="mean", clusters=np.repeat(np.arange(200), 10))
    hidden = contrast_bounds(*copies, n=2000, aggregate="mean")
    assert told.units == 200
    assert told.upper - told.lower == pytest.approx(once.upper - once.lower, rel=0.1)
    assert hidden.upper - hidden.lower < 0.5 * (told.upper - told.lower)


def test_a_metric_of_weights_agrees_with_one_of_sums():
    a, b = skewed(400)
    d = (b["sums"] - a["sums"])[:, 0]
    ids = np.array([f"{i:03d}" for i in range(400)])
    found = weighted_bounds(lambda w: w @ d / w.sum(axis=1), n=400, ids=ids, draws=5000)
    wanted = contrast_bounds(a, b, n=400, aggregate="mean", draws=5000)
    width = wanted.upper - wanted.lower
    assert (found.lower, found.upper) == pytest.approx((wanted.lower, wanted.upper), abs=0.06 * width)
    order = np.random.RandomState(1).permutation(400)
    mixed = weighted_bounds(lambda w: w @ d[order] / w.sum(axis=1), n=400, ids=ids[order], draws=5000)
    assert (mixed.lower, mixed.upper) == pytest.approx((found.lower, found.upper), rel=1e-12)


def test_evaluations_bring_their_own_way_of_summing():
    random = np.random.RandomState(0)
    scores = random.random_sample((2, 100))
    clusters = np.array([f"c{i % 25}" for i in range(100)])
    found = bca_bounds(*(evaluation(s, clusters=clusters) for s in scores), share=0.99)
    assert found.units == 25
    assert found.estimate == pytest.approx(scores[1].mean() - 0.99 * scores[0].mean())
    assert found.lower < found.estimate < found.upper
    error = [
        evaluation(s, aggregate="root_mean", error=True, statistics=sums(s, np.ones(100))) for s in scores
    ]
    assert bca_bounds(*error).estimate == pytest.approx(
        math.sqrt(scores[0].mean()) - math.sqrt(scores[1].mean())
    )


def test_too_few_units_have_no_bounds():
    a, b = skewed(19)
    found = contrast_bounds(a, b, n=19, aggregate="mean")
    assert (found.lower, found.upper) == (None, None)
    assert "19 examples are too few" in found.trouble
    a, b = skewed(200)
    assert "4 clusters" in contrast_bounds(a, b, n=200, aggregate="mean", clusters=np.arange(200) % 4).trouble


def test_equal_scores_are_bounded_by_what_was_not_seen():
    """Twenty examples without a difference say little; a thousand say more."""
    same = sums(np.full(20, 0.7), np.ones(20))
    found = contrast_bounds(same, same, n=20, aggregate="mean")
    assert found.method == "unseen-share"
    assert (found.lower, found.upper) == pytest.approx((-(1 - 0.05 ** (1 / 20)), 1 - 0.05 ** (1 / 20)))
    many = sums(np.full(1000, 0.7), np.ones(1000))
    found = contrast_bounds(many, many, n=1000, aggregate="mean", share=0.99)
    unseen = 1 - 0.05 ** (1 / 1000)
    assert found.lower == pytest.approx((1 - unseen) * 0.007 - unseen * 0.99)


@pytest.mark.parametrize(("n", "bounded"), [(298, False), (299, True)])
def test_a_metric_without_a_range_needs_many_to_be_called_unchanged(n, bounded):
    residuals = np.random.RandomState(0).random_sample(n)
    same = sums(residuals, np.ones(n))
    found = contrast_bounds(same, same, n=n, aggregate="root_mean", error=True)
    assert (
        (found.lower == found.upper == 0.0)
        if bounded
        else (found.lower is None and "unseen" in found.trouble)
    )


def test_a_metric_that_is_often_undefined_has_no_bounds():
    n = 40
    y = np.arange(n) < 3  # no positive in 4 % of the resamples
    p = np.zeros(n, bool)
    p[:2] = True
    s = sums(p & y, p & ~y, ~p & y)
    found = contrast_bounds(s, sums(y, ~y & False, ~y & False), n=n, aggregate="f1")
    assert found.lower is None
    assert "no value in" in found.trouble
    nothing = sums(*np.zeros((3, n)))
    undefined = contrast_bounds(nothing, nothing, n=n, aggregate="f1")
    assert math.isnan(undefined.estimate)
    assert "no value on these examples" in undefined.trouble


def test_an_undefined_resample_counts_as_the_worst_on_either_side():
    random = np.random.RandomState(0)
    values = random.randn(2000)
    some = values.copy()
    some[np.argsort(random.random_sample(2000))[:15]] = np.nan
    whole, holed = (
        bounds_from_draws(0.0, v, random.randn(50), np.ones(50), units=50, confidence=0.95)
        for v in (values, some)
    )
    assert holed.undefined == 15
    assert holed.lower < whole.lower
    assert holed.upper > whole.upper


def test_an_estimate_beyond_all_resamples_has_no_bounds():
    found = bounds_from_draws(
        5.0, np.linspace(0, 1, 2000), np.arange(30.0), np.ones(30), units=30, confidence=0.95
    )
    assert found.lower is None
    assert "below the estimate" in found.trouble
    far = bounds_from_draws(
        0.999, np.linspace(0, 1, 2000), np.arange(30.0), np.ones(30), units=30, confidence=0.95
    )
    assert "too skewed" in far.trouble


def test_few_units_widen_the_level():
    assert widened_quantile(0.95, 20) == pytest.approx(math.sqrt(20 / 19) * stats.t.ppf(0.95, 19))
    for units in (202, 1000, 10**6):
        wanted = math.sqrt(units / (units - 1)) * stats.t.ppf(0.95, units - 1)
        assert widened_quantile(0.95, units) == pytest.approx(wanted, rel=1e-7)


def test_far_levels_get_more_draws():
    assert draws_for(0.95) == 2000
    a, b = skewed(300)
    found = contrast_bounds(a, b, n=300, aggregate="mean", confidence=0.9995)
    assert found.draws == draws_for(0.9995) == 40_000
    assert found.upper is not None


@pytest.mark.parametrize(
    ("a", "b", "match"),
    [
        (skewed(30)[0], skewed(31)[1], "of 30 examples"),
        (skewed(30)[0], {}, "got none"),
        (skewed(30)[0], sums(*np.ones((3, 30))), "columns"),
        (skewed(30)[0], sums(np.r_[np.ones(29), np.nan], np.ones(30)), "not finite, first in row 29"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(a, b, match):
    with pytest.raises(EvidenceError, match=match):
        contrast_bounds(a, b, n=30, aggregate="mean")


def test_clusters_of_another_length_are_refused():
    with pytest.raises(EvidenceError, match="29 clusters"):
        additive_bounds([np.ones(30)], lambda s: s[:, 0], clusters=np.arange(29))
