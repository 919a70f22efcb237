"""Models side by side on this machine's CPU, whichever runtime each needs: answers on the test split, and timings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgekd.artifact import Artifact
from edgekd.evaluate import EvaluationRequest
from edgekd.evidence import Evaluation, Measurement
from edgekd.gates.latency import ratio_of
from edgekd.measure import Scenario, Setting, measure_scenario
from edgekd.measure.arm import Arm, Protocol
from edgekd.pipeline.collect import Feeds, evaluate_artifact
from edgekd.pipeline.targets import present_target
from edgekd.stages import StageStore
from edgekd.target import usable_cpus
from edgekd.tasks import TaskSpec

#: Format -> the target that runs it.
TARGETS = {"onnx": "cpu:onnxruntime", "openvino": "cpu:openvino"}
Labelled = tuple[str, Artifact]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How a model runs.

    Attributes:
        sessions: side by side; threads: of each; batch: of each, None where the scenario is to find it.
    """

    sessions: int = 1
    threads: int = 1
    batch: int | None = None


def answers_of(
    label: str,
    artifact: Artifact,
    task: TaskSpec,
    store: StageStore,
    *,
    role: str = "student",
    split: str = "test",
) -> Evaluation:
    """Evaluate through the store, with all CPUs."""
    target = present_target(TARGETS[artifact.format])
    request = EvaluationRequest(
        label=label, artifact=artifact, target=target.target, runtime_paths=target.runtime_paths, task=task, split=split,
        data_digest=task.split_digest(split), role=role, output={}, rename={}, batch=64, threads=usable_cpus(),
        timeout_s=3600.0, memory_bytes=None, search=(Path(task.base),),
    )  # fmt: skip
    return evaluate_artifact(request, store)


def race(
    scenario: Scenario,
    baseline: Labelled,
    candidates: Sequence[Labelled],
    task: TaskSpec,
    *,
    shape: Callable[[str], Shape],
    restarts: int,
) -> Measurement:
    """One interleaved measurement of models of any format.

    Args:
        shape: of the arm of a label.
    """
    targets = {format_name: present_target(t) for format_name, t in TARGETS.items()}
    # One runtime for each format: OpenVINO would open ONNX files, too.
    paths = {format_name: t.runtime_paths[format_name] for format_name, t in targets.items()}
    setting = Setting(
        target=targets["onnx"].target, runtime_paths=paths, threads=1, batch=1, timeout_s=300.0, memory_bytes=None,
        search=(Path(task.base),),
    )  # fmt: skip
    feeds = Feeds(task=task, split="test")

    def tune(arm: Arm, label: str) -> Arm:
        own = shape(label)
        return replace(
            arm,
            sessions=own.sessions,
            threads=own.threads,
            batch=own.batch,
            settings=dict(arm.artifact.settings),
        )

    entries = [(label, a, feeds.maker(scenario, a, "student")) for label, a in [baseline, *candidates]]
    return measure_scenario(
        scenario, entries[0], entries[1:], setting, record=feeds.record, most_over=lambda n: 0,
        protocol=Protocol(min_restarts=restarts, max_restarts=restarts), tune=tune,
    )  # fmt: skip


def ratios(found: Measurement) -> dict[str, tuple[float, float, float]]:
    """Label -> time per example over the baseline's, with its 95 % interval."""
    return {str(found.arms[arm]["name"]): ratio_of(found, arm) for arm in found.candidates}


def ns_per_example(found: Measurement) -> float:
    """The least of the baseline's calls, by example."""
    return float(found.calls_ns("baseline").min()) / int(found.arms["baseline"].get("batch") or 1)
