"""Static INT8 as Q/DQ, with ONNX Runtime's quantizer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekd.errors import ModelError
from edgekd.files import storage_error
from edgekd.lazy import require
from edgekd.quantize.config import VARIANTS, QuantConfig
from edgekd.quantize.spool import CalibrationSpool
from edgekd_onnx.calibrating import SpoolReader, ranged, write_ranges
from edgekd_onnx.masks import find_masks
from edgekd_onnx.preparing import Prepared
from edgekd_onnx.quantizable import quantizer_errors
from edgekd_onnx.reading import load_graph
from edgekd_onnx.tensorrt_pairs import TENSORRT_OPERATORS, excluded_for_tensorrt, place_for_tensorrt
from edgekd_onnx.trained_ranges import check_ranges_cover, range_overrides
from edgekd_onnx.writing import quiet

_QUANT_TYPES = {"uint8": "QUInt8", "int8": "QInt8"}
#: ``mse`` comes as ready ranges, which the quantizer takes for those of its min-max calibrator.
_METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile", "mse": "MinMax"}


def quantized_operators(config: QuantConfig) -> list[str]:
    """Operators that static INT8 quantizes, sorted: the quantizer's own list is a set, whose order is never the same."""
    if config.variant == "tensorrt":
        return list(TENSORRT_OPERATORS)
    registry = require("onnxruntime.quantization.registry", extra="ort", purpose="quantizing")
    return sorted({*registry.QLinearOpsRegistry, *registry.QDQRegistry})


def quantize_static(
    prepared: Prepared, config: QuantConfig, spool: CalibrationSpool
) -> tuple[Any, list[str]]:
    """The model with Q/DQ pairs around what ``config`` quantizes, as an onnx proto.

    Returns:
        The model, and the nodes of the float file that stay in float because they carry a mask, sorted.

    Raises:
        ModelError: ONNX Runtime cannot quantize it; UsageError: ``keep_float`` names a node that is not there.
    """
    from edgekd_onnx.runtime import reason

    onnx = require("onnx", extra="ort", purpose="quantizing")
    require("onnxruntime.quantization", extra="ort", purpose="quantizing")
    kept = prepared.nodes_of(config.keep_float)
    raw = prepared.path.with_name("quantized.onnx")
    # The calibrator makes temporary folders of its own; they go where ours is, and with it.
    before, tempfile.tempdir = tempfile.tempdir, str(prepared.path.parent)
    try:
        with quiet():
            left = _run(prepared, raw, config, spool, kept)
    except OSError as e:
        raise storage_error(e, raw) from e
    except quantizer_errors() as e:
        raise ModelError(
            f"onnxruntime cannot quantize this model ({reason(e)})",
            "try another --method, or leave it in float32",
        ) from e
    finally:
        tempfile.tempdir = before
    proto = onnx.load(str(raw))
    if config.variant == "tensorrt":
        place_for_tensorrt(proto, kept)
    check_ranges_cover(proto, config, [t.name for t in load_graph(prepared.path).graph.initializer])
    return proto, sorted({name for node in left for name in prepared.covers.get(node) or (node,)})


def _run(
    prepared: Prepared, raw: Path, config: QuantConfig, spool: CalibrationSpool, kept: Iterable[str]
) -> list[str]:
    quantization = require("onnxruntime.quantization", extra="ort", purpose="quantizing")
    activation, weight = VARIANTS[config.variant]
    tensorrt = config.variant == "tensorrt"
    operators = quantized_operators(config)
    left: list[str] = []
    excluded = sorted({*kept, *(excluded_for_tensorrt(prepared.path) if tensorrt else ())})
    extra: dict[str, Any] = {"ActivationSymmetric": tensorrt, "WeightSymmetric": True}
    if tensorrt:
        # TensorRT takes symmetric INT8 only, and float biases; weights in float with a pair of their own have the widest
        # support (NVIDIA TensorRT documentation, "Working with quantized types", explicit quantization).
        extra |= {
            "QuantizeBias": False, "AddQDQPairToWeight": True, "DedicatedQDQPair": False,
            "ForceQuantizeNoInputCheck": True, "OpTypesToExcludeOutputQuantization": operators,
        }  # fmt: skip
    extra |= range_overrides(config, prepared.path)
    # Every tensor is calibrated, whatever stays in float: the next mixture of this file finds the ranges here.
    cache = spool.beside("ranges", {**replace(config, keep_float=()).to_json(), "operators": operators})
    onnx = require("onnx", extra="ort", purpose="quantizing")
    graph = onnx.load(str(prepared.path)).graph
    masks = find_masks(graph, operators)
    if config.calibration == "mse" or masks:
        if not cache.exists():
            write_ranges(
                prepared.path, spool, cache, method=config.calibration, operators=operators, symmetric=tensorrt,
                large=prepared.large, masks=masks,
            )  # fmt: skip
        left = masks.left_in_float(graph, ranged(cache), operators)
        excluded = sorted({*excluded, *left})
    elif config.calibration != "minmax":
        # Min-max keeps two numbers per tensor and batch; the histogram methods keep whole activations until they are
        # folded, so they are folded after every batch. A symmetric range wastes half of the unsigned grid behind a ReLU.
        extra |= {"CalibStridedMinMax": 1, "CalibTensorRangeSymmetric": tensorrt}
    quantization.quantize_static(
        str(prepared.path),
        str(raw),
        None if cache.exists() else SpoolReader(spool),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType[_QUANT_TYPES[activation]],
        weight_type=quantization.QuantType[_QUANT_TYPES[weight]],
        calibrate_method=quantization.CalibrationMethod[_METHODS[config.calibration]],
        per_channel=config.granularity == "channel",
        op_types_to_quantize=operators,
        nodes_to_exclude=excluded,
        use_external_data_format=prepared.large,
        extra_options=extra,
        calibration_cache_path=cache,
    )
    return left
