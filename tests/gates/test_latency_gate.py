"""The latency judge on synthetic timings."""

import math
from dataclasses import replace

import numpy as np
import pytest
from fixtures_run import make_measurement
from scipy.stats import t as reference

from edgekd.errors import EvidenceError
from edgekd.evidence.measurement import load_measurement, save_measurement
from edgekd.gates.latency import judge_latency, ratio_of, should_stop, summarise
from edgekd.gates.looks import LOOKS
from edgekd.gates.statistic import restart_effects

LIMIT = 1.02


def prefix(measurement, k):
    return replace(measurement, restarts=measurement.restarts[:k])


def run_to_the_end(seed, ratio, scatter=0.004, twin=1.0):
    """What a measuring run does: stop where told, then judge."""
    whole = make_measurement(
        ratio=ratio, restarts=16, scatter=scatter, seed=seed, twin=twin, rounds=5, calls=4
    )
    k = next(k for k in range(1, 17) if should_stop(prefix(whole, k), [("candidate", LIMIT)]))
    return k, judge_latency(
        prefix(whole, k), "candidate", max_ratio=LIMIT, gate="regression", against="baseline"
    )


def test_equal_arms_are_never_rejected_and_pass():
    decisions = [run_to_the_end(seed, 1.0)[1].decision for seed in range(40)]
    assert "reject" not in decisions
    assert decisions.count("pass") >= 38


def test_planted_four_percent_is_found():
    decisions = [run_to_the_end(seed, 1.04)[1].decision for seed in range(40)]
    assert "pass" not in decisions
    assert decisions.count("reject") >= 38


def test_at_the_limit_few_pass():
    decisions = [run_to_the_end(seed, LIMIT, scatter=0.008)[1].decision for seed in range(60)]
    assert decisions.count("pass") <= 9  # 5.1 % each side in the long run
    assert decisions.count("inconclusive") >= 40


def test_a_run_stops_only_at_a_look_and_the_judge_agrees():
    for seed in range(10):
        k, gate = run_to_the_end(seed, 1.0, scatter=0.012)
        assert k in LOOKS
        assert gate.n == k
        assert gate.decision != "inconclusive" or k == 16 or "differed" in gate.reason


def test_later_restarts_do_not_change_what_an_earlier_look_decided():
    whole = make_measurement(ratio=0.5, restarts=16)
    assert judge_latency(whole, "candidate", max_ratio=0.6).n == 4
    assert (
        judge_latency(whole, "candidate", max_ratio=0.6).interval
        == judge_latency(prefix(whole, 4), "candidate", max_ratio=0.6).interval
    )


def test_the_figures_are_the_method():
    measurement = make_measurement(ratio=0.5, restarts=4, scatter=0.01)
    effects = restart_effects(measurement, "candidate")
    gate = judge_latency(measurement, "candidate", max_ratio=0.6)
    half = reference.ppf(0.984, 3) * effects.std(ddof=1) / 2
    assert gate.estimate == pytest.approx(math.exp(effects.mean()), rel=1e-12)
    assert gate.interval == pytest.approx(
        (math.exp(effects.mean() - half), math.exp(effects.mean() + half)), rel=1e-9
    )
    assert (gate.unit, gate.confidence, gate.scenario) == ("ratio", 0.984, "single-stream")


def test_a_twin_that_differs_widens_to_inconclusive():
    gate = judge_latency(make_measurement(ratio=0.98, twin=1.08, scatter=0.001), "candidate", max_ratio=LIMIT)
    assert gate.decision == "inconclusive"
    assert gate.detail["widened"] is True
    assert gate.detail["a_a_ratio"] == pytest.approx(1.08, rel=0.01)
    assert gate.interval[0] < LIMIT < gate.interval[1]
    assert "two copies" in gate.reason
    # Decided once: such a run does not go on measuring.
    assert should_stop(make_measurement(ratio=0.98, twin=1.08, scatter=0.001), [("candidate", LIMIT)])


def test_a_twin_that_differs_leaves_a_clear_answer():
    gate = judge_latency(make_measurement(ratio=2.0, twin=1.08, scatter=0.001), "candidate", max_ratio=LIMIT)
    assert gate.decision == "reject"
    assert gate.detail["widened"] is True


def test_before_the_first_look():
    gate = judge_latency(make_measurement(restarts=3), "candidate", max_ratio=0.6)
    assert (gate.decision, gate.interval) == ("inconclusive", None)
    assert "measure 1 more" in gate.reason
    assert gate.estimate == pytest.approx(0.5, rel=0.02)
    assert judge_latency(make_measurement(restarts=0), "candidate", max_ratio=0.6).estimate is None


def test_between_looks_says_how_many_more():
    measurement = make_measurement(ratio=1.02, restarts=5, scatter=0.01)
    gate = judge_latency(measurement, "candidate", max_ratio=LIMIT)
    assert gate.decision == "inconclusive"
    assert gate.n == 4
    assert "needs 1 more" in gate.reason
    assert not should_stop(measurement, [("candidate", LIMIT)])


def test_sixteen_restarts_end_it():
    measurement = make_measurement(ratio=1.02, restarts=16, scatter=0.01)
    assert should_stop(measurement, [("candidate", LIMIT)])
    gate = judge_latency(measurement, "candidate", max_ratio=LIMIT)
    assert gate.decision == "inconclusive"
    assert "16 restarts do not decide" in gate.reason


def test_every_comparison_must_have_decided():
    measurement = make_measurement(ratio=0.5, restarts=4, scatter=0.01)
    assert should_stop(measurement, [("candidate", 0.6)])
    assert not should_stop(measurement, [("candidate", 0.6), ("candidate", 0.5)])


def test_replays_after_saving(tmp_path):
    measurement = make_measurement(ratio=0.9, restarts=6, scatter=0.01)
    save_measurement(measurement, tmp_path / "m.json")
    again = load_measurement(tmp_path / "m.json")
    assert judge_latency(again, "candidate", max_ratio=0.95) == judge_latency(
        measurement, "candidate", max_ratio=0.95
    )


def with_block(measurement, block, arm="candidate"):
    first = measurement.restarts[0]
    blocks = {**first.blocks, arm: (block, *first.blocks[arm][1:])}
    return replace(measurement, restarts=(replace(first, blocks=blocks), *measurement.restarts[1:]))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda m: with_block(m, np.asarray([0, 5])), "call of 0 ns"),
        (lambda m: with_block(m, np.asarray([5, -3])), "call of -3 ns"),
        (lambda m: with_block(m, np.asarray([5.0, np.nan])), "nan"),
        (lambda m: with_block(m, np.zeros(0, np.int64)), "holds no call"),
        (lambda m: with_block(m, np.asarray([0]), "baseline_twin"), "'baseline_twin'"),
        (
            lambda m: replace(m, arms={k: v for k, v in m.arms.items() if k != "baseline_twin"}),
            "no arm 'baseline_twin'",
        ),
        (lambda m: replace(m, arms={**m.arms, "baseline_twin": {"artifact": "other"}}), "another artifact"),
        (
            lambda m: replace(
                m,
                restarts=(
                    replace(
                        m.restarts[0],
                        blocks={**m.restarts[0].blocks, "candidate": m.restarts[0].blocks["candidate"][:-1]},
                    ),
                ),
            ),
            "unequal or missing blocks",
        ),
    ],
)
def test_unusable_samples_are_an_error(spoil, says):
    spoiled = spoil(make_measurement())
    gate = judge_latency(spoiled, "candidate", max_ratio=0.6)
    assert (gate.decision, gate.error_kind) == ("error", "input")
    assert says in gate.reason


def emulating(measurement, arm):
    placed = {"placement": {"runtime": "onnxruntime", "detail": {"emulated": "float8e4m3fn"}}}
    restarts = [
        replace(r, children={**r.children, arm: {**r.children[arm], **placed}}) for r in measurement.restarts
    ]
    return replace(measurement, restarts=tuple(restarts))


@pytest.mark.parametrize("arm", ["candidate", "baseline"])
def test_times_of_an_emulated_precision_are_not_judged(arm):
    measurement = emulating(make_measurement(ratio=0.1), arm)
    gate = judge_latency(measurement, "candidate", max_ratio=0.6)
    assert (gate.decision, gate.error_kind) == ("error", "input")
    assert (
        f"'{arm}' emulates float8e4m3fn on cpu:onnxruntime, which is for accuracy only; time it on"
        in gate.reason
    )
    assert should_stop(measurement, [("candidate", 0.6)])


def test_an_unknown_arm_and_a_bad_limit_are_errors():
    assert "no arm 'x'" in judge_latency(make_measurement(), "x", max_ratio=0.6).reason
    assert judge_latency(make_measurement(), "candidate", max_ratio=0.0).decision == "error"


def test_summary_is_nearest_rank():
    measurement = make_measurement(restarts=1, rounds=1)
    times = with_block(measurement, np.arange(1, 101)[::-1].copy())
    summary = summarise(times, "candidate")
    assert (summary.calls, summary.min_ns, summary.p50_ns, summary.p90_ns, summary.p99_ns) == (
        100,
        1,
        50,
        90,
        99,
    )
    assert summarise(make_measurement(restarts=0), "candidate") is None


def test_a_ratio_for_reading():
    estimate, low, high = ratio_of(make_measurement(ratio=0.5), "candidate")
    assert low < estimate < high
    assert estimate == pytest.approx(0.5, rel=0.02)
    assert ratio_of(make_measurement(restarts=1), "candidate")[1:] == (0.0, math.inf)
    with pytest.raises(EvidenceError, match="no restart"):
        ratio_of(make_measurement(restarts=0), "candidate")
    with pytest.raises(EvidenceError, match="no arm"):
        ratio_of(make_measurement(), "x")


def test_a_burst_in_one_round_moves_nothing():
    quiet = make_measurement(ratio=1.0, scatter=0.001)
    first = quiet.restarts[0].blocks["candidate"][0]
    burst = with_block(quiet, first * 50)
    effects = restart_effects(burst, "candidate")
    assert effects[0] == pytest.approx(restart_effects(quiet, "candidate")[0], abs=0.003)
