"""The tail gate: a verdict of its own, taken only from quiet restarts."""

import math
from dataclasses import replace

import numpy as np
import pytest
from fixtures_run import make_measurement

from edgekd.gates.latency import judge_latency
from edgekd.gates.looks import LOOKS
from edgekd.gates.quiet import noise_of
from edgekd.gates.tail import MAX_NOISY, judge_tail, least_calls, tail_should_stop

QUIET = {"steal": 0.0, "pressure_some": 0.01, "throttled_us": 0}
LIMIT = {"percentile": "p99", "max_ratio": 1.2}


def timed(*, ratio=1.0, restarts=4, ledgers=None, stalls=0.0, twin=1.0, scatter=0.003, seed=0, **changes):
    """Equal code; ``stalls`` of the candidate's calls take four times as long, never the first of a block."""
    made = make_measurement(
        ratio=ratio, restarts=restarts, rounds=10, calls=50, twin=twin, scatter=scatter, seed=seed, **changes
    )
    rng = np.random.default_rng(seed)
    kept = []
    for i, restart in enumerate(made.restarts):
        slow = []
        for block in restart.blocks["candidate"]:
            hit = rng.random(len(block)) < stalls
            hit[np.argmin(block)] = False
            slow.append(np.where(hit, 4 * block, block))
        blocks = {**restart.blocks, "candidate": tuple(slow)}
        kept.append(replace(restart, blocks=blocks, ledger=(ledgers or [QUIET] * restarts)[i]))
    return replace(made, restarts=tuple(kept))


def test_equal_tails_pass():
    gate = judge_tail(timed(), "candidate", **LIMIT)
    assert (gate.decision, gate.n, gate.metric, gate.unit) == ("pass", 4, "p99", "ratio")
    assert gate.estimate == pytest.approx(1.0, abs=0.03)
    assert gate.interval[0] < gate.estimate < gate.interval[1] < 1.2


def test_a_planted_stall_is_seen_here_and_not_by_the_latency_gate():
    measurement = timed(stalls=0.02)
    assert judge_latency(measurement, "candidate", max_ratio=1.02).decision == "pass"
    gate = judge_tail(measurement, "candidate", **LIMIT)
    assert gate.decision == "reject"
    assert gate.estimate > 2
    assert "student's p99 is" in gate.reason
    assert judge_tail(measurement, "candidate", percentile="p50", max_ratio=1.2).decision == "pass"


@pytest.mark.parametrize(
    ("noise", "says"),
    [
        ({"steal": 0.02}, "steal 2.0 %"),
        ({"pressure_some": 0.3}, "CPU pressure 30 %"),
        ({"throttled_us": 4000}, "throttled 4 ms"),
    ],
)
def test_noisy_restarts_are_not_used_and_named(noise, says):
    measurement = timed(stalls=0.02, ledgers=[{**QUIET, **noise}] * 4)
    gate = judge_tail(measurement, "candidate", **LIMIT)
    assert (gate.decision, gate.n, gate.interval) == ("inconclusive", 0, None)
    assert says in gate.reason
    assert "0 of 4 restarts were quiet" in gate.reason
    assert not tail_should_stop(measurement, "candidate", **LIMIT)


def test_the_quiet_restarts_decide_whatever_the_others_did():
    noisy = {**QUIET, "pressure_some": 0.5}
    measurement = timed(restarts=6, ledgers=[noisy, QUIET, QUIET, noisy, QUIET, QUIET])
    wild = replace(measurement.restarts[0], blocks=timed(stalls=0.5).restarts[0].blocks)
    measurement = replace(measurement, restarts=(wild, *measurement.restarts[1:]))
    gate = judge_tail(measurement, "candidate", **LIMIT)
    assert (gate.decision, gate.n) == ("pass", 4)
    assert "over 4 quiet restarts of 6" in gate.reason
    assert gate.detail["not_quiet"] == ["CPU pressure 50 %"] * 2


def test_what_the_machine_does_not_tell_is_said_and_blocks_nothing():
    gate = judge_tail(timed(ledgers=[{"steal": 0.0}] * 4), "candidate", **LIMIT)
    assert gate.decision == "pass"
    assert "the machine does not tell CPU pressure, cgroup throttling" in gate.reason
    assert noise_of({}) == ""


def test_at_the_edges_of_quiet():
    assert noise_of({"steal": 0.0099, "pressure_some": 0.049, "throttled_us": 0}) == ""
    assert noise_of({"steal": 0.01})
    assert noise_of({"pressure_some": 0.05})
    assert noise_of({"throttled_us": 1})


def test_looks_as_often_as_the_latency_gate_and_stops_when_decided():
    undecided = timed(ratio=1.2, scatter=0.02, restarts=16)
    stops = [k for k in range(1, 17) if tail_should_stop(prefix(undecided, k), "candidate", **LIMIT)]
    assert stops == [16]
    gate = judge_tail(undecided, "candidate", **LIMIT)
    assert (gate.decision, gate.n) == ("inconclusive", 16)
    assert "scatters too much" in gate.reason
    between = judge_tail(prefix(undecided, 5), "candidate", **LIMIT)
    assert between.n == 4
    assert "needs 1 more quiet restarts" in between.reason
    assert judge_tail(prefix(undecided, 3), "candidate", **LIMIT).reason.startswith(
        "3 restarts, the first look"
    )
    assert [k for k in LOOKS if tail_should_stop(prefix(timed(restarts=16), k), "candidate", **LIMIT)] == [
        *LOOKS
    ]


def test_a_machine_that_is_never_quiet_ends_the_measuring():
    noisy = timed(restarts=12, ledgers=[{**QUIET, "pressure_some": 0.5}] * 12)
    assert not tail_should_stop(prefix(noisy, MAX_NOISY), "candidate", **LIMIT)
    assert tail_should_stop(prefix(noisy, MAX_NOISY + 1), "candidate", **LIMIT)


def prefix(measurement, k):
    return replace(measurement, restarts=measurement.restarts[:k])


def test_two_copies_that_differ_widen_the_answer():
    gate = judge_tail(timed(ratio=1.15, twin=1.3, scatter=0.001), "candidate", **LIMIT)
    assert gate.decision == "inconclusive"
    assert gate.detail["widened"] is True
    assert "two copies of the teacher differed" in gate.reason


def test_batches_of_their_own_are_compared_by_example():
    measurement = timed(ratio=2.0)
    arms = {**measurement.arms, "candidate": {**measurement.arms["candidate"], "batch": 2}}
    assert judge_tail(replace(measurement, arms=arms), "candidate", **LIMIT).estimate == pytest.approx(
        1, abs=0.03
    )


@pytest.mark.parametrize(
    ("measurement", "options", "says"),
    [
        (timed(), {"percentile": "99"}, "not a percentile"),
        (timed(), {"max_ratio": 0.0}, "ratio above 0"),
        (timed(), {"max_ratio": math.inf}, "ratio above 0"),
        (timed(scenario="offline"), {}, "offline"),
        (timed(scenario="server", restarts=0), {}, "server"),
        (timed(), {"percentile": "p99.9"}, "holds 500 calls of 'baseline', a quantile at 0.999 needs 1000"),
    ],
)
def test_what_cannot_be_judged_is_an_error(measurement, options, says):
    gate = judge_tail(measurement, "candidate", **{**LIMIT, **options})
    assert (gate.decision, gate.error_kind) == ("error", "input")
    assert says in gate.reason
    if "percentile" not in options and "max_ratio" not in options:
        assert tail_should_stop(measurement, "candidate", **LIMIT), "more of it would not help"


def test_a_missing_twin_is_an_error():
    measurement = timed()
    without = {k: v for k, v in measurement.arms.items() if k != "baseline_twin"}
    assert (
        "no arm 'baseline_twin'"
        in judge_tail(replace(measurement, arms=without), "candidate", **LIMIT).reason
    )


def test_arms_that_were_fed_other_inputs_have_no_tail_to_compare():
    made = timed()
    arms = {
        name: {**record, "inputs": {"kind": "drawn", "seed": int(name == "candidate"), "examples": None}}
        for name, record in made.arms.items()
    }
    gate = judge_tail(replace(made, arms=arms), "candidate", **LIMIT)
    assert (gate.decision, gate.error_kind) == ("error", "input")
    assert "'candidate' was fed other inputs" in gate.reason


def test_equal_tails_are_seldom_rejected_and_long_ones_seldom_passed():
    """Exponential calls, limit 1.2: the t over restarts holds its level although p99 of 500 calls is rough."""
    equal = [judge_tail(timed(seed=s, restarts=8), "candidate", **LIMIT).decision for s in range(30)]
    longer = [
        judge_tail(timed(seed=s, restarts=8, stalls=0.03), "candidate", **LIMIT).decision for s in range(30)
    ]
    assert "reject" not in equal
    assert "pass" not in longer
    assert equal.count("pass") >= 28
    assert longer.count("reject") >= 28


def test_least_calls():
    assert [least_calls(x) for x in (0.5, 0.9, 0.99, 0.999)] == [2, 10, 100, 1000]
