"""The interleaved protocol of METHOD 1: restarts of fresh children, rounds of blocks in random order."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact
from edgekd.child import ChildProcess, Limits
from edgekd.child.wire import encode
from edgekd.data.example import Array
from edgekd.errors import ChildError, DataError, TargetUnavailableError
from edgekd.evidence.measurement import BASELINE, CANDIDATE, TWIN, Measurement, Restart
from edgekd.measure import ledger
from edgekd.target import Target, check_threads

_OPEN = "edgekd.measure.operations:open_arm"
_WARM = "edgekd.measure.operations:warm_up"
_BLOCK = encode({"call": "edgekd.measure.operations:run_block", "args": {}})
_USE = "edgekd.measure.operations:report_use"

#: Arms must fit into this share of the available memory to be held open together.
_MEMORY_SHARE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """The numbers of METHOD 1, steps 2 to 4 and 8.

    Attributes:
        min_restarts, max_restarts: where the judge may stop, at the earliest and latest.
        rounds: per restart; each runs one block of every arm.
        block_calls, block_ms: a block has at least so many calls and lasts at least so long; METHOD asks 8 ms, and at
            20 the parent needs less than 1 % of a core for its part of the exchange.
        warm_s, warm_calls, warm_cap_s: least and greatest warm-up.
        max_redraws: restarts that the ledger may throw away before the measurement ends early.
        seed: of every shuffle.
    """

    min_restarts: int = 4
    max_restarts: int = 16
    rounds: int = 10
    block_calls: int = 10
    block_ms: float = 20.0
    warm_s: float = 0.2
    warm_calls: int = 50
    warm_cap_s: float = 5.0
    max_redraws: int = 8
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One model in the race, with its inputs (batch already in the leading dimension)."""

    name: str
    label: str
    artifact: Artifact
    feeds: Mapping[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where and how the arms run.

    Attributes:
        target: device x runtime; ``runtime_paths``: artifact format -> ``module:class`` of the runtime that opens it.
        threads, batch: of every arm.
        search: import path for ``python:`` references.
    """

    target: Target
    runtime_paths: Mapping[str, str]
    threads: int = 1
    batch: int = 1
    timeout_s: float = 300.0
    memory_bytes: int | None = None
    search: tuple[Path, ...] = ()


def arms_of(
    baseline: tuple[str, Artifact, Mapping[str, Array]],
    candidates: Sequence[tuple[str, Artifact, Mapping[str, Array]]],
) -> list[Arm]:
    """The arms of a comparison: the baseline, its hidden twin, and the candidates; without candidates, one arm."""
    label, artifact, feeds = baseline
    arms = [Arm(name=BASELINE, label=label, artifact=artifact, feeds=feeds)]
    if candidates:
        arms.append(Arm(name=TWIN, label=f"{label} (twin)", artifact=artifact, feeds=feeds))
    for i, (name, other, inputs) in enumerate(candidates):
        arm = CANDIDATE if i == 0 else f"{CANDIDATE}_{i + 1}"
        arms.append(Arm(name=arm, label=name, artifact=other, feeds=inputs))
    return arms


def _cpus_for(restart: int, threads: int) -> tuple[int, ...]:
    """CPUs of a restart: ``threads`` of them, rotated; empty where pinning is not possible."""
    if not hasattr(os, "sched_getaffinity"):
        return ()
    available = sorted(os.sched_getaffinity(0))
    if threads >= len(available):
        return tuple(available)
    return tuple(sorted(available[(restart * threads + k) % len(available)] for k in range(threads)))


def _open_arm(
    arm: Arm, setting: Setting, cpus: tuple[int, ...], stack: ExitStack
) -> tuple[ChildProcess, dict[str, Any]]:
    child = ChildProcess(
        f"measuring {arm.label} on {setting.target}",
        Limits(
            timeout_s=setting.timeout_s, memory_bytes=setting.memory_bytes, cpus=cpus, threads=setting.threads
        ),
        setting.search,
    )
    stack.callback(child.close)
    if arm.artifact.format not in setting.runtime_paths:
        raise DataError(
            f"{setting.target} cannot open {arm.label} (format {arm.artifact.format})",
            "export it for that runtime",
        )
    opened, _ = child.request(
        _OPEN,
        {
            "runtime": setting.runtime_paths[arm.artifact.format],
            "path": str(arm.artifact.path.resolve()),
            "device": setting.target.device,
            "provider": setting.target.provider,
            "threads": setting.threads,
            "settings": dict(arm.artifact.settings),
            "feeds": list(arm.feeds),
        },
        list(arm.feeds.values()),
    )
    found = opened["placement"]
    if found["threads"] != setting.threads:
        raise TargetUnavailableError(
            f"{arm.label} was opened with {found['threads']} threads, {setting.threads} were asked for",
            "the runtime overrides the setting: look for an environment variable",
        )
    return child, opened


def _warm(child: ChildProcess, protocol: Protocol) -> dict[str, Any]:
    warmed, _ = child.request(
        _WARM,
        {
            "min_s": protocol.warm_s,
            "min_calls": protocol.warm_calls,
            "cap_s": protocol.warm_cap_s,
            "block_calls": protocol.block_calls,
            "block_ms": protocol.block_ms,
        },
    )
    return warmed


class _CrowdedError(Exception):
    """The arms do not fit into memory together."""


@dataclass(slots=True)
class _Race:
    """One restart in the making."""

    arms: Sequence[Arm]
    setting: Setting
    protocol: Protocol
    rng: random.Random
    together: bool

    def restart(self, index: int) -> Restart:
        """Run one restart.

        Raises:
            _CrowdedError: the arms do not fit into memory together.
        """
        cpus = _cpus_for(index, self.setting.threads)
        order = list(self.arms)
        self.rng.shuffle(order)
        blocks: dict[str, list[Array]] = {a.name: [] for a in self.arms}
        warmup: dict[str, dict[str, Any]] = {}
        children: dict[str, dict[str, Any]] = {}
        with ExitStack() as stack:
            open_children: dict[str, ChildProcess] = {}
            if self.together:
                self._open_all(order, cpus, stack, open_children, children)
                for arm in order:
                    warmup[arm.name] = _warm(open_children[arm.name], self.protocol)
            replies: dict[str, list[bytes]] = {a.name: [] for a in self.arms}
            before = ledger.snapshot(cpus)
            for _ in range(self.protocol.rounds):
                turn = list(self.arms)
                self.rng.shuffle(turn)
                for arm in turn:
                    if self.together:
                        replies[arm.name].append(open_children[arm.name].exchange(_BLOCK))
                    else:
                        self._alone(arm, cpus, blocks, warmup, children)
            after = ledger.snapshot(cpus)
            for name, child in open_children.items():
                for reply in replies[name]:
                    blocks[name] += child.read(reply)[1]
                children[name].update(child.request(_USE, {})[0])
        entries = ledger.ledger_between(before, after)
        entries["involuntary_switches"] = sum(c.get("involuntary_switches") or 0 for c in children.values())
        return Restart(
            blocks={k: tuple(v) for k, v in blocks.items()},
            order=tuple(a.name for a in order),
            cpus=cpus,
            warmup=warmup,
            children=children,
            ledger=entries,
        )

    def _open_all(
        self,
        order: Sequence[Arm],
        cpus: tuple[int, ...],
        stack: ExitStack,
        open_children: dict[str, ChildProcess],
        children: dict[str, dict[str, Any]],
    ) -> None:
        """Open every arm, as long as they fit into memory together."""
        available, used = ledger.available_memory_bytes(), 0
        for arm in order:
            try:
                open_children[arm.name], children[arm.name] = _open_arm(arm, self.setting, cpus, stack)
            except ChildError as e:
                if e.outcome == "out of memory" and used:
                    raise _CrowdedError from e
                raise
            used += children[arm.name]["peak_memory_bytes"] or 0
            if available is not None and used > _MEMORY_SHARE * available and len(order) > 1:
                raise _CrowdedError

    def _alone(
        self,
        arm: Arm,
        cpus: tuple[int, ...],
        blocks: dict[str, list[Array]],
        warmup: dict[str, dict[str, Any]],
        children: dict[str, dict[str, Any]],
    ) -> None:
        """Open, warm, measure and close one arm for one block: the way for arms that do not fit together."""
        with ExitStack() as stack:
            child, opened = _open_arm(arm, self.setting, cpus, stack)
            warmup[arm.name] = _warm(child, self.protocol)
            blocks[arm.name] += child.read(child.exchange(_BLOCK))[1]
            children[arm.name] = {**opened, **child.request(_USE, {})[0]}


def measure(
    arms: Sequence[Arm],
    setting: Setting,
    *,
    inputs: Mapping[str, Any],
    stop: Callable[[Measurement], bool] | None = None,
    protocol: Protocol | None = None,
    progress: Callable[[int, int], None] | None = None,
    one_at_a_time: bool = False,
) -> Measurement:
    """Measure arms side by side.

    Args:
        arms: from :func:`arms_of`.
        setting: target, threads, limits.
        inputs: where the feeds came from, for the record.
        stop: asked after every restart from ``min_restarts`` on; None stops at ``min_restarts``. It is given evidence
            and knows the limits; this function does not.
        progress: called with (restarts done, most restarts) after each.
        one_at_a_time: never hold two arms open; chosen by itself where memory is short.

    Raises:
        ChildError: a child crashed, hung or ran out of memory; ModelError, DataError, TargetUnavailableError: it
            could not open the model as asked.
    """
    check_threads(setting.threads)
    protocol = protocol or Protocol()
    race = _Race(arms, setting, protocol, random.Random(protocol.seed), not one_at_a_time)
    restarts: list[Restart] = []
    redrawn: list[str] = []
    wall, cpu = time.monotonic(), time.process_time()
    measurement = Measurement(
        arms={
            a.name: {
                "name": a.label,
                "artifact": a.artifact.digest,
                "dtype": a.artifact.dtype,
                "size_bytes": a.artifact.size_bytes,
            }
            for a in arms
        },
        target=str(setting.target),
        scenario="single-stream",
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
    attempt = 0
    while len(restarts) < protocol.max_restarts:
        try:
            restart = race.restart(attempt)
        except _CrowdedError:
            race.together = False  # nothing of the crowded restart is kept
            continue
        attempt += 1
        reason = ledger.redraw_reason(restart.ledger)
        if reason:
            redrawn.append(reason)
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
            parent_cpu=(time.process_time() - cpu) / max(time.monotonic() - wall, 1e-9),
        )
        if len(restarts) >= protocol.min_restarts and (stop is None or stop(measurement)):
            break
    placed = restarts[-1].children[BASELINE]["placement"] if restarts else None
    return replace(
        measurement,
        redrawn=tuple(redrawn),
        environment={**measurement.environment, "placement": placed, "together": race.together},
        collected_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
