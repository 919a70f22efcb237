"""Every rule: what it demands, how bad it is to break it, where it comes from, and what to do.

Sources: `operators.md` is onnx-tensorrt's table at the commit in ``operators.json``; `parser` its onnxOpImporters.cpp at
dd0a3a9; `NvInfer.h` that of TensorRT OSS 11.1 (a892d222); `Model-Optimizer` is NVIDIA's, at a2fbac7; `measured` means
ONNX 1.23's checker and ONNX Runtime 1.31.1 on CPU. Nothing here was tried on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

OPERATORS_MD = "onnx-tensorrt operators.md"
PARSER = "onnx-tensorrt parser"
HEADER = "NvInfer.h"
OPTIMIZER = "Model-Optimizer"
GUIDE = "TensorRT developer guide"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule.

    Attributes:
        severity: of a finding, unless the finding says otherwise.
        statement: what a graph has to be like, in one line.
    """

    id: str
    severity: str
    statement: str
    source: str
    fix: str


_E, _W, _N = "error", "warning", "note"

_SETTINGS = "quantize with `edgekd quantize --for cuda:tensorrt`"

# fmt: off
_ROWS = (
    # The file
    ("TRT001", _E, "The default domain's opset is one that this TensorRT's parser takes.", f"{OPERATORS_MD}; ONNX Opset Guide",
     "export with another --opset"),
    ("TRT002", _E, "Every operator is one that the parser knows, or a declared plugin.", OPERATORS_MD,
     "rewrite the model without it, or name the plugin that brings it"),
    ("TRT003", _E, "Element types are TensorRT's; FP64 becomes FP32; UINT8 only at the model's inputs and outputs.",
     f"{OPERATORS_MD}; {PARSER}", "cast to a type that TensorRT has"),
    ("TRT004", _E, "An operator's element type and settings are among those that the parser supports.", OPERATORS_MD,
     "change the layer, or export it another way"),
    ("TRT005", _E, "The file passes onnx.checker; shape inference finds no contradiction.", "onnx.checker",
     "export it again: other tools will refuse it too"),
    ("TRT006", _E, "Weights outside the file are beside it, and whole.", "ONNX external data", "copy the data file beside the model"),
    # Zero points and quantized types
    ("TRT010", _E, "Zero points are constant and 0; with a scale per channel there are as many.", f"{HEADER}; {PARSER}",
     f"quantize symmetrically: {_SETTINGS}"),
    ("TRT011", _E, "Nothing is quantized to UINT8: TensorRT reads it as INT8 and clamps at 127.", f"{PARSER}; measured",
     f"use INT8, with its zero point written out: {_SETTINGS}"),
    ("TRT012", _E, "DequantizeLinear reads INT8, FP8 (E4M3FN), INT4 or FP4 (E2M1).", f"{OPERATORS_MD}; {HEADER}",
     "leave this tensor in floating point (a bias: onnxruntime's QuantizeBias=False)"),
    ("TRT013", _E, "Scales are constant, finite and above 0.", PARSER, "calibrate again, and look at the tensor's range"),
    ("TRT014", _E, "A 16-bit scale has the type of what is quantized; what is dequantized has the scale's type.",
     f"{HEADER}; {PARSER}; Model-Optimizer issue 118; TensorRT issue 4832", "give tensor and scale one floating-point type"),
    ("TRT015", _E, "The opset is late enough for the quantized type (INT8 10, with 16-bit scales 19; FP8 19; INT4 and blocks 21; FP4 23).",
     "measured; ONNX Operators.md", "export with a later --opset"),
    ("TRT016", _E, "Activations have one scale; scales per channel or block belong to constants.", HEADER,
     "quantize activations per tensor"),
    ("TRT017", _E, "A scale per channel is one-dimensional, along the output channels of the operator that uses the weights.",
     f"{PARSER}; {OPTIMIZER}", "quantize along axis 0 (Conv), 1 (ConvTranspose), 0 or 1 (Gemm with or without transB), the last (MatMul)"),
    ("TRT018", _E, "A QuantizeLinear and its DequantizeLinear agree in scale, zero point, axis and type.", HEADER,
     "give both the same scale, axis and type"),
    ("TRT019", _W, "With a scale per channel the axis is written out; its default changed with opset 13.", PARSER, "write the axis"),
    ("TRT020", _E, "4-bit tensors have an even number of elements; a block size divides its dimension.", PARSER,
     "pad the dimension, or choose another block size"),
    # Q/DQ pairs
    ("TRT030", _E, "Whatever reads a QuantizeLinear is a DequantizeLinear, which reads a QuantizeLinear or a constant.", HEADER,
     "put the DequantizeLinear right behind the QuantizeLinear"),
    ("TRT031", _W, "Data and weights of a weighted operator are both dequantized, or neither.", OPTIMIZER,
     "quantize the other input too, or leave both in floating point"),
    ("TRT032", _E, "One operator is quantized to one type; so is a model, as mixing is untried on TensorRT 11.", "unverified on TensorRT 11",
     "quantize both inputs to one type"),
    ("TRT033", _E, "Biases stay in floating point.", f"{OPTIMIZER}; measured", "do not quantize the bias (onnxruntime: QuantizeBias=False)"),
    ("TRT034", _W, "Weights are kept as float, QuantizeLinear, DequantizeLinear: the form with the widest support.", f"{GUIDE}; {OPTIMIZER}",
     "onnxruntime: AddQDQPairToWeight=True; or keep it: quantized constants are allowed too"),
    # Placement
    ("TRT040", _W, "No Q/DQ inside convolution, batch norm, activation: they would not be fused.", GUIDE,
     "quantize behind the activation instead"),
    ("TRT041", _W, "The output of a weighted operator is quantized only for a quantized reader, and never at the model's output.",
     f"{GUIDE}; {OPTIMIZER}", "remove this Q/DQ pair"),
    ("TRT042", _W, "A residual Add has Q/DQ on the skip input, and none between the convolution and the Add.", f"{GUIDE}; {OPTIMIZER}",
     "move the pair to the other input of the Add"),
    ("TRT043", _N, "Inputs and output of a Concat share one scale; otherwise each input is requantized, which costs accuracy.", OPTIMIZER,
     "calibrate them together"),
    ("TRT044", _W, "A tensor is quantized by one pair, whoever reads it.", OPTIMIZER, "onnxruntime: DedicatedQDQPair=False"),
    ("TRT045", _N, "Pooling is quantized beside a quantized operator only; element-wise operators with a constant are not.", OPTIMIZER,
     "remove this Q/DQ pair"),
    ("TRT046", _N, "Normalisation, GELU and Softmax read floating point.", OPTIMIZER, "remove the Q/DQ pair before it"),
    # Speed
    ("TRT050", _W, "Quantized convolutions have channels that INT8 kernels like.", OPTIMIZER, "leave this convolution in floating point"),
    ("TRT051", _W, "FP8 convolutions have more than 16 channels on both sides, a small kernel and constant weights.",
     f"{OPTIMIZER}; TensorRT issue 3987", "leave this convolution in floating point"),
    ("TRT052", _W, "Quantized matrix products are large enough, and no matrix-vector products.", OPTIMIZER, "leave this one in floating point"),
    ("TRT053", _W, "Quantized attention has the form and sizes that are fused.", OPTIMIZER,
     "place the pairs as Q, DQ, MatMul, scale, mask, Softmax, Q, DQ, MatMul, Q, DQ, or leave attention in floating point"),
    ("TRT054", _E, "FP8 stands around convolutions, matrix products, residual additions and attention only.", OPTIMIZER,
     "remove this Q/DQ pair"),
    ("TRT055", _E, "The GPU's compute capability has the type: BF16 and INT4 from 8.0, FP8 from 8.9, FP4 from 10.0.",
     "Transformer Engine support matrix; TensorRT-RTX 1.5 support matrix", "choose another precision for this GPU"),
    # Types asked for, shapes, control flow
    ("TRT060", _W, "The graph holds the precision that was asked for: strong typing builds what is written.", f"{OPTIMIZER}; {GUIDE}",
     "export in that precision: --dtype"),
    ("TRT061", _E, "Every input whose shape varies has a profile that fits it, minimum <= optimum <= maximum.", "IOptimizationProfile",
     "give NAME=MIN:OPT:MAX with --shape"),
    ("TRT062", _E, "Branches of If give equal ranks under distinct names; what a Loop carries keeps its shape.", OPERATORS_MD,
     "make the branches alike, or unroll the loop"),
    ("TRT063", _W, "No output has a size that is known only after it ran.", "IOutputAllocator",
     "pad to a fixed size, or count on output allocation at run time and no CUDA graph"),
    ("TRT064", _E, "A profile names an input of the model.", "IOptimizationProfile", "check the names given with --shape"),
    ("TRT065", _W, "No input is a shape: its profile holds values, not sizes.", "IOptimizationProfile.set_shape_input",
     "make the shape a constant, or set the values in code"),
    # Values
    ("TRT070", _W, "No channel's scale is far above the others.", "EdgeKD", "look at these weights: an outlier widens its channel's steps"),
)
# fmt: on

RULES: Mapping[str, Rule] = {
    row[0]: Rule(id=row[0], severity=row[1], statement=row[2], source=row[3], fix=row[4]) for row in _ROWS
}
