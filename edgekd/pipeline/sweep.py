"""``edgekd bench --sweep``: find each model's best session settings and keep them with the model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import edgekd
from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.errors import StorageError, UsageError
from edgekd.measure import Setting, ledger
from edgekd.measure.arm import Protocol
from edgekd.measure.configuration import BATCH, Sweep, SweepableRuntime, Value
from edgekd.measure.scenario import Scenario
from edgekd.measure.sweep import CONFIRMATION, PROTOCOL, sweep
from edgekd.pipeline.targets import ResolvedTarget
from edgekd.pipeline.tuning import Tuning, batch_of, objective_of
from edgekd.plugins import load_path
from edgekd.release.manifest import MANIFEST_FILE
from edgekd.statistics.student_t import t_interval
from edgekd.target import usable_cpus
from edgekd.tuned import THROUGHPUT, Tuned, keep_tuned, machine_key

#: Examples per call that are tried for throughput; the search leaves out those whose call would be too long.
BATCHES = (1, 2, 4, 8, 16, 32, 64)

FeedsAt = Callable[[int], Mapping[str, Array]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """One model's sweep, and what became of it.

    Attributes:
        kept: the file that holds the settings now; None where they could not be kept, ``why_not`` then says why.
    """

    label: str
    sweep: Sweep
    record: Tuned
    kept: Path | None
    why_not: str = ""


def two_sided_interval(effects: Array, confidence: float) -> tuple[float, float, float]:
    """Mean, lower and upper bound of a two-sided t interval over restarts; unbounded for fewer than two."""
    return t_interval(effects, (1 + confidence) / 2)


def space_of(target: ResolvedTarget, artifact: Artifact) -> Callable[[int], Mapping[str, Sequence[Value]]]:
    """The settings that a target's runtime declares worth trying, by threads.

    Raises:
        UsageError: it declares none.
    """
    runtime = load_path(target.runtime_paths[artifact.format])()
    if not isinstance(runtime, SweepableRuntime):
        raise UsageError(
            f"the runtime '{target.target.runtime}' does not say which settings are worth trying",
            "leave --sweep out, and choose --threads yourself",
        )
    return lambda cpus: runtime.sweepable(target.target.device, target.target.provider, cpus)


def sweep_models(
    models: Sequence[tuple[str, Artifact, FeedsAt]],
    target: ResolvedTarget,
    setting: Setting,
    scenario: Scenario,
    *,
    pinned: Sequence[str],
    cache: Path,
    protocol: Protocol = PROTOCOL,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Swept]:
    """Sweep every model, keep what was found in its metadata, and return it.

    Args:
        models: (label, artifact, batch -> feeds).
        setting: the default's threads and batch, and limits.
        pinned: names (``threads``, or settings) that the user fixed.
        cache: the stage store's folder: artifacts in it are not written to.

    Raises:
        UsageError: the runtime has no settings to sweep; EdgeKDError: a model does not run at the default settings.
    """
    spaces = [space_of(target, artifact) for _, artifact, _ in models]
    return [
        _sweep_one(
            label, artifact, feeds, space, target, setting, scenario, pinned, cache, protocol, progress
        )
        for (label, artifact, feeds), space in zip(models, spaces, strict=True)
    ]


def _sweep_one(
    label: str, artifact: Artifact, feeds: FeedsAt, space: Callable[[int], Mapping[str, Sequence[Value]]],
    target: ResolvedTarget, setting: Setting, scenario: Scenario, pinned: Sequence[str], cache: Path,
    protocol: Protocol, progress: Callable[[str], None],
) -> Swept:  # fmt: skip
    objective = objective_of(scenario)
    at = replace(setting, batch=batch_of(scenario, artifact, setting.batch))
    free = objective == THROUGHPUT and artifact.fixed_batch is None and BATCH not in pinned
    batches = [b for b in BATCHES if b <= (scenario.max_batch or BATCHES[-1])] if free else []
    found = sweep(
        artifact, label, at, space, feeds, cpus=usable_cpus(), interval=two_sided_interval, pinned=pinned,
        batches=batches, protocol=protocol, progress=lambda text: progress(f"{label}: {text}"),
    )  # fmt: skip
    record = Tuned(
        objective=objective,
        batch=found.best.batch,
        threads=found.best.threads,
        settings=dict(found.best.settings),
        machine=machine_key(ledger.machine()),
        evidence=evidence_of(found, pinned),
    )
    why = _not_ours(artifact, cache)
    if why:
        return Swept(label=label, sweep=found, record=record, kept=None, why_not=why)
    try:
        path = keep_tuned(artifact, str(target.target), record)
    except StorageError as e:  # a read-only folder does not undo what was found
        return Swept(label=label, sweep=found, record=record, kept=None, why_not=str(e))
    return Swept(label=label, sweep=found, record=record, kept=path)


def evidence_of(found: Sweep, pinned: Sequence[str]) -> dict[str, Any]:
    """How settings were found, as the metadata keeps it."""
    confirmed = found.confirmation
    return {
        "default": {"threads": found.default.threads, "batch": found.default.batch},
        "default_ns": found.default_time_ns,
        "confirmation": confirmed.to_json() if confirmed else None,
        "confirmation_restarts": CONFIRMATION,
        "difference": found.difference,
        "trials": [t.to_json() for t in found.trials],
        "pinned": sorted(pinned),
        "runtime": found.runtime,
        "edgekd": edgekd.__version__,
        "collected_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _not_ours(artifact: Artifact, cache: Path) -> str:
    """Why nothing may be written beside an artifact; empty where it may."""
    folder = artifact.folder.resolve()
    if folder.is_relative_to(cache.resolve()):
        return "its file is in the cache; export it (`edgekd export`) to keep settings with it"
    for parent in (folder, *folder.parents):
        if (parent / MANIFEST_FILE).is_file() and (
            folder == parent or (parent / "artifacts") in folder.parents
        ):
            return f"it is in the bundle {parent.name}, whose files stay as they were released"
    return ""


def tuning_of(swept: Sequence[Swept]) -> Tuning:
    """The settings that were just found, for the measurement that follows."""
    return Tuning(sessions={s.label: s.record for s in swept}, source="sweep")
