"""Which session settings a comparison runs with: those that sweeps found for every arm, or the same for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgekd.artifact import Artifact
from edgekd.evidence.measurement import MULTI_STREAM, OFFLINE, TWIN, Measurement
from edgekd.measure.arm import Arm
from edgekd.measure.configuration import shown
from edgekd.measure.scenario import Scenario
from edgekd.tuned import LATENCY, THROUGHPUT, Tuned, find_tuned


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Session settings of a comparison's arms.

    Attributes:
        sessions: label -> settings; either every arm has its own, or there are none.
        source: ``sweep`` (found in this run), ``metadata`` (found by an earlier sweep), ``asked`` or ``default``.
        note: one sentence for the reader where settings were used, or were there and not used; else empty.
    """

    sessions: Mapping[str, Tuned] = field(default_factory=dict)
    source: str = "default"
    note: str = ""

    def arm(self, arm: Arm, label: str) -> Arm:
        """An arm with its model's own settings; offline, with its batch too."""
        found = self.sessions.get(label)
        if found is None:
            return arm
        batch = found.batch if found.objective == THROUGHPUT else arm.batch
        return replace(arm, threads=found.threads, settings=dict(found.settings), batch=batch)

    def threads(self, default: int) -> int:
        """The most threads of any arm."""
        return max((t.threads for t in self.sessions.values()), default=default)

    @property
    def key(self) -> dict[str, Any]:
        """What of this decides a measurement."""
        return {
            label: {"threads": t.threads, "settings": dict(t.settings), "batch": t.batch}
            for label, t in self.sessions.items()
        }

    def record(self, measurement: Measurement) -> Measurement:
        """The measurement, saying of every arm where its settings came from."""
        return replace(
            measurement,
            arms={name: {**arm, "settings_from": self.source} for name, arm in measurement.arms.items()},
            environment={**measurement.environment, "settings_note": self.note},
        )


def objective_of(scenario: Scenario) -> str:
    """What is to be short: a call, or the time per example."""
    return THROUGHPUT if scenario.name == OFFLINE else LATENCY


def batch_of(scenario: Scenario, artifact: Artifact, batch: int) -> int:
    """Examples per call of an artifact under a scenario."""
    if scenario.name == MULTI_STREAM:
        return artifact.fixed_batch or scenario.samples
    return artifact.fixed_batch or batch


def tuning_for(
    models: Sequence[tuple[str, Artifact]],
    *,
    target: str,
    scenario: Scenario,
    batch: int,
    machine: Mapping[str, Any],
    asked: bool,
) -> Tuning:
    """The settings from the models' metadata, where every model has some for this target, machine and scenario.

    One model at its best beside one at the default would be no comparison, so it is all or none.

    Args:
        models: (label, artifact) of every arm but the twin.
        asked: threads or settings were asked for explicitly; the metadata then stays unused.
        machine: :func:`edgekd.measure.ledger.machine`.

    Raises:
        EvidenceError: damaged metadata.
    """
    if asked:
        return Tuning(source="asked")
    found: dict[str, Tuned] = {}
    missing: dict[str, str] = {}
    for label, artifact in models:
        tuned, why = find_tuned(
            artifact,
            target,
            objective=objective_of(scenario),
            batch=batch_of(scenario, artifact, batch),
            machine=machine,
        )
        if tuned is not None and scenario.max_batch is not None and tuned.batch > scenario.max_batch:
            why = f"its batch {tuned.batch} is beyond --max-batch {scenario.max_batch}"
            tuned = None
        if tuned is not None and scenario.side_by_side > 1:
            why, tuned = "they are for a session that is alone", None
        if tuned is None:
            missing[label] = why
        else:
            found[label] = tuned
    if not missing:
        return Tuning(sessions=found, source="metadata", note=_used(found))
    if not found and not any(missing.values()):
        return Tuning()
    reasons = "; ".join(
        f"{label}: {why or 'it was not swept for this target'}" for label, why in missing.items()
    )
    return Tuning(note=f"Swept settings are not used ({reasons}); every model runs at the default settings.")


def _used(found: Mapping[str, Tuned]) -> str:
    parts = [
        f"{label}: {shown({'threads': t.threads, **t.settings})} "
        f"({str(t.evidence.get('collected_at', ''))[:10] or 'no date'})"
        for label, t in found.items()
    ]
    return f"Settings from the models' metadata, by sweeps on this kind of machine: {'; '.join(parts)}."


def arm_settings(measurement: Measurement) -> dict[str, str]:
    """Arm label -> threads, settings and batch as text, for a reader."""
    return {
        str(arm["name"]): shown({"threads": arm.get("threads"), **dict(arm.get("settings") or {})})
        for name, arm in measurement.arms.items()
        if name != TWIN
    }
