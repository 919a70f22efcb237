"""Post-training quantization with NNCF: static INT8, and INT8 or INT4 weights."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifact import Artifact, record_file
from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.files import storage_error
from edgekd.lazy import require
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.record import CHECKED_EXAMPLES, check_against, quantization_lineage
from edgekd.quantize.spool import CalibrationSpool, spooled
from edgekd.quantize.support import Support, check_kept
from edgekd_onnx.writing import quiet
from edgekd_openvino.document import scan
from edgekd_openvino.library import errors, reason, silence_telemetry
from edgekd_openvino.parity import parity_options
from edgekd_openvino.runtime import OpenVinoRuntime, read_model
from edgekd_openvino.unquantizing import QUANTIZER, leave_in_float
from edgekd_openvino.writing import ENTRY, WEIGHTS, count_past, write_beside, write_model

#: What is written here. Weights of INT8 have one scale per channel, those of INT4 one per channel or block
#: (nncf.compress_weights: ``group_size`` is for the 4-bit modes).
SUPPORT = Support(
    writer="NNCF",
    granularities={
        ("int8", "static"): ("channel", "tensor"),
        ("int8", "weight-only"): ("channel",),
        ("int4", "weight-only"): ("block", "channel"),
    },
    calibrations=("minmax", "percentile", "mse"),
    variants=("cpu", "tensorrt"),
    keep_float=True,
    smoothing=True,
    channels=True,
)
#: NNCF's presets: "mixed" keeps weights symmetric and activations asymmetric, "performance" makes both symmetric.
_PRESETS = {"cpu": "mixed", "tensorrt": "performance"}
#: Of all activations, this share lies within the range that "percentile" keeps (ONNX Runtime's default as well).
_PERCENTILE = 0.99999
#: Operators of attention: NNCF then leaves alone what transformers lose their accuracy by.
_ATTENTION = ("ScaledDotProductAttention", "Softmax")
_CONTROL = ("If", "Loop", "TensorIterator")
#: Where a depth is no whole number of blocks, the largest power of 2 that divides it is taken, down to this; the rest
#: becomes INT8 per channel.
_LEAST_BLOCK = 8
#: Element types of compressed weights.
_WEIGHTS = {"int8": ("i8", "u8"), "int4": ("i4", "u4")}
#: Examples that are calibrated on at once, and bytes of their inputs: activations take many times that.
_AT_ONCE, _AT_ONCE_BYTES = 16, 1 << 20
_PURPOSE = "quantizing OpenVINO models"


def quantize_artifact(
    artifact: Artifact, config: QuantConfig, feeds: Iterable[Mapping[str, Array]], out: Path
) -> Artifact:
    """See :meth:`edgekd_openvino.exporter.OpenVinoExporter.quantize`."""
    SUPPORT.check(config)
    if artifact.format != "openvino" or artifact.dtype != "float32":
        raise ModelError(
            f"{artifact.path} is {artifact.format} of {artifact.dtype}, only float32 openvino can be quantized here",
            "give the float32 export",
        )
    names = frozenset(scan(artifact.path).layers)
    model = read_model(artifact.path)
    _refuse_control(model, artifact.path)
    check_kept(config.keep_float, {op.get_friendly_name() for op in model.get_ops()}, str(artifact.path))
    try:
        work = tempfile.TemporaryDirectory(prefix=".quantize-", dir=out)
    except OSError as e:
        raise storage_error(e, out) from e
    with work as name:
        draw = 0 if config.calibrated else CHECKED_EXAMPLES
        spool = spooled(feeds, Path(name), artifact.inputs, config.examples, draw=draw)
        count_past(names)
        choices: dict[str, Any] = {}
        if config.mode == "static":
            choices = {
                "preset": _PRESETS[config.variant], "transformer": _is_transformer(model), "bias_correction": False,
            }  # fmt: skip
            made = _whole(model, config, spool, transformer=choices["transformer"], shared=spool is feeds)
            if config.keep_float:
                leave_in_float(made, model, config.keep_float)
            count = sum(op.get_type_name() == QUANTIZER for op in made.get_ops())
        else:
            made = _compress(model, config)
            counted = _count_weights(made)
            count = sum(counted.get(kind, 0) for kind in _WEIGHTS[config.dtype])
            choices = {"weights": counted}
            if config.granularity == "block":
                choices["blocks"] = _count_blocks(made, _WEIGHTS[config.dtype])
        if not count:
            raise ModelError(
                f"the model has no operator that can be quantized to {config.dtype}", "leave it in float32"
            )
        try:
            files = write_model(made, out, inputs=artifact.inputs, outputs=artifact.outputs, names=names)
            damage = check_against(
                lambda: OpenVinoRuntime().open(artifact.path, parity_options()),
                lambda: OpenVinoRuntime().open(out / ENTRY, parity_options()),
                spool,
            )
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
        lineage=quantization_lineage(
            artifact, config, spool, damage, nodes=count, tools=("openvino", "nncf", "onnx"), choices=choices
        ),
    )


def _refuse_control(model: Any, path: Path) -> None:
    """As :func:`edgekd_onnx.quantizable.refuse_prepared`: branches and bodies have no one range."""
    for op in model.get_ops():
        if op.get_type_name() in _CONTROL:
            raise ModelError(
                f"{path}: node '{op.get_friendly_name()}' is a {op.get_type_name()}: control flow is not quantized",
                "export the model without it (fixed sizes and flags), or leave it in float32",
            )


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


def _whole(
    model: Any, config: QuantConfig, spool: CalibrationSpool, *, transformer: bool, shared: bool
) -> Any:
    """The model with nothing left in float, out of the spool where another mixture of it was made before."""
    key = {**replace(config, keep_float=()).to_json(), "transformer": transformer}
    kept = spool.beside("whole", key).with_suffix(".xml")
    if not kept.exists():
        made = _quantize(model, config, spool, transformer=transformer)
        if not config.keep_float and not shared:
            return made
        write_beside(made, kept)
    return read_model(kept)


def _quantize(model: Any, config: QuantConfig, spool: CalibrationSpool, *, transformer: bool) -> Any:
    silence_telemetry()
    with quiet():
        nncf = require("nncf", extra="openvino", purpose=_PURPOSE)
        advanced = _advanced(nncf, config)

        groups = _groups(config, spool)

        def feeds_of(group: range) -> dict[int, Array]:
            batches = [spool.batch(k) for k in group]
            return {i: np.concatenate([b[s.name] for b in batches]) for i, s in enumerate(spool.inputs)}

        try:
            return nncf.quantize(
                model,
                nncf.Dataset(groups, feeds_of),
                preset=nncf.QuantizationPreset(_PRESETS[config.variant]),
                target_device=nncf.TargetDevice.CPU,
                subset_size=len(groups),
                # NNCF smooths nothing of any other type.
                model_type=nncf.ModelType.TRANSFORMER if transformer or config.smoothing else None,
                advanced_parameters=advanced,
            )
        except (*errors(), *_nncf_errors(nncf)) as e:
            raise ModelError(
                f"nncf cannot quantize this model ({reason(e)})",
                "try another --method, or leave it in float32",
            ) from e


def _groups(config: QuantConfig, spool: CalibrationSpool) -> list[range]:
    """Which batches of the spool are run at once: the least and the greatest of many are those of all their examples.

    Other statistics are means over examples, and examples of several sizes do not fit together.
    """
    size = 1
    if config.calibration == "minmax" and all(s.dynamic_batch for s in spool.inputs):
        shapes = {tuple(v.shape[1:] for v in spool.batch(k).values()) for k in range(spool.batches)}
        if len(shapes) == 1:
            one = sum(v.nbytes for v in spool.batch(0).values())
            size = max(1, min(_AT_ONCE, _AT_ONCE_BYTES // max(one, 1)))
    return [range(k, min(k + size, spool.batches)) for k in range(0, spool.batches, size)]


def _compress(model: Any, config: QuantConfig) -> Any:
    """Weights in integers, symmetric, of every layer; in INT8 where no block of INT4 fits."""
    silence_telemetry()
    with quiet():
        nncf = require("nncf", extra="openvino", purpose=_PURPOSE)
        four = config.dtype == "int4"
        mode = nncf.CompressWeightsMode.INT4_SYM if four else nncf.CompressWeightsMode.INT8_SYM
        options: dict[str, Any] = {}
        if four:
            # -1: one scale per channel.
            options["group_size"] = config.block_size if config.granularity == "block" else -1
            options["all_layers"] = True
            options["backup_mode"] = nncf.BackupMode.INT8_SYM
            if config.granularity == "block":
                options["advanced_parameters"] = nncf.AdvancedCompressionParameters(
                    group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST,
                    min_adjusted_group_size=min(_LEAST_BLOCK, config.block_size),
                )
        try:
            return nncf.compress_weights(model, mode=mode, ignored_scope=_ignored(nncf, config), **options)
        except (*errors(), *_nncf_errors(nncf)) as e:
            raise ModelError(
                f"nncf cannot compress the weights of this model ({reason(e)})",
                "choose granularity channel, or leave it in float32",
            ) from e


def _ignored(nncf: Any, config: QuantConfig) -> Any:
    # Not validated: of a name that is no quantized operator nothing has to be kept. That it exists was checked.
    return nncf.IgnoredScope(names=list(config.keep_float), validate=False) if config.keep_float else None


def _count_weights(model: Any) -> dict[str, int]:
    """Constants by element type, of those types that weights are compressed to."""
    kinds = {kind for group in _WEIGHTS.values() for kind in group}
    found = (
        op.get_element_type().get_type_name() for op in model.get_ops() if op.get_type_name() == "Constant"
    )
    return dict(sorted(Counter(f for f in found if f in kinds).items()))


def _count_blocks(model: Any, kinds: tuple[str, ...]) -> dict[str, int]:
    """Weights to each scale -> how many tensors have it."""
    found: Counter[int] = Counter()
    for op in model.get_ops():
        if op.get_type_name() != "Constant" or op.get_element_type().get_type_name() not in kinds:
            continue
        (user,) = (p.get_node() for p in op.output(0).get_target_inputs())  # its Convert
        scaled = next(iter(user.output(0).get_target_inputs())).get_node()
        scale = next(p for p in scaled.input_values() if p.get_node() != user)
        found[math.prod(op.get_output_shape(0)) // math.prod(scale.get_shape())] += 1
    return {str(size): count for size, count in sorted(found.items())}


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
    estimator = None
    if config.calibration == "mse":
        # The range whose quantization has the least squared error over a histogram of all values.
        estimator = ranges.RangeEstimatorParametersSet.HISTOGRAM
    elif config.calibration == "minmax":
        low = collect(statistics_type=kinds.MIN, aggregator_type=ranges.AggregatorType.MIN)
        high = collect(statistics_type=kinds.MAX, aggregator_type=ranges.AggregatorType.MAX)
    else:
        # NNCF takes a low and a high quantile by the same share of outliers.
        low = high = collect(
            statistics_type=kinds.QUANTILE, aggregator_type=mean, quantile_outlier_prob=1 - _PERCENTILE
        )
    smoothing = {}
    if config.smoothing:
        smoothing["smooth_quant_alphas"] = parameters.AdvancedSmoothQuantParameters(
            convolution=config.smoothing, matmul=config.smoothing
        )
    activations = {}
    if config.activation_granularity == "tensor":
        # Else NNCF gives each channel in front of a depthwise convolution a range of its own.
        activations["activations_quantization_params"] = parameters.QuantizationParameters(per_channel=False)
    return nncf.AdvancedQuantizationParameters(
        **smoothing,
        **activations,
        weights_quantization_params=parameters.QuantizationParameters(
            per_channel=config.granularity == "channel"
        ),
        activations_range_estimator_params=estimator or ranges.RangeEstimatorParameters(min=low, max=high),
        # NNCF 3.4's fast correction moves means away from float's: resnet32 on 5,000 CIFAR-10 images keeps 28.0 dB and
        # 82.8 % without it, 21.5 dB and 81.9 % with it, of 82.9 % in float.
        disable_bias_correction=True,
    )


def _nncf_errors(nncf: Any) -> tuple[type[BaseException], ...]:
    found = (getattr(nncf.errors, name) for name in dir(nncf.errors))
    return tuple(e for e in found if isinstance(e, type) and issubclass(e, Exception))
