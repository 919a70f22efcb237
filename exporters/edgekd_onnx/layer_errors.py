"""How much each layer of an ONNX file suffers from being quantized: one pass of both models, paired node by node."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.files import storage_error
from edgekd.lazy import require
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.layers import LayerError
from edgekd_onnx.cost import count_model
from edgekd_onnx.dynamic_quantizing import DYNAMIC_OPERATORS
from edgekd_onnx.finishing import threads_here
from edgekd_onnx.preparing import Prepared, prepare
from edgekd_onnx.reading import load_graph
from edgekd_onnx.static_quantizing import quantized_operators
from edgekd_onnx.writing import EXTERNAL_BYTES, weight_bytes, write_proto

#: Operators that only move values: what they lose, they were given.
_MOVES = frozenset(
    {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "Identity", "Expand"}
    | {"Concat", "Pad", "Shape", "Cast", "Where", "MaxPool", "DepthToSpace", "SpaceToDepth", "Tile"}
)  # fmt: skip
#: What weights alone, or FP8, are quantized of.
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
#: Operators that a quantizer leaves behind where it was.
_TRACES = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "MatMulNBits"}
    | {"DynamicQuantizeLSTM", "QAttention"}
)  # fmt: skip
#: Removed by the quantizer where QuantizeLinear clips alike.
_CLIPPING = ("Relu", "Clip")
_QUANTIZED, _OWN = "quantized/", "own/"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """A node and its quantized twin: what its consumers see of either, and the nodes that make the second of float inputs."""

    node: Any
    before: str
    after: str
    slice: tuple[Any, ...]


@dataclass
class _Graphs:
    """The prepared float graph and the quantized one."""

    float: Any
    quantized: Any
    maker: dict[str, Any] = field(init=False)
    #: Tensors of the float graph that are computed or given, no constants.
    known: set[str] = field(init=False)
    readers: dict[str, list[Any]] = field(init=False)
    seen_as: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.maker = {o: n for n in self.quantized.node for o in n.output if o}
        constants = {t.name for t in self.float.initializer}
        self.known = {o for n in self.float.node for o in n.output if o}
        self.known |= {i.name for i in self.float.input} - constants
        self.readers = {}
        for node in self.float.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        quantized = {n.output[0]: n.input[0] for n in self.quantized.node if n.op_type == "QuantizeLinear"}
        self.seen_as = {}
        for node in self.quantized.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in quantized:
                self.seen_as.setdefault(quantized[node.input[0]], node.output[0])

    def pairs(self, operators: frozenset[str]) -> Iterator[_Pair]:
        absorbed: set[str] = set()
        for node in self.float.node:
            if node.op_type not in operators or node.name in absorbed or not node.output[0]:
                continue
            before, after = node.output[0], self._seen(node.output[0])
            clipping = self._removed_behind(node)
            if clipping is not None:
                # What the consumers see is clipped, so that is what the node is compared by.
                absorbed.add(clipping.name)
                before = clipping.output[0]
                after = self._seen(before) if self._seen(before) in self.maker else after
            if after not in self.maker:
                continue
            nodes = self._slice(after, before)
            if any(n.op_type in _TRACES for n in nodes):
                yield _Pair(node=node, before=before, after=after, slice=tuple(nodes))

    def _seen(self, name: str) -> str:
        return self.seen_as.get(name, name)

    def _removed_behind(self, node: Any) -> Any | None:
        """The activation behind a node that the quantizer left to QuantizeLinear's clipping: gone, or made by the node."""
        readers = self.readers.get(node.output[0], [])
        if len(readers) != 1 or readers[0].op_type not in _CLIPPING:
            return None
        made = self.maker.get(readers[0].output[0])
        if made is None and (moved := self.maker.get(f"{readers[0].output[0]}_QuantizeLinear_Input")):
            made = moved
        return None if made is not None and made.op_type == readers[0].op_type else readers[0]

    def _slice(self, name: str, own: str) -> list[Any]:
        """The quantized nodes between tensors of the float graph and ``name``, in order; ``own`` is no such tensor."""
        found: dict[int, Any] = {}
        waiting, seen = [name], {name}
        while waiting:
            made = self.maker.get(waiting.pop())
            if made is None:
                continue
            found[id(made)] = made
            for given in made.input:
                if given not in seen and (given == own or given not in self.known):
                    seen.add(given)
                    waiting.append(given)
        return [n for n in self.quantized.node if id(n) in found]


def layer_errors(
    artifact: Artifact, quantized: Artifact, feeds: Sequence[Mapping[str, Array]]
) -> tuple[LayerError, ...]:
    """See :class:`edgekd.quantize.layers.SearchableExporter`.

    Both models run as one, with a third part: every quantized node once more, its inputs quantized from the float
    model's. Only sums of squares leave it, so that memory does not grow with the activations.

    Raises:
        ModelError: ``quantized`` was not made of ``artifact`` here, or the two do not run; DataError: no feeds.
    """
    onnx = require("onnx", extra="ort", purpose="comparing layers")
    config = _config_of(artifact, quantized)
    if not feeds:
        raise ModelError("no feeds to compare layers on", "give calibration data")
    with tempfile.TemporaryDirectory(prefix="edgekd-layers-") as name:
        folder = Path(name)
        prepared = prepare(artifact.path, config, folder)
        proto, after = onnx.load(str(prepared.path)), onnx.load(str(quantized.path))
        graphs = _Graphs(float=proto.graph, quantized=after.graph)
        pairs = list(graphs.pairs(_operators(config)))
        if not pairs:
            raise ModelError(
                f"{quantized.path} has no quantized node that {artifact.path} has as well",
                "compare it with the file that it was made of",
            )
        sums = _run(_merged(proto, after, graphs, pairs), len(pairs), feeds, folder)
        macs = _macs(prepared, feeds[0])
    feeders = _feeders(proto.graph, pairs) if config.mode == "static" else {p.node.name: [] for p in pairs}
    return tuple(
        LayerError(
            name=_label(prepared, pair.node),
            op_type=pair.node.op_type,
            sqnr_db=_sqnr(signal, noise),
            own_sqnr_db=_sqnr(signal, own),
            macs=macs.get(pair.node.name),
            feeders=tuple(_label(prepared, n) for n in feeders[pair.node.name]),
        )
        for pair, (signal, noise, own) in zip(pairs, sums, strict=True)
    )


def _feeders(graph: Any, pairs: Sequence[_Pair]) -> dict[str, list[Any]]:
    """Pair by name -> the paired nodes whose outputs, quantized, reach it: through activations and moves only."""
    maker = {o: n for n in graph.node for o in n.output if o}
    layers = {p.node.name for p in pairs}
    found: dict[str, list[Any]] = {}
    for pair in pairs:
        waiting, own = list(pair.node.input), []
        while waiting:
            made = maker.get(waiting.pop())
            if made is not None and made.name in layers:
                own.append(made)
            elif made is not None:
                waiting += made.input
        found[pair.node.name] = own
    return found


def _config_of(artifact: Artifact, quantized: Artifact) -> QuantConfig:
    if quantized.lineage.get("quantized_from") != artifact.digest:
        raise ModelError(
            f"{quantized.path} was not quantized from {artifact.path}", "give the file that it was made of"
        )
    taken = {"dtype", "mode", "granularity", "block_size", "variant"}
    values = {k: v for k, v in quantized.lineage["quantization"].items() if k in taken}
    return QuantConfig(**values)


def _operators(config: QuantConfig) -> frozenset[str]:
    """Operators that compute, and that ``keep_float`` has a say over."""
    if config.mode == "static" and config.dtype == "int8":
        return frozenset(quantized_operators(config)) - _MOVES
    if config.mode == "dynamic":
        return frozenset(DYNAMIC_OPERATORS)
    return _WEIGHTED


def _label(prepared: Prepared, node: Any) -> str:
    """A name that ``keep_float`` takes: of the float file's node whose work this one does."""
    names: tuple[str, ...] = (*prepared.covers.get(node.name, ()), node.name)
    return names[0]


def _merged(proto: Any, after: Any, graphs: _Graphs, pairs: Sequence[_Pair]) -> Any:
    """One model of all three parts, whose outputs are three sums of squares per pair."""
    onnx = require("onnx", extra="ort", purpose="comparing layers")
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    model.ir_version = max(proto.ir_version, after.ir_version)
    del model.opset_import[:]
    opsets = {o.domain: o.version for m in (proto, after) for o in m.opset_import}
    opsets[""] = max(13, opsets.get("", 0))
    model.opset_import.extend(onnx.helper.make_opsetid(d, v) for d, v in sorted(opsets.items()))
    graph = model.graph
    del graph.output[:], graph.value_info[:]
    given = {i.name for i in graphs.float.input}
    for tensor in after.graph.initializer:
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = _QUANTIZED + tensor.name
    for node in after.graph.node:
        _copy(graph, node, _QUANTIZED, lambda n: n if n in given else _QUANTIZED + n, _QUANTIZED)
    constants = {t.name for t in after.graph.initializer}
    for i, pair in enumerate(pairs):
        made = {o for n in pair.slice for o in n.output if o}
        prefix = f"{_OWN}{i}/"

        def renamed(name: str, made: set[str] = made, prefix: str = prefix) -> str:
            if name in made:
                return prefix + name
            return _QUANTIZED + name if name in constants else name

        for node in pair.slice:
            _copy(graph, node, prefix, renamed, prefix)
        _squares(graph, i, pair, prefix)
    return model


def _copy(graph: Any, node: Any, prefix: str, renamed: Any, outputs: str) -> None:
    copy = graph.node.add()
    copy.CopyFrom(node)
    copy.name = prefix + node.name
    copy.input[:] = [renamed(n) if n else "" for n in node.input]
    copy.output[:] = [outputs + n if n else "" for n in node.output]


def _squares(graph: Any, i: int, pair: _Pair, prefix: str) -> None:
    onnx = require("onnx", extra="ort", purpose="comparing layers")
    make = onnx.helper.make_node
    for kind, other in (("signal", ""), ("noise", _QUANTIZED + pair.after), ("own", prefix + pair.after)):
        taken, result = pair.before, f"sum/{i}/{kind}"
        if other:
            taken = f"difference/{i}/{kind}"
            graph.node.append(make("Sub", [pair.before, other], [taken], name=taken))
        graph.node.append(make("ReduceSumSquare", [taken], [result], name=result, keepdims=0))
        graph.output.append(onnx.helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, []))


def _run(model: Any, count: int, feeds: Sequence[Mapping[str, Array]], folder: Path) -> list[list[float]]:
    ort = require("onnxruntime", extra="ort", purpose="comparing layers")
    from edgekd_onnx.runtime import ort_errors, reason

    place = folder / "merged"
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads_here()
    # As written: fused operators would round elsewhere, and the parts share no tensor that may be merged.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        place.mkdir()
        files = write_proto(model, place, large=weight_bytes(model) > EXTERNAL_BYTES)
        session = ort.InferenceSession(
            str(place / files[0]), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        total = np.zeros(3 * count)
        for batch in feeds:
            total += [float(v) for v in session.run(None, dict(batch))]
    except OSError as e:
        raise storage_error(e, place) from e
    except ort_errors() as e:
        raise ModelError(
            f"the float and the quantized model do not run side by side ({reason(e)})",
            "compare whole models: edgekd compare",
        ) from e
    return [list(v) for v in total.reshape(count, 3)]


def _macs(prepared: Prepared, feeds: Mapping[str, Array]) -> dict[str, int]:
    """Multiply-accumulates of one example, by prepared node; without those that cannot be counted."""
    shapes = {k: v.shape for k, v in feeds.items()}
    cost = count_model(load_graph(prepared.path), shapes, prepared.path)
    batch = max((s[0] for s in shapes.values() if s), default=1)
    return {n.name: n.macs // batch for n in cost.nodes if n.macs}


def _sqnr(signal: float, noise: float) -> float | None:
    if noise <= 0 or signal <= 0 or not math.isfinite(noise / signal):
        return None
    return round(10 * math.log10(signal / noise), 2)
