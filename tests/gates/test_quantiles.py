"""Quantiles and rates with intervals over restarts."""

import math
from dataclasses import replace

import numpy as np
import pytest
from fixtures_run import make_measurement
from scipy.stats import t as reference

from edgekd.gates.quantiles import (
    calls_by_restart,
    log_interval,
    quantile_estimate,
    rate_ratio,
    restart_quantiles,
    throughput_estimate,
)


def test_each_restart_is_one_sample():
    measurement = make_measurement(restarts=3, rounds=2, calls=5)
    parts = calls_by_restart(measurement, "candidate")
    assert [len(p) for p in parts] == [10, 10, 10]
    np.testing.assert_array_equal(np.concatenate(parts), measurement.calls_ns("candidate"))
    assert restart_quantiles(measurement, "candidate", 0.5) == pytest.approx([np.median(p) for p in parts])


def test_a_sample_twice_as_large_has_no_longer_tail():
    """Nearest rank would put the 99th percentile of 100 exponential calls well below that of 400."""
    rng = np.random.default_rng(0)
    few, many = (
        np.mean([np.quantile(rng.exponential(size=n), 0.99, method="median_unbiased") for _ in range(4000)])
        for n in (100, 400)
    )
    assert few == pytest.approx(many, rel=0.06)


def test_the_interval_is_a_t_of_logarithms():
    logs = np.log([1.0, 1.1, 1.3])
    value, lower, upper = log_interval(logs)
    half = reference.ppf(0.975, 2) * logs.std(ddof=1) / math.sqrt(3)
    assert math.log(value) == pytest.approx(logs.mean())
    assert (math.log(lower), math.log(upper)) == pytest.approx((logs.mean() - half, logs.mean() + half))
    assert log_interval(np.log([2.0])) == (pytest.approx(2.0), 0.0, math.inf)


def test_estimates_of_an_arm():
    measurement = make_measurement(ratio=0.5, restarts=4)
    found = quantile_estimate(measurement, "candidate", 0.5)
    assert found is not None
    assert found.lower < found.value < found.upper
    assert found.value == pytest.approx(0.5e6, rel=0.05)
    assert quantile_estimate(make_measurement(restarts=0), "candidate", 0.5) is None


def test_throughput_counts_examples():
    measurement = make_measurement(ratio=0.5, restarts=4)
    batched = {**measurement.arms, "candidate": {**measurement.arms["candidate"], "batch": 8}}
    one, eight = (
        throughput_estimate(measurement, "candidate"),
        throughput_estimate(replace(measurement, arms=batched), "candidate"),
    )
    assert one is not None
    assert eight is not None
    assert one.value == pytest.approx(2000, rel=0.05)
    assert eight.value == pytest.approx(8 * one.value)


def test_a_ratio_of_rates_is_paired_and_needs_rates():
    found = rate_ratio(np.asarray([20.0, 44.0]), np.asarray([10.0, 22.0]))
    assert found is not None
    assert (found.value, found.lower, found.upper) == pytest.approx((2.0, 2.0, 2.0))
    assert rate_ratio(np.asarray([20.0, 0.0]), np.asarray([10.0, 22.0])) is None
    assert rate_ratio(np.asarray([20.0]), np.asarray([10.0, 22.0])) is None


def server(target_qps):
    trials = [{"arm": "baseline", "queries_of": f"{i}.baseline.0"} for i in range(2)]
    return make_measurement(
        restarts=2, scenario="server", queries={t["queries_of"]: np.asarray([5, 7]) for t in trials},
        scenario_detail={"target_qps": target_qps, "trials": trials},
    )  # fmt: skip


def test_the_servers_queries_count_only_at_an_asked_rate():
    assert [list(p) for p in calls_by_restart(server(10.0), "baseline")] == [[5, 7], [5, 7]]
    assert server(10.0).calls_ns("baseline").tolist() == [5, 7, 5, 7]
    assert calls_by_restart(server(None), "baseline") == []
    assert len(server(None).calls_ns("baseline")) == 0
