"""The interleaved protocol of METHOD 1: restarts of fresh children, rounds of blocks in random order."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from edgekd.child import ChildProcess
from edgekd.child.wire import encode
from edgekd.data.example import Array
from edgekd.errors import ChildError, TargetUnavailableError
from edgekd.evidence.measurement import BASELINE, Measurement, Restart
from edgekd.measure import ledger
from edgekd.measure.arm import Arm, Protocol, Setting, cpus_of, inputs_of, open_arm, warm_up
from edgekd.measure.blocks import sorted_blocks, wall_clock_reason
from edgekd.measure.device_events import OUT_OF_DEVICE_MEMORY
from edgekd.measure.gpu_ledger import watch_for
from edgekd.target import check_threads

_BLOCK = encode({"call": "edgekd.measure.operations:run_block", "args": {}})
_USE = "edgekd.measure.operations:report_use"
_REPLAYS = "edgekd.measure.operations:set_replays"

#: Arms must fit into this share of the available memory to be held open together.
_MEMORY_SHARE = 0.8


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
    pids: set[int] = field(default_factory=set)
    replays: int | None = None

    def restart(self, index: int) -> Restart:
        """Run one restart.

        Raises:
            _CrowdedError: the arms do not fit into memory together.
        """
        cpus = cpus_of(self.arms, self.setting, index)
        order = list(self.arms)
        self.rng.shuffle(order)
        blocks: dict[str, list[dict[str, Array]]] = {a.name: [] for a in self.arms}
        warmup: dict[str, dict[str, Any]] = {}
        children: dict[str, dict[str, Any]] = {}
        watch = watch_for(self.setting.target.device)
        with ExitStack() as stack:
            open_children: dict[str, ChildProcess] = {}
            if self.together:
                self._open_all(order, index, stack, open_children, children)
                for arm in order:
                    warmup[arm.name] = warm_up(open_children[arm.name], self.protocol)
                self._equal_replays(open_children, warmup)
            elif self.replays is None:
                self.replays = self._most_replays(index)
            replies: dict[str, list[bytes]] = {a.name: [] for a in self.arms}
            before = ledger.snapshot(cpus)
            watch.begin(self.pids)
            stack.callback(watch.end)  # a race that ends by an error leaves no thread behind
            for _ in range(self.protocol.rounds):
                turn = list(self.arms)
                self.rng.shuffle(turn)
                for arm in turn:
                    if self.together:
                        replies[arm.name].append(open_children[arm.name].exchange(_BLOCK))
                    else:
                        self._alone(arm, index, blocks, warmup, children)
            on_gpu = watch.end()
            after = ledger.snapshot(cpus)
            for name, child in open_children.items():
                for reply in replies[name]:
                    blocks[name].append(_columns(child.read(reply)))
                children[name].update(child.request(_USE, {})[0])
                children[name]["grown_bytes"] = _growth(warmup[name], children[name])
        entries = ledger.with_switches(ledger.ledger_between(before, after), children)
        columns = sorted_blocks(blocks)
        if columns.get("cold_blocks"):
            entries = ledger.by_device_events(entries)
        return Restart(
            **columns,
            order=tuple(a.name for a in order),
            cpus=cpus,
            warmup=warmup,
            children=children,
            ledger=ledger.with_gpu(entries, on_gpu),
        )

    def _equal_replays(
        self, open_children: Mapping[str, ChildProcess], warmup: Mapping[str, dict[str, Any]]
    ) -> None:
        """Arms that are timed by events share the greatest number of calls per pair that one of them needs."""
        found = {name: w["device"]["replays"] for name, w in warmup.items() if "device" in w}
        most = max(found.values(), default=1)
        for name, replays in found.items():
            if replays != most:
                args = {"replays": most, "min_block_calls": self.protocol.min_block_calls}
                warmup[name].update(open_children[name].request(_REPLAYS, args)[0])

    def _most_replays(self, index: int) -> int:
        """The number of calls per pair for arms that are never open together: each is asked once, before any is timed.

        It stays for the whole race, so that blocks of one restart are all means over as many calls.
        """
        if self.setting.target.device != "cuda":
            return 1
        found = [1]
        for arm in self.arms:
            with ExitStack() as stack:
                child, _ = open_arm(arm, self.setting, index, stack)
                self.pids.add(child.pid)
                found.append(warm_up(child, self.protocol).get("device", {}).get("replays", 1))
        return max(found)

    def _open_all(
        self,
        order: Sequence[Arm],
        index: int,
        stack: ExitStack,
        open_children: dict[str, ChildProcess],
        children: dict[str, dict[str, Any]],
    ) -> None:
        """Open every arm, as long as they fit into memory together."""
        available, used = ledger.available_memory_bytes(), 0
        for arm in order:
            try:
                open_children[arm.name], children[arm.name] = open_arm(arm, self.setting, index, stack)
                self.pids.add(open_children[arm.name].pid)
            except ChildError as e:
                if e.outcome == "out of memory" and used:
                    raise _CrowdedError from e
                raise
            except TargetUnavailableError as e:
                if e.what.startswith(OUT_OF_DEVICE_MEMORY) and used:
                    raise _CrowdedError from e
                raise
            used += children[arm.name]["peak_memory_bytes"] or 0
            if available is not None and used > _MEMORY_SHARE * available and len(order) > 1:
                raise _CrowdedError

    def _alone(
        self,
        arm: Arm,
        index: int,
        blocks: dict[str, list[dict[str, Array]]],
        warmup: dict[str, dict[str, Any]],
        children: dict[str, dict[str, Any]],
    ) -> None:
        """Open, warm, measure and close one arm for one block: the way for arms that do not fit together."""
        with ExitStack() as stack:
            child, opened = open_arm(arm, self.setting, index, stack)
            self.pids.add(child.pid)
            warmup[arm.name] = warm_up(child, self.protocol)
            own = warmup[arm.name].get("device", {}).get("replays")
            if own is not None and own != self.replays:
                args = {"replays": self.replays, "min_block_calls": self.protocol.min_block_calls}
                warmup[arm.name].update(child.request(_REPLAYS, args)[0])
            blocks[arm.name].append(_columns(child.read(child.exchange(_BLOCK))))
            children[arm.name] = {**opened, **child.request(_USE, {})[0]}


def _columns(reply: tuple[Mapping[str, Any], Sequence[Array]]) -> dict[str, Array]:
    """The arrays of a block by what they are."""
    return dict(zip(reply[0]["columns"], reply[1], strict=True))


def _growth(warm: Mapping[str, Any], end: Mapping[str, Any]) -> int | None:
    """Resident memory that came between the warm-up's end and the last round: a model that leaks shows here."""
    before, after = warm.get("resident_bytes"), end.get("resident_bytes")
    return None if before is None or after is None else after - before


def _clock(restarts: Sequence[Restart]) -> dict[str, Any]:
    """What ``blocks`` were timed by; nothing where no arm has another clock than the host's."""
    made = restarts[-1].children if restarts else {}
    if all(child.get("clock", "wall") == "wall" and not child.get("no_events") for child in made.values()):
        return {}
    if reason := wall_clock_reason(made):
        return {"clock": "wall", "clock_reason": reason}
    bound = {
        name for r in restarts for name, child in r.children.items() if child["on_device"].get("host_bound")
    }
    return {"clock": made[BASELINE]["clock"], "clock_reason": None, "host_bound": sorted(bound)}


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
        inputs: where each arm's feeds came from, by its label (or ``baseline``); arms that were fed from different
            sources are refused by the judge.
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
        arms={a.name: {**a.record(setting), "inputs": inputs_of(a, inputs)} for a in arms},
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
        environment={
            **measurement.environment,
            "placement": placed,
            "together": race.together,
            **_clock(restarts),
        },
        collected_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
