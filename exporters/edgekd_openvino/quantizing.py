"""Post-training INT8 with NNCF."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact, record_file
from edgekd.data.example import Array
from edgekd.errors import ModelError, UsageError
from edgekd.files import storage_error
from edgekd.lazy import require
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.damage import output_sqnr
from edgekd.stages import tool_versions
from edgekd_onnx.quantizing import CalibrationSpool
from edgekd_onnx.writing import quiet
from edgekd_openvino.document import scan
from edgekd_openvino.library import errors, reason, silence_telemetry
from edgekd_openvino.parity import parity_options
from edgekd_openvino.runtime import OpenVinoRuntime, read_model
from edgekd_openvino.writing import ENTRY, WEIGHTS, count_past, write_model

#: NNCF's presets: "mixed" keeps weights symmetric and activations asymmetric, "performance" makes both symmetric.
_PRESETS = {"cpu": "mixed", "tensorrt": "performance"}
#: Of all activations, this share lies within the range that "percentile" keeps (ONNX Runtime's default as well).
_PERCENTILE = 0.99999
#: Operators of attention: NNCF then leaves alone what transformers lose their accuracy by.
_ATTENTION = ("ScaledDotProductAttention", "Softmax")
_QUANTIZER = "FakeQuantize"


def quantize_artifact(
    artifact: Artifact, config: QuantConfig, feeds: Iterable[Mapping[str, Array]], out: Path
) -> Artifact:
    """See :meth:`edgekd_openvino.exporter.OpenVinoExporter.quantize`."""
    config.check()
    if config.calibration not in ("minmax", "percentile"):
        raise UsageError(f"NNCF has no {config.calibration} calibration", "choose minmax or percentile")
    if artifact.format != "openvino" or artifact.dtype != "float32":
        raise ModelError(
            f"{artifact.path} is {artifact.format} of {artifact.dtype}, only float32 openvino can be quantized here",
            "give the float32 export",
        )
    names = frozenset(scan(artifact.path).layers)
    model = read_model(artifact.path)
    try:
        work = tempfile.TemporaryDirectory(prefix=".quantize-", dir=out)
    except OSError as e:
        raise storage_error(e, out) from e
    with work as name:
        spool = CalibrationSpool(folder=Path(name), inputs=artifact.inputs)
        spool.fill(feeds, config.examples)
        count_past(names)
        transformer = _is_transformer(model)
        made = _quantize(model, config, spool, transformer=transformer)
        count = sum(op.get_type_name() == _QUANTIZER for op in made.get_ops())
        if not count:
            raise ModelError("the model has no operator that can be quantized", "leave it in float32")
        try:
            files = write_model(made, out, inputs=artifact.inputs, outputs=artifact.outputs, names=names)
            sqnr = _check(artifact, out / ENTRY, spool)
        except BaseException:
            for left in (ENTRY, WEIGHTS):
                (out / left).unlink(missing_ok=True)
            raise
    return Artifact(
        folder=out,
        entry=ENTRY,
        format="openvino",
        dtype=config.dtype,
        files=tuple(record_file(out, f) for f in files),
        inputs=artifact.inputs,
        outputs=artifact.outputs,
        prepare=dict(artifact.prepare),
        output=dict(artifact.output),
        lineage={
            **{k: v for k, v in artifact.lineage.items() if k != "parity"},
            "quantized_from": artifact.digest,
            "quantization": {**config.to_json(), "preset": _PRESETS[config.variant], "transformer": transformer},
            "calibration": {
                "examples": spool.examples, "batches": spool.batches, "digest": spool.digest,
                "constant_inputs": spool.constant,
            },
            "quantized_nodes": count,
            "sqnr_db": sqnr,
            "tools": {**artifact.lineage.get("tools", {}), **tool_versions("openvino", "nncf", "onnx")},
        },
    )  # fmt: skip


def _is_transformer(model: Any) -> bool:
    """Whether a softmax goes into a matrix product: attention, whole or taken apart."""
    for op in model.get_ops():
        kind = op.get_type_name()
        if kind == _ATTENTION[0]:
            return True
        if kind == _ATTENTION[1]:
            users = [p.get_node() for p in op.output(0).get_target_inputs()]
            if any(u.get_type_name() == "MatMul" for u in users):
                return True
    return False


def _quantize(model: Any, config: QuantConfig, spool: CalibrationSpool, *, transformer: bool) -> Any:
    silence_telemetry()
    with quiet():
        nncf = require("nncf", extra="openvino", purpose="quantizing OpenVINO models")
        advanced = _advanced(nncf, config)

        def feeds_of(index: int) -> dict[int, Array]:
            batch = spool.batch(index)
            return {i: batch[s.name] for i, s in enumerate(spool.inputs)}

        try:
            return nncf.quantize(
                model,
                nncf.Dataset(range(spool.batches), feeds_of),
                preset=nncf.QuantizationPreset(_PRESETS[config.variant]),
                target_device=nncf.TargetDevice.CPU,
                subset_size=spool.batches,
                model_type=nncf.ModelType.TRANSFORMER if transformer else None,
                advanced_parameters=advanced,
            )
        except (*errors(), *_nncf_errors(nncf)) as e:
            raise ModelError(
                f"nncf cannot quantize this model ({reason(e)})",
                "try another --method, or leave it in float32",
            ) from e


def _advanced(nncf: Any, config: QuantConfig) -> Any:
    ranges = require(
        "nncf.quantization.range_estimator", extra="openvino", purpose="quantizing OpenVINO models"
    )
    parameters = require(
        "nncf.quantization.advanced_parameters", extra="openvino", purpose="quantizing OpenVINO models"
    )
    kinds = ranges.StatisticsType
    mean = ranges.AggregatorType.MEAN
    collect = ranges.StatisticsCollectorParameters
    if config.calibration == "minmax":
        low = collect(statistics_type=kinds.MIN, aggregator_type=ranges.AggregatorType.MIN)
        high = collect(statistics_type=kinds.MAX, aggregator_type=ranges.AggregatorType.MAX)
    else:
        # NNCF takes a low and a high quantile by the same share of outliers.
        low = high = collect(
            statistics_type=kinds.QUANTILE, aggregator_type=mean, quantile_outlier_prob=1 - _PERCENTILE
        )
    return nncf.AdvancedQuantizationParameters(
        weights_quantization_params=parameters.QuantizationParameters(
            per_channel=config.granularity == "channel"
        ),
        activations_quantization_params=parameters.QuantizationParameters(per_channel=False),
        activations_range_estimator_params=ranges.RangeEstimatorParameters(min=low, max=high),
    )


def _nncf_errors(nncf: Any) -> tuple[type[BaseException], ...]:
    found = (getattr(nncf.errors, name) for name in dir(nncf.errors))
    return tuple(e for e in found if isinstance(e, type) and issubclass(e, Exception))


def _check(artifact: Artifact, path: Path, spool: CalibrationSpool) -> dict[str, float | None]:
    """Run both on the first calibration batch; signal to noise of each output in dB, None where it is exact.

    Raises:
        ModelError: the quantized model does not run, or gives NaN or infinity where the original did not.
    """
    feeds = spool.batch(0)
    results = []
    for file in (artifact.path, path):
        session = OpenVinoRuntime().open(file, parity_options())
        results.append(session.run(feeds))
        session.close()
    return output_sqnr(*results)
