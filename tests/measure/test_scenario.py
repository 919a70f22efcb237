"""Scenarios: their words, their defaults, and how long a run lasts at least."""

from dataclasses import replace

import pytest
from fixtures_run import make_measurement

from edgekd.errors import UsageError
from edgekd.measure import Protocol, Scenario
from edgekd.measure.scenario import scenario_from
from edgekd.statistics.binomial import least_count


def test_defaults_are_loadgens():
    assert [(s.reported, s.count, s.samples) for s in (Scenario(), Scenario(name="multi-stream"))] == [
        ("p90", 64, 1),
        ("p99", 662, 8),
    ]
    server = Scenario(name="server", bound_ms=10)
    assert (server.reported, server.count) == ("p99", 662)


@pytest.mark.parametrize("percentile", ["p50", "p90", "p95", "p99", "p99.9"])
def test_the_least_count_allows_one_query_over_a_limit(percentile):
    scenario = Scenario(percentile=percentile)
    exact = least_count(scenario.level, over=1)
    assert exact <= scenario.count <= 1.3 * exact


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "singlestream"}, "no scenario is called 'singlestream'; choose single-stream"),
        ({"samples_per_query": 4}, "--samples-per-query) belongs to the multi-stream scenario"),
        ({"name": "multi-stream", "bound_ms": 4}, "--bound-ms) belongs to the server scenario"),
        ({"name": "server", "bound_ms": 4, "max_batch": 4}, "--max-batch) belongs to the offline"),
        ({"sessions": 2}, "--sessions) belongs to the offline"),
        ({"name": "offline", "sessions": 0}, "sessions is 0"),
        ({"name": "offline", "sessions": 4, "max_batch": 3}, "raise it to 4 or more"),
        ({"target_qps": 4}, "--target-qps) belongs to the server scenario"),
        ({"name": "server"}, "needs a latency bound"),
        ({"name": "offline", "percentile": "p99"}, "offline reports samples per second"),
        ({"percentile": "99"}, "'99' is not a percentile"),
        ({"min_duration_s": 0.0}, "min_duration_s is 0; it must be above 0"),
        ({"min_duration_s": float("nan")}, "must be above 0"),
        ({"min_count": 0}, "min_count is 0"),
    ],
)
def test_what_means_nothing_is_refused(fields, says):
    with pytest.raises(UsageError) as caught:
        Scenario(**fields)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_from_a_word_or_a_block():
    assert scenario_from("offline") == Scenario(name="offline")
    assert scenario_from({"name": "multi-stream", "samples_per_query": 4}).samples == 4


def test_batches_belong_to_one_stream():
    Scenario().check_batch(8)
    for name, says in (("multi-stream", "--samples-per-query"), ("offline", "--max-batch")):
        Scenario(name=name).check_batch(1)
        with pytest.raises(UsageError, match=says):
            Scenario(name=name).check_batch(8)
    with pytest.raises(UsageError, match="one sample"):
        Scenario(name="server", target_qps=1).check_batch(2)


@pytest.mark.parametrize(
    ("fields", "held"),
    [
        ({"min_count": 400, "min_duration_s": 0.1}, True),
        ({"min_count": 401, "min_duration_s": 0.1}, False),
        ({"min_count": 400, "min_duration_s": 0.3}, False),
    ],
)
def test_both_duration_and_count_must_hold(fields, held):
    """400 calls of half a millisecond: the candidate's 0.2 s count, not the baseline's 0.4."""
    assert Scenario(**fields).held(make_measurement(ratio=0.5, restarts=4)) is held


def test_offline_counts_samples():
    measurement = make_measurement(ratio=0.5, restarts=4)
    arms = {name: {**record, "batch": 8} for name, record in measurement.arms.items()}
    offline = Scenario(name="offline", min_count=3000, min_duration_s=0.1)
    assert not offline.held(measurement)
    assert offline.held(replace(measurement, arms=arms))


def test_a_stretched_protocol_ends_only_when_both_hold():
    plain = Protocol()
    assert Scenario().stretched(plain) == plain
    long = Scenario(min_duration_s=60).stretched(plain)
    assert long.max_restarts * long.rounds * long.block_ms / 1000 >= 60
    many = Scenario(min_count=100_000).stretched(plain)
    assert many.max_restarts * many.rounds * many.min_block_calls >= 100_000
    assert Scenario().stretched(plain, calls_per_restart=100).rounds * plain.min_block_calls >= 100
    judged = Scenario().stretched(plain, least_calls=13_000)
    assert judged.max_restarts * judged.rounds * judged.min_block_calls >= 13_000


def test_evidence_keeps_the_rules_with_their_defaults():
    assert Scenario().to_json() == {"min_duration_s": 0.5, "min_count": 64, "percentile": "p90"}
    server = Scenario(name="server", target_qps=5, seed=3).to_json()
    assert (server["target_qps"], server["bound_ms"], server["seed"]) == (5, None, 3)
