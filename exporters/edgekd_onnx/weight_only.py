"""Weights in 8 or 4 bits and activations in float: MatMulNBits where there are products, DequantizeLinear elsewhere."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.lazy import require
from edgekd.quantize.config import QuantConfig
from edgekd_onnx.preparing import BLOCK_OPSET, Prepared
from edgekd_onnx.reading import DEFAULT_DOMAIN, load_graph, opset_of
from edgekd_onnx.writing import quiet

#: Operator -> the axis of output channels in its weights (the second input); a MatMul's is the last.
_CHANNEL_AXES = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1}
#: Greatest magnitude of a symmetric grid; -128 and -8 stay unused, so that +x and -x have equal errors.
_GREATEST = {"int8": 127, "int4": 7}
#: Shares of the greatest magnitude that are tried as the last level of 4 bits.
_SHARES = tuple(i / 20 for i in range(20, 9, -1))
#: 4-bit types need this version of the file format (onnx, IR.md).
_IR_OF_INT4 = 10
#: MatMulNBits ``accuracy_level`` -> what the products are computed in (onnxruntime, ContribOperators.md).
_LEVELS = {1: "float32", 2: "float16", 3: "bfloat16", 4: "int8"}
#: Computed with what is stored, in one call; and dequantized to float before the product.
FUSED, UNPACKED = "MatMulNBits", "DequantizeLinear"


def quantize_weights(prepared: Prepared, config: QuantConfig) -> Any:
    """The model with its weights stored in ``config.dtype``, as an onnx proto.

    ``block`` makes MatMulNBits of matrix products (ONNX Runtime's own operator, com.microsoft); convolutions, the other
    granularities and TensorRT get standard DequantizeLinear nodes, blocked along the flattened input dimension.

    Raises:
        ModelError: nothing in it has constant weights; UsageError: ``keep_float`` names a node that is not there.
    """
    onnx = require("onnx", extra="ort", purpose="quantizing")
    kept = set(prepared.nodes_of(config.keep_float))
    proto = onnx.load(str(prepared.path))
    if not any(n.name not in kept for n in _weighted(proto.graph, config)):
        operators = ", ".join(sorted({n.op_type for n in proto.graph.node})[:6])
        raise ModelError(
            f"no MatMul, Gemm or Conv with constant weights is there to be stored in {config.dtype} (operators: {operators})",
            "use static int8, or leave it in float32",
        )
    if config.granularity == "block" and config.variant != "tensorrt":
        proto = _to_nbits(proto, config, kept)
        kept |= {n.name for n in proto.graph.node if n.op_type == FUSED}
    _to_dequantize(proto, config, kept)
    return proto


def _weighted(graph: Any, config: QuantConfig) -> Iterator[Any]:
    constants = {t.name: t for t in graph.initializer}
    float32 = require("onnx", extra="ort", purpose="quantizing").TensorProto.FLOAT
    # TensorRT has no convolution with 4-bit weights (NVIDIA TensorRT documentation, "INT4 weight-only quantization").
    operators = ("MatMul",) if config.variant == "tensorrt" else tuple(_CHANNEL_AXES)
    for node in graph.node:
        if node.domain not in DEFAULT_DOMAIN or node.op_type not in operators:
            continue
        weight = constants.get(node.input[1])
        if weight is not None and weight.data_type == float32 and len(weight.dims) >= 2:
            yield node


def _to_nbits(proto: Any, config: QuantConfig, kept: set[str]) -> Any:
    module = require("onnxruntime.quantization.matmul_nbits_quantizer", extra="ort", purpose="quantizing")
    quantizer = module.MatMulNBitsQuantizer(
        proto,
        bits=4 if config.dtype == "int4" else 8,
        block_size=config.block_size,
        is_symmetric=True,
        accuracy_level=config.accuracy_level or None,
        nodes_to_exclude=sorted(kept),
    )
    with quiet():
        quantizer.process()
    return quantizer.model.model


def _to_dequantize(proto: Any, config: QuantConfig, kept: set[str]) -> None:
    onnx = require("onnx", extra="ort", purpose="quantizing")
    graph = proto.graph
    constants = {t.name: t for t in graph.initializer}
    chosen = {n.name for n in _weighted(graph, config)} - kept
    nodes: list[Any] = []
    made: dict[tuple[str, str], str] = {}
    for node in graph.node:
        key = (node.input[1], node.op_type) if node.name in chosen else ("", "")
        if node.name in chosen and key not in made:
            array = onnx.numpy_helper.to_array(constants[node.input[1]])
            stored = _stored(array, node, config)
            if stored is not None:
                nodes += stored[0]
                graph.initializer.extend(stored[1])
                made[key] = stored[0][-1].output[0]
        if key in made:
            node.input[1] = made[key]
        nodes.append(node)
    read = {i for n in nodes for i in n.input} | {o.name for o in graph.output}
    left = [t for t in graph.initializer if t.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(left)
    if opset_of(proto) >= BLOCK_OPSET:
        proto.ir_version = max(proto.ir_version, _IR_OF_INT4)


def _stored(array: Array, node: Any, config: QuantConfig) -> tuple[list[Any], list[Any]] | None:
    """Nodes that give the weights of ``node`` dequantized, and their constants; None where blocks do not fit."""
    onnx = require("onnx", extra="ort", purpose="quantizing")
    name, shape = f"{node.input[1]}_{node.op_type}", array.shape
    attributes: dict[str, int] = {}
    if config.granularity == "block":
        array, axis = _flattened(array, node.op_type)
        if config.variant == "tensorrt" and array.shape[axis] % config.block_size:
            return None
        attributes = {"axis": axis, "block_size": config.block_size}
        grouping = _blocks(array, axis, config.block_size)
    elif config.granularity == "channel":
        axis = _CHANNEL_AXES[node.op_type] % array.ndim
        attributes = {"axis": axis}
        grouping = _channels(array, axis)
    else:
        grouping = _Grouping(total=np.sum, greatest=np.max, spread=lambda scale: scale)
    scales = _fitted(array, grouping, config)
    spread = grouping.spread(scales)
    levels = np.clip(np.round(array / spread), -_GREATEST[config.dtype], _GREATEST[config.dtype])
    kind = getattr(onnx.TensorProto, config.dtype.upper())
    made = [f"{name}_{config.dtype}", f"{name}_scale"]
    tensors = [
        onnx.helper.make_tensor(
            made[0], kind, array.shape, _packed(levels.astype(np.int8), config), raw=True
        ),
        onnx.numpy_helper.from_array(np.asarray(scales, np.float32), made[1]),
    ]
    whole = array.shape == shape
    result = f"{name}_dequantized"
    nodes = [
        onnx.helper.make_node(
            UNPACKED, made, [result if whole else f"{result}_flat"], name=f"{result}_node", **attributes
        )
    ]
    if not whole:
        tensors.append(onnx.numpy_helper.from_array(np.array(shape, np.int64), f"{name}_shape"))
        nodes.append(
            onnx.helper.make_node(
                "Reshape", [f"{result}_flat", f"{name}_shape"], [result], name=f"{result}_reshape"
            )
        )
    return nodes, tensors


def _flattened(array: Array, operator: str) -> tuple[Array, int]:
    """Weights with all that one output sums over along one axis, and that axis."""
    if operator == "Conv":
        return array.reshape(len(array), -1), 1
    if operator == "ConvTranspose":
        return array.reshape(len(array), -1), 0
    return array, array.ndim - 2


@dataclass(frozen=True, slots=True)
class _Grouping:
    """Which weights share a scale: sums and greatest values per scale, and scales spread over the weights again."""

    total: Callable[[Array], Any]
    greatest: Callable[[Array], Any]
    spread: Callable[[Any], Any]


def _blocks(array: Array, axis: int, size: int) -> _Grouping:
    length = array.shape[axis]
    starts = list(range(0, length, size))
    return _Grouping(
        total=lambda values: np.add.reduceat(values, starts, axis),
        greatest=lambda values: np.maximum.reduceat(values, starts, axis),
        spread=lambda scales: np.repeat(scales, size, axis).take(range(length), axis),
    )


def _channels(array: Array, axis: int) -> _Grouping:
    over = tuple(i for i in range(array.ndim) if i != axis)
    shape = [-1 if i == axis else 1 for i in range(array.ndim)]
    return _Grouping(
        total=lambda values: values.sum(over),
        greatest=lambda values: values.max(over),
        spread=lambda scales: scales.reshape(shape),
    )


def _fitted(array: Array, grouping: _Grouping, config: QuantConfig) -> Array:
    """Scales, 1 where all weights are 0: the greatest magnitude on the last level, or, of 4 bits, less where that has a
    smaller squared error."""
    most = _GREATEST[config.dtype]
    greatest = np.asarray(grouping.greatest(np.abs(array)), np.float32)
    whole = np.where(greatest > 0, greatest / most, 1).astype(np.float32)
    best, least = whole, np.full(whole.shape, np.inf)
    for share in _SHARES if config.dtype == "int4" else (1.0,):
        scales = (whole * np.float32(share)).astype(np.float32)
        spread = grouping.spread(scales)
        error = grouping.total((np.clip(np.round(array / spread), -most, most) * spread - array) ** 2)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    made: Array = best.astype(np.float32)
    return made


def _packed(levels: Array, config: QuantConfig) -> bytes:
    """Raw bytes of a tensor; 4-bit elements two to a byte, the first in the low half (onnx.proto, TensorProto)."""
    flat = levels.reshape(-1)
    if config.dtype == "int8":
        return flat.tobytes()
    pairs = np.append(flat, np.zeros(len(flat) % 2, np.int8)).view(np.uint8).reshape(-1, 2) & 0xF
    return (pairs[:, 0] | (pairs[:, 1] << 4)).astype(np.uint8).tobytes()


def describe(path: Path) -> dict[str, Any]:
    """How the weights of a file are stored, and what ONNX Runtime makes of that on a CPU, for the record.

    It takes DequantizeLinear before a MatMul for a MatMulNBits that computes in int8. Any other it runs as it stands,
    in every call: constants behind DequantizeLinear are not folded (ONNX Runtime 1.31).

    Returns:
        ``stored``: operator -> nodes; ``runs_as``: operator -> nodes and what their products are computed in.
    """
    stored = Counter(n.op_type for n in load_graph(path).graph.node if n.op_type in (FUSED, UNPACKED))
    run = [n for n in _optimised(path).node if n.op_type in (FUSED, UNPACKED)]
    levels = {a.i for n in run if n.op_type == FUSED for a in n.attribute if a.name == "accuracy_level"}
    computes = ", ".join(_LEVELS.get(i, "left open") for i in sorted(levels)) or "left open"
    counts = Counter(n.op_type for n in run)
    return {
        "stored": dict(sorted(stored.items())),
        "runs_as": {
            form: {"nodes": count, "computes_in": computes if form == FUSED else "float32"}
            for form, count in sorted(counts.items())
        },
    }


def _optimised(path: Path) -> Any:
    """The graph as ONNX Runtime runs it on a CPU, without what is special to this machine's."""
    ort = require("onnxruntime", extra="ort", purpose="quantizing")
    with tempfile.TemporaryDirectory(prefix="edgekd-weights-") as folder:
        made = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(made)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", "optimised.data"
        )
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0)
        return load_graph(made).graph
