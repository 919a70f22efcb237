"""The absolute latency gate: three answers, and the number of calls that is missing."""

import math
from dataclasses import replace

import numpy as np
import pytest
from fixtures_run import make_measurement

from edgekd.evidence.measurement import load_measurement, save_measurement
from edgekd.gates.absolute import judge_absolute


def timed(calls_ms, **changes):
    """One arm that took these milliseconds, in one restart of one block."""
    measurement = make_measurement(restarts=1, rounds=1, **changes)
    blocks = {"candidate": (np.round(np.asarray(calls_ms) * 1e6).astype(np.int64),)}
    restart = replace(measurement.restarts[0], blocks={**measurement.restarts[0].blocks, **blocks})
    return replace(measurement, restarts=(restart,))


def judge(calls_ms, **options):
    return judge_absolute(timed(calls_ms), "candidate", **{"percentile": "p99", "max_ms": 33.0, **options})


@pytest.mark.parametrize(("over", "enough"), [(0, 459), (1, 662), (5, 1307)])
def test_passes_with_exactly_the_calls_that_the_rule_asks(over, enough):
    slow = [50.0] * over
    assert judge([30.0] * (enough - over) + slow).decision == "pass"
    gate = judge([30.0] * (enough - over - 1) + slow)
    assert gate.decision == "inconclusive"
    assert gate.detail["n_needed"] == enough
    assert f"with {over} over {enough:,} calls are needed" in gate.reason
    assert gate.n == enough - 1


def test_rejects_when_the_lower_bound_is_beyond():
    gate = judge([30.0] * 950 + [50.0] * 50)
    assert (gate.decision, gate.n, gate.unit, gate.confidence) == ("reject", 1000, "ms", 0.99)
    assert gate.interval[0] > 33
    assert "p99 is at least 50 ms (limit 33 ms): 50 of 1,000 calls took longer" in gate.reason


def test_between_the_bounds_it_says_what_is_missing():
    gate = judge([30.0] * 990 + [50.0] * 10)
    assert gate.decision == "inconclusive"
    assert gate.interval[0] <= 33 < gate.interval[1]
    assert gate.detail["over"] == 10
    assert gate.detail["n_needed"] > 1000


def test_at_the_limit_is_within_it():
    gate = judge([33.0] * 459)
    assert (gate.decision, gate.detail["over"]) == ("pass", 0)
    assert "0 of 459 calls took longer" in gate.reason


def test_the_figures_are_the_quantile_in_milliseconds():
    gate = judge(np.linspace(1, 20, 2000), percentile="p90", max_ms=25.0)
    assert gate.estimate == pytest.approx(np.sort(np.linspace(1, 20, 2000))[1799])
    assert gate.interval[0] < gate.estimate < gate.interval[1] <= 25
    assert (gate.gate, gate.metric, gate.against, gate.limit) == ("latency_absolute", "p90", "", 25.0)


def test_it_needs_neither_teacher_nor_twin():
    measurement = timed([1.0] * 500)
    alone = replace(measurement, arms={"baseline": measurement.arms["candidate"]})
    restart = replace(
        measurement.restarts[0], blocks={"baseline": measurement.restarts[0].blocks["candidate"]}
    )
    gate = judge_absolute(replace(alone, restarts=(restart,)), "baseline", max_ms=2.0)
    assert gate.decision == "pass"


def test_nothing_timed_is_inconclusive_with_the_number():
    gate = judge_absolute(make_measurement(restarts=0), "candidate", max_ms=2.0)
    assert (gate.decision, gate.estimate, gate.n) == ("inconclusive", None, 0)
    assert "459 within 2 ms" in gate.reason
    assert gate.to_json()["interval"] == [0.0, None]


@pytest.mark.parametrize(
    ("measurement", "options", "says"),
    [
        (timed([1.0]), {"percentile": "p100"}, "'p100' is not a percentile"),
        (timed([1.0]), {"max_ms": 0.0}, "above 0 ms"),
        (timed([1.0]), {"max_ms": math.nan}, "above 0 ms"),
        (timed([1.0, -1.0]), {}, "a call of -1 ms"),
        (timed([1.0], scenario="offline"), {}, "offline measurement has a throughput"),
        (timed([1.0], scenario="server"), {}, "searched for the highest rate"),
    ],
)
def test_what_cannot_be_judged_is_an_error(measurement, options, says):
    gate = judge_absolute(measurement, "candidate", **{"max_ms": 5.0, **options})
    assert (gate.decision, gate.error_kind) == ("error", "input")
    assert says in gate.reason


def test_times_of_an_emulated_precision_are_not_judged():
    measurement = make_measurement()
    placed = {"placement": {"detail": {"emulated": "float8e4m3fn"}}}
    restarts = tuple(replace(r, children={"candidate": placed}) for r in measurement.restarts)
    gate = judge_absolute(replace(measurement, restarts=restarts), "candidate", max_ms=5.0)
    assert (gate.decision, gate.error_kind) == ("error", "input")
    assert "emulates float8e4m3fn" in gate.reason
    assert judge_absolute(replace(measurement, restarts=restarts), "baseline", max_ms=5.0).decision != "error"


def test_an_unknown_arm_is_an_error():
    assert "no arm 'x'" in judge_absolute(make_measurement(), "x", max_ms=5.0).reason


def test_the_server_is_judged_at_its_rate(tmp_path):
    trials = [{"arm": "baseline", "queries_of": f"{i}.baseline.0"} for i in range(2)]
    measurement = make_measurement(
        restarts=0, scenario="server",
        queries={t["queries_of"]: np.full(300, 4_000_000) for t in trials},
        scenario_detail={"target_qps": 50.0, "trials": trials},
    )  # fmt: skip
    gate = judge_absolute(measurement, "baseline", max_ms=5.0)
    assert (gate.decision, gate.n, gate.scenario) == ("pass", 600, "server")
    assert "at 50 queries/s: 0 of 600 queries" in gate.reason
    save_measurement(measurement, tmp_path / "m.json")
    assert judge_absolute(load_measurement(tmp_path / "m.json"), "baseline", max_ms=5.0) == gate


@pytest.mark.parametrize("noise", [{"steal": 0.02}, {"pressure_some": 0.3}, {"throttled_us": 5_000}])
def test_a_disturbed_machine_may_pass_but_never_rejects(noise):
    slow, quick = timed([50.0] * 1000), timed([10.0] * 1000)
    disturbed = [
        replace(m, restarts=(replace(m.restarts[0], ledger={**m.restarts[0].ledger, **noise}),))
        for m in (slow, quick)
    ]
    gate = judge_absolute(disturbed[0], "candidate", percentile="p99", max_ms=33.0)
    assert gate.decision == "inconclusive"
    assert "p99 is at least 50 ms (limit 33 ms)" in gate.reason
    assert "the machine was not quiet" in gate.reason
    assert judge_absolute(disturbed[1], "candidate", percentile="p99", max_ms=33.0).decision == "pass"
    assert judge_absolute(slow, "candidate", percentile="p99", max_ms=33.0).decision == "reject"
