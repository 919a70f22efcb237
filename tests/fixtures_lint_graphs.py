"""Tiny ONNX graphs for the TensorRT lint: one that is right, and pieces to make one that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT8, UINT8, FP8, INT4 = (
    TensorProto.FLOAT,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.FLOAT8E4M3FN,
    TensorProto.INT4,
)
_RNG = np.random.default_rng(5)


class Build:
    """Collects nodes and tensors; every method returns the name of what it made."""

    def __init__(self, opset: int = 19) -> None:
        self.opset = opset
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.domains: dict[str, int] = {}
        self.functions: list[Any] = []

    def input(self, name: str, shape: Any, kind: int = FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, shape: Any = None, kind: int = FLOAT) -> str:
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def constant(self, name: str, value: Any, kind: int = FLOAT) -> str:
        array = np.asarray(value, np.float32)
        self.constants.append(helper.make_tensor(name, kind, array.shape, array.reshape(-1).tolist()))
        return name

    def weights(self, name: str, *shape: int) -> str:
        array = _RNG.normal(size=shape).astype(np.float32)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, inputs: list[str], output: str, name: str | None = None, **attributes: Any) -> str:  # fmt: skip
        self.nodes.append(
            helper.make_node(op, inputs, [output], name=output if name is None else name, **attributes)
        )
        return output

    def quantize(
        self, data: str, name: str, *, scale: Any = 0.05, zero: Any = 0, kind: int = INT8, scale_kind: int = FLOAT,
        with_zero: bool = True, **attributes: Any,
    ) -> str:  # fmt: skip
        """``NAME_q``, with ``NAME_scale`` and ``NAME_zero``."""
        self.constant(f"{name}_scale", scale, scale_kind)
        inputs = [data, f"{name}_scale"]
        if with_zero:
            shape = np.shape(scale)
            self.constant(f"{name}_zero", np.full(shape, zero) if np.shape(zero) == () else zero, kind)
            inputs.append(f"{name}_zero")
        return self.node("QuantizeLinear", inputs, f"{name}_q", **attributes)

    def dequantize(self, data: str, name: str, *, like: str | None = None, with_zero: bool = True, **attributes: Any) -> str:  # fmt: skip
        """``NAME_dq``, with the scale and zero point of ``like`` or ``NAME``."""
        of = name if like is None else like
        inputs = [data, f"{of}_scale", *([f"{of}_zero"] if with_zero else [])]
        return self.node("DequantizeLinear", inputs, f"{name}_dq", **attributes)

    def pair(self, data: str, name: str, **options: Any) -> str:
        """A Q and its DQ; per channel where ``scale`` is a list, along ``axis``."""
        both = {k: v for k, v in options.items() if k in ("axis", "block_size", "with_zero")}
        return self.dequantize(self.quantize(data, name, **options), name, **both)

    def channel(self, data: str, name: str, channels: int, axis: int = 0, **options: Any) -> str:
        """Weights, one scale a channel."""
        return self.pair(data, name, scale=[0.01 + 0.001 * i for i in range(channels)], axis=axis, **options)

    def save_unchecked(self, folder: Path) -> Path:
        """For graphs over which onnx aborts."""
        path = folder / "model.onnx"
        onnx.save_model(self.bare(), str(path))
        return path

    def bare(self) -> Any:
        graph = helper.make_graph(self.nodes, "g", self.inputs, self.outputs, self.constants)
        opsets = [
            helper.make_opsetid("", self.opset),
            *(helper.make_opsetid(d, v) for d, v in self.domains.items()),
        ]
        made = helper.make_model(graph, opset_imports=opsets, functions=self.functions)
        made.ir_version = 10
        return made

    def model(self) -> Any:
        made = self.bare()
        # The checker wants outputs with shapes; what cannot be inferred is given by the graph.
        inferred = onnx.shape_inference.infer_shapes(made)
        for given, known in zip(made.graph.output, inferred.graph.output, strict=True):
            if not given.type.tensor_type.HasField("shape"):
                given.CopyFrom(known)
        return made

    def save(self, folder: Path) -> Path:
        path = folder / "model.onnx"
        onnx.save_model(self.model(), str(path))
        return path


def conv_net(opset: int = 19, kind: int = INT8, *, batch: Any = 1) -> Build:
    """A quantized residual block as TensorRT wants it: Conv, Relu, Conv, Add with a quantized skip, pool, Gemm."""
    g = Build(opset)
    g.input("x", [batch, 32, 8, 8])
    g.pair("x", "x", kind=kind)
    g.channel(g.weights("w1", 32, 32, 3, 3), "w1", 32, kind=kind)
    g.constant("b1", np.zeros(32))
    g.node("Conv", ["x_dq", "w1_dq", "b1"], "conv1", pads=[1, 1, 1, 1])
    g.node("Relu", ["conv1"], "relu1")
    g.pair("relu1", "r", kind=kind)
    g.channel(g.weights("w2", 32, 32, 3, 3), "w2", 32, kind=kind)
    g.constant("b2", np.zeros(32))
    g.node("Conv", ["r_dq", "w2_dq", "b2"], "conv2", pads=[1, 1, 1, 1])
    g.node("Add", ["conv2", "r_dq"], "add")
    g.node("Relu", ["add"], "relu2")
    g.node("GlobalAveragePool", ["relu2"], "pool")
    g.node("Flatten", ["pool"], "flat")
    g.weights("wf", 32, 10)
    g.constant("bf", np.zeros(10))
    g.node("Gemm", ["flat", "wf", "bf"], "y")
    g.output("y", [batch, 10])
    return g


def attention_net(kind: int = FP8, *, sequence: int = 16, head: int = 32) -> Build:
    """Two heads of attention with the pairs around both products."""
    g = Build(19)
    for name in ("q", "k", "v"):
        g.input(name, [1, 2, sequence, head])
    g.pair("q", "q", kind=kind)
    g.pair("k", "k", kind=kind)
    g.node("Transpose", ["k_dq"], "kt", perm=[0, 1, 3, 2])
    g.node("MatMul", ["q_dq", "kt"], "scores")
    g.constant("root", 0.2)
    g.node("Mul", ["scores", "root"], "scaled")
    g.node("Softmax", ["scaled"], "softmax", axis=-1)
    g.pair("softmax", "p", kind=kind)
    g.pair("v", "v", kind=kind)
    g.node("MatMul", ["p_dq", "v_dq"], "mix")
    g.pair("mix", "m", kind=kind)
    g.channel(g.weights("wo", head, 64), "wo", 64, axis=1, kind=kind)
    g.node("MatMul", ["m_dq", "wo_dq"], "y")
    g.output("y", [1, 2, sequence, 64])
    return g
