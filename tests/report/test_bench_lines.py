"""What `edgekd bench` prints of each scenario."""

from dataclasses import replace

import numpy as np
import pytest
from fixtures_run import make_measurement

from edgekd.report.bench import bench_lines, closing_line
from edgekd.report.view import _latency
from edgekd.report.words import latency_title


def text(measurement):
    return "\n".join(bench_lines(measurement, inputs="real inputs"))


def stream(**changes):
    return make_measurement(
        **{
            "scenario_detail": {"percentile": "p90", "min_duration_s": 0.5, "min_count": 64, "held": True},
            **changes,
        }
    )


def test_quantiles_with_intervals_and_a_ratio():
    lines = bench_lines(stream(), inputs="real inputs")
    assert lines[0] == "cpu:onnxruntime, single-stream (p90), batch 1, 1 thread(s), real inputs"
    assert lines[1].split() == ["model", "p50", "ms", "p90", "ms", "p99", "ms", "calls"]
    student = next(x for x in lines if x.startswith("  student-int8 "))
    assert student.count("[") == 3
    assert student.split()[-1] == "400"
    assert any(x.startswith("  student-int8: 0.5") and "x of teacher [" in x for x in lines)
    assert "twin" not in text(stream())
    assert closing_line(stream()) == "4 restarts, 0 redrawn; brackets: 95 % over restarts"


def test_an_emulated_precision_has_no_ratio():
    plain = stream()
    placed = {"placement": {"detail": {"emulated": "float8e4m3fn"}}}
    restarts = tuple(replace(r, children={**r.children, "candidate": placed}) for r in plain.restarts)
    found = text(replace(plain, restarts=restarts))
    assert "student-int8 emulates float8e4m3fn here: for accuracy only, its times are no latency" in found
    assert "x of teacher" in text(plain)
    assert "x of teacher" not in found


def test_one_restart_has_no_interval():
    found = text(stream(restarts=1))
    assert "[" not in found
    assert "x of teacher" in found
    assert closing_line(stream(restarts=1)) == "1 restart, 0 redrawn"


def test_another_percentile_gets_a_column_of_its_own():
    assert "p95 ms" in text(stream(scenario_detail={"percentile": "p95"}))


def test_a_run_that_was_not_long_enough_says_so():
    detail = {"percentile": "p90", "min_duration_s": 60.0, "min_count": 1000, "held": False}
    assert "not long enough: 60 s and 1,000 queries" in text(stream(scenario_detail=detail))
    assert "not long enough" not in text(stream())


def test_several_calls_of_a_query_are_told():
    measurement = stream(scenario="multi-stream", batch=8)
    arms = {k: {**v, "batch": 8, "calls_per_query": 8} for k, v in measurement.arms.items()}
    found = text(stream(scenario="multi-stream", batch=8, arms=arms))
    assert "student-int8 takes a fixed batch: 8 calls make one query" in found
    assert found.count("8 calls make one query") == 2, "the twin is not told"
    assert "queries" in found


def test_offline_shows_rates_and_the_sweep():
    measurement = make_measurement(ratio=0.5)
    arms = {k: {**v, "batch": 4 if k == "candidate" else 2} for k, v in measurement.arms.items()}
    rows = [{"batch": 1, "samples_per_s": 900.0, "ms_per_call": 1.1}]
    sweep = {"best": 4, "rows": rows, "ended": "throughput no longer rises"}
    found = text(
        make_measurement(
            ratio=0.5, arms=arms, scenario="offline", scenario_detail={"sweep": {"candidate": sweep}}
        )
    )
    assert "offline, 1 thread(s)" in found
    assert "samples/s" in found
    assert "student-int8 by batch, samples/s: 1: 900.0 (throughput no longer rises)" in found
    assert "student-int8: time per sample 0.25" in found


def test_sessions_side_by_side_are_told():
    found = make_measurement(ratio=0.5, scenario="offline", scenario_detail={"sessions": 2})
    assert "offline, batch 1, 2 sessions of 1 thread(s)" in text(found)
    assert "2 sessions of 1 thread, " in latency_title(_latency(found, selected=True))
    assert "sessions" not in latency_title(_latency(make_measurement(ratio=0.5), selected=True))


def server(best, **detail):
    trials = [
        {
            "arm": arm, "restart": i, "rate_qps": rate, "valid": True, "queries_of": f"{i}.{arm}.0",
            "late_ns": {"p50": 1, "p99": 2000, "max": 3},
        }
        for arm, rates in best.items() for i, rate in enumerate(rates)
    ]  # fmt: skip
    return make_measurement(
        restarts=2, scenario="server", queries={t["queries_of"]: np.full(700, 5_000_000) for t in trials},
        scenario_detail={
            "percentile": "p99", "bound_ms": 10.0, "target_qps": None, "trials": trials, "max_qps": best, **detail
        },
    )  # fmt: skip


def test_the_highest_rates_and_their_ratio():
    found = text(server({"baseline": [100.0, 110.0], "candidate": [200.0, 220.0]}))
    assert "server, highest rate with p99 within 10 ms (Poisson)" in found
    assert "student-int8: rate 2.000x of teacher [2.000, 2.000]" in found
    assert "104.9 [" in found
    assert "5.000" in found
    assert "p99 2.0 µs in the median trial" in found


def test_a_model_without_a_valid_rate():
    found = text(server({"baseline": [100.0, 110.0], "candidate": [0.0, 0.0]}))
    assert "none (not even" in found
    assert "rate" not in found.split("trials")[1].split("issued")[0]


def test_an_asked_rate_shows_latencies():
    measurement = server({"baseline": [50.0, 50.0]}, target_qps=50.0, bound_ms=None)
    found = text(measurement)
    assert "server at 50 queries/s (Poisson)" in found
    assert "1,400" in found
    assert "x of" not in found


@pytest.mark.parametrize("scenario", ["single-stream", "offline"])
def test_nothing_measured_is_no_crash(scenario):
    assert "teacher" in text(make_measurement(restarts=0, scenario=scenario))
