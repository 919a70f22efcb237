"""Stages that end in evidence: evaluate and measure. Measurements are reused only on the same machine and boot."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifact import Artifact
from edgekd.board.measuring import measure_on_board
from edgekd.data.example import Array
from edgekd.errors import DataError, UsageError
from edgekd.evaluate import EvaluationRequest, OpenChildren, evaluate
from edgekd.evaluate.operations import named
from edgekd.evidence import (
    Evaluation,
    Measurement,
    load_evaluation,
    load_measurement,
    save_evaluation,
    save_measurement,
)
from edgekd.evidence.measurement import MULTI_STREAM, OFFLINE
from edgekd.files import digest_of
from edgekd.gates.timing import TimingLimits
from edgekd.measure import Protocol, Scenario, Setting, ledger, measure_scenario
from edgekd.pipeline.targets import board_of
from edgekd.pipeline.tuning import tuning_for
from edgekd.prepare import prepare_key
from edgekd.spec import draw_feeds, stack_feeds
from edgekd.stages import StageStore, tool_versions
from edgekd.statistics.binomial import most_over
from edgekd.target import check_threads
from edgekd.tasks import ModelIO, TaskSpec, build_task

_RUNTIME_PACKAGES = (
    "edgekd",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "pillow",
    "scipy",
    "scikit-learn",
    "pycocotools",
    "tokenizers",
    "seqeval",
)
#: What decides answers beside the runtime: tokenizers and the libraries that metrics come from.
_TASK_PACKAGES = ("tokenizers", "scikit-learn", "seqeval")


def evaluate_artifact(
    request: EvaluationRequest, store: StageStore, children: OpenChildren | None = None
) -> Evaluation:
    """Evaluate through the store; ``children`` as :func:`edgekd.evaluate.evaluate` has them."""
    board = board_of(request.target)
    if board is None:
        check_threads(request.threads)
    artifact = request.artifact
    key = {
        "artifact": artifact.digest,
        "prepare": prepare_key(artifact.prepare),
        "output": {**artifact.output, **request.output},
        "settings": dict(artifact.settings),
        "target": str(request.target),
        "threads": request.threads,
        # A torch module's weights do not tell its code.
        "factory": artifact.lineage.get("factory") if artifact.format == "torch" else None,
        "data": request.data_digest,
        "role": request.role,
        "rename": dict(request.rename),
        "cluster": request.task.cluster,
        "batch": request.batch,
        "tools": tool_versions(*_RUNTIME_PACKAGES, *_TASK_PACKAGES),
        **({} if board is None else {"board": [board.tools, board.device, board.machine["cpu"]]}),
    }

    def build(out: Path, resume: Path) -> None:
        save_evaluation(evaluate(request, children), out / "evaluation.json")

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
        if self.task is not None:
            return self._examples(self.task, artifact, role, size)
        feeds = draw_feeds(artifact.inputs, seed=self.seed, shapes=self.shapes or {}, batch=size)
        for spec in artifact.inputs:
            if spec.dynamic_batch and len(feeds[spec.name]) != size:
                raise DataError(
                    f"--shape {spec.name} has {len(feeds[spec.name])} examples, --batch is {size}",
                    f"give --batch {len(feeds[spec.name])} too: the evidence records it",
                )
        return feeds

    def rows(self, artifact: Artifact, role: str, count: int) -> dict[str, Array]:
        """Feeds of ``count`` examples, for a scenario with batches of its own: ``--shape`` gives the other sizes.

        A model of a fixed batch gets several of those, one after another.

        Raises:
            DataError: the data does not fit; UsageError: a dimension is unknown.
        """
        if self.task is not None:
            return self._examples(self.task, artifact, role, count)
        shapes = dict(self.shapes or {})
        for spec in artifact.inputs:
            if spec.dynamic_batch and spec.name in shapes:
                shapes[spec.name] = tuple((count, *size[1:]) for size in shapes[spec.name])
        fixed = artifact.fixed_batch or count
        parts = [
            draw_feeds(artifact.inputs, seed=self.seed + k, shapes=shapes, batch=fixed)
            for k in range(max(1, count // fixed))
        ]
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def _examples(self, spec: TaskSpec, artifact: Artifact, role: str, count: int) -> dict[str, Array]:
        io = ModelIO(
            # Last release's model is a student, too: it takes the student's arrays, under names of its own.
            role="student" if role == "baseline" else role, inputs=artifact.inputs, outputs=artifact.outputs, prepare=artifact.prepare,
            rename=(self.rename or {}).get(role, {}),
        )  # fmt: skip
        task = build_task(spec)
        rows = []
        for example in task.examples(self.split):
            try:
                with named(example):
                    rows.append(task.prepare(example, io))
            except (DataError, UsageError) as e:
                raise type(e)(f"{role} ({artifact.path.name}): {e.what}", e.fix) from e
            if len(rows) == count:
                break
        if not rows:
            raise DataError(f"the data for '{self.split}' is empty", "give at least one example")
        return stack_feeds(rows, count)

    def maker(self, scenario: Scenario, artifact: Artifact, role: str) -> Callable[[int], dict[str, Array]]:
        """Feeds of so many examples, as the scenario asks for them; the last ones are kept."""
        own = self.rows if scenario.name in (MULTI_STREAM, OFFLINE) else self.of
        return functools.lru_cache(maxsize=1)(functools.partial(own, artifact, role))

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
            "examples": None
            if self.task is None
            else {"data": self.task.split_digest(self.split), "split": self.split},
            "shapes": {k: list(v.shape) for k, v in feeds.items()},
            "sha256": digest,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One measurement to make.

    Attributes:
        baseline, candidates: (label, artifact); without candidates the baseline is measured alone.
        limits: by label, what gates ask of it (a number: its greatest ratio); decides when to stop, never what is kept.
        occasion: ``select`` or ``test``: timings that were chosen by are never judged on.
        own_settings: use the session settings in the models' metadata, where every model has some for here.
    """

    baseline: tuple[str, Artifact]
    candidates: Sequence[tuple[str, Artifact]]
    limits: Mapping[str, float | TimingLimits]
    feeds: Feeds
    setting: Setting
    occasion: str
    baseline_role: str = "teacher"
    scenario: Scenario = field(default_factory=Scenario)
    own_settings: bool = True

    @property
    def asked(self) -> dict[str, TimingLimits]:
        """The limits by label."""
        return {
            label: limit if isinstance(limit, TimingLimits) else TimingLimits(max_ratio=limit)
            for label, limit in self.limits.items()
        }


class _NotKeptError(Exception):
    """Evidence that does not decide is used once and not stored: the next run measures again."""


def _arms_asked(
    measurement: Measurement, asked: Mapping[str, TimingLimits]
) -> list[tuple[str, TimingLimits]]:
    """(arm, limits) of the arms that something is asked of."""
    return [(arm, asked[r["name"]]) for arm, r in measurement.arms.items() if r.get("name") in asked]


def _affinity() -> list[int] | None:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def measure_comparison(
    comparison: Comparison,
    store: StageStore,
    *,
    remeasure: bool,
    decided: Callable[[Measurement], bool] | None = None,
    protocol: Protocol | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Measure through the store; kept only when the evidence decides.

    Args:
        decided: whether it does; None: when every asked limit is passed or rejected.

    Raises:
        UsageError: the scenario does not fit; ChildError, ModelError, DataError: as :func:`edgekd.measure.measure`.
    """
    board = board_of(comparison.setting.target)
    if board is None:
        check_threads(comparison.setting.threads)
    scenario, asked = comparison.scenario, comparison.asked
    scenario.check_batch(comparison.setting.batch)
    protocol = scenario.stretched(
        protocol or Protocol(),
        least_calls=max((x.least_calls for x in asked.values()), default=0),
        calls_per_restart=max((x.calls_per_restart for x in asked.values()), default=0),
    )
    models = [comparison.baseline, *comparison.candidates]
    batch = comparison.setting.batch
    if scenario.name not in (MULTI_STREAM, OFFLINE):
        batch = comparison.feeds.batch_of(models, batch)
    setting = replace(comparison.setting, batch=batch)
    roles = [comparison.baseline_role, *["student"] * len(comparison.candidates)]
    entries = [
        (label, artifact, comparison.feeds.maker(scenario, artifact, role))
        for (label, artifact), role in zip(models, roles, strict=True)
    ]
    count = scenario.samples if scenario.name == MULTI_STREAM else batch
    machine = ledger.machine() if board is None else board.machine
    tuning = tuning_for(
        models, target=str(setting.target), scenario=scenario, batch=batch, machine=machine,
        asked=not comparison.own_settings,
    )  # fmt: skip
    key = {
        "baseline": [comparison.baseline[1].digest, dict(comparison.baseline[1].settings)],
        "candidates": [[n, a.digest, dict(a.settings)] for n, a in comparison.candidates],
        # A torch module's weights do not tell its code.
        "factories": [a.lineage.get("factory") if a.format == "torch" else None for _, a in models],
        "limits": {label: limit.to_json() for label, limit in asked.items()},
        "occasion": comparison.occasion,
        "inputs": {
            n: comparison.feeds.record(feeds_at(a.fixed_batch or 1 if scenario.name == OFFLINE else count))
            for n, a, feeds_at in entries
        },
        "scenario": [scenario.name, scenario.to_json()],
        "target": str(setting.target),
        "batch": setting.batch,
        "threads": setting.threads,
        "own_settings": [tuning.key, tuning.source, tuning.note],
        "protocol": asdict(protocol),
        "machine": digest_of(machine),
        "affinity": _affinity() if board is None else board.affinity,
        "tools": tool_versions(*_RUNTIME_PACKAGES) if board is None else board.tools,
    }

    def stop(measurement: Measurement) -> bool:
        return all(limit.should_stop(measurement, arm) for arm, limit in _arms_asked(measurement, asked))

    def decides(measurement: Measurement) -> bool:
        if decided is not None:
            return decided(measurement)
        return all(limit.decided(measurement, arm) for arm, limit in _arms_asked(measurement, asked))

    undecided: list[Measurement] = []

    def build(out: Path, resume: Path) -> None:
        if board is None:
            made = measure_scenario(
                scenario, entries[0], entries[1:], setting, record=comparison.feeds.record,
                most_over=lambda n: most_over(n, scenario.level), stop=stop, protocol=protocol, progress=progress,
                tune=tuning.arm,
            )  # fmt: skip
        else:
            made = measure_on_board(
                board, scenario, entries[0], entries[1:], setting, record=comparison.feeds.record,
                limits={label: limit.to_json() for label, limit in asked.items()}, protocol=protocol,
                progress=progress, tune=tuning.arm,
            )  # fmt: skip
        made = tuning.record(made)
        if len(made.restarts) < protocol.min_restarts or not decides(made):
            undecided.append(made)
            raise _NotKeptError
        save_measurement(made, out / "measurement.json")

    label, others = comparison.baseline[0], [n for n, _ in comparison.candidates]
    what = f"measure {', '.join(others) or label}" + (f" beside {label}" if others else "")
    try:
        result = store.run("measure", what, key, build, reuse=not remeasure)
    except _NotKeptError:
        return undecided[0]
    return load_measurement(result.folder / "measurement.json")
