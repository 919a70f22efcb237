"""The search for session settings: what is planted is found, what is not there is not, whatever the noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.artifact import Artifact
from edgekd.errors import ChildError, InfrastructureError, ModelError
from edgekd.evidence.measurement import Measurement, Restart
from edgekd.measure import Arm, Protocol, Setting
from edgekd.measure import sweep as module
from edgekd.measure.configuration import Configuration, Sweep, shown
from edgekd.pipeline.sweep import two_sided_interval
from edgekd.target import parse_target
from edgekd.testing import write_fake

SPACE: dict[str, tuple[Any, ...]] = {
    "threads": (1, 2, 4),
    "level": ("all", "less"),
    "arena": (True, False),
    "pattern": (True, False),
}
#: Configuration -> milliseconds per example.
Cost = Callable[[Configuration], float]


def no_effect(configuration: Configuration) -> float:
    return 1.0


class Machine:
    """Stands in for children: times are the planted cost, with scatter between restarts and within."""

    def __init__(self, cost: Cost, *, scatter: float = 0.01, seed: int = 0) -> None:
        self.cost, self.scatter = cost, scatter
        self.rng = np.random.default_rng(seed)
        self.races: list[list[Configuration]] = []
        self.crowd = 0

    def __call__(
        self, arms: Sequence[Arm], setting: Setting, *, inputs: Mapping[str, Any], protocol: Protocol
    ) -> Measurement:
        asked = {
            a.name: Configuration(threads=a.threads or 1, batch=a.batch or 1, settings=a.settings or {})
            for a in arms
        }
        self.races.append(list(asked.values()))
        self.crowd = max(self.crowd, len(arms))
        costs = {name: self.cost(c) * c.batch for name, c in asked.items()}
        restarts = []
        for _ in range(protocol.min_restarts):
            minute = self.rng.lognormal(0, 0.2)  # the machine's mood, shared by all arms of a restart
            own = {name: self.rng.lognormal(0, self.scatter) for name in asked}
            blocks = {
                name: tuple(
                    (1e6 * cost * minute * own[name] * self.rng.lognormal(0, 0.005, 4)).astype(np.int64)
                    for _ in range(protocol.rounds)
                )
                for name, cost in costs.items()
            }
            child = {"placement": {"runtime": "planted 1"}, "peak_memory_bytes": 1 << 20}
            restarts.append(
                Restart(blocks=blocks, order=tuple(asked), cpus=(), warmup={}, children=dict.fromkeys(asked, child), ledger={})
            )  # fmt: skip
        return Measurement(
            arms={n: {"name": n, "batch": c.batch, "threads": c.threads} for n, c in asked.items()},
            target="cpu:fake", scenario="single-stream", batch=1, threads=1, inputs={}, protocol={},
            restarts=tuple(restarts), redrawn=(), environment={}, parent_cpu=0.0, collected_at="",
        )  # fmt: skip


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return write_fake(tmp_path)


@pytest.fixture
def search(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Sweep]:
    """A sweep on a planted machine; answers agree unless ``difference`` says otherwise."""

    def run(
        machine: Machine,
        *,
        space: Callable[[int], Mapping[str, Sequence[Any]]] = lambda cpus: SPACE,
        difference: Callable[[Configuration], float] = lambda c: 0.0,
        **more: Any,
    ) -> Sweep:
        def compare(reference: Arm, other: Arm, setting: Setting) -> float:
            return difference(
                Configuration(threads=other.threads or 1, batch=other.batch or 1, settings=other.settings or {})
            )  # fmt: skip

        monkeypatch.setattr(module, "measure", machine)
        monkeypatch.setattr(module, "largest_difference", compare)
        setting = Setting(target=parse_target("cpu:fake"), runtime_paths={})
        return module.sweep(
            artifact, "model", setting, space, lambda batch: {}, cpus=more.pop("cpus", 1),
            interval=two_sided_interval, **more,
        )  # fmt: skip

    return run


def test_a_setting_that_is_twice_as_fast_is_found_and_its_ratio_is_from_restarts_of_its_own(
    search: Callable[..., Sweep],
) -> None:
    machine = Machine(lambda c: 0.5 if c.settings.get("arena") is False else 1.0)
    found = search(machine)
    assert found.best.settings == {"arena": False}
    assert found.best.threads == 1
    assert found.confirmation is not None
    assert found.confirmation.restarts == module.CONFIRMATION
    assert found.confirmation.ratio == pytest.approx(0.5, rel=0.03)
    assert found.confirmation.lower < 0.5 < found.confirmation.upper
    assert found.difference == 0.0
    assert found.runtime == "planted 1"
    # The last race is the confirmation: the default twice, and the winner.
    assert [c.settings for c in machine.races[-1]] == [{}, {}, {"arena": False}]


def test_settings_without_effect_leave_the_default_alone_however_often_one_looks(
    search: Callable[..., Sweep],
) -> None:
    chosen = [search(Machine(no_effect, scatter=0.02, seed=s)).best for s in range(100)]
    changed = [c for c in chosen if c.settings or c.threads != 1]
    # The search's own alpha is 5 %, the confirmation's one-sided 2.5 %: hardly ever both.
    assert len(changed) <= 2


def test_what_is_slower_or_a_tie_says_so(search: Callable[..., Sweep]) -> None:
    found = search(Machine(lambda c: 1.5 if c.settings.get("level") == "less" else 1.0, scatter=0.003))
    outcomes = {shown(t.changes): t.outcome for t in found.trials}
    assert outcomes["level=less"] == "slower"
    assert outcomes["pattern=false"] == "tie"
    assert found.best == found.default
    assert found.confirmation is None


def test_two_settings_that_help_independently_are_both_chosen(search: Callable[..., Sweep]) -> None:
    def cost(c: Configuration) -> float:
        return (0.7 if c.settings.get("arena") is False else 1.0) * (
            0.8 if c.settings.get("level") == "less" else 1.0
        )

    found = search(Machine(cost))
    assert found.best.settings == {"arena": False, "level": "less"}
    assert found.confirmation is not None
    assert found.confirmation.ratio == pytest.approx(0.56, rel=0.03)


def test_two_settings_that_help_only_alone_are_not_combined(search: Callable[..., Sweep]) -> None:
    def cost(c: Configuration) -> float:
        both = c.settings.get("arena") is False and c.settings.get("level") == "less"
        if both:
            return 1.2
        return 0.6 if c.settings.get("arena") is False else 0.8 if c.settings.get("level") == "less" else 1.0

    assert search(Machine(cost)).best.settings == {"arena": False}


def test_threads_come_first_and_settings_are_those_of_so_many_threads(search: Callable[..., Sweep]) -> None:
    asked: list[int] = []

    def space(cpus: int) -> Mapping[str, Sequence[Any]]:
        asked.append(cpus)
        return SPACE if cpus == 1 else {**SPACE, "spinning": (True, False)}

    def cost(c: Configuration) -> float:
        return {1: 1.0, 2: 0.55, 4: 0.7}[c.threads] * (0.8 if c.settings.get("spinning") is False else 1.0)

    found = search(Machine(cost), space=space, cpus=4)
    assert (found.best.threads, found.best.settings) == (2, {"spinning": False})
    assert asked == [4, 2]


def test_threads_are_looked_at_again_where_settings_changed_what_they_are_worth(
    search: Callable[..., Sweep],
) -> None:
    def cost(c: Configuration) -> float:
        if c.settings.get("level") == "less":
            return {1: 0.5, 2: 0.3, 4: 0.4}[c.threads]
        return {1: 1.0, 2: 1.1, 4: 1.2}[c.threads]

    assert search(Machine(cost), cpus=4).best == Configuration(threads=2, batch=1, settings={"level": "less"})


def test_no_more_threads_than_cpus_and_nothing_that_is_pinned(search: Callable[..., Sweep]) -> None:
    machine = Machine(lambda c: (0.3 if c.settings.get("arena") is False else 1.0) / c.threads)
    found = search(machine, cpus=2, pinned=("arena",))
    assert found.best == Configuration(threads=2, batch=1, settings={})
    tried = [c for race in machine.races for c in race]
    assert max(c.threads for c in tried) == 2
    assert all("arena" not in c.settings for c in tried)
    assert search(machine, cpus=4, pinned=("threads", "arena")).best.threads == 1


def test_a_faster_setting_with_other_answers_is_not_chosen(search: Callable[..., Sweep]) -> None:
    found = search(
        Machine(lambda c: 0.5 if c.settings.get("pattern") is False else 1.0),
        difference=lambda c: 0.3 if c.settings.get("pattern") is False else 0.0,
    )
    assert found.best == found.default
    (trial,) = [t for t in found.trials if t.changes == {"pattern": False}]
    assert trial.outcome == "other answers"
    assert "0.3" in trial.reason


def test_answers_that_cannot_be_compared_count_as_other_answers(search: Callable[..., Sweep]) -> None:
    faster = Machine(lambda c: 0.5 if c.settings.get("pattern") is False else 1.0)
    assert search(faster, difference=lambda c: math.nan).best.settings == {}


def test_a_setting_that_does_not_run_is_named_and_the_others_go_on(search: Callable[..., Sweep]) -> None:
    def cost(c: Configuration) -> float:
        if c.settings.get("pattern") is False:
            raise ChildError(
                "measuring model crashed with SIGSEGV", "another graph level", outcome="signal 11"
            )
        return 0.5 if c.settings.get("arena") is False else 1.0

    found = search(Machine(cost))
    assert found.best.settings == {"arena": False}
    (failed,) = [t for t in found.trials if t.outcome == "failed"]
    assert failed.changes == {"pattern": False}
    assert "SIGSEGV" in failed.reason
    assert (failed.ratio, failed.time_ns, failed.restarts) == (None, None, 0)


def test_a_default_that_does_not_run_is_an_error(search: Callable[..., Sweep]) -> None:
    def cost(c: Configuration) -> float:
        raise ModelError("cannot open the model", "export it again")

    with pytest.raises(ModelError, match="cannot open the model"):
        search(Machine(cost))


def test_a_machine_that_is_never_quiet_is_one_line(search: Callable[..., Sweep]) -> None:
    class Stolen(Machine):
        def __call__(self, *args: Any, **more: Any) -> Measurement:
            return replace(
                super().__call__(*args, **more), restarts=(), redrawn=("steal 30.0% of CPU time",) * 8
            )

    with pytest.raises(
        InfrastructureError, match=r"cannot start: 8 restarts in a row were disturbed \(steal 30"
    ):
        search(Stolen(no_effect))


def test_a_winner_that_is_not_confirmed_stays_where_it_was(search: Callable[..., Sweep]) -> None:
    class Fickle(Machine):
        def __call__(self, arms: Sequence[Arm], *args: Any, **more: Any) -> Measurement:
            if "baseline_twin" in {a.name for a in arms}:
                self.cost = no_effect
            return super().__call__(arms, *args, **more)

    found = search(Fickle(lambda c: 0.9 if c.settings.get("arena") is False else 1.0))
    assert found.best == found.default
    assert found.confirmation is not None
    assert found.confirmation.outcome == "tie"


def test_a_machine_that_favours_one_process_over_its_twin_confirms_less(search: Callable[..., Sweep]) -> None:
    class Unfair(Machine):
        def __call__(self, arms: Sequence[Arm], *args: Any, **more: Any) -> Measurement:
            made = super().__call__(arms, *args, **more)
            for restart in made.restarts:
                for block in restart.blocks.get("baseline_twin", ()):
                    block[:] = (block * 1.2).astype(np.int64)
            return made

    cost: Cost = lambda c: 0.9 if c.settings.get("arena") is False else 1.0  # noqa: E731
    assert search(Machine(cost, scatter=0.002)).best.settings == {"arena": False}
    assert search(Unfair(cost, scatter=0.002)).best.settings == {}


def test_the_batch_is_chosen_by_time_per_example_and_long_calls_are_left_out(
    search: Callable[..., Sweep],
) -> None:
    def cost(c: Configuration) -> float:  # milliseconds per example
        return {1: 10.0, 2: 8.0, 4: 6.0, 8: 6.0, 16: 6.5, 32: 5.0}[c.batch]

    machine = Machine(cost, scatter=0.003)
    found = search(machine, batches=(1, 2, 4, 8, 16, 32))
    assert found.best.batch in (4, 8)
    assert found.confirmation is not None
    assert found.confirmation.ratio == pytest.approx(0.6, rel=0.03)
    # A call of 32 x 10 ms would last longer than the longest that is tried.
    assert max(c.batch for race in machine.races for c in race) == 16


def _race(threads: Sequence[int], share: float) -> Measurement:
    """Two arms, the second 10 % faster; other processes took half of some calls, of its second block of every call."""
    calm, rough = np.asarray([1, 1, 1, 2]), np.asarray([2, 2, 2, 2])
    wall = {"baseline": (1000 * calm, 1000 * calm), "candidate": (900 * calm, 900 * rough)}
    cpu = {name: (calm * 0 + int(ns * share),) * 2 for name, ns in (("baseline", 1000), ("candidate", 900))}
    restarts = tuple(
        Restart(
            blocks=wall, cpu_blocks=cpu, order=(), cpus=(), warmup={}, children={}, ledger={},
        )
        for _ in range(3)
    )  # fmt: skip
    return Measurement(
        arms={n: {"batch": 1, "threads": t} for n, t in zip(wall, threads, strict=True)},
        target="cpu:fake", scenario="single-stream", batch=1, threads=1, inputs={}, protocol={}, restarts=restarts,
        redrawn=(), environment={}, parent_cpu=0.0, collected_at="",
    )  # fmt: skip


def test_the_cpu_clock_is_used_only_where_it_is_the_latency() -> None:
    assert module.clock_of(_race((1, 1), 1.0)) == "CPU"
    assert module.clock_of(_race((1, 2), 1.0)) == "wall"  # its second thread would look useless
    assert module.clock_of(_race((1, 1), 0.5)) == "wall"  # it waits for something
    assert module.effects_of(_race((1, 1), 1.0), "candidate") == pytest.approx([math.log(0.9)] * 3)
    assert module.effects_of(_race((2, 2), 1.0), "candidate")[0] > 0


def test_a_race_is_no_larger_than_memory_allows(
    search: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(no_effect)
    monkeypatch.setattr(module.ledger, "available_memory_bytes", lambda: 8 << 20)  # a child takes 1 MiB
    search(machine)
    assert machine.crowd == 3
    assert len([r for r in machine.races if len(r) > 1]) >= 2


def test_the_error_rate_is_shared_among_candidates(search: Callable[..., Sweep]) -> None:
    """Forty candidates without effect, twenty times: 5 % of sweeps may see a winner, not 5 % of 800 candidates."""
    space = {f"s{i}": (0, 1) for i in range(40)}
    sweeps = [search(Machine(no_effect, seed=s), space=lambda cpus: space) for s in range(20)]
    seen = [t for found in sweeps for t in found.trials if t.stage == "settings" and t.outcome == "better"]
    assert len(seen) <= 4
