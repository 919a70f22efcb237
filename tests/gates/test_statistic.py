"""Which statistic the latency judge takes, on synthetic timings of long calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures_run import make_measurement

from edgekd.evidence import Measurement, load_measurement, save_measurement
from edgekd.evidence.measurement import Restart
from edgekd.gates.latency import judge_latency, ratio_of
from edgekd.gates.statistic import (
    CPU_MINIMUM,
    WALL_DECILE,
    WALL_MINIMUM,
    choose_statistic,
    restart_effects,
)

ROUNDS, CALLS, CALL_NS = 15, 2, 100e6


def long_calls(
    *,
    ratio: float = 1.0,
    busy: float = 0.5,
    restarts: int = 4,
    seed: int = 0,
    cpu_share: float = 1.0,
    threads: int = 1,
    sessions: int = 1,
) -> Measurement:
    """Calls of 100 ms on a machine that takes the CPU away in a share ``busy`` of the calls, for up to their length.

    Args:
        ratio: of the candidate's time; cpu_share: CPU time of the candidate's calls over their undisturbed time.
    """
    rng = np.random.default_rng(seed)
    base = make_measurement(restarts=restarts, rounds=1, calls=1)
    made: list[Restart] = []
    for restart in base.restarts:
        blocks, cpu_blocks = {}, {}
        for arm in base.arms:
            own = CALL_NS * (ratio if arm == "candidate" else 1.0)
            cpu = own * (1 + rng.normal(0, 0.004, (ROUNDS, CALLS)))
            lost = own * rng.uniform(0, 1, (ROUNDS, CALLS)) * (rng.uniform(size=(ROUNDS, CALLS)) < busy)
            share = cpu_share if arm == "candidate" else 1.0
            blocks[arm] = tuple((cpu + lost).astype(np.int64))
            cpu_blocks[arm] = tuple((cpu * share).astype(np.int64))
        made.append(replace(restart, blocks=blocks, cpu_blocks=cpu_blocks))
    arms = {
        name: {**record, "threads": threads, "sessions": sessions, "batch": 1}
        for name, record in base.arms.items()
    }
    return replace(base, arms=arms, restarts=tuple(made))


def test_short_calls_are_judged_by_block_minima() -> None:
    choice = choose_statistic(make_measurement(), "candidate")
    assert (choice.statistic, choice.spread) == (WALL_MINIMUM, {})


def test_on_a_quiet_machine_the_wall_clock_stays() -> None:
    chosen = [choose_statistic(long_calls(busy=0.0, seed=s), "candidate").statistic for s in range(10)]
    assert chosen == [WALL_MINIMUM] * 10


def test_on_a_busy_machine_long_calls_are_judged_by_the_cpu_clock() -> None:
    for seed in range(10):
        choice = choose_statistic(long_calls(seed=seed, busy=0.9), "candidate")
        assert choice.statistic == CPU_MINIMUM
        assert choice.spread[CPU_MINIMUM] < 0.5 * choice.spread[WALL_MINIMUM]


def test_the_candidate_s_times_do_not_change_the_choice() -> None:
    found = [choose_statistic(long_calls(ratio=r), "candidate") for r in (0.1, 1.0, 7.0)]
    assert found[0] == found[1] == found[2]


def test_later_restarts_do_not_change_the_choice() -> None:
    many = long_calls(restarts=12)
    first = choose_statistic(replace(many, restarts=many.restarts[:4]), "candidate")
    assert choose_statistic(many, "candidate") == first


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"cpu_share": 0.6}, "the candidate waits for something in every call"),
        ({"cpu_share": 1.9}, "the candidate computes in threads of its own"),
        ({"threads": 2}, "threads that wait for each other by spinning use CPU time"),
        ({"sessions": 2}, "the CPU time of sessions side by side is a sum"),
    ],
)
def test_the_cpu_clock_is_not_taken_where_it_is_not_the_latency(more: dict, why: str) -> None:
    choice = choose_statistic(long_calls(**more), "candidate")
    assert CPU_MINIMUM not in choice.spread, why
    assert choice.statistic in (WALL_MINIMUM, WALL_DECILE)


def test_evidence_without_cpu_times_of_one_arm_takes_the_wall_clock() -> None:
    whole = long_calls()
    restarts = tuple(
        replace(r, cpu_blocks={k: v for k, v in r.cpu_blocks.items() if k != "candidate"})
        for r in whole.restarts
    )
    assert CPU_MINIMUM not in choose_statistic(replace(whole, restarts=restarts), "candidate").spread


def test_an_accelerator_is_not_timed_by_its_host_s_cpu_clock() -> None:
    found = choose_statistic(replace(long_calls(busy=0.9), target="cuda:onnxruntime+cuda"), "candidate")
    assert CPU_MINIMUM not in found.spread


@pytest.mark.parametrize("arm", ["baseline", "candidate"])
@pytest.mark.parametrize("spoil", ["absent", "zero"])
def test_a_later_restart_without_cpu_times_is_taken_by_the_wall_clock(arm: str, spoil: str) -> None:
    whole = long_calls(busy=0.9, restarts=6, ratio=1.5)
    last = whole.restarts[5]
    kept = {k: v for k, v in last.cpu_blocks.items() if k != arm or spoil == "zero"}
    if spoil == "zero":
        kept[arm] = tuple(0 * block for block in kept[arm])
    restarts = (*whole.restarts[:5], replace(last, cpu_blocks=kept))
    found = replace(whole, restarts=restarts)
    assert choose_statistic(found, "candidate").statistic == CPU_MINIMUM
    effects = restart_effects(found, "candidate", CPU_MINIMUM)
    assert effects[:5].tolist() == restart_effects(whole, "candidate", CPU_MINIMUM)[:5].tolist()
    assert effects[5] == restart_effects(whole, "candidate", WALL_MINIMUM)[5]
    assert judge_latency(found, "candidate", max_ratio=1.02).decision == "reject"


@pytest.mark.parametrize("batch", [0, None, "8"])
def test_a_batch_that_is_none_is_an_error(batch: object) -> None:
    made = make_measurement()
    arms = {**made.arms, "candidate": {**made.arms["candidate"], "batch": batch}}
    gate = judge_latency(replace(made, arms=arms), "candidate", max_ratio=0.6)
    assert (gate.decision, gate.error_kind) == ("error", "input")
    assert f"a batch of {batch!r}" in gate.reason


@pytest.mark.parametrize("slow", ["candidate", "baseline"])
def test_calls_are_long_only_where_baseline_and_twin_say_so_in_every_restart(slow: str) -> None:
    whole = long_calls(busy=0.9)
    kept = [{slow: r.cpu_blocks[slow]} if i else r.cpu_blocks for i, r in enumerate(whole.restarts)]
    restarts = tuple(replace(r, cpu_blocks=c) for r, c in zip(whole.restarts, kept, strict=True))
    choice = choose_statistic(replace(whole, restarts=restarts), "candidate")
    assert (choice.statistic, choice.spread) == (WALL_MINIMUM, {})


def decide(ratio: float, seed: int) -> str:
    return judge_latency(
        long_calls(ratio=ratio, seed=seed, restarts=16), "candidate", max_ratio=1.02, gate="regression"
    ).decision


def test_long_calls_on_a_busy_machine_are_judged_rightly() -> None:
    assert [decide(1.0, s) for s in range(60)] == ["pass"] * 60
    assert [decide(1.04, s) for s in range(60)] == ["reject"] * 60


def test_the_gate_says_which_clock_and_replays(tmp_path: Path) -> None:
    found = long_calls(ratio=0.5, busy=0.9)
    gate = judge_latency(found, "candidate", max_ratio=0.6)
    assert gate.decision == "pass"
    assert gate.method == f"interleaved, {CPU_MINIMUM}, sequential t over restarts"
    assert "by the CPU clock" in gate.reason
    assert gate.detail["statistic"] == CPU_MINIMUM
    assert set(gate.detail["a_a_spread"]) == {WALL_MINIMUM, WALL_DECILE, CPU_MINIMUM}
    save_measurement(found, tmp_path / "measurement.json")
    again = judge_latency(load_measurement(tmp_path / "measurement.json"), "candidate", max_ratio=0.6)
    assert again == gate
    assert ratio_of(found, "candidate")[0] == pytest.approx(0.5, rel=0.01)


def test_a_ratio_is_of_time_per_example() -> None:
    plain = make_measurement(ratio=2.0)
    arms = {name: {**record, "batch": 8 if name == "candidate" else 1} for name, record in plain.arms.items()}
    found = restart_effects(replace(plain, arms=arms), "candidate")
    assert np.exp(found) == pytest.approx(np.exp(restart_effects(plain, "candidate")) / 8)


FED = {"kind": "data", "seed": None, "examples": {"data": "sha256:1", "split": "test"}, "sha256": "a"}


@pytest.mark.parametrize(
    ("arm", "change", "says"),
    [
        (
            "candidate",
            {"examples": {"data": "sha256:2", "split": "test"}},
            "'candidate' was fed other inputs",
        ),
        ("candidate", {"kind": "drawn"}, "kind 'drawn', not 'data'"),
        ("candidate", {"seed": 3}, "seed 3, not None"),
        ("baseline_twin", {"sha256": "b"}, "twin was fed other bytes"),
    ],
)
def test_arms_that_were_fed_other_inputs_are_an_error(arm: str, change: dict, says: str) -> None:
    made = make_measurement()
    arms = {
        name: {**record, "inputs": {**FED, **(change if name == arm else {})}}
        for name, record in made.arms.items()
    }
    gate = judge_latency(replace(made, arms=arms), "candidate", max_ratio=0.6)
    assert (gate.decision, gate.error_kind) == ("error", "input")
    assert says in gate.reason
    same = {name: {**record, "inputs": FED} for name, record in made.arms.items()}
    assert judge_latency(replace(made, arms=same), "candidate", max_ratio=0.6).decision == "pass"
