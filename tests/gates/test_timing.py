"""What a policy asks of timings: when its judges have seen enough, and whether they decided."""

from dataclasses import replace

import pytest
from fixtures_run import make_measurement

from edgekd.gates.looks import LOOKS
from edgekd.gates.timing import TimingLimits

RATIO = TimingLimits(max_ratio=0.8)


def prefix(measurement, k):
    return replace(measurement, restarts=measurement.restarts[:k])


def stops(limits, measurement, upto=16):
    return [k for k in range(1, upto + 1) if limits.should_stop(prefix(measurement, k), "candidate")]


def test_a_clear_ratio_stops_at_every_look_and_only_there():
    assert stops(RATIO, make_measurement(ratio=0.5, restarts=16)) == list(LOOKS)


def test_every_asked_judge_must_have_decided():
    measurement = make_measurement(ratio=0.5, restarts=16)  # 100 calls of 0.5 ms per restart
    within = replace(RATIO, absolute=("p99", 1.0))
    assert stops(within, measurement) == [16], "1,307 calls need 14 restarts"
    assert within.decided(prefix(measurement, 6), "candidate")
    assert not within.decided(prefix(measurement, 4), "candidate"), "459 calls need five restarts"
    tails = replace(RATIO, tail=("p50", 0.5))
    assert stops(tails, make_measurement(ratio=0.5, restarts=16, scatter=0.02)) == [16]


def test_an_absolute_limit_goes_on_past_the_last_look_until_it_has_its_calls():
    limits = TimingLimits(absolute=("p99.9", 1.0))
    assert 13_000 < limits.least_calls < 13_200
    assert stops(limits, make_measurement(ratio=0.5, restarts=40), upto=40) == [], "4,000 calls"
    many = make_measurement(ratio=0.5, restarts=40, calls=60)  # of 600 each: 13,200 at restart 22
    assert stops(limits, many, upto=40) == [24, 32, 40], "past the last look, every eighth"


def test_how_many_calls_an_absolute_limit_takes_does_not_depend_on_how_long_they_took():
    """1,307 calls for a p99, of 100 each: at the look after 16 restarts, whether the limit is met, broken or near."""
    slow = make_measurement(ratio=0.5, restarts=16)
    between = float(sorted(slow.calls_ns("candidate"))[-16]) / 1e6  # one in a hundred is over
    for limit in (0.1, between, 10.0):
        assert stops(TimingLimits(absolute=("p99", limit)), slow) == [16]
    assert not TimingLimits(absolute=("p99", between)).decided(slow, "candidate")


def test_nothing_asked_is_satisfied_at_a_look():
    assert stops(TimingLimits(), make_measurement(restarts=6), upto=6) == [4, 6]
    assert TimingLimits().decided(make_measurement(), "candidate")


def test_what_a_measurement_must_hold_for_them():
    assert RATIO.least_calls == RATIO.calls_per_restart == 0
    assert TimingLimits(absolute=("p99", 1.0)).least_calls == 1307
    assert TimingLimits(tail=("p99", 1.0)).calls_per_restart == 100


@pytest.mark.parametrize(
    "limits",
    [RATIO, TimingLimits(absolute=("p99", 3.0)), TimingLimits(tail=("p90", 1.1))],
)
def test_their_record_tells_them_apart(limits):
    assert [k for k, v in limits.to_json().items() if v is not None] == [
        k for k in ("max_ratio", "absolute", "tail") if getattr(limits, k) is not None
    ]
