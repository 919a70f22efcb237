"""How an artifact is run while its answers are evaluated: as it ships, plainly, or in its reference execution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from edgekd.artifact import Artifact
from edgekd.evidence.measurement import MULTI_STREAM, OFFLINE
from edgekd.measure import ledger
from edgekd.pipeline.targets import ResolvedTarget, board_of
from edgekd.pipeline.tuning import Tuning, batch_of, tuning_for
from edgekd.plugins import load_path
from edgekd.recipe import MeasureBlock
from edgekd.tuned import THROUGHPUT

#: Examples per call where neither the user nor a measurement says how many: answers do not hang on it.
PLAIN_BATCH = 64


@runtime_checkable
class ReferenceRuntime(Protocol):
    """A runtime plugin that can run a model as it is written; this is optional."""

    def reference_settings(self, device: str, provider: str) -> Mapping[str, Any]:
        """Session settings under which nothing is rewritten, fused or approximated."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How a session is opened and fed.

    Attributes:
        batch: examples per call; a model of a fixed batch takes its own.
        settings: all that is handed to the runtime.
        tuning: where the settings came from.
    """

    batch: int
    threads: int
    settings: Mapping[str, Any]
    tuning: Tuning = field(default_factory=Tuning)


def plain(artifact: Artifact, measure: MeasureBlock) -> Execution:
    """The artifact's own settings, many examples per call."""
    return Execution(batch=PLAIN_BATCH, threads=measure.threads, settings=dict(artifact.settings))


def as_written_in(target: ResolvedTarget, artifact: Artifact, measure: MeasureBlock) -> Execution:
    """As the model is written: without the runtime's graph optimisations; plain where it has no such setting."""
    path = target.runtime_paths.get(artifact.format)
    runtime = load_path(path)() if path else None
    settings = dict(artifact.settings)
    if isinstance(runtime, ReferenceRuntime):
        settings |= runtime.reference_settings(target.target.device, target.target.provider)
    return Execution(batch=PLAIN_BATCH, threads=measure.threads, settings=settings)


def as_shipped(
    label: str,
    artifact: Artifact,
    beside: Sequence[tuple[str, Artifact]],
    *,
    measure: MeasureBlock,
    target: ResolvedTarget,
) -> Execution:
    """With the batch, threads and session settings that its timings are made with.

    Args:
        beside: (label, artifact) of what it is timed with: swept settings are used by all of them or by none.

    Raises:
        EvidenceError: damaged metadata.
    """
    scenario, board = measure.as_scenario, board_of(target.target)
    batch = measure.batch
    if scenario.name not in (MULTI_STREAM, OFFLINE):
        fixed = (a.fixed_batch for _, a in [(label, artifact), *beside])
        batch = next((size for size in fixed if size is not None), batch)
    tuning = tuning_for(
        [*beside, (label, artifact)],
        target=str(target.target),
        scenario=scenario,
        batch=batch,
        machine=board.machine if board else ledger.machine(),
        asked="threads" in measure.model_fields_set,
    )
    found = tuning.sessions.get(label)
    batch = batch_of(scenario, artifact, batch)
    if found is None:
        return Execution(batch=batch, threads=measure.threads, settings=dict(artifact.settings))
    return Execution(
        batch=found.batch if found.objective == THROUGHPUT else batch,
        threads=found.threads,
        settings=dict(found.settings),
        tuning=tuning,
    )
