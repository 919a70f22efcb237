"""Calibrated ranges of a Q/DQ file: what each activation's integers can hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.lazy import require

#: Suffixes that quantizers give the copy of a tensor between operator and QuantizeLinear.
_NEW = ("_QuantizeLinear_Input",)
#: Operators that a quantizer may leave to the ends of the range.
_CLIPS = ("Relu", "Clip")


def ranges_in(quantized: Path, source: Path) -> dict[str, tuple[float, float]]:
    """:func:`activation_ranges` of ``quantized`` by the names that tell of the same values in the float file ``source``.

    ONNX Runtime's quantizer leaves out a Relu or Clip whose work QuantizeLinear does; the tensor before it keeps its name
    and gets the range of what came after.
    """
    onnx = require("onnx", extra="ort", purpose="reading calibrated ranges")
    graph = onnx.load(str(source), load_external_data=False).graph
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    kept = {
        n.output[0]
        for n in onnx.load(str(quantized), load_external_data=False).graph.node
        if n.op_type in _CLIPS
    }
    found: dict[str, tuple[float, float]] = {}
    for name, ends in activation_ranges(quantized).items():
        after = users.get(name, [])
        clipped = len(after) == 1 and after[0].op_type in _CLIPS and after[0].output[0] not in kept
        found[after[0].output[0] if clipped else name] = ends
    return found


def activation_ranges(path: Path) -> dict[str, tuple[float, float]]:
    """Tensor that a QuantizeLinear takes -> (low, high) = scale x (least or greatest integer - zero point).

    From ``scale`` and ``zero_point`` of QuantizeLinear (onnx, Operators.md), per tensor. Weights (constants) and
    floating-point types are left out. float8 clips at its greatest value alike; it is symmetric.
    """
    onnx = require("onnx", extra="ort", purpose="reading calibrated ranges")
    model = onnx.load(str(path))
    graph = model.graph
    constants: dict[str, Any] = {i.name: i for i in graph.initializer}
    constants |= {
        n.output[0]: a.t
        for n in graph.node
        if n.op_type == "Constant"
        for a in n.attribute
        if a.name == "value"
    }
    found: dict[str, tuple[float, float]] = {}
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] in constants:
            continue
        if node.input[1] not in constants or (len(node.input) > 2 and node.input[2] not in constants):
            continue
        scale = _float(onnx, constants[node.input[1]])
        if scale.size != 1:
            continue
        zero = constants[node.input[2]] if len(node.input) > 2 else None
        low, high = _ends(onnx, zero)
        name = node.input[0]
        for suffix in _NEW:
            name = name.removesuffix(suffix)
        found[name] = (float(scale.flat[0]) * low, float(scale.flat[0]) * high)
    return found


def _float(onnx: Any, tensor: Any) -> Array:
    return np.asarray(onnx.numpy_helper.to_array(tensor), np.float64)


def _ends(onnx: Any, zero: Any) -> tuple[float, float]:
    """Least and greatest stored value, less the zero point; uint8 where there is none (Operators.md, QuantizeLinear)."""
    kinds = onnx.TensorProto
    if zero is None:
        return 0.0, 255.0
    if zero.data_type in (kinds.FLOAT8E4M3FN,):
        return -448.0, 448.0
    if zero.data_type == kinds.FLOAT8E5M2:
        return -57344.0, 57344.0
    value = onnx.numpy_helper.to_array(zero)
    point = float(np.asarray(value, np.float64).reshape(-1)[0])
    info = np.iinfo(value.dtype)
    return info.min - point, info.max - point
