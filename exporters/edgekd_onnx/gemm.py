"""A model of one matrix product with a known cost, to measure a machine's peak with; see :mod:`edgekd.measure.peaks`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgekd.artifact import Artifact, record_file
from edgekd.errors import UsageError
from edgekd.lazy import require
from edgekd.spec import TensorSpec
from edgekd_onnx.writing import ENTRY, write_proto

#: dtype of the arithmetic -> (operator, input, weight and output element types in ONNX spelling). The integer one is
#: what ONNX Runtime's x86 and Arm kernels are written for: unsigned activations, signed weights.
_KINDS = {
    "float32": ("MatMul", "float32", "float32", "float32"),
    "float16": ("MatMul", "float16", "float16", "float16"),
    "int8": ("MatMulInteger", "uint8", "int8", "int32"),
}
_OPSET = 17
_SEED = 0


def write_product(dtype: str, size: int, out: Path) -> Artifact:
    """Write ``y = x @ w`` with ``x`` an input and ``w`` a constant, both ``size`` x ``size``, into ``out``.

    Raises:
        UsageError: no operator of that dtype.
    """
    if dtype not in _KINDS:
        raise UsageError(f"no ONNX matrix product in {dtype}", f"there is one in {', '.join(_KINDS)}")
    onnx = require("onnx", extra="ort", purpose="writing a matrix product")
    operator, taken, held, made = _KINDS[dtype]
    rng = np.random.default_rng(_SEED)
    values = rng.integers(-127, 128, (size, size)) if held == "int8" else rng.standard_normal((size, size))
    element = onnx.helper.np_dtype_to_tensor_dtype
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, ["x", "w"], ["y"])],
        "product",
        [onnx.helper.make_tensor_value_info("x", element(np.dtype(taken)), [size, size])],
        [onnx.helper.make_tensor_value_info("y", element(np.dtype(made)), [size, size])],
        [onnx.numpy_helper.from_array(values.astype(held), "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", _OPSET)], ir_version=9)
    write_proto(model, out, large=False)
    return Artifact(
        folder=out, entry=ENTRY, format="onnx", dtype=dtype, files=(record_file(out, ENTRY),),
        inputs=(TensorSpec(name="x", dtype=taken, shape=(size, size)),),
        outputs=(TensorSpec(name="y", dtype=made, shape=(size, size)),),
    )  # fmt: skip
