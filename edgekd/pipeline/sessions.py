"""From a model reference to an open session in this process: for tests and benchmarks that call a model themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact
from edgekd.child.sessions import open_session
from edgekd.data.example import Array
from edgekd.errors import TargetUnavailableError, UsageError
from edgekd.parity import Shapes
from edgekd.pipeline.collect import Feeds
from edgekd.pipeline.execution import PLAIN_BATCH
from edgekd.pipeline.opening import check_inputs, runnable
from edgekd.pipeline.sizes import Sizes
from edgekd.pipeline.targets import present_target
from edgekd.spec import TensorSpec, parse_shapes
from edgekd.stages import StageStore
from edgekd.target import Placement, Session, check_threads, parse_target


@dataclass(frozen=True, slots=True)
class OpenModel:
    """An opened model: its session, and what was opened.

    Attributes:
        artifact: the files and specs behind the session.
        session: the runtime's own session.
    """

    artifact: Artifact
    session: Session

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.session.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.session.outputs

    @property
    def placement(self) -> Placement:
        """Where it really runs, read back from the runtime."""
        return self.session.placement

    def draw_feeds(
        self, *, batch: int = 1, shape: Mapping[str, str | Sequence[int]] | None = None, seed: int = 0
    ) -> dict[str, Array]:
        """Seeded random inputs, as a gate without data draws them; equal seeds give equal bytes.

        Args:
            batch: examples per call, where the model's batch is dynamic.
            shape: sizes that the model leaves open: ``{"image": (1, 3, 224, 224)}``, or as ``--shape`` writes them.

        Raises:
            UsageError: a dimension that nothing fixes, or a shape for an input that the model does not have;
            DataError: a batch that the model does not take; ModelError: an element type that cannot be drawn.
        """
        shapes = _shapes(shape)
        check_inputs({"model": self.artifact}, shapes=shapes, rename={})
        return Feeds(shapes=shapes, seed=seed).of(self.artifact, "student", batch)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; output name -> array.

        Raises:
            DataError: feeds that do not fit; ModelError: the model failed on them.
        """
        return self.session.run(feeds)

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """Bind inputs and outputs now: each call of the result is one run, which is what is worth timing.

        Raises:
            DataError: feeds that do not fit.
        """
        return self.session.bind(feeds)

    def close(self) -> None:
        """Let go of the model; a second call does nothing."""
        self.session.close()


def _shapes(shape: Mapping[str, str | Sequence[int]] | None) -> Shapes:
    sizes = {n: s if isinstance(s, str) else "x".join(map(str, s)) for n, s in (shape or {}).items()}
    return parse_shapes([f"{name}={size}" for name, size in sizes.items()])


def open_model(
    reference: str,
    *,
    target: str = "cpu:onnxruntime",
    threads: int = 1,
    weights: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    shape: Mapping[str, str | Sequence[int]] | None = None,
    batch: int = 1,
    store: StageStore,
) -> OpenModel:
    """Open a model on a target and read back where it runs.

    Args:
        reference: as :func:`edgekd.models.open_reference` takes it.
        weights: safetensors of a ``zoo:`` or ``python:`` reference.
        settings: of the runtime (``graph_level``, ``arena``); None takes those that the artifact brings.
        shape, batch: what an export is made with, where the target cannot open the model itself; as
            :meth:`OpenModel.draw_feeds` takes them.

    Raises:
        ModelError: missing or damaged; UsageError: no such target, or more threads than CPUs;
        TargetUnavailableError: the target is not here, or the session is not where it was asked to be.
    """
    check_threads(threads)
    if parse_target(target).remote:
        raise UsageError(
            f"{target} is another machine, a call from here would time the link",
            f"measure there: edgekd bench {reference} --target {target}",
        )
    found = present_target(target)
    shapes = _shapes(shape)
    sizes = Sizes(shapes=shapes, batch=batch, most=max(PLAIN_BATCH, batch))
    artifact = runnable(reference, "model", {"model": weights} if weights else {}, found, store, sizes=sizes)
    check_inputs({"model": artifact}, shapes=shapes, rename={})
    session, _ = open_session(
        {
            "runtime": found.runtime_paths[artifact.format],
            "path": str(artifact.path.resolve()),
            "device": found.target.device,
            "provider": found.target.provider,
            "threads": threads,
            "settings": dict(artifact.settings if settings is None else settings),
        }
    )
    placed = session.placement
    if (placed.device, placed.threads) != (found.target.device, threads):
        session.close()
        raise TargetUnavailableError(
            f"{reference} was opened on {placed.device} with {placed.threads} threads, "
            f"{found.target.device} with {threads} was asked for",
            "the runtime overrides the setting: look for an environment variable",
        )
    return OpenModel(artifact, session)
