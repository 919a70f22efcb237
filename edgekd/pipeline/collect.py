"""Stages that end in evidence: evaluate and measure. Measurements are reused only on the same machine and boot."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.errors import DataError
from edgekd.evaluate import EvaluationRequest, evaluate
from edgekd.evidence import (
    Evaluation,
    Measurement,
    load_evaluation,
    load_measurement,
    save_evaluation,
    save_measurement,
)
from edgekd.files import digest_of
from edgekd.gates.latency import should_stop
from edgekd.measure import Protocol, Setting, arms_of, ledger, measure
from edgekd.spec import draw_feeds, stack_feeds
from edgekd.stages import StageStore, tool_versions
from edgekd.target import check_threads
from edgekd.tasks import ModelIO, TaskSpec, build_task

_RUNTIME_PACKAGES = ("edgekd", "numpy", "onnxruntime", "onnxruntime-gpu", "torch", "pillow")


def evaluate_artifact(request: EvaluationRequest, store: StageStore) -> Evaluation:
    """Evaluate through the store."""
    check_threads(request.threads)
    artifact = request.artifact
    key = {
        "artifact": artifact.digest,
        "prepare": dict(artifact.prepare),
        "output": {**artifact.output, **request.output},
        "settings": dict(artifact.settings),
        "target": str(request.target),
        # A torch module's weights do not tell its code.
        "factory": artifact.lineage.get("factory") if artifact.format == "torch" else None,
        "data": request.data_digest,
        "role": request.role,
        "rename": dict(request.rename),
        "batch": request.batch,
        "tools": tool_versions(*_RUNTIME_PACKAGES),
    }

    def build(out: Path, resume: Path) -> None:
        save_evaluation(evaluate(request), out / "evaluation.json")

    result = store.run("evaluate", f"evaluate {request.label} ({request.split})", key, build)
    # The same rows may have been asked for under another name or split before.
    found = load_evaluation(result.folder / "evaluation.json")
    return replace(found, name=request.label, split=request.split)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feeds:
    """Where a measurement's inputs come from.

    Attributes:
        task, split: real data, its first ``batch`` examples; None draws seeded inputs from the model's own specs.
        shapes: ``--shape`` values for dimensions that nothing else fixes.
        rename: role -> model input -> array name.
    """

    task: TaskSpec | None = None
    split: str = "test"
    shapes: Mapping[str, tuple[tuple[int, ...], ...]] | None = None
    rename: Mapping[str, Mapping[str, str]] | None = None
    seed: int = 0

    def of(self, artifact: Artifact, role: str, batch: int) -> dict[str, Array]:
        """Feeds of one artifact.

        Raises:
            DataError: the data does not fit; UsageError: a dimension is unknown.
        """
        fixed = artifact.fixed_batch
        if fixed is not None and batch not in (1, fixed):
            raise DataError(
                f"{artifact.path.name} takes batches of {fixed} only, {batch} was asked for", "drop --batch"
            )
        size = fixed or batch
        if self.task is None:
            feeds = draw_feeds(artifact.inputs, seed=self.seed, shapes=self.shapes or {}, batch=size)
            for spec in artifact.inputs:
                if spec.dynamic_batch and len(feeds[spec.name]) != size:
                    raise DataError(
                        f"--shape {spec.name} has {len(feeds[spec.name])} examples, --batch is {size}",
                        f"give --batch {len(feeds[spec.name])} too: the evidence records it",
                    )
            return feeds
        io = ModelIO(
            # Last release's model is a student, too: it takes the student's arrays, under names of its own.
            role="student" if role == "baseline" else role, inputs=artifact.inputs, outputs=artifact.outputs, prepare=artifact.prepare,
            rename=(self.rename or {}).get(role, {}),
        )  # fmt: skip
        task = build_task(self.task)
        rows = []
        for example in task.examples(self.split):
            rows.append(task.prepare(example, io))
            if len(rows) == size:
                break
        if not rows:
            raise DataError(f"the data for '{self.split}' is empty", "give at least one example")
        return stack_feeds(rows, size)

    def batch_of(self, artifacts: Sequence[tuple[str, Artifact]], asked: int) -> int:
        """The batch that all these models run at: the asked one, or the one that a fixed model takes.

        Raises:
            DataError: they cannot run at one batch; a ratio of other amounts of work means nothing.
        """
        fixed = {label: a.fixed_batch for label, a in artifacts if a.fixed_batch is not None}
        sizes = set(fixed.values())
        if len(sizes) > 1 or (sizes and asked not in (1, *sizes)):
            named = ", ".join(f"{label} takes {size}" for label, size in fixed.items())
            raise DataError(
                f"no one batch fits all models ({named}; {asked} asked)", "export them with a dynamic batch"
            )
        return next(iter(sizes), None) or asked

    def record(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        """What the evidence says of them."""
        digest = hashlib.sha256(b"".join(v.tobytes() for v in feeds.values())).hexdigest()
        kind = "drawn" if self.task is None else "data"
        return {
            "kind": kind,
            "seed": self.seed if self.task is None else None,
            "shapes": {k: list(v.shape) for k, v in feeds.items()},
            "sha256": digest,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One measurement to make.

    Attributes:
        baseline, candidates: (label, artifact).
        limits: greatest ratio of each candidate, where a gate asks one; decides when to stop, never what is kept.
        occasion: ``select`` or ``test``: timings that were chosen by are never judged on.
    """

    baseline: tuple[str, Artifact]
    candidates: Sequence[tuple[str, Artifact]]
    limits: Mapping[str, float]
    feeds: Feeds
    setting: Setting
    occasion: str
    baseline_role: str = "teacher"


class _NotKeptError(Exception):
    """Evidence that does not decide is used once and not stored: the next run measures again."""


def measure_comparison(
    comparison: Comparison,
    store: StageStore,
    *,
    remeasure: bool,
    decided: Callable[[Measurement], bool],
    protocol: Protocol | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Measure through the store; kept only when ``decided`` says that the evidence decides.

    Raises:
        ChildError, ModelError, DataError: as :func:`edgekd.measure.measure`.
    """
    check_threads(comparison.setting.threads)
    protocol = protocol or Protocol()
    batch = comparison.feeds.batch_of([comparison.baseline, *comparison.candidates], comparison.setting.batch)
    setting = replace(comparison.setting, batch=batch)
    label, artifact = comparison.baseline
    own = comparison.feeds.of(artifact, comparison.baseline_role, setting.batch)
    others = [(n, a, comparison.feeds.of(a, "student", setting.batch)) for n, a in comparison.candidates]
    inputs = {
        "baseline": comparison.feeds.record(own),
        **{n: comparison.feeds.record(f) for n, _, f in others},
    }
    machine = ledger.machine()
    key = {
        "baseline": [artifact.digest, dict(artifact.settings)],
        "candidates": [[n, a.digest, dict(a.settings)] for n, a in comparison.candidates],
        "limits": dict(comparison.limits),
        "occasion": comparison.occasion,
        "inputs": inputs,
        "target": str(setting.target),
        "batch": setting.batch,
        "threads": setting.threads,
        "protocol": asdict(protocol),
        "machine": digest_of(machine),
        "tools": tool_versions(*_RUNTIME_PACKAGES),
    }
    arms = arms_of((label, artifact, own), others)
    arm_limits = [(arm.name, comparison.limits[arm.label]) for arm in arms if arm.label in comparison.limits]

    def stop(measurement: Measurement) -> bool:
        return should_stop(measurement, arm_limits) if arm_limits else True

    undecided: list[Measurement] = []

    def build(out: Path, resume: Path) -> None:
        made = measure(arms, setting, inputs=inputs, stop=stop, protocol=protocol, progress=progress)
        if len(made.restarts) < protocol.min_restarts or not decided(made):
            undecided.append(made)
            raise _NotKeptError
        save_measurement(made, out / "measurement.json")

    what = f"measure {', '.join(n for n, _, _ in others) or label}" + (f" beside {label}" if others else "")
    try:
        result = store.run("measure", what, key, build, reuse=not remeasure)
    except _NotKeptError:
        return undecided[0]
    return load_measurement(result.folder / "measurement.json")
