"""Stages that end in an :class:`Artifact`: export, convert and quantize."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact, load_artifact
from edgekd.data.example import Array
from edgekd.errors import DataError, UsageError
from edgekd.model import Model
from edgekd.pipeline.routes import exporter_for, find_route, starts_with_onnx
from edgekd.prepare import prepare_key
from edgekd.quantize import QuantConfig
from edgekd.spec import stack_feeds
from edgekd.stages import StageStore, tool_versions
from edgekd.target import ConvertingExporter, MachineBoundExporter, ModelQuantizer, QuantizedAtSource
from edgekd.tasks import ModelIO, TaskSpec, build_task

#: Packages whose versions decide what an export or a quantization makes.
_TOOLS = (
    "edgekd", "numpy", "torch", "onnx", "onnxscript", "onnxruntime", "onnxslim", "optimum", "optimum-onnx",
    "transformers", "openvino", "nncf", "executorch", "torchao", "ai-edge-litert", "ai-edge-quantizer", "tensorrt",
    "pillow",
)  # fmt: skip
#: Options that only the step which writes ONNX understands.
_OF_ONNX = ("opset", "optimize")
#: Options that every step is given.
_OF_ALL = ("shapes", "atol", "rtol")


def export_model(
    model: Model, format_name: str, options: Mapping[str, Any], store: StageStore, label: str
) -> Artifact:
    """Write a torch model in a format, through the store; by way of ONNX where the format is made of it.

    Raises:
        UsageError: no such format, or an option that it does not have; ModelError: not exportable, or not equal.
    """
    exporter = exporter_for(format_name)
    if starts_with_onnx(exporter):
        first, last = _split(options)
        made = export_model(model, "onnx", first, store, f"{label} (onnx)")
        return _convert(made, format_name, last, store, label)
    key = {
        "model": model.as_artifact().digest,
        "factory": model.lineage.get("factory", model.factory),
        "prepare": prepare_key(model.prepare),
        "format": format_name,
        "options": dict(options),
        "tools": tool_versions(*_TOOLS),
    }

    def build(out: Path, resume: Path) -> None:
        exporter.export(model, out, options).save()

    return load_artifact(store.run("export", label, key, build).folder, check=False)


def export_to(
    source: Model | Artifact, format_name: str, options: Mapping[str, Any], store: StageStore, label: str
) -> Artifact:
    """A torch model or an artifact in a format, by as many steps as that takes.

    An artifact that has the format already is returned as it is, unless ``options`` ask for something else of it.

    Raises:
        UsageError: no such format, no way to it, or an option; ModelError: as the steps say.
    """
    if isinstance(source, Model):
        return export_model(source, format_name, options, store, label)
    steps = find_route(source.format, format_name)
    asked = {k: v for k, v in options.items() if v and k not in _OF_ALL}
    if not steps and asked:
        steps = (format_name,)
    for number, step in enumerate(steps):
        first, last = _split(options)
        chosen = options if len(steps) == 1 else last if number == len(steps) - 1 else first
        source = _convert(source, step, chosen, store, label)
    return source


def _split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the step to ONNX is given, and what the one after it is."""
    first = {k: v for k, v in options.items() if k in (*_OF_ONNX, *_OF_ALL)}
    return first, {k: v for k, v in options.items() if k not in _OF_ONNX}


def _convert(
    artifact: Artifact, format_name: str, options: Mapping[str, Any], store: StageStore, label: str
) -> Artifact:
    exporter = exporter_for(format_name)
    if not isinstance(exporter, ConvertingExporter) or artifact.format not in exporter.sources:
        raise UsageError(
            f"{label}: the {format_name} exporter makes nothing of a file in format {artifact.format}",
            "give the torch model",
        )
    key = {
        "artifact": artifact.digest,
        "prepare": prepare_key(artifact.prepare),
        "format": format_name,
        "options": dict(options),
        "machine": dict(exporter.machine_key()) if isinstance(exporter, MachineBoundExporter) else None,
        "tools": tool_versions(*_TOOLS),
    }

    def build(out: Path, resume: Path) -> None:
        exporter.convert(artifact, out, options).save()

    return load_artifact(store.run("convert", label, key, build).folder, check=False)


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
    """Quantize an artifact in its own format, through the store.

    Raises:
        UsageError: a configuration or format that cannot be quantized; DataError: unusable calibration data.
    """
    config.check()
    if artifact.dtype == config.dtype:
        raise DataError(f"{label} is {config.dtype} already", "give the float model")
    exporter = exporter_for(artifact.format)

    def build(out: Path, resume: Path) -> None:
        feeds = calibration_feeds(task, artifact, config.examples, rename or {})
        exporter.quantize(artifact, config, feeds, out).save()

    key = {"artifact": artifact.digest, "prepare": prepare_key(artifact.prepare)}
    key |= _calibration_key(config, task, rename)
    return load_artifact(store.run("quantize", label, key, build).folder, check=False)


def quantize_to(
    source: Model | Artifact,
    format_name: str,
    config: QuantConfig,
    task: TaskSpec,
    options: Mapping[str, Any],
    store: StageStore,
    label: str,
    rename: Mapping[str, str] | None = None,
) -> Artifact:
    """A quantized model in a format, quantized where that format wants it: in its own files, in the source it is made
    of, or in torch.

    Raises:
        UsageError: a configuration, or a format that cannot be quantized from this source; DataError: unusable
        calibration data; ModelError: as the steps say.
    """
    config.check()
    exporter = exporter_for(format_name)
    if isinstance(exporter, QuantizedAtSource):
        first, last = _split(options)
        base = export_to(source, exporter.quantized_source, first, store, f"{label} (float)")
        own = replace(config, variant=exporter.quantized_variant)
        made = quantize_artifact(base, own, task, store, f"{label} ({exporter.quantized_source})", rename)
        return export_to(made, format_name, last, store, label)
    if isinstance(exporter, ModelQuantizer):
        return _quantize_model(source, exporter, format_name, config, task, options, store, label, rename)
    base = export_to(source, format_name, options, store, f"{label} (float)")
    return quantize_artifact(base, config, task, store, label, rename)


def _quantize_model(
    source: Model | Artifact,
    exporter: ModelQuantizer,
    format_name: str,
    config: QuantConfig,
    task: TaskSpec,
    options: Mapping[str, Any],
    store: StageStore,
    label: str,
    rename: Mapping[str, str] | None,
) -> Artifact:
    if not isinstance(source, Model):
        raise UsageError(
            f"{label}: {format_name} is quantized from the torch model, and this is a file in format {source.format}",
            "give zoo:NAME, python:module:factory or a model folder",
        )
    described = source.as_artifact()

    def build(out: Path, resume: Path) -> None:
        feeds = calibration_feeds(task, described, config.examples, rename or {})
        exporter.quantize_model(source, config, feeds, out, options).save()

    key = {
        "model": described.digest,
        "factory": source.lineage.get("factory", source.factory),
        "prepare": prepare_key(source.prepare),
        "format": format_name,
        "options": dict(options),
        **_calibration_key(config, task, rename),
    }
    return load_artifact(store.run("quantize", label, key, build).folder, check=False)


def _calibration_key(config: QuantConfig, task: TaskSpec, rename: Mapping[str, str] | None) -> dict[str, Any]:
    return {
        "config": config.to_json(),
        "data": task.split_digest(calibration_split(task)),
        "rename": dict(rename or {}),
        "tools": tool_versions(*_TOOLS),
    }
