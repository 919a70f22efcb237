"""What no quantizer takes: control flow, operators of nobody's, and files that are quantized already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd.errors import ModelError
from edgekd_onnx.reading import DEFAULT_DOMAIN

#: Operator sets that ONNX Runtime brings with it (onnxruntime, ContribOperators.md and OperatorKernels.md).
_KNOWN_DOMAINS = (
    *DEFAULT_DOMAIN, "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc", "ai.onnx.preview.training",
)  # fmt: skip
_CONTROL = ("If", "Loop", "Scan", "SequenceMap")
_QUANTIZED = (
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulInteger",
    "ConvInteger", "MatMulNBits", "MatMulBnb4", "QAttention", "QGemm", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat", "GatherBlockQuantized", "QMoE",
)  # fmt: skip


def refuse_file(model: Any, path: Path) -> None:
    """Refuse what cannot be quantized as it stands.

    Raises:
        ModelError: names the node and its operator.
    """
    own = {f.domain for f in model.functions}
    for node in model.graph.node:
        label = node.name or next(iter(node.output), "")
        if node.domain not in (*_KNOWN_DOMAINS, *own):
            raise ModelError(
                f"{path}: node '{label}' is {node.domain}.{node.op_type}, which no quantizer knows",
                "replace it by ONNX operators, or leave the model in float32",
            )
        if node.op_type in _QUANTIZED:
            raise ModelError(
                f"{path} is quantized already: node '{label}' is a {node.op_type}", "give the float32 model"
            )


def refuse_prepared(graph: Any) -> None:
    """Refuse control flow that is still there once constants are folded: its branches have no one range.

    Raises:
        ModelError: names the node and its operator.
    """
    for node in graph.node:
        if node.op_type in _CONTROL:
            raise ModelError(
                f"node '{node.name}' is a {node.op_type}: ranges of activations within control flow are not calibrated",
                "export the model without it (fixed sizes and flags), quantize its parts as models of their own, or keep float32",
            )


def quantizer_errors() -> tuple[type[BaseException], ...]:
    """What ONNX Runtime's quantizers raise over graphs that they do not know: plain Python errors too."""
    from edgekd_onnx.runtime import ort_errors

    return (*ort_errors(), TypeError, KeyError, IndexError, AttributeError, AssertionError)
