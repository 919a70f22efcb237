"""Static cost of an ONNX file: parameters, multiply-accumulates and bytes, at the shapes of given feeds.

Counted on the file as an integer kernel would run it: a product whose operands come from DequantizeLinear is done in
their 8 bits, and the Q/DQ nodes that it absorbs move nothing. What cannot be counted is named, never taken for zero.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.lazy import require
from edgekd.workload import NodeCost, StaticCost
from edgekd_onnx import products
from edgekd_onnx.reading import DEFAULT_DOMAIN, load_graph
from edgekd_onnx.writing import one_line

#: Operators that only give the same bytes another shape or name, and those that vanish at inference.
_VIEWS = frozenset(
    {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Shape", "Size", "Dropout", "Constant", "ConstantOfShape"}
)  # fmt: skip
#: Operators on one tensor, element by element, that runtimes do while the node before writes (with a constant for the
#: second operand of the last four).
_POINTWISE = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Clip", "Elu", "Celu", "Selu", "Sigmoid", "HardSigmoid", "HardSwish", "Mish", "Swish"}
    | {"Tanh", "Gelu", "Erf", "Softplus", "BatchNormalization", "Cast", "Add", "Sub", "Mul", "Div"}
)  # fmt: skip
_CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})

#: Bits per element where it is not the size of numpy's type (onnx.proto, TensorProto.DataType).
_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
_BITS |= dict.fromkeys(("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"), 8)
_BITS |= {"BFLOAT16": 16, "FLOAT16": 16, "FLOAT": 32, "DOUBLE": 64, "BOOL": 8}
_BITS |= {f"{sign}INT{bits}": bits for sign in ("", "U") for bits in (8, 16, 32, 64)}
_BITS |= {"COMPLEX64": 64, "COMPLEX128": 128}

_NAMES = {"float": "float32", "double": "float64"}

#: Positions of scales and zero points, which are no parameters (onnx, Operators.md; ORT, ContribOperators.md).
_QUANTIZERS = {
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "MatMulInteger": (2, 3),
    "ConvInteger": (2, 3),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """What is known of a tensor: ``dtype`` in ONNX spelling, ``shape`` or None, and whether it is a constant."""

    dtype: str
    bits: int
    shape: tuple[int, ...] | None
    constant: bool = False

    @property
    def elements(self) -> int | None:
        return None if self.shape is None else math.prod(self.shape)

    @property
    def bytes(self) -> int | None:
        """Whole bytes; 4-bit elements are packed two to a byte."""
        return None if self.elements is None else (self.elements * self.bits + 7) // 8


def count_cost(artifact: Artifact, feeds: Mapping[str, Array]) -> StaticCost:
    """Count one call of ``artifact`` with ``feeds``; see :class:`edgekd.workload.CountingExporter`.

    Raises:
        ModelError: the file cannot be read, or shapes cannot be inferred in it.
    """
    return count_model(load_graph(artifact.path), {k: v.shape for k, v in feeds.items()}, artifact.path)


def count_model(model: Any, shapes: Mapping[str, tuple[int, ...]], path: Path) -> StaticCost:
    """As :func:`count_cost`, of a parsed model and the shapes of its inputs.

    Raises:
        ModelError: shapes cannot be inferred in it.
    """
    graph = _Graph.of(_with_shapes(model, shapes, path))
    reasons: dict[str, Counter[str]] = {}
    nodes = tuple(_node_costs(graph, reasons))
    boundary = [graph.tensors.get(n) for n in graph.boundary]
    sizes = [None if t is None else t.bytes for t in boundary]
    return StaticCost(
        parameters=sum(graph.tensors[n].elements or 0 for n in graph.parameters),
        parameter_bytes=sum(graph.tensors[n].bytes or 0 for n in graph.parameters),
        boundary_bytes=None if None in sizes else sum(s for s in sizes if s is not None),
        nodes=nodes,
        not_counted={
            op: "; ".join(f"{n} of them: {why}" for why, n in found.most_common())
            for op, found in sorted(reasons.items())
        },
    )


def _with_shapes(model: Any, shapes: Mapping[str, tuple[int, ...]], path: Path) -> Any:
    """The model with its inputs at ``shapes``, local functions inlined, and every shape that follows inferred."""
    onnx = require("onnx", extra="ort", purpose="counting the cost of ONNX files")
    if model.functions:
        inliner = require("onnx.inliner", extra="ort", purpose="counting the cost of ONNX files")
        model = inliner.inline_local_functions(model)
    else:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        model = copy
    del model.graph.value_info[:]
    for value in model.graph.input:
        if value.name in shapes:
            _set_shape(value, shapes[value.name])
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as e:
        raise ModelError(f"cannot infer the shapes in {path} ({one_line(e)})", "check the model") from e


def _set_shape(value: Any, shape: tuple[int, ...]) -> None:
    value.type.tensor_type.ClearField("shape")
    value.type.tensor_type.shape.SetInParent()
    for size in shape:
        value.type.tensor_type.shape.dim.add().dim_value = size


@dataclass(frozen=True, slots=True, kw_only=True)
class _Graph:
    """One graph, looked up by tensor name.

    Attributes:
        tensors: name -> what is known. ``maker``: name -> the node that makes it. ``readers``: name -> its readers.
        boundary: names of inputs and outputs. ``parameters``: names of the weights.
    """

    nodes: tuple[Any, ...]
    tensors: dict[str, Tensor]
    maker: dict[str, Any]
    readers: dict[str, list[Any]]
    boundary: tuple[str, ...]
    outputs: frozenset[str]
    parameters: tuple[str, ...]

    @staticmethod
    def of(model: Any) -> _Graph:
        graph = model.graph
        tensors = {}
        for value in (*graph.input, *graph.value_info, *graph.output):
            found = _described(value)
            if found is not None:
                tensors[value.name] = found
        constants = {t.name: t for t in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                constants.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
        for name, tensor in constants.items():
            dtype, bits = _dtype(tensor.data_type)
            tensors[name] = Tensor(dtype=dtype, bits=bits, shape=tuple(tensor.dims), constant=True)
        for sparse in graph.sparse_initializer:
            dtype, bits = _dtype(sparse.values.data_type)
            stored = (len(sparse.values.dims) and int(sparse.values.dims[0]),)
            tensors[sparse.values.name] = Tensor(dtype=dtype, bits=bits, shape=stored, constant=True)
        parameters = [n for n, t in tensors.items() if t.constant]
        for node in graph.node:
            if node.input and all(n in tensors and tensors[n].constant for n in node.input if n):
                # Computed once, while loading.
                tensors |= {n: replace(tensors[n], constant=True) for n in node.output if n in tensors}
        maker = {name: node for node in graph.node for name in node.output if name}
        readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        outputs = frozenset(v.name for v in graph.output)
        inputs = [v.name for v in graph.input if v.name not in constants]
        return _Graph(
            nodes=tuple(graph.node), tensors=tensors, maker=maker, readers=readers,
            boundary=(*inputs, *sorted(outputs)), outputs=outputs,
            parameters=tuple(n for n in parameters if _is_parameter(n, tensors[n], readers)),
        )  # fmt: skip

    def operand(self, name: str) -> Tensor | None:
        """The tensor that a kernel reads for ``name``: in front of a DequantizeLinear that it absorbs."""
        node = self.maker.get(name)
        if node is not None and node.op_type == "DequantizeLinear" and name not in self.outputs:
            return self.operand(node.input[0])
        return self.tensors.get(name)

    def written(self, name: str) -> Tensor | None:
        """The tensor that a kernel writes for ``name``: behind a QuantizeLinear that it absorbs."""
        if self.absorbs_quantizer(name):
            return self.tensors.get(self.readers[name][0].output[0])
        return self.tensors.get(name)

    def absorbs_quantizer(self, name: str) -> bool:
        """Whether the maker of ``name`` can write it quantized: nothing else reads it in floating point."""
        readers = self.readers.get(name, [])
        return (
            name in self.maker
            and name not in self.outputs
            and len(readers) == 1
            and readers[0].op_type == "QuantizeLinear"
            and readers[0].input[0] == name
        )


def _dtype(element: int) -> tuple[str, int]:
    onnx = require("onnx", extra="ort", purpose="counting the cost of ONNX files")
    name = str(onnx.TensorProto.DataType.Name(element))
    return _NAMES.get(name.lower(), name.lower()), _BITS.get(name, 0)


def _described(value: Any) -> Tensor | None:
    """A value of a known element type; its shape is None unless every size is known."""
    if value.type.WhichOneof("value") != "tensor_type" or not value.type.tensor_type.elem_type:
        return None
    tensor = value.type.tensor_type
    dtype, bits = _dtype(tensor.elem_type)
    if not bits:  # strings
        return None
    known = tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim)
    return Tensor(
        dtype=dtype, bits=bits, shape=tuple(int(d.dim_value) for d in tensor.shape.dim) if known else None
    )


def _is_parameter(name: str, tensor: Tensor, readers: Mapping[str, list[Any]]) -> bool:
    """Weights are floats and quantized integers; 64-bit integers are shapes and indices, and no one trains a scale or a
    constant of a formula, which has no dimensions."""
    if tensor.dtype in ("int64", "uint64", "bool", "string") or not tensor.shape:
        return False
    reading = readers.get(name, [])
    return bool(reading) and not all(
        any(i < len(n.input) and n.input[i] == name for i in _QUANTIZERS.get(n.op_type, ())) for n in reading
    )


def _node_costs(graph: _Graph, reasons: dict[str, Counter[str]]) -> Iterator[NodeCost]:
    """The cost of every node that runs; why a count is missing goes into ``reasons``."""
    for node in graph.nodes:
        if node.op_type in _VIEWS or all(_is_constant(graph, n) for n in node.input if n):
            continue  # moves nothing, or is computed once while loading
        if node.op_type == "DequantizeLinear" and not set(node.output) & graph.outputs:
            continue
        if node.op_type == "QuantizeLinear" and graph.absorbs_quantizer(node.input[0]):
            continue
        macs, dtype, why = _arithmetic(graph, node)
        weights, activations = _bytes(graph, node)
        why = why or ("a shape is unknown" if activations is None else "")
        if why:
            reasons.setdefault(node.op_type, Counter())[why] += 1
        yield NodeCost(
            name=node.name, op=node.op_type, dtype=dtype, macs=macs, weight_bytes=weights,
            activation_bytes=activations, fusible=_is_fusible(graph, node),
        )  # fmt: skip


def _is_fusible(graph: _Graph, node: Any) -> bool:
    """Whether it can be done while the node before writes: elementwise on one tensor that no one else reads."""
    varying = [n for n in node.input if n and not _is_constant(graph, n)]
    if node.op_type not in _POINTWISE or len(varying) != 1:
        return False
    return (
        varying[0] in graph.maker and varying[0] not in graph.outputs and len(graph.readers[varying[0]]) == 1
    )


def _is_constant(graph: _Graph, name: str) -> bool:
    found = graph.tensors.get(name)
    return found is not None and found.constant


def _arithmetic(graph: _Graph, node: Any) -> tuple[int | None, str, str]:
    """(multiply-accumulates, their dtype, why they are not known)."""
    if node.op_type in _CONTROL:
        return None, "", "how often its body runs is not in the file"
    if node.domain not in DEFAULT_DOMAIN:
        return None, "", f"an operator of {node.domain}"
    rule = products.RULES.get(node.op_type)
    if rule is None:
        if node.op_type in products.UNCOUNTED:
            return None, "", "no rule for its arithmetic"
        return 0, "", ""
    operands = [graph.operand(n) if n else None for n in node.input]
    result = graph.tensors.get(node.output[0])
    macs = rule(node, [None if t is None else t.shape for t in operands], result.shape if result else None)
    if macs is None:
        return None, "", "a shape is unknown"
    return macs, _arithmetic_dtype(node, operands), ""


def _arithmetic_dtype(node: Any, operands: list[Tensor | None]) -> str:
    """int8 where all operands of the product have 8 bits, else the dtype of what is not a quantized weight."""
    product = [
        t for i in products.OPERANDS.get(node.op_type, (0, 1)) if i < len(operands) and (t := operands[i])
    ]
    if not product:
        return ""
    if all(t.dtype in ("int8", "uint8") for t in product):
        return "int8"
    if all(t.dtype.startswith("float8") for t in product):
        return product[0].dtype
    floats = [t.dtype for t in product if t.dtype in ("float16", "bfloat16", "float32", "float64")]
    return floats[0] if floats else "float32"


def _bytes(graph: _Graph, node: Any) -> tuple[int, int | None]:
    """(bytes of constants read, bytes of everything else read and written, or None)."""
    weights, others = 0, 0
    unknown = node.op_type in _CONTROL
    for name in dict.fromkeys(n for n in node.input if n):
        tensor = graph.operand(name)
        if tensor is None or tensor.bytes is None:
            unknown = True
        elif tensor.constant:
            weights += _read_bytes(node, tensor)
        else:
            others += tensor.bytes
    for name in (n for n in node.output if n):
        if name not in graph.readers and name not in graph.outputs:
            continue  # an optional output that nobody wants
        tensor = graph.written(name)
        if tensor is None or tensor.bytes is None:
            unknown = True
        else:
            others += tensor.bytes
    return weights, None if unknown else others


def _read_bytes(node: Any, tensor: Tensor) -> int:
    """Bytes of a constant that one call reads: of a table, only the rows that are looked up, which the output counts."""
    return 0 if node.op_type in ("Gather", "GatherND", "GatherElements") else tensor.bytes or 0
