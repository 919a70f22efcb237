"""Dynamic INT8: weights stored in 8 bits, ranges of activations taken in every call."""

from __future__ import annotations

from typing import Any

from edgekd.errors import ModelError
from edgekd.files import storage_error
from edgekd.lazy import require
from edgekd.quantize.config import QuantConfig
from edgekd_onnx.preparing import Prepared
from edgekd_onnx.quantizable import quantizer_errors
from edgekd_onnx.reading import load_graph
from edgekd_onnx.writing import quiet

#: What is quantized so. Convolutions are not: ConvInteger has no fast kernel on CPUs, and a convolution takes ranges of
#: whole feature maps in every call.
DYNAMIC_OPERATORS = ("Attention", "LSTM", "MatMul")


def quantize_dynamic(prepared: Prepared, config: QuantConfig) -> Any:
    """The model with integer products, as an onnx proto.

    Raises:
        ModelError: it has no such product with constant weights, or ONNX Runtime cannot quantize it; UsageError:
        ``keep_float`` names a node that is not there.
    """
    from edgekd_onnx.runtime import reason

    onnx = require("onnx", extra="ort", purpose="quantizing")
    quantization = require("onnxruntime.quantization", extra="ort", purpose="quantizing")
    kept = prepared.nodes_of(config.keep_float)
    graph = load_graph(prepared.path).graph
    constants = {t.name for t in graph.initializer}
    if not any(
        n.op_type in DYNAMIC_OPERATORS and constants & set(n.input) and n.name not in kept for n in graph.node
    ):
        found = ", ".join(sorted({n.op_type for n in graph.node})[:6])
        raise ModelError(
            f"dynamic int8 quantizes MatMul, Gemm, LSTM and Attention with constant weights, and there is none (operators: {found})",
            "use static int8 with calibration data",
        )
    raw = prepared.path.with_name("quantized.onnx")
    try:
        with quiet():
            quantization.quantize_dynamic(
                str(prepared.path),
                str(raw),
                op_types_to_quantize=list(DYNAMIC_OPERATORS),
                per_channel=config.granularity == "channel",
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=kept,
                use_external_data_format=prepared.large,
                extra_options={"WeightSymmetric": True, "MatMulConstBOnly": True},
            )
    except OSError as e:
        raise storage_error(e, raw) from e
    except quantizer_errors() as e:
        raise ModelError(
            f"onnxruntime cannot quantize this model ({reason(e)})",
            "use static int8, or leave it in float32",
        ) from e
    return onnx.load(str(raw))
