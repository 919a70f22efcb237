"""The search for the best session settings: configurations of one artifact race each other, side by side.

Settings race in fresh children, in turns, like the arms of any measurement: never one after another, where a noisy
minute would choose. The rule:

1. A candidate wins over the current configuration only where its time is shorter beyond noise: where the upper bound
   of its ratio is below 1, at one-sided ``1 - 0.05 / (2 x candidates)`` (Bonferroni over candidates and looks). The
   looks are after 3 restarts and, for those at least 1 % faster by then, after 8. Ties keep what is there.
2. The batch first (for throughput), then thread counts, then every other setting alone, then those that won together,
   then thread counts again where anything changed.
3. The winner is measured against the default once more, beside the default's twin, in fresh restarts: what was chosen
   by looking is not what is reported. Where that does not show it faster, the default stays.

A setting that changes the answers by more than rounding is never chosen. Times are block minima by the wall clock, or,
where every configuration of a race has one thread and calls of a millisecond or more, by the CPU clock, which stands
still while another process has the CPU. This module knows no limits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.errors import EdgeKDError, InfrastructureError
from edgekd.evidence.measurement import BASELINE, CANDIDATE, TWIN, Measurement
from edgekd.measure import ledger
from edgekd.measure.answers import largest_difference
from edgekd.measure.arm import Arm, Protocol, Setting
from edgekd.measure.configuration import BATCH, THREADS, Configuration, Sweep, Trial, Value, shown
from edgekd.measure.interleave import measure

FIRST_LOOK, SECOND_LOOK, CONFIRMATION = 3, 5, 6
ALPHA = 0.05
#: A candidate that is not at least so much faster at the first look is not followed up.
WORTH = 0.01
#: Largest difference of answers, relative to the largest one: float16 and int8 round by about that much.
TOLERANCE = 0.01
#: A/A' is tested at this confidence (METHOD 1, step 1).
_TWIN_CONFIDENCE = 0.999
#: CPU time over wall time of the least disturbed calls (95th percentile): below, the model waits for something.
_CPU_SHARE = (0.97, 1.02)

#: Short on purpose: many configurations, few restarts.
PROTOCOL = Protocol(
    rounds=5, block_calls=3, block_ms=10.0, min_block_calls=1, block_cap_ms=100.0, warm_s=0.1, warm_calls=3,
    long_warm_s=0.3, warm_cap_s=1.0,
)  # fmt: skip
#: Most candidates beside each other: a round stays short. Fewer where they would fill more than half the memory.
_FIELD = 8
#: A batch whose call would last longer is not tried.
_LONGEST_CALL_NS = 250e6

Space = Callable[[int], Mapping[str, Sequence[Value]]]
Feeds = Callable[[int], Mapping[str, Array]]
#: (effects, two-sided confidence) -> mean, lower and upper bound; all natural logarithms.
Interval = Callable[[Array, float], tuple[float, float, float]]


def sweep(
    artifact: Artifact,
    label: str,
    setting: Setting,
    space: Space,
    feeds: Feeds,
    *,
    cpus: int,
    interval: Interval,
    pinned: Sequence[str] = (),
    batches: Sequence[int] = (),
    protocol: Protocol = PROTOCOL,
    progress: Callable[[str], None] = lambda text: None,
) -> Sweep:
    """Find the best session settings of one artifact.

    Args:
        setting: target, limits, and the default's threads and batch.
        space: threads -> settings worth trying, as :class:`edgekd.measure.configuration.SweepableRuntime` says.
        feeds: batch -> inputs of that many examples.
        cpus: threads that a session may have.
        interval: Student's t interval over restarts; see :data:`Interval`.
        pinned: names that stay as they are.
        batches: examples per call worth trying; empty leaves the batch alone.
        protocol: of every race; its numbers of restarts are not used.
        progress: told what is being done.

    Raises:
        EdgeKDError: the default configuration does not run; InfrastructureError: the machine is too disturbed.
    """
    default = Configuration(threads=setting.threads, batch=setting.batch, settings=dict(artifact.settings))
    search = _Search(
        artifact=artifact, label=label, setting=setting, feeds=feeds, interval=interval, protocol=protocol,
        progress=progress, default=default,
    )  # fmt: skip
    started = time.monotonic()
    best = search.run(space, cpus, tuple(pinned), tuple(batches))
    return Sweep(
        default=default,
        best=best,
        default_time_ns=search.default_time_ns,
        trials=tuple(search.trials),
        confirmation=search.confirmation,
        difference=None if best == default else search.differences[best.key],
        runtime=search.runtime,
        seconds=time.monotonic() - started,
    )


def clock_of(measurement: Measurement) -> str:
    """``CPU`` where CPU time is the latency of every arm, but for what other processes took; else ``wall``."""
    if measurement.target.partition(":")[0] != "cpu":
        return "wall"  # an accelerator goes on while its host waits
    least, most = _CPU_SHARE
    for arm, record in measurement.arms.items():
        shares = [
            cpu / wall
            for r in measurement.restarts
            for cpu, wall in zip(r.cpu_blocks.get(arm, ()), r.blocks[arm], strict=False)
        ]
        whole = sum(len(r.blocks[arm]) for r in measurement.restarts)
        if record["threads"] != 1 or len(shares) < max(whole, 1):
            return "wall"
        if not least <= float(np.quantile(np.concatenate(shares), 0.95)) <= most:
            return "wall"
    return "CPU"


def effects_of(measurement: Measurement, arm: str) -> Array:
    """Per restart, the median over rounds of log(time per example of ``arm`` / of the baseline), by block minima.

    Returns:
        float64 (restarts,).
    """
    by_cpu = clock_of(measurement) == "CPU"
    sizes = {name: int(measurement.arms[name]["batch"]) for name in (arm, BASELINE)}
    offset = math.log(sizes[BASELINE] / sizes[arm])
    effects = []
    for restart in measurement.restarts:
        blocks = restart.cpu_blocks if by_cpu else restart.blocks
        ratios = [
            math.log(float(b.min()) / float(a.min()))
            for a, b in zip(blocks[BASELINE], blocks[arm], strict=True)
        ]
        effects.append(offset + float(np.median(ratios)))
    return np.asarray(effects)


@dataclass(slots=True)
class _Runner:
    """One candidate in its races, and what is known of it."""

    configuration: Configuration
    against_default: list[float] = field(default_factory=list)
    against_current: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    clock: str = ""
    outcome: str = "not measured"
    reason: str = ""

    @property
    def gain(self) -> float:
        """Mean log ratio to the current configuration; below 0 is faster."""
        return float(np.mean(self.against_current)) if self.against_current else 0.0


@dataclass(slots=True)
class _Search:
    artifact: Artifact
    label: str
    setting: Setting
    feeds: Feeds
    interval: Interval
    protocol: Protocol
    progress: Callable[[str], None]
    default: Configuration
    trials: list[Trial] = field(default_factory=list)
    confirmation: Trial | None = None
    differences: dict[str, float] = field(default_factory=dict)
    default_time_ns: float = math.nan
    runtime: str = ""
    races: int = 0
    field_size: int = _FIELD

    def run(
        self, space: Space, cpus: int, pinned: tuple[str, ...], batches: tuple[int, ...]
    ) -> Configuration:
        """The best configuration."""
        self._look_at_default()
        current = self.default
        fitting = [b for b in batches if b * self.default_time_ns <= _LONGEST_CALL_NS]
        current = self._best_of("batch", current, BATCH, fitting)
        counts = [] if THREADS in pinned else [t for t in space(cpus).get(THREADS, ()) if int(t) <= cpus]
        current = self._best_of("threads", current, THREADS, counts)
        before = current
        known = {k: v for k, v in space(current.threads).items() if k not in (THREADS, BATCH, *pinned)}
        singles = [
            current.having({name: value})
            for name, values in known.items()
            for value in values
            if value != current.settings.get(name, values[0])
        ]
        winners = self._race("settings", current, singles)
        if winners:
            current = winners[0]
        union: dict[str, Any] = {}
        for winner in winners:  # the fastest first, so a setting's best value stays
            union = {**winner.changes_from(before), **union}
        together = before.having(union)
        if len(winners) > 1 and together != current:
            current = next(iter(self._race("together", current, [together])), current)
        if current != before:
            current = self._best_of("threads", current, THREADS, counts)
        if current == self.default or not self._confirm(current):
            return self.default
        return current

    def _look_at_default(self) -> None:
        """The default alone: what it takes, and how many of its kind fit into memory."""
        self.progress("the default")
        found = self._measure([(BASELINE, self.default)], restarts=1)
        if not found.restarts:
            raise InfrastructureError(
                f"the sweep of {self.label} cannot start: {len(found.redrawn)} restarts in a row were disturbed "
                f"({found.redrawn[-1]})",
                "sweep on a quieter machine",
            )
        child = found.restarts[0].children[BASELINE]
        self.default_time_ns = _time_of(found, BASELINE)
        self.runtime = str(child["placement"]["runtime"])
        available, peak = ledger.available_memory_bytes(), child.get("peak_memory_bytes")
        if available and peak:
            self.field_size = max(1, min(_FIELD, int(0.5 * available / peak) - 2))

    def _best_of(
        self, stage: str, current: Configuration, name: str, values: Sequence[Value]
    ) -> Configuration:
        others = [c for c in (current.having({name: v}) for v in values) if c != current]
        return next(iter(self._race(stage, current, others)), current)

    def _race(
        self, stage: str, current: Configuration, candidates: Sequence[Configuration]
    ) -> list[Configuration]:
        """Those that are better than ``current`` beyond noise, the fastest first."""
        runners = [_Runner(c) for c in candidates]
        left = list(runners)
        for restarts in (FIRST_LOOK, SECOND_LOOK):
            for start in range(0, len(left), self.field_size):
                heat = left[start : start + self.field_size]
                names = ", ".join(shown(r.configuration.changes_from(current)) for r in heat)
                self.progress(f"{stage}, {restarts} restarts: {names}")
                self._heat(current, heat, restarts)
            for runner in left:
                self._decide(runner, len(runners))
            left = [r for r in left if r.outcome == "tie" and r.gain < math.log1p(-WORTH)]
        winners = sorted((r for r in runners if r.outcome == "better"), key=lambda r: r.gain)
        for runner in winners:
            self._check_answers(runner)
        self.trials += [self._trial(stage, r) for r in runners]
        return [r.configuration for r in winners if r.outcome == "better"]

    def _decide(self, runner: _Runner, candidates: int) -> None:
        if runner.outcome == "failed" or not runner.against_current:
            return
        effects = np.asarray(runner.against_current)
        # The one-sided bounds at ALPHA / (2 x candidates) are those of a two-sided interval at twice that.
        _, _, upper = self.interval(effects, 1 - ALPHA / candidates)
        _, lower, _ = self.interval(effects, 0.95)
        runner.outcome = "better" if upper < 0 else "slower" if lower > 0 else "tie"

    def _heat(self, current: Configuration, runners: Sequence[_Runner], restarts: int) -> None:
        """Measure runners beside the default and the current configuration, and keep their effects."""
        arms = [(BASELINE, self.default)]
        if current != self.default:
            arms.append(("current", current))
        names = [f"{CANDIDATE}_{i + 1}" for i in range(len(runners))]
        arms += [(n, r.configuration) for n, r in zip(names, runners, strict=True)]
        try:
            found = self._measure(arms, restarts)
        except EdgeKDError:
            self._find_failing(runners)
            sound = [r for r in runners if r.outcome != "failed"]
            if len(sound) == len(runners):
                raise
            if sound:
                self._heat(current, sound, restarts)
            return
        base = effects_of(found, "current" if current != self.default else BASELINE)
        for name, runner in zip(names, runners, strict=True):
            own = effects_of(found, name)
            runner.against_default += own.tolist()
            runner.against_current += (own - base).tolist()
            runner.clock = clock_of(found)
            if len(own):
                runner.times.append(_time_of(found, name))

    def _find_failing(self, runners: Sequence[_Runner]) -> None:
        """Run each alone: a configuration that does not run must not end the whole sweep."""
        for runner in runners:
            try:
                self._measure([(BASELINE, runner.configuration)], restarts=1)
            except EdgeKDError as e:
                runner.outcome, runner.reason = "failed", str(e)

    def _measure(
        self, arms: Sequence[tuple[str, Configuration]], restarts: int, rounds: int | None = None
    ) -> Measurement:
        self.races += 1
        protocol = replace(
            self.protocol, min_restarts=restarts, max_restarts=restarts, rounds=rounds or self.protocol.rounds,
            seed=self.races,
        )  # fmt: skip
        return measure([self._arm(n, c) for n, c in arms], self.setting, inputs={}, protocol=protocol)

    def _arm(self, name: str, configuration: Configuration) -> Arm:
        return Arm(
            name=name, label=f"{self.label} ({shown(configuration.changes_from(self.default))})",
            artifact=self.artifact, feeds=self.feeds(configuration.batch), threads=configuration.threads,
            settings=configuration.settings, batch=configuration.batch,
        )  # fmt: skip

    def _check_answers(self, runner: _Runner) -> None:
        """Compare its answers with the default's on the same inputs; one that answers otherwise cannot win."""
        configuration = runner.configuration
        reference = replace(self.default, batch=configuration.batch)
        sides = (self._arm(BASELINE, reference), self._arm(CANDIDATE, configuration))
        found = self.differences[configuration.key] = largest_difference(*sides, self.setting)
        if not found <= TOLERANCE:
            runner.outcome = "other answers"
            runner.reason = f"its answers differ by {found:.2g} of the largest one (limit {TOLERANCE:g})"

    def _trial(self, stage: str, runner: _Runner) -> Trial:
        effects = np.asarray(runner.against_default)
        mean, lower, upper = self.interval(effects, 0.95) if len(effects) else (math.nan,) * 3
        return Trial(
            stage=stage,
            changes=runner.configuration.changes_from(self.default),
            time_ns=float(np.median(runner.times)) if runner.times else None,
            ratio=math.exp(mean) if len(effects) else None,
            lower=math.exp(lower) if math.isfinite(lower) else None,
            upper=math.exp(upper) if math.isfinite(upper) else None,
            restarts=len(effects),
            clock=runner.clock,
            outcome=runner.outcome,
            reason=runner.reason,
        )

    def _confirm(self, best: Configuration) -> bool:
        """Measure the winner against the default once more; whether it is faster there, too."""
        self.progress(f"confirmation, {CONFIRMATION} restarts: {shown(best.changes_from(self.default))}")
        arms = [(BASELINE, self.default), (TWIN, self.default), (CANDIDATE, best)]
        found = self._measure(arms, CONFIRMATION, rounds=2 * self.protocol.rounds)
        runner = _Runner(best, effects_of(found, CANDIDATE).tolist(), clock=clock_of(found))
        if found.restarts:
            runner.times.append(_time_of(found, CANDIDATE))
        self.confirmation = replace(self._trial("confirmation", runner), outcome="tie")
        if len(found.restarts) < 2:
            return False
        _, _, upper = self.interval(np.asarray(runner.against_default), 0.95)
        twin = effects_of(found, TWIN)
        mean, twin_lower, twin_upper = self.interval(twin, _TWIN_CONFIDENCE)
        if not twin_lower <= 0 <= twin_upper:  # the machine favours one process over its twin
            upper += abs(mean)
        if upper < 0:
            self.confirmation = replace(self.confirmation, outcome="better")
        return upper < 0


def _time_of(measurement: Measurement, arm: str) -> float:
    """Median of an arm's block minima, nanoseconds per example."""
    minima = [float(b.min()) for r in measurement.restarts for b in r.blocks[arm]]
    return float(np.median(minima)) / int(measurement.arms[arm]["batch"]) if minima else math.nan
