"""Stages that end in an :class:`Artifact`: export and quantize."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact, load_artifact
from edgekd.data.example import Array
from edgekd.errors import DataError, UsageError
from edgekd.model import Model
from edgekd.plugins import load_plugin
from edgekd.prepare import prepare_key
from edgekd.quantize import QuantConfig
from edgekd.spec import stack_feeds
from edgekd.stages import StageStore, tool_versions
from edgekd.target import Exporter
from edgekd.tasks import ModelIO, TaskSpec, build_task


def exporter_for(format_name: str) -> Exporter:
    """The exporter plugin of a format.

    Raises:
        UsageError: no such format.
    """
    exporter: Exporter = load_plugin("edgekd.exporters", format_name)()
    return exporter


def export_model(
    model: Model, format_name: str, options: Mapping[str, Any], store: StageStore, label: str
) -> Artifact:
    """Export through the store."""
    exporter = exporter_for(format_name)
    key = {
        "model": model.as_artifact().digest,
        "factory": model.lineage.get("factory", model.factory),
        "prepare": prepare_key(model.prepare),
        "format": format_name,
        "options": dict(options),
        "tools": tool_versions("edgekd", "torch", "onnx", "onnxscript", "onnxruntime"),
    }

    def build(out: Path, resume: Path) -> None:
        exporter.export(model, out, options).save()

    return load_artifact(store.run("export", label, key, build).folder, check=False)


def calibration_feeds(
    task: TaskSpec, artifact: Artifact, limit: int, rename: Mapping[str, str]
) -> Iterator[dict[str, Array]]:
    """Feeds of the calibration split (train where there is none), at most ``limit`` examples."""
    split = calibration_split(task)
    io = ModelIO(
        role="student",
        inputs=artifact.inputs,
        outputs=artifact.outputs,
        prepare=artifact.prepare,
        rename=rename,
    )
    built = build_task(task)
    rows: list[Mapping[str, Array]] = []
    size = artifact.fixed_batch or 1
    for example in islice(built.examples(split), limit):
        rows.append(built.prepare(example, io))
        if len(rows) == size:
            yield stack_feeds(rows, size)
            rows = []
    if rows:
        yield stack_feeds(rows, size)


def calibration_split(task: TaskSpec) -> str:
    """``calibration``, else ``train``.

    Raises:
        UsageError: the task has neither.
    """
    for split in ("calibration", "train"):
        if split in task.data:
            return split
    raise UsageError(
        "static int8 needs calibration data", "give --calibration DATA, or task.data.calibration"
    )


def quantize_artifact(
    artifact: Artifact,
    config: QuantConfig,
    task: TaskSpec,
    store: StageStore,
    label: str,
    rename: Mapping[str, str] | None = None,
) -> Artifact:
    """Quantize through the store.

    Raises:
        UsageError: a configuration or format that cannot be quantized; DataError: unusable calibration data.
    """
    config.check()
    if artifact.format != "onnx":
        raise UsageError(f"{label} has the format {artifact.format}", "export it to onnx first")
    if artifact.dtype == config.dtype:
        raise DataError(f"{label} is {config.dtype} already", "give the float model")
    exporter = exporter_for(artifact.format)
    key = {
        "artifact": artifact.digest,
        "prepare": prepare_key(artifact.prepare),
        "config": config.to_json(),
        "data": task.split_digest(calibration_split(task)),
        "rename": dict(rename or {}),
        "tools": tool_versions("edgekd", "numpy", "onnx", "onnxruntime", "pillow"),
    }

    def build(out: Path, resume: Path) -> None:
        feeds = calibration_feeds(task, artifact, config.examples, rename or {})
        exporter.quantize(artifact, config, feeds, out).save()

    return load_artifact(store.run("quantize", label, key, build).folder, check=False)
