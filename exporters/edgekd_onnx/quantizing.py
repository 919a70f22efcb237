"""Static Q/DQ quantization with ONNX Runtime's quantizer."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifact import Artifact, record_file
from edgekd.data.example import Array
from edgekd.errors import DataError, ModelError
from edgekd.files import storage_error
from edgekd.lazy import require
from edgekd.quantize.config import VARIANTS, QuantConfig
from edgekd.quantize.damage import output_sqnr
from edgekd.spec import TensorSpec
from edgekd.stages import tool_versions
from edgekd.target import SessionOptions
from edgekd_onnx.reading import opset_of
from edgekd_onnx.writing import (
    ENTRY,
    EXTERNAL,
    EXTERNAL_BYTES,
    one_line,
    quiet,
    strip_provenance,
    write_proto,
)

#: QuantizeLinear has an ``axis``, which per-channel weights need, from this opset on (onnx, Operators.md).
_CHANNEL_OPSET = 13

_QUANT_TYPES = {"uint8": "QUInt8", "int8": "QInt8"}
_METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}

#: What each variant asks of the quantizer. TensorRT takes symmetric INT8 only (zero points must be zero) and
#: float biases (NVIDIA TensorRT documentation, "Working with quantized types", explicit quantization).
_EXTRA: Mapping[str, Mapping[str, Any]] = {
    "cpu": {"ActivationSymmetric": False, "WeightSymmetric": True},
    "tensorrt": {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
}


@dataclass
class CalibrationSpool:
    """Calibration feeds on disk, one file per batch: memory holds one batch, and they can be read again.

    Attributes:
        examples: examples spooled so far.
        batches: files written so far.
        constant: inputs of which every value seen so far is equal.
    """

    folder: Path
    inputs: tuple[TensorSpec, ...]
    examples: int = 0
    batches: int = 0
    _digest: Any = field(default_factory=hashlib.sha256)
    _range: dict[str, tuple[float, float]] = field(default_factory=dict)

    def fill(self, feeds: Iterable[Mapping[str, Array]], limit: int) -> None:
        """Check and write feeds until ``limit`` examples are there.

        Raises:
            DataError: none at all, feeds that do not fit the model, NaN or infinity.
        """
        for batch in feeds:
            if self.examples >= limit:
                break
            self._add(batch, limit - self.examples)
        if self.examples == 0:
            raise DataError("the calibration data is empty", "give at least one example")

    def _add(self, feeds: Mapping[str, Array], room: int) -> None:
        where = f"calibration batch {self.batches}"
        arrays: dict[str, Array] = {}
        stacked = all(s.dynamic_batch for s in self.inputs)
        for spec in self.inputs:
            if spec.name not in feeds:
                raise DataError(f"{where}: input '{spec.name}' is missing", f"the model wants {spec}")
            array = np.asarray(feeds[spec.name])
            spec.check(array, where=where)
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise DataError(
                    f"{where}: input '{spec.name}' holds NaN or infinity", "remove or repair those examples"
                )
            arrays[spec.name] = array[:room] if stacked else array
        sizes = {len(a) for a in arrays.values()} if stacked else {1}
        if len(sizes) != 1:
            raise DataError(f"{where}: inputs differ in batch size ({sorted(sizes)})", "stack them alike")
        if 0 in sizes:
            return
        for name, array in sorted(arrays.items()):
            self._digest.update(f"{name}|{array.dtype}|{array.shape}|".encode())
            self._digest.update(np.require(array, requirements="C").tobytes())
            low, high = float(array.min()), float(array.max())
            before = self._range.get(name, (low, high))
            self._range[name] = (min(low, before[0]), max(high, before[1]))
        path = self.folder / f"{self.batches}.npz"
        try:
            # Positions rather than names: an input may be called "file" or hold a slash.
            np.savez(path, *(arrays[s.name] for s in self.inputs))
        except OSError as e:
            raise storage_error(e, path) from e
        self.batches += 1
        self.examples += sizes.pop()

    def batch(self, index: int) -> dict[str, Array]:
        """One batch of feeds, read back."""
        with np.load(self.folder / f"{index}.npz", allow_pickle=False) as arrays:
            return {s.name: arrays[f"arr_{i}"] for i, s in enumerate(self.inputs)}

    @property
    def digest(self) -> str:
        """``sha256:…`` over every batch's names, dtypes, shapes and bytes."""
        return f"sha256:{self._digest.hexdigest()}"

    @property
    def constant(self) -> list[str]:
        return sorted(name for name, (low, high) in self._range.items() if low == high)


class SpoolReader:
    """Feeds ONNX Runtime's calibrator from a spool, in strides, so that histograms are folded batch by batch."""

    def __init__(self, spool: CalibrationSpool) -> None:
        self._spool = spool
        self._next, self._end = 0, spool.batches

    def __len__(self) -> int:
        return self._spool.batches

    def set_range(self, start_index: int, end_index: int) -> None:
        self._next, self._end = start_index, end_index

    def get_next(self) -> dict[str, Array] | None:
        if self._next >= self._end:
            return None
        self._next += 1
        return self._spool.batch(self._next - 1)


def preprocess(source: Path, target: Path, *, channel: bool, folder: Path) -> int:
    """Fold constants and batch norms into the weights, infer shapes, and raise an opset that is too old.

    The steps of ``onnxruntime.quantization.quant_pre_process``, which logs a failed optimisation and goes on with
    a model whose batch norms are not folded; here it is an error.

    Returns:
        The opset that the model had.

    Raises:
        ModelError: the model cannot be optimised or converted.
    """
    onnx = require("onnx", extra="ort", purpose="quantizing")
    ort = require("onnxruntime", extra="ort", purpose="quantizing")
    from edgekd_onnx.runtime import ort_errors, reason

    model = onnx.load(str(source))
    before = opset_of(model)
    if channel and before < _CHANNEL_OPSET:
        try:
            model = onnx.version_converter.convert_version(model, _CHANNEL_OPSET)
        except (RuntimeError, ValueError) as e:
            raise ModelError(
                f"{source} has opset {before}, per-channel weights need {_CHANNEL_OPSET}, and onnx cannot convert it ({one_line(e)})",
                f"export it with --opset {_CHANNEL_OPSET} or later, or quantize per tensor",
            ) from e
    converted, optimised = folder / "converted.onnx", folder / "optimised.onnx"
    large = model.ByteSize() > EXTERNAL_BYTES
    onnx.save_model(model, str(converted), save_as_external_data=large)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(optimised)
    # Basic: whatever goes further is made for this machine's CPU and would tie the file to it.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    if large:
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", "optimised.data"
        )
    try:
        ort.InferenceSession(str(converted), options, providers=["CPUExecutionProvider"], enable_fallback=0)
        onnx.shape_inference.infer_shapes_path(str(optimised), str(target))
    except (*ort_errors(), onnx.shape_inference.InferenceError) as e:
        raise ModelError(
            f"{source} cannot be prepared for quantization ({reason(e)})", "check that it runs: edgekd bench"
        ) from e
    return before


def _calibration_options(config: QuantConfig) -> dict[str, Any]:
    # Min-max keeps two numbers per tensor and batch; the histogram methods keep whole activations
    # until they are folded, so they are folded after every batch.
    return {} if config.calibration == "minmax" else {"CalibStridedMinMax": 1}


def quantize_artifact(
    artifact: Artifact, config: QuantConfig, feeds: Iterable[Mapping[str, Array]], out: Path
) -> Artifact:
    """See :meth:`edgekd_onnx.exporter.OnnxExporter.quantize`."""
    config.check()
    if artifact.format != "onnx" or artifact.dtype != "float32":
        raise ModelError(
            f"{artifact.path} is {artifact.format} of {artifact.dtype}, only float32 onnx can be quantized",
            "give the float32 export",
        )
    require("onnxruntime.quantization", extra="ort", purpose="quantizing")
    try:
        work = tempfile.TemporaryDirectory(prefix=".quantize-", dir=out)
    except OSError as e:
        raise storage_error(e, out) from e
    with work as name:
        folder = Path(name)
        spool = CalibrationSpool(folder=folder, inputs=artifact.inputs)
        spool.fill(feeds, config.examples)
        prepared, raw = folder / "prepared.onnx", folder / "quantized.onnx"
        opset = preprocess(artifact.path, prepared, channel=config.granularity == "channel", folder=folder)
        proto = _quantize(prepared, raw, config, spool)
        try:
            files = write_proto(proto, out, large=proto.ByteSize() > EXTERNAL_BYTES)
            sqnr = _check(artifact, out / files[0], spool)
        except BaseException:
            for left in (ENTRY, EXTERNAL):
                (out / left).unlink(missing_ok=True)
            raise
    return Artifact(
        folder=out,
        entry=files[0],
        format="onnx",
        dtype=config.dtype,
        files=tuple(record_file(out, f) for f in sorted(files)),
        inputs=artifact.inputs,
        outputs=artifact.outputs,
        prepare=dict(artifact.prepare),
        output=dict(artifact.output),
        lineage={
            **artifact.lineage,
            "quantized_from": artifact.digest,
            "quantization": config.to_json(),
            "calibration": {
                "examples": spool.examples, "batches": spool.batches, "digest": spool.digest,
                "constant_inputs": spool.constant,
            },
            "quantized_nodes": _count_quantized(proto),
            "opset": opset_of(proto),
            "opset_before": opset,
            "sqnr_db": sqnr,
            "tools": {**artifact.lineage.get("tools", {}), **tool_versions("onnx", "onnxruntime")},
        },
    )  # fmt: skip


def _quantize(prepared: Path, raw: Path, config: QuantConfig, spool: CalibrationSpool) -> Any:
    from edgekd_onnx.runtime import ort_errors, reason

    onnx = require("onnx", extra="ort", purpose="quantizing")
    quantization = require("onnxruntime.quantization", extra="ort", purpose="quantizing")
    activation, weight = VARIANTS[config.variant]
    # The quantizer stumbles over graphs that it does not know with plain Python errors.
    failures: tuple[type[BaseException], ...] = (*ort_errors(), TypeError, KeyError, IndexError)
    large = any(p.name == "optimised.data" for p in prepared.parent.iterdir())
    # The calibrator makes temporary folders of its own; they go where ours is, and with it.
    before, tempfile.tempdir = tempfile.tempdir, str(prepared.parent)
    try:
        with quiet():
            quantization.quantize_static(
                str(prepared),
                str(raw),
                SpoolReader(spool),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType[_QUANT_TYPES[activation]],
                weight_type=quantization.QuantType[_QUANT_TYPES[weight]],
                calibrate_method=quantization.CalibrationMethod[_METHODS[config.calibration]],
                per_channel=config.granularity == "channel",
                use_external_data_format=large,
                extra_options={**_EXTRA[config.variant], **_calibration_options(config)},
            )
    except OSError as e:
        raise storage_error(e, raw) from e
    except failures as e:
        raise ModelError(
            f"onnxruntime cannot quantize this model ({reason(e)})",
            "try another --method, or leave it in float32",
        ) from e
    finally:
        tempfile.tempdir = before
    proto = onnx.load(str(raw))
    if not _count_quantized(proto):
        raise ModelError(
            "the model has no operator that can be quantized", "leave it in float32 (quantize: [float32])"
        )
    strip_provenance(proto)
    _sort_initializers(proto)
    return proto


def _sort_initializers(proto: Any) -> None:
    """The quantizer's order depends on hash seeds in places; initializers have no order of their own."""
    for values in (proto.graph.initializer, proto.graph.value_info):
        ordered = sorted(values, key=lambda v: v.name)
        del values[:]
        values.extend(ordered)


def _count_quantized(proto: Any) -> int:
    return sum(n.op_type == "QuantizeLinear" for n in proto.graph.node)


def _check(artifact: Artifact, path: Path, spool: CalibrationSpool) -> dict[str, float | None]:
    """Run both on the first calibration batch; signal to noise of each output in dB, None where it is exact.

    Raises:
        ModelError: the quantized model does not run, or gives NaN or infinity where the original did not.
    """
    from edgekd_onnx.runtime import OnnxRuntime

    feeds = spool.batch(0)
    options = SessionOptions(threads=min(2, os.cpu_count() or 1))
    runtime = OnnxRuntime()
    results = []
    for file in (artifact.path, path):
        session = runtime.open(file, options)
        results.append(session.run(feeds))
        session.close()
    return output_sqnr(*results)
