"""The arms of a race: which model, with which inputs and settings, opened in a fresh child and warmed up."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact
from edgekd.child import ChildProcess, Limits
from edgekd.data.example import Array
from edgekd.errors import DataError, TargetUnavailableError
from edgekd.evidence.measurement import BASELINE, CANDIDATE, TWIN
from edgekd.target import Target

_OPEN = "edgekd.measure.operations:open_arm"
_WARM = "edgekd.measure.operations:warm_up"

#: Key of an arm's record, and of an artifact's lineage: the digest of the artifact that this is another build of.
BUILD_OF = "build_of"

#: What the label of the hidden second copy ends in.
TWIN_SUFFIX = " (twin)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """The numbers of METHOD 1, steps 2 to 4 and 8.

    Attributes:
        min_restarts, max_restarts: where the judge may stop, at the earliest and latest.
        rounds: per restart; each runs one block of every arm.
        block_calls, block_ms: a block has at least so many calls and lasts at least so long; METHOD asks 8 ms, and at
            20 the parent needs less than 1 % of a core for its part of the exchange.
        block_cap_ms, min_block_calls: long calls make blocks of fewer calls, so that a block ends within the first
            where the second allows: what lowers the scatter of long calls is many short rounds.
        warm_s, warm_calls, warm_cap_s: least and greatest warm-up; long_warm_s: stands in for warm_calls where calls
            are long.
        max_redraws: restarts that the ledger may throw away before the measurement ends early.
        seed: of every shuffle.
    """

    min_restarts: int = 4
    max_restarts: int = 16
    rounds: int = 15
    block_calls: int = 10
    block_ms: float = 20.0
    block_cap_ms: float = 200.0
    min_block_calls: int = 2
    warm_s: float = 0.2
    warm_calls: int = 50
    long_warm_s: float = 1.0
    warm_cap_s: float = 5.0
    max_redraws: int = 8
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One model in the race, with its inputs (batch already in the leading dimension).

    Attributes:
        threads, settings: of this arm's session where a sweep found its own best; None takes the setting's threads
            and the artifact's settings.
        batch: examples per call where the arms differ; None takes the setting's. Ratios are then of time per example.
        calls_per_query: calls that one timed query is made of, for a model whose batch is fixed below the query's
            samples; the feeds are split among them.
        sessions: opened side by side, each with so many threads; a query is divided among them, and they work on their
            parts at the same time.
    """

    name: str
    label: str
    artifact: Artifact
    feeds: Mapping[str, Array]
    threads: int | None = None
    settings: Mapping[str, Any] | None = None
    batch: int | None = None
    calls_per_query: int = 1
    sessions: int = 1

    def record(self, setting: Setting) -> dict[str, Any]:
        """What the evidence says of it."""
        return {
            "name": self.label,
            "artifact": self.artifact.digest,
            "dtype": self.artifact.dtype,
            "size_bytes": self.artifact.size_bytes,
            "threads": self.threads or setting.threads,
            "batch": self.batch or setting.batch,
            "settings": dict(self.artifact.settings if self.settings is None else self.settings),
            "calls_per_query": self.calls_per_query,
            **({"sessions": self.sessions} if self.sessions > 1 else {}),
            **({BUILD_OF: self.artifact.lineage[BUILD_OF]} if BUILD_OF in self.artifact.lineage else {}),
        }


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
        arms.append(Arm(name=TWIN, label=label + TWIN_SUFFIX, artifact=artifact, feeds=feeds))
    for i, (name, other, inputs) in enumerate(candidates):
        arm = CANDIDATE if i == 0 else f"{CANDIDATE}_{i + 1}"
        arms.append(Arm(name=arm, label=name, artifact=other, feeds=inputs))
    return arms


def cpus_for(restart: int, threads: int) -> tuple[int, ...]:
    """CPUs of a restart: ``threads`` of them, rotated; empty where pinning is not possible."""
    if not hasattr(os, "sched_getaffinity"):
        return ()
    available = sorted(os.sched_getaffinity(0))
    if threads >= len(available):
        return tuple(available)
    return tuple(sorted(available[(restart * threads + k) % len(available)] for k in range(threads)))


def cpus_of(arms: Sequence[Arm], setting: Setting, restart: int) -> tuple[int, ...]:
    """CPUs of all arms of a restart: those of other thread counts have others, and the ledger watches all."""
    counts = {_threads(arm, setting) * arm.sessions for arm in arms}
    return tuple(sorted({cpu for count in counts for cpu in cpus_for(restart, count)}))


def _threads(arm: Arm, setting: Setting) -> int:
    """Of each of its sessions."""
    return arm.threads or setting.threads


def inputs_of(arm: Arm, inputs: Mapping[str, Any]) -> Any:
    """The record of an arm's feeds; a twin is fed what the baseline is."""
    name = BASELINE if arm.name in (BASELINE, TWIN) else arm.label
    return inputs.get(name, inputs.get(arm.label.removesuffix(TWIN_SUFFIX)))


def open_arm(
    arm: Arm, setting: Setting, restart: int, stack: ExitStack
) -> tuple[ChildProcess, dict[str, Any]]:
    """Open an arm in a fresh child, pinned to the CPUs of this restart, and read back what it really uses.

    Raises:
        DataError: the target cannot open its format; TargetUnavailableError: other threads, device or provider than
            asked for; ChildError, ModelError: as the child says.
    """
    threads = _threads(arm, setting)
    cpus = cpus_for(restart, threads * arm.sessions)
    child = ChildProcess(
        f"measuring {arm.label} on {setting.target}",
        Limits.on(
            setting.target.device,
            timeout_s=setting.timeout_s,
            memory_bytes=setting.memory_bytes,
            cpus=cpus,
            threads=threads,
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
            "threads": threads,
            "settings": dict(arm.artifact.settings if arm.settings is None else arm.settings),
            "feeds": list(arm.feeds),
            "calls_per_query": arm.calls_per_query,
            "sessions": arm.sessions,
        },
        list(arm.feeds.values()),
    )
    found = opened["placement"]
    if found["threads"] != threads:
        raise TargetUnavailableError(
            f"{arm.label} was opened with {found['threads']} threads, {threads} were asked for",
            "the runtime overrides the setting: look for an environment variable",
        )
    asked, provider = setting.target.provider.lower(), str(found["provider"]).lower()
    # Without a provider asked, any of the device's own will do, but a CPU provider only on the CPU.
    elsewhere = asked not in provider if asked else found["device"] != "cpu" and provider.startswith("cpu")
    if found["device"] != setting.target.device or elsewhere:
        raise TargetUnavailableError(
            f"{arm.label} was asked to run on {setting.target} and runs on {found['device']} "
            f"with provider {found['provider']}",
            "the runtime fell back silently: check that provider's libraries (`edgekd doctor`)",
        )
    return child, opened


def warm_up(child: ChildProcess, protocol: Protocol) -> dict[str, Any]:
    """Run an opened arm until it is steady; what the child says of it."""
    warmed, _ = child.request(
        _WARM,
        {
            "min_s": protocol.warm_s,
            "min_calls": protocol.warm_calls,
            "cap_s": protocol.warm_cap_s,
            "block_calls": protocol.block_calls,
            "block_ms": protocol.block_ms,
            "block_cap_ms": protocol.block_cap_ms,
            "min_block_calls": protocol.min_block_calls,
            "long_s": protocol.long_warm_s,
        },
    )
    return warmed
