"""ONNX files quantized: which quantizer a configuration goes to, what is refused before, and what is checked after."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact, record_file
from edgekd.data.example import Array
from edgekd.errors import ModelError, UsageError
from edgekd.files import storage_error
from edgekd.lazy import require
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.damage import ANYTHING, BOUNDS
from edgekd.quantize.experts import to_lineage
from edgekd.quantize.record import CHECKED_EXAMPLES, check_against, quantization_lineage
from edgekd.quantize.spool import CalibrationSpool, spooled
from edgekd.quantize.support import Support
from edgekd.target import SessionOptions
from edgekd_onnx import writing
from edgekd_onnx.dynamic_quantizing import quantize_dynamic
from edgekd_onnx.experts import check_experts_onnx
from edgekd_onnx.finishing import threads_here
from edgekd_onnx.preparing import Prepared, prepare
from edgekd_onnx.quantizable import refuse_file, refuse_prepared
from edgekd_onnx.reading import load_graph, opset_of
from edgekd_onnx.static_quantizing import quantize_static
from edgekd_onnx.weight_only import FUSED, UNPACKED, describe, quantize_weights
from edgekd_onnx.writing import ENTRY, EXTERNAL, strip_provenance, weight_bytes, write_proto

_WEIGHTS = ("block", "channel", "tensor")
_CALIBRATIONS = ("minmax", "entropy", "percentile", "mse")
#: What ONNX Runtime and TensorRT take of what is written here; of FP8 see :data:`edgekd_onnx.fp8.SUPPORT`.
SUPPORT = {
    "cpu": Support(
        writer="ONNX Runtime's quantizer",
        granularities={
            ("int8", "static"): ("channel", "tensor"),
            ("int8", "dynamic"): ("channel", "tensor"),
            ("int8", "weight-only"): _WEIGHTS,
            ("int4", "weight-only"): _WEIGHTS,
        },
        calibrations=_CALIBRATIONS,
        variants=("cpu",),
        keep_float=True,
        ranges=True,
        accuracy_level=True,
    ),
    "tensorrt": Support(
        writer="ONNX for TensorRT",
        granularities={
            ("int8", "static"): ("channel", "tensor"),
            ("int4", "weight-only"): ("block",),
        },
        calibrations=_CALIBRATIONS,
        variants=("tensorrt",),
        keep_float=True,
        ranges=True,
    ),
}
#: Operators that hold or make quantized values; see :func:`_count_quantized`.
_QUANTIZERS = ("QuantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM", "QAttention", FUSED)


def quantize_artifact(
    artifact: Artifact, config: QuantConfig, feeds: Iterable[Mapping[str, Array]], out: Path
) -> Artifact:
    """See :meth:`edgekd_onnx.exporter.OnnxExporter.quantize`."""
    config.check()
    _support(config).check(config)
    if config.granularity != "block" and config.accuracy_level != QuantConfig().accuracy_level:
        raise UsageError(
            f"accuracy_level {config.accuracy_level} goes with weight-only blocks, the granularity is {config.granularity}",
            "choose block, or leave it out",
        )
    if artifact.format != "onnx" or artifact.dtype != "float32":
        raise ModelError(
            f"{artifact.path} is {artifact.format} of {artifact.dtype}, only float32 onnx can be quantized",
            "give the float32 export",
        )
    require("onnxruntime.quantization", extra="ort", purpose="quantizing")
    refuse_file(load_graph(artifact.path), artifact.path)
    try:
        work = tempfile.TemporaryDirectory(prefix=".quantize-", dir=out)
    except OSError as e:
        raise storage_error(e, out) from e
    with work as name:
        folder = Path(name)
        draw = 0 if config.calibrated else CHECKED_EXAMPLES
        spool = spooled(feeds, folder, artifact.inputs, config.examples, draw=draw)
        experts = to_lineage(check_experts_onnx(artifact.path, spool)) if config.calibrated else {}
        if config.dtype == "float8e4m3fn":
            from edgekd_onnx.fp8 import quantize_fp8

            made = quantize_fp8(artifact, config, spool, out)
            return replace(made, lineage={**made.lineage, **experts})
        try:
            prepared = prepare(artifact.path, config, folder)
            refuse_prepared(load_graph(prepared.path).graph)
            proto, masks = _quantize(prepared, config, spool)
            files = write_proto(proto, out, large=weight_bytes(proto) > writing.EXTERNAL_BYTES)
            damage = _check(artifact, out / files[0], spool, config)
        except BaseException as e:
            for left in (ENTRY, EXTERNAL):
                (out / left).unlink(missing_ok=True)
            if isinstance(e, ModelError) and str(out) in e.what:
                raise ModelError(_of_source(e.what, out, artifact.path), e.fix) from e
            raise
    choices = {"left_in_float": masks} if masks else _choices(proto, config, out / files[0])
    lineage = quantization_lineage(
        artifact, config, spool, damage,
        nodes=_count_quantized(proto), tools=("onnx", "onnxruntime"), choices=choices,
    )  # fmt: skip
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
            **lineage,
            **experts,
            "opset": opset_of(proto),
            "opset_before": prepared.opset_before,
        },
    )


def _support(config: QuantConfig) -> Support:
    if config.dtype == "float8e4m3fn":
        from edgekd_onnx import fp8

        return fp8.SUPPORT
    return SUPPORT[config.variant]


def _quantize(prepared: Prepared, config: QuantConfig, spool: CalibrationSpool) -> tuple[Any, list[str]]:
    masks: list[str] = []
    if config.mode == "static":
        proto, masks = quantize_static(prepared, config, spool)
    elif config.mode == "dynamic":
        proto = quantize_dynamic(prepared, config)
    else:
        proto = quantize_weights(prepared, config)
    if not _count_quantized(proto):
        raise ModelError(
            "the model has no operator that can be quantized", "leave it in float32 (quantize: [float32])"
        )
    strip_provenance(proto)
    _sort_initializers(proto)
    return proto, masks


def _sort_initializers(proto: Any) -> None:
    """The quantizer's order depends on hash seeds in places; initializers have no order of their own."""
    for values in (proto.graph.initializer, proto.graph.value_info):
        ordered = sorted(values, key=lambda v: v.name)
        del values[:]
        values.extend(ordered)


def _count_quantized(proto: Any) -> int:
    """Nodes that quantize or compute in the precision; of weights alone the nodes that dequantize them."""
    found = sum(n.op_type in _QUANTIZERS for n in proto.graph.node)
    return found or sum(n.op_type == UNPACKED for n in proto.graph.node)


def _choices(proto: Any, config: QuantConfig, path: Path) -> dict[str, Any]:
    """What is not in ``config``: which operators became what."""
    if config.mode == "weight-only":
        return {"weights": describe(path)}
    if config.mode == "dynamic":
        operators = sorted({n.op_type for n in proto.graph.node} & set(_QUANTIZERS))
        return {"operators": operators, "left_in_float": _left(proto)}
    return {}


def _left(proto: Any) -> list[str]:
    """Weighted operators that dynamic quantization leaves in float."""
    constants = {t.name for t in proto.graph.initializer}
    return sorted(
        {
            n.op_type
            for n in proto.graph.node
            if n.op_type in ("Conv", "ConvTranspose", "GRU", "RNN", "MatMul", "LSTM")
            and constants & set(n.input)
        }
    )


def _of_source(text: str, out: Path, source: Path) -> str:
    """A message about files that are being written, which will be gone, as one about the file that they are made of."""
    made = f"what {source} is quantized to"
    return re.sub(rf"{re.escape(str(out))}(/[\w.-]+)*", lambda m: m[0] if m[0] == str(source) else made, text)


def _check(artifact: Artifact, path: Path, spool: CalibrationSpool, config: QuantConfig) -> Any:
    """Compare both on the spooled examples.

    Raises:
        ModelError: the quantized model does not run, or its answers are broken.
    """
    from edgekd_onnx.runtime import OnnxRuntime

    options = SessionOptions(threads=min(2, threads_here()))
    return check_against(
        lambda: OnnxRuntime().open(artifact.path, options), lambda: OnnxRuntime().open(path, options), spool,
        # What was trained rounded is right rounded, and was compared as such when it was trained.
        bounds=ANYTHING if config.ranges else BOUNDS,
    )  # fmt: skip
