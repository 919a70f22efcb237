"""The server scenario: Poisson arrivals at a rate, a bound on a percentile, and a search for the highest such rate.

LoadGen's Server with one worker: queries of one sample wait in one queue and are answered in order. Trials of the arms
are run in turns, in random order, in fresh children per restart; raw latencies of every trial are kept.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from edgekd.child import ChildProcess
from edgekd.data.example import Array
from edgekd.errors import ChildError, UsageError
from edgekd.evidence.measurement import BASELINE, SERVER, Measurement, Restart
from edgekd.measure import ledger
from edgekd.measure.arm import Arm, Protocol, Setting, cpus_of, inputs_of, open_arm, warm_up
from edgekd.measure.scenario import BOUNDS_PER_TRIAL, Scenario
from edgekd.target import check_threads

_SERVE = "edgekd.measure.arrivals:serve"
_USE = "edgekd.measure.operations:report_use"

#: A search ends when the lowest rate that failed is within this of the highest that held.
RESOLUTION = 0.05
#: Steps of the first restart's search, and of the later ones, which start where the last one ended.
_WIDE, _NARROW = 2.0, 1.15
#: The first rate, and the lowest one tried, as shares of what the server does back to back: at a sixteenth nobody
#: waits for anybody, so a bound that fails there fails by the model alone.
_FIRST, _FLOOR = 0.5, 1 / 16
_MEMORY_SHARE = 0.8


@dataclass(slots=True)
class Search:
    """The highest rate that is valid: doubling (or halving) until one holds and one fails, then bisection.

    Attributes:
        rate: to be tried next; factor: of the next step while one side is open.
        floor: rates below it are not tried.
        low, high: highest that held, lowest that failed.
    """

    rate: float
    factor: float
    floor: float
    low: float = 0.0
    high: float = math.inf

    @property
    def done(self) -> bool:
        """Nothing more to try: the two ends are close, or not even the floor held."""
        return self.high <= self.low * (1 + RESOLUTION) or (not self.low and self.high <= self.floor)

    def tell(self, *, valid: bool) -> None:
        """What came of :attr:`rate`; chooses the next one."""
        if valid:
            self.low = max(self.low, self.rate)
        else:
            self.high = min(self.high, self.rate)
        if self.low and math.isfinite(self.high):
            self.rate = math.sqrt(self.low * self.high)
            return
        self.rate = self.low * self.factor if self.low else max(self.high / self.factor, self.floor)
        self.factor = min(_WIDE, self.factor**2)


@dataclass(slots=True)
class _Servers:
    """The children of one restart: all open at once where they fit into memory, else one at a time."""

    setting: Setting
    protocol: Protocol
    attempt: int
    arms: int
    together: bool = True
    children: dict[str, dict[str, Any]] = field(default_factory=dict)
    warmup: dict[str, dict[str, Any]] = field(default_factory=dict)
    _open: dict[str, tuple[ChildProcess, ExitStack]] = field(default_factory=dict)

    def of(self, arm: Arm) -> ChildProcess:
        """An opened and warmed child of ``arm``."""
        if arm.name in self._open:
            return self._open[arm.name][0]
        if not self.together:
            self.close()
        stack = ExitStack()
        try:
            child, self.children[arm.name] = open_arm(arm, self.setting, self.attempt, stack)
            self.warmup[arm.name] = warm_up(child, self.protocol)
        except BaseException as e:
            stack.close()
            if isinstance(e, ChildError) and e.outcome == "out of memory" and self._open:
                self.together = False  # it may fit alone
                return self.of(arm)
            raise
        self._open[arm.name] = (child, stack)
        used, available = self.children[arm.name]["peak_memory_bytes"], ledger.available_memory_bytes()
        if used and available is not None and used * self.arms > _MEMORY_SHARE * (available + used):
            self.together = False
        return child

    def capacity_qps(self, arm: Arm) -> float:
        """Queries per second back to back, seen while warming up."""
        self.of(arm)
        warmed = self.warmup[arm.name]
        return float(warmed["calls"] / warmed["seconds"])

    def close(self) -> None:
        for name, (child, stack) in self._open.items():
            self.children[name].update(child.request(_USE, {})[0])
            stack.close()
        self._open.clear()

    def kill(self) -> None:
        """Close without asking anything: a child may have died."""
        for _, stack in self._open.values():
            stack.close()


def _least_count(scenario: Scenario, most_over: Callable[[int], int]) -> int:
    """The least count of a trial; enough that the rule can hold at all.

    Raises:
        UsageError: the asked count is too small for the percentile.
    """
    if most_over(scenario.count) >= 0:
        return scenario.count
    needed = next(n for n in range(scenario.count, 10_000_000) if most_over(n) >= 0)
    raise UsageError(
        f"min_count {scenario.count} is too few queries to show a {scenario.reported} within a bound",
        f"give at least {needed} (--min-count {needed})",
    )


@dataclass(slots=True)
class _Serving:
    """One measurement of the server scenario in the making."""

    arms: Sequence[Arm]
    setting: Setting
    scenario: Scenario
    protocol: Protocol
    most_over: Callable[[int], int]
    rng: random.Random
    trials: list[dict[str, Any]] = field(default_factory=list)
    queries: dict[str, Array] = field(default_factory=dict)
    best: dict[str, list[float]] = field(default_factory=dict)
    together: bool = True

    def restart(self, attempt: int, index: int) -> Restart:
        """Every arm in a fresh child: one trial at the asked rate, or a whole search."""
        cpus = cpus_of(self.arms, self.setting, attempt)
        servers = _Servers(self.setting, self.protocol, attempt, len(self.arms), self.together)
        order = list(self.arms)
        self.rng.shuffle(order)
        try:
            for arm in order:
                servers.of(arm)
            before = ledger.snapshot(cpus)
            if self.scenario.target_qps is not None:
                for arm in order:
                    self._trial(servers, arm, self.scenario.target_qps, index, 0)
            else:
                self._search(servers, index)
            after = ledger.snapshot(cpus)
            servers.close()
        finally:
            servers.kill()
        self.together = servers.together
        entries = ledger.with_switches(ledger.ledger_between(before, after), servers.children)
        return Restart(
            blocks={a.name: () for a in self.arms},
            order=tuple(a.name for a in order),
            cpus=cpus,
            warmup=servers.warmup,
            children=servers.children,
            ledger=entries,
        )

    def _search(self, servers: _Servers, index: int) -> None:
        searches: dict[str, Search] = {}
        for arm in self.arms:
            capacity = servers.capacity_qps(arm)
            last = self.best.get(arm.name, [0.0])[-1]
            searches[arm.name] = Search(
                rate=last or _FIRST * capacity,
                factor=_NARROW if last else _WIDE,
                floor=_FLOOR * capacity,
            )
        k = 0
        while left := [a for a in self.arms if not searches[a.name].done]:
            self.rng.shuffle(left)
            for arm in left:
                search = searches[arm.name]
                search.tell(valid=self._trial(servers, arm, search.rate, index, k))
            k += 1
        for name, search in searches.items():
            self.best.setdefault(name, []).append(search.low)

    def _trial(self, servers: _Servers, arm: Arm, rate: float, index: int, k: int) -> bool:
        """Run one trial and keep it; whether the bound held by the rule (False where there is none to hold)."""
        scenario = self.scenario
        bound_s = (scenario.bound_ms or 0.0) / 1e3
        child = servers.of(arm)
        if scenario.target_qps is None:
            seconds = max(scenario.duration_s, BOUNDS_PER_TRIAL * bound_s)
            count = max(scenario.count, math.ceil(rate * seconds))
            most = self.most_over(count)
        else:
            share = self.protocol.min_restarts
            count = math.ceil(max(scenario.count, rate * scenario.duration_s) / share)
            most = None
        expected_s = count / rate + count / servers.capacity_qps(arm)
        reply, (latencies,) = child.request(
            _SERVE,
            {
                "rate_qps": rate,
                "count": count,
                # One schedule per restart, stretched to each rate: arms and rates meet the same bursts.
                "seed": [scenario.seed, index],
                "bound_ns": None if scenario.bound_ms is None else round(scenario.bound_ms * 1e6),
                "most_over": most,
            },
            timeout_s=self.setting.timeout_s + 2 * expected_s,
        )
        name = f"{index}.{arm.name}.{k}"
        valid = most is not None and reply["over"] <= most  # it ends early only beyond that
        self.queries[name] = latencies
        self.trials.append(
            {
                "arm": arm.name,
                "restart": index,
                "rate_qps": rate,
                "asked": count,
                "most_over": most,
                "valid": valid if most is not None else None,
                "queries_of": name,
                **reply,
            }
        )
        return valid

    def forget(self, index: int) -> None:
        """Drop the trials of a restart that is drawn again."""
        for trial in [t for t in self.trials if t["restart"] == index]:
            del self.queries[trial["queries_of"]]
            self.trials.remove(trial)
        for rates in self.best.values():
            del rates[index:]

    def detail(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            **self.scenario.to_json(),
            "trials": list(self.trials),
            "together": self.together,
        }
        if self.scenario.target_qps is None:
            found["max_qps"] = {name: list(rates) for name, rates in self.best.items()}
            found["resolution"] = RESOLUTION
        return found


def measure_server(
    arms: Sequence[Arm],
    setting: Setting,
    *,
    scenario: Scenario,
    most_over: Callable[[int], int],
    inputs: Mapping[str, Any],
    stop: Callable[[Measurement], bool] | None = None,
    protocol: Protocol | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Measure arms under Poisson arrivals.

    Args:
        arms: each in one example per query; there is no hidden twin here.
        scenario: a server scenario; without ``target_qps`` every restart searches for each arm's highest rate.
        most_over: count of queries -> the most of them that may be over the bound in a valid trial, -1 if none; the
            rule is the judge's, this function only obeys it.
        stop: asked after every restart from ``min_restarts`` on, where a rate is asked; a search ends at
            ``min_restarts``.

    Raises:
        UsageError: too few queries for the rule; ChildError, ModelError, DataError: as
            :func:`edgekd.measure.measure`.
    """
    if scenario.name != SERVER:
        raise UsageError(f"measure_server cannot measure {scenario.name}", "use measure_scenario")
    check_threads(setting.threads)
    if scenario.target_qps is None:
        _least_count(scenario, most_over)
    protocol = protocol or Protocol()
    serving = _Serving(arms, setting, scenario, protocol, most_over, random.Random(protocol.seed))
    measurement = Measurement(
        arms={a.name: {**a.record(setting), "inputs": inputs_of(a, inputs)} for a in arms},
        target=str(setting.target),
        scenario=SERVER,
        batch=setting.batch,
        threads=setting.threads,
        inputs=dict(inputs),
        protocol=asdict(protocol),
        restarts=(),
        redrawn=(),
        environment=ledger.machine(),
        parent_cpu=0.0,
        collected_at="",
    )
    restarts: list[Restart] = []
    redrawn: list[str] = []
    attempt = 0
    wall, cpu = time.monotonic(), time.process_time()
    while len(restarts) < protocol.max_restarts:
        restart = serving.restart(attempt, len(restarts))
        attempt += 1
        if reason := ledger.redraw_reason(restart.ledger):
            redrawn.append(reason)
            serving.forget(len(restarts))
            if len(redrawn) >= protocol.max_redraws:
                break
            continue
        restarts.append(restart)
        if progress is not None:
            progress(len(restarts), protocol.max_restarts)
        measurement = replace(
            measurement,
            restarts=tuple(restarts),
            redrawn=tuple(redrawn),
            queries=dict(serving.queries),
            scenario_detail=serving.detail(),
            parent_cpu=(time.process_time() - cpu) / max(time.monotonic() - wall, 1e-9),
        )
        if len(restarts) >= protocol.min_restarts and (
            scenario.target_qps is None or stop is None or stop(measurement)
        ):
            break
    placed = restarts[-1].children[BASELINE]["placement"] if restarts else None
    return replace(
        measurement,
        redrawn=tuple(redrawn),
        scenario_detail=serving.detail(),
        environment={**measurement.environment, "placement": placed, "together": serving.together},
        collected_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
