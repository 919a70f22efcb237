"""A runtime that does nothing real: arithmetic for answers, any duration for latency."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgekd.artifact import Artifact, record_file
from edgekd.data.example import Array
from edgekd.errors import DataError, ModelError, TargetUnavailableError
from edgekd.files import write_json
from edgekd.spec import TensorSpec
from edgekd.target import Placement, SessionOptions


@dataclass
class FakeSession:
    """A session whose answers are arithmetic and whose duration is what you say.

    Attributes:
        inputs, outputs, placement: as any session's.
        latency_ns: duration of each call, cycled; 0 returns at once.
        wait: spends a number of nanoseconds; by default by spinning on the clock, as a real call does.
        calls: calls so far.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    placement: Placement
    latency_ns: Sequence[int] = (0,)
    wait: Callable[[int], None] = field(default=lambda ns: spin(ns))
    calls: int = 0

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Each output element is the mean of its example's inputs plus its own index.

        Raises:
            DataError: feeds that do not fit.
        """
        self._check(feeds)
        self._spend()
        return self._answer(feeds)

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """Computes the answer now; calls only take their time."""
        self._check(feeds)
        answer = self._answer(feeds)

        def call() -> object:
            self._spend()
            return answer

        return call

    def close(self) -> None:
        """Nothing to let go of."""

    def _spend(self) -> None:
        duration = self.latency_ns[self.calls % len(self.latency_ns)]
        self.calls += 1
        if duration:
            self.wait(duration)

    def _check(self, feeds: Mapping[str, Array]) -> None:
        for spec in self.inputs:
            if spec.name not in feeds:
                raise DataError(f"input '{spec.name}' is not fed", f"the model wants {spec}")
            spec.check(feeds[spec.name], where="fake model")
        if len(feeds) != len(self.inputs):
            raise DataError("more inputs are fed than the model has", "feed its own inputs only")

    def _answer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        batch = next((len(feeds[s.name]) for s in self.inputs if s.dynamic_batch), 1)
        means = np.zeros(batch)
        for spec in self.inputs:
            array = np.asarray(feeds[spec.name], dtype=np.float64)
            means += array.reshape(batch, -1).mean(1) if spec.dynamic_batch else array.mean()
        made = {}
        for spec in self.outputs:
            shape = tuple(
                (batch if i == 0 else 1) if isinstance(d, str) else d for i, d in enumerate(spec.shape)
            )
            per_example = int(np.prod(shape[1:])) if spec.dynamic_batch else int(np.prod(shape))
            values = (means if spec.dynamic_batch else means[:1])[:, None] + np.arange(per_example)
            made[spec.name] = values.reshape(shape).astype(spec.dtype)
        return made


def spin(duration_ns: int) -> None:
    """Keep the processor busy for ``duration_ns`` nanoseconds."""
    end = time.perf_counter_ns() + duration_ns
    while time.perf_counter_ns() < end:
        pass


class FakeRuntime:
    """Opens ``.fake`` files: JSON with ``inputs``, ``outputs`` and ``latency_ns``, as :func:`write_fake` writes.

    Plain enough for a child process: ``edgekd.testing:FakeRuntime`` needs numpy only.
    """

    name = "fake"
    formats: tuple[str, ...] = ("fake",)

    def unavailable(self, device: str, provider: str) -> str:
        """Only ``cpu``, without providers."""
        if device != "cpu" or provider not in ("", "cpu"):
            return f"the fake runtime has no {device}+{provider}; use cpu:fake"
        return ""

    def open(self, path: Path, options: SessionOptions) -> FakeSession:
        """Open a ``.fake`` file.

        Raises:
            ModelError: missing or damaged; TargetUnavailableError: another device than cpu.
        """
        why = self.unavailable(options.device, options.provider)
        if why:
            raise TargetUnavailableError(why)
        try:
            value = json.loads(path.read_bytes())
            inputs = tuple(TensorSpec.from_json(s) for s in value["inputs"])
            outputs = tuple(TensorSpec.from_json(s) for s in value["outputs"])
            latency = tuple(int(ns) for ns in value["latency_ns"])
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise ModelError(f"cannot open {path} ({e!r})", "write it with edgekd.testing.write_fake") from e
        placement = Placement(
            device="cpu", provider="cpu", runtime="fake 1", threads=options.threads, detail={}
        )
        return FakeSession(inputs=inputs, outputs=outputs, placement=placement, latency_ns=latency)


def write_fake(
    folder: Path,
    *,
    inputs: Sequence[TensorSpec] = (TensorSpec(name="x", dtype="float32", shape=("batch", 4)),),
    outputs: Sequence[TensorSpec] = (TensorSpec(name="logits", dtype="float32", shape=("batch", 3)),),
    latency_ns: Sequence[int] = (0,),
) -> Artifact:
    """Write a model for :class:`FakeRuntime` into an existing folder."""
    write_json(
        folder / "model.fake",
        {
            "inputs": [s.to_json() for s in inputs],
            "outputs": [s.to_json() for s in outputs],
            "latency_ns": list(latency_ns),
        },
    )
    artifact = Artifact(
        folder=folder, entry="model.fake", format="fake", dtype="float32",
        files=(record_file(folder, "model.fake"),), inputs=tuple(inputs), outputs=tuple(outputs),
    )  # fmt: skip
    artifact.save()
    return artifact
