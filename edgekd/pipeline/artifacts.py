"""Stages that end in an :class:`Artifact`: export, convert and quantize."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifact import Artifact, load_artifact
from edgekd.data.example import Array, Example
from edgekd.engine_trust import NATIVE_FORMATS, is_built_by, remember_built
from edgekd.errors import DataError, UsageError
from edgekd.files import digest_of, sha256_file, storage_error
from edgekd.model import Model
from edgekd.pipeline.real_feeds import given, keyed
from edgekd.pipeline.routes import exporter_for, find_route, starts_with_onnx
from edgekd.prepare import prepare_key
from edgekd.quantize import QuantConfig
from edgekd.quantize.spool import CalibrationSpool, spooled
from edgekd.quantize.trained import load_trained
from edgekd.spec import stack_feeds
from edgekd.stages import StageStore, tool_versions
from edgekd.target import (
    ConvertingExporter,
    Exporter,
    MachineBoundExporter,
    ModelQuantizer,
    QuantizedAtSource,
)
from edgekd.tasks import ModelIO, TaskSpec, build_task

#: Packages whose versions decide what an export or a quantization makes.
_TOOLS = (
    "edgekd", "numpy", "torch", "onnx", "onnxscript", "onnxruntime", "onnxslim", "optimum", "optimum-onnx",
    "transformers", "openvino", "nncf", "executorch", "torchao", "ai-edge-litert", "ai-edge-quantizer", "tensorrt",
    "pillow",
)  # fmt: skip
#: Packages that decide what FP8 files are, beside those; other stages do not depend on them.
_FLOAT8_TOOLS = ("nvidia-modelopt", "onnx-graphsurgeon", "ml-dtypes")
#: Options that every step is given.
_OF_ALL = ("shapes", "feeds", "atol", "rtol")
_ONNX = "onnx"


def _key(exporter: Exporter, options: Mapping[str, Any]) -> dict[str, Any]:
    """What of an exporter, its options and this machine decides what it writes; files that options name by content."""
    named = [n for n in getattr(exporter, "FILE_OPTIONS", ()) if options.get(n)]
    return {
        "format": exporter.format,
        "options": keyed(options),
        "option_files": {
            n: sha256_file(Path(str(options[n]))) for n in named if Path(str(options[n])).is_file()
        },
        "machine": dict(exporter.machine_key()) if isinstance(exporter, MachineBoundExporter) else None,
        "tools": tool_versions(*_TOOLS),
    }


def _source_key(artifact: Artifact) -> dict[str, Any]:
    """What a conversion or a quantization takes from an artifact: its bytes, and all that is carried over."""
    return {
        "artifact": artifact.digest,
        "prepare": prepare_key(artifact.prepare),
        "carried": {
            "output": dict(artifact.output),
            "dtype": artifact.dtype,
            "settings": dict(artifact.settings),
            "inputs": [s.to_json() for s in artifact.inputs],
            "outputs": [s.to_json() for s in artifact.outputs],
        },
    }


def _model_key(model: Model) -> dict[str, Any]:
    return {
        "model": model.as_artifact().digest,
        "factory": model.lineage.get("factory", model.factory),
        "prepare": prepare_key(model.prepare),
        "output": dict(model.output),
    }


def export_model(
    model: Model, format_name: str, options: Mapping[str, Any], store: StageStore, label: str
) -> Artifact:
    """Write a torch model in a format, through the store; by way of ONNX where the format is made of it.

    Raises:
        UsageError: no such format, or an option that it does not have; ModelError: not exportable, or not equal.
    """
    exporter = exporter_for(format_name)
    if starts_with_onnx(exporter):
        first, last = _split(options, exporter)
        made = export_model(model, _ONNX, first, store, f"{label} (onnx)")
        return _convert(made, format_name, last, store, label)
    key = {**_model_key(model), **_key(exporter, options)}

    def build(out: Path, resume: Path) -> None:
        exporter.export(model, out, given(options, model.as_artifact())).save()

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
    first, last = _split(options, exporter_for(format_name))
    if not steps and any(k not in _OF_ALL for k in options):
        steps = (format_name,)
    elif source.format == _ONNX and format_name != _ONNX and any(k not in _OF_ALL for k in first):
        steps = (_ONNX, *steps)  # the graph is changed before it becomes something else
    for step in steps:
        chosen = options if steps == (format_name,) else last if step == format_name else first
        source = _convert(source, step, chosen, store, label)
    return source


def _split(options: Mapping[str, Any], last: Exporter) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the step to ONNX is given, and what the exporter after it is: its own options, and those of every step."""
    own = getattr(last, "OPTIONS", {})
    onnx = {"opset", *getattr(exporter_for(_ONNX), "OPTIONS", {})}
    if "dtype" not in getattr(last, "COMMON", ("dtype",)):
        onnx.add("dtype")
    before = {k for k in options if k in onnx and k not in own} if last.format != _ONNX else set()
    first = {k: v for k, v in options.items() if k in before or k in _OF_ALL}
    return first, {k: v for k, v in options.items() if k not in before}


def _convert(
    artifact: Artifact, format_name: str, options: Mapping[str, Any], store: StageStore, label: str
) -> Artifact:
    exporter = exporter_for(format_name)
    if not isinstance(exporter, ConvertingExporter) or artifact.format not in exporter.sources:
        raise UsageError(
            f"{label}: the {format_name} exporter makes nothing of a file in format {artifact.format}",
            "give the torch model",
        )
    key = {**_source_key(artifact), **_key(exporter, options)}

    def build(out: Path, resume: Path) -> None:
        exporter.convert(artifact, out, given(options, artifact)).save()

    stage = store.run("convert", label, key, build)
    made = load_artifact(stage.folder, check=False)
    if exporter.format not in NATIVE_FORMATS:
        return made
    if stage.cached and not is_built_by(made, stage.digest, store.root):
        # Altered, or carried here from elsewhere: native code is loaded only where this host built it.
        stage = store.run("convert", label, key, build, reuse=False)
        made = load_artifact(stage.folder, check=False)
    remember_built(made, stage.digest, store.root)
    return made


def calibration_feeds(
    task: TaskSpec, artifact: Artifact, limit: int, rename: Mapping[str, str], seed: int | None = None
) -> Iterator[dict[str, Array]]:
    """Feeds of the calibration split (train where there is none), at most ``limit`` examples.

    Args:
        seed: draws the examples from the whole split, without replacement, in the order of the data; None takes the
            first ones.

    Raises:
        UsageError: the task has neither split; DataError: it holds no example.
    """
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
    found = 0
    for example in _drawn(lambda: built.examples(split), limit, seed):
        found += 1
        rows.append(built.prepare(example, io))
        if len(rows) == size:
            yield stack_feeds(rows, size)
            rows = []
    if rows:
        yield stack_feeds(rows, size)
    if not found:
        raise DataError(f"the {split} data '{task.data[split]}' is empty", "give at least one example")


def _drawn(read: Callable[[], Iterator[Example]], limit: int, seed: int | None) -> Iterator[Example]:
    if seed is None:
        return islice(read(), limit)
    # Counted first and read again: memory then holds one example, whatever the size of the data.
    count = sum(1 for _ in read())
    chosen = set(np.random.default_rng(seed).choice(count, min(limit, count), replace=False).tolist())
    return (example for i, example in enumerate(read()) if i in chosen)


def calibration_split(task: TaskSpec) -> str:
    """``calibration``, else ``train``.

    Raises:
        UsageError: the task has neither.
    """
    for split in ("calibration", "train"):
        if split in task.data:
            return split
    raise UsageError(
        "static quantization needs calibration data", "give --calibration DATA, or task.data.calibration"
    )


def _feeds(
    config: QuantConfig, task: TaskSpec, artifact: Artifact, rename: Mapping[str, str]
) -> Iterable[Mapping[str, Array]]:
    """What the exporter is given: none where the task has no data and ``config`` can do without."""
    if not (config.calibrated or _has_data(task)):
        return ()
    return calibration_feeds(task, artifact, config.examples, rename, config.seed)


@dataclass
class Spools:
    """Calibration examples that several quantizations share: read and prepared once for each float file.

    Attributes:
        folder: where they lie.
    """

    folder: Path
    _made: dict[str, CalibrationSpool] = field(default_factory=dict)

    def of(
        self, artifact: Artifact, config: QuantConfig, task: TaskSpec, rename: Mapping[str, str]
    ) -> CalibrationSpool:
        """The spool of an artifact and of what ``config`` asks to calibrate with.

        Raises:
            UsageError, DataError: as :func:`calibration_feeds` and :meth:`CalibrationSpool.fill`.
        """
        key = digest_of([artifact.digest, config.examples, config.seed]).removeprefix("sha256:")
        if key not in self._made:
            folder = self.folder / key
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as e:
                raise storage_error(e, folder) from e
            feeds = calibration_feeds(task, artifact, config.examples, rename, config.seed)
            self._made[key] = spooled(feeds, folder, artifact.inputs, config.examples)
        return self._made[key]


def _has_data(task: TaskSpec) -> bool:
    return "calibration" in task.data or "train" in task.data


def quantize_artifact(
    artifact: Artifact,
    config: QuantConfig,
    task: TaskSpec,
    store: StageStore,
    label: str,
    rename: Mapping[str, str] | None = None,
    spools: Spools | None = None,
) -> Artifact:
    """Quantize an artifact in its own format, through the store.

    Args:
        spools: where calibration is kept for the next quantization of the same artifact and task.

    Raises:
        UsageError: a configuration or format that cannot be quantized; DataError: unusable calibration data.
    """
    config.check()
    if artifact.dtype == config.dtype:
        raise DataError(f"{label} is {config.dtype} already", "give the float model")
    exporter = exporter_for(artifact.format)

    def build(out: Path, resume: Path) -> None:
        feeds: Iterable[Mapping[str, Array]]
        if spools is not None and config.calibrated:
            feeds = spools.of(artifact, config, task, rename or {})
        else:
            feeds = _feeds(config, task, artifact, rename or {})
        exporter.quantize(artifact, config, feeds, out).save()

    key = {**_source_key(artifact), **_key(exporter, {}), **_calibration_key(exporter, config, task, rename)}
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
        first, last = _split(options, exporter)
        base = export_to(source, exporter.quantized_source, first, store, f"{label} (float)")
        own = _with_trained_ranges(source, replace(config, variant=exporter.quantized_variant))
        made = quantize_artifact(base, own, task, store, f"{label} ({exporter.quantized_source})", rename)
        return export_to(made, format_name, last, store, label)
    config = _with_trained_ranges(source, config)
    if config.ranges and format_name != _ONNX:
        if not starts_with_onnx(exporter):
            raise UsageError(
                f"{label}: it was trained with fake quantization, and {format_name} takes no ranges from training",
                f"export it to {_ONNX} or a format made of it, or train without distill.fake_quant",
            )
        first, last = _split(options, exporter)
        made = quantize_to(source, _ONNX, config, task, first, store, f"{label} ({_ONNX})", rename)
        return export_to(made, format_name, last, store, label)
    if isinstance(exporter, ModelQuantizer):
        return _quantize_model(source, exporter, format_name, config, task, options, store, label, rename)
    base = export_to(source, format_name, options, store, f"{label} (float)")
    return quantize_artifact(base, config, task, store, label, rename)


def _with_trained_ranges(source: Model | Artifact, config: QuantConfig) -> QuantConfig:
    if not isinstance(source, Model) or not source.quantization:
        return config
    return load_trained(source.folder / source.quantization).applied(config, source.name)


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
        feeds = _feeds(config, task, described, rename or {})
        exporter.quantize_model(source, config, feeds, out, given(options, described)).save()

    key = {
        **_model_key(source), **_key(exporter_for(format_name), options),
        **_calibration_key(exporter_for(format_name), config, task, rename),
    }  # fmt: skip
    return load_artifact(store.run("quantize", label, key, build).folder, check=False)


def _calibration_key(
    exporter: Exporter, config: QuantConfig, task: TaskSpec, rename: Mapping[str, str] | None
) -> dict[str, Any]:
    key = {
        "quantizer": getattr(exporter, "QUANTIZER", 1),
        "config": config.to_json(),
        "data": task.split_digest(calibration_split(task)) if config.calibrated or _has_data(task) else None,
        "rename": dict(rename or {}),
    }
    if config.dtype == "float8e4m3fn":
        key["float8_tools"] = tool_versions(*_FLOAT8_TOOLS)
    return key
