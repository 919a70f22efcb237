"""Sizes below or above which quantization does not pay, and which GPU has which type: data, with its source.

The sizes are heuristics of NVIDIA Model-Optimizer at commit a2fbac7 and change with its releases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Attributes:
    conv_channels: below this, INT8 convolutions need channels in multiples of ``conv_multiple`` and a square kernel.
    conv_multiple: of channels.
    grouped_kernel: smallest kernel side of a grouped INT8 convolution.
    fp8_conv_channels: FP8 convolutions need more on both sides; fp8_conv_kernel: elements of the largest kernel.
    gemm_side: smallest K and N of a quantized matrix product.
    int8_attention_sequence: longest sequence at which INT8 attention pays.
    fp8_head: head sizes of fused FP8 attention, above the first and up to the second.
    channel_scale_ratio: largest scale over the median one (EdgeKD's own).
    """

    conv_channels: int = 16
    conv_multiple: int = 8
    grouped_kernel: int = 3
    fp8_conv_channels: int = 16
    fp8_conv_kernel: int = 32
    gemm_side: int = 16
    int8_attention_sequence: int = 512
    fp8_head: tuple[int, int] = (8, 256)
    channel_scale_ratio: float = 256.0


LIMITS = Limits()

#: Smallest compute capability, times ten, with hardware for a type. BF16, FP8 and FP4: Transformer Engine, "Datatype
#: and hardware support matrix". INT4 (weights only): TensorRT-RTX 1.5 support matrix, which has it from 8.6 on and not
#: at 7.5; 8.0 is the same generation.
SMALLEST_SM: Mapping[str, int] = {"BFLOAT16": 80, "INT4": 80, "FLOAT8E4M3FN": 89, "FLOAT4E2M1": 100}

#: First opset of the default domain with a quantized type, by the type of its scale. Measured with ONNX 1.23 and ONNX
#: Runtime 1.31.1; INT8 with an FP32 scale is in ONNX from 10 on.
FIRST_OPSET: Mapping[tuple[str, str], int] = {
    ("INT8", "FLOAT"): 10,
    ("INT8", "FLOAT16"): 19,
    ("INT8", "BFLOAT16"): 19,
    ("FLOAT8E4M3FN", "FLOAT"): 19,
    ("FLOAT8E4M3FN", "FLOAT16"): 19,
    ("FLOAT8E4M3FN", "BFLOAT16"): 19,
    ("INT4", "FLOAT"): 21,
    ("INT4", "FLOAT16"): 21,
    ("INT4", "BFLOAT16"): 21,
    ("FLOAT4E2M1", "FLOAT"): 23,
    ("FLOAT4E2M1", "FLOAT16"): 23,
    ("FLOAT4E2M1", "BFLOAT16"): 23,
}
BLOCKED_OPSET = 21
