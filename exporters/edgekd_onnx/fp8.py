"""FP8 (E4M3) as Q/DQ pairs around convolutions, matrix products and residual additions, by NVIDIA Model Optimizer."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact, record_file
from edgekd.child.process import ChildProcess, Limits
from edgekd.errors import ModelError
from edgekd.files import storage_error
from edgekd.lazy import require
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.record import check_against, quantization_lineage
from edgekd.quantize.spool import CalibrationSpool
from edgekd.quantize.support import Support
from edgekd.target import SessionOptions
from edgekd_onnx.emulation import FLOAT8
from edgekd_onnx.fp8_proof import find_pairs, prove_emulation
from edgekd_onnx.fp8_writing import METHODS, PURPOSE
from edgekd_onnx.preparing import Prepared, prepare
from edgekd_onnx.reading import opset_of
from edgekd_onnx.runtime import OnnxRuntime
from edgekd_onnx.writing import ENTRY, EXTERNAL, EXTERNAL_BYTES, strip_provenance, weight_bytes, write_proto

#: One file serves every target: weights have a scale per output channel, activations one per tensor.
SUPPORT = Support(
    writer="modelopt",
    granularities={(FLOAT8, "static"): ("channel",)},
    calibrations=tuple(METHODS),
    variants=("cpu", "tensorrt"),
    keep_float=True,
)
_QUANTIZE_S = 3600.0
_CHILD = "edgekd_onnx.fp8_writing:write_fp8"
#: Operators with weights that FP8 is for; the rest of the graph stays in float32.
_PRODUCTS = ("Conv", "Gemm", "MatMul")


def quantize_fp8(artifact: Artifact, config: QuantConfig, spool: CalibrationSpool, out: Path) -> Artifact:
    """Write an FP8 twin of a float32 ONNX artifact into the existing folder ``out``.

    modelopt decides which operators FP8 pays for on TensorRT: convolutions with more than 16 channels on both sides,
    matrix products, residual additions; no depthwise convolutions, none of ``keep_float``. Its scales are 12 times the
    least possible ones, so that values beyond the calibrated range are rounded and not cut.

    Args:
        spool: calibration examples, filled and checked.
        out: where to write; equal inputs give equal bytes.

    Raises:
        UsageError: a configuration that is not written, or ``keep_float`` names no node; MissingDependencyError: modelopt;
        ModelError: nothing to quantize, modelopt fails on this graph, the answers are broken, or the CPU's emulation is
        not right here.
    """
    SUPPORT.check(config)
    onnx = require("onnx", extra="ort", purpose=PURPOSE)
    try:
        work = tempfile.TemporaryDirectory(prefix=".quantize-fp8-", dir=out)
    except OSError as e:
        raise storage_error(e, out) from e
    with work as name:
        folder = Path(name)
        prepared = prepare(artifact.path, config, folder)
        proto = _quantized(artifact, prepared, config, spool, folder)
        opset, products, pairs = opset_of(proto), _count_products(proto), len(find_pairs(proto))
        kept = sum(n.op_type in _PRODUCTS for n in proto.graph.node) - products
        try:
            files = write_proto(proto, out, large=weight_bytes(proto) > EXTERNAL_BYTES)
            onnx.checker.check_model(str(out / ENTRY))
            threads = min(2, os.cpu_count() or 1)
            emulation = prove_emulation(out / ENTRY, spool, threads=threads)
            runtime, options = OnnxRuntime(), SessionOptions(threads=threads)
            damage = check_against(
                lambda: runtime.open(artifact.path, options),
                lambda: runtime.open(out / ENTRY, options),
                spool,
            )
        except BaseException as e:
            for left in (ENTRY, EXTERNAL):
                (out / left).unlink(missing_ok=True)
            if isinstance(e, onnx.checker.ValidationError):
                raise ModelError(
                    f"modelopt wrote no valid graph for {artifact.path}", "leave it in float32"
                ) from e
            raise
    lineage = quantization_lineage(
        artifact, config, spool, damage, nodes=products, tools=("nvidia-modelopt", "onnx", "onnxruntime"),
        choices={"writer": "modelopt", "pairs": pairs, "float_products": kept},
    )  # fmt: skip
    return Artifact(
        folder=out,
        entry=files[0],
        format="onnx",
        dtype=FLOAT8,
        files=tuple(record_file(out, f) for f in sorted(files)),
        inputs=artifact.inputs,
        outputs=artifact.outputs,
        prepare=dict(artifact.prepare),
        output=dict(artifact.output),
        lineage={**lineage, "opset": opset, "opset_before": prepared.opset_before, "emulation": emulation},
    )


def _quantized(
    artifact: Artifact, prepared: Prepared, config: QuantConfig, spool: CalibrationSpool, folder: Path
) -> Any:
    onnx = require("onnx", extra="ort", purpose=PURPOSE)
    raw = folder / "fp8.onnx"
    args = {
        "name": str(artifact.path),
        "source": str(prepared.path.resolve()),
        "raw": str(raw.resolve()),
        "spool": str(spool.folder.resolve()),
        "batches": spool.batches,
        "inputs": [s.to_json() for s in artifact.inputs],
        "calibration": config.calibration,
        "keep_float": prepared.nodes_of(config.keep_float),
        "large": prepared.large,
    }
    with ChildProcess(f"quantizing {artifact.path} to FP8", Limits(timeout_s=_QUANTIZE_S)) as child:
        child.request(_CHILD, args)
    proto = onnx.load(str(raw))
    if not find_pairs(proto):
        raise ModelError(
            f"{artifact.path} has no operator that FP8 is for (convolutions with more than 16 channels on both sides, "
            "matrix products)",
            "leave it in float32, or quantize to int8",
        )
    strip_provenance(proto)
    # As the file's own opset, ONNX Runtime's operators are named in its imports whether they are used or not.
    used = {n.domain for n in proto.graph.node}
    for entry in [o for o in proto.opset_import if o.domain and o.domain not in used]:
        proto.opset_import.remove(entry)
    for values in (proto.graph.initializer, proto.graph.value_info):
        ordered = sorted(values, key=lambda v: v.name)
        del values[:]
        values.extend(ordered)
    return proto


def _count_products(proto: Any) -> int:
    """Operators with weights whose two factors both come out of FP8."""
    results = {p.result for p in find_pairs(proto)}
    return sum(n.op_type in _PRODUCTS and results.issuperset(n.input[:2]) for n in proto.graph.node)
