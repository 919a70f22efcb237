"""Where ONNX Runtime's quantizer quantizes a network, and the values that lie there: what fake quantization follows."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.data.example import Array
from edgekd.lazy import require
from edgekd.model import Model
from edgekd.quantize.config import QuantConfig
from edgekd_onnx.preparing import prepare

#: What onnxruntime.quantization appends to the producer of a quantized graph output, and to stored weights.
_MOVED, _STORED = "_QuantizeLinear_Input", "_quantized"


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """A tensor whose values are rounded.

    Attributes:
        op_type: of the node that makes it; values: what it holds on the feeds.
        readers: outputs of the nodes that read it rounded, with their values; None where every reader does.
    """

    op_type: str
    values: Array
    readers: Mapping[str, Array] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A constant that is stored in 8 bits, float here.

    Attributes:
        values: as the quantizer finds it, batch norm folded in.
        axis: of its scales; None where one scale serves all of it.
        op_type: of the node that reads it.
    """

    values: Array
    axis: int | None
    op_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sites:
    """Activations and weights by their name in the prepared file (batch norms folded).

    Attributes:
        shared: activations that take over another's range (a pooling's output its input's) -> that other one; they are
            not among ``activations``, for rounding twice with one range is rounding once.
    """

    activations: Mapping[str, Activation]
    weights: Mapping[str, Weight]
    shared: Mapping[str, str]


def find_sites(
    model: Model, config: QuantConfig, feeds: Sequence[Mapping[str, Array]], folder: Path
) -> Sites:
    """Export a model, quantize it on ``feeds`` as any other is, and read off what became 8 bits wide.

    Args:
        model: only its structure matters; its values should differ from place to place.
        feeds: the first one's values are recorded.
        folder: an existing folder for files that the caller throws away.

    Raises:
        ModelError: it cannot be exported or quantized.
    """
    from edgekd_onnx.exporter import OnnxExporter

    onnx = require("onnx", extra="ort", purpose="placing fake quantization")
    exporter = OnnxExporter()
    places = {name: folder / name for name in ("float", "prepared", "quantized")}
    for place in places.values():
        place.mkdir()
    exported = exporter.export(model, places["float"], {})
    prepared = prepare(exported.path, config, places["prepared"])
    quantized = onnx.load(str(exporter.quantize(exported, config, feeds, places["quantized"]).path))
    found = onnx.load(str(prepared.path))
    numpy_helper = onnx.numpy_helper
    constants = {t.name: numpy_helper.to_array(t) for t in found.graph.initializer}
    made_by = {o: n.op_type for n in found.graph.node for o in n.output}
    rounded = rounded_activations(quantized.graph, constants)
    owners = [n for n in rounded if rounded[n] == n]
    readers = _readers(quantized.graph, owners)
    partly = {r for names in readers.values() for r in names}
    values = _values(found, [*owners, *sorted(partly - set(owners))], feeds[0])
    return Sites(
        activations={
            n: Activation(
                op_type=made_by.get(n, "the input"),
                values=values[n],
                readers={r: values[r] for r in readers[n]} if n in readers else None,
            )
            for n in owners
        },
        weights=_weights(quantized.graph, constants),
        shared={n: owner for n, owner in rounded.items() if owner != n},
    )


def rounded_activations(graph: Any, constants: Container[str]) -> dict[str, str]:
    """Activations that a QuantizeLinear reads -> the first of those that have the same scale."""
    first: dict[str, str] = {}
    found = {}
    for node in graph.node:
        name = node.input[0].removesuffix(_MOVED)
        if node.op_type == "QuantizeLinear" and name not in constants:
            found[name] = first.setdefault(node.input[1], name)
    return found


def _readers(graph: Any, names: Sequence[str]) -> dict[str, list[str]]:
    """Of tensors that some nodes read as they are: first outputs of the nodes that read them rounded."""
    rounded = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "QuantizeLinear"}
    restored = {
        n.output[0]: rounded[n.input[0]]
        for n in graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] in rounded
    }
    plain = {i for n in graph.node if n.op_type != "QuantizeLinear" for i in n.input}
    plain |= {o.name for o in graph.output}
    found: dict[str, list[str]] = {n: [] for n in names if n in plain and n in rounded.values()}
    for node in graph.node:
        for name in node.input:
            if restored.get(name) in found and node.op_type != "QuantizeLinear":
                found[restored[name]].append(node.output[0].removesuffix(_MOVED))
    return found


def _weights(graph: Any, constants: Mapping[str, Array]) -> dict[str, Weight]:
    onnx = require("onnx", extra="ort", purpose="placing fake quantization")
    stored = {t.name: t for t in graph.initializer}
    readers = {i: n.op_type for n in graph.node for i in n.input}
    weights = {}
    for node in graph.node:
        name = node.input[0].removesuffix(_STORED)
        # A weight is stored in 8 bits, or in float with a pair of its own. Biases are stored in 32 bits, at a scale that
        # nobody chooses.
        if name not in constants or name in weights or node.input[0] not in stored:
            continue
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        if stored[node.input[0]].data_type == onnx.TensorProto.INT32:
            continue
        several = len(stored[node.input[1]].dims) == 1 and stored[node.input[1]].dims[0] > 1
        axis = next((int(a.i) for a in node.attribute if a.name == "axis"), 1) if several else None
        reader = readers.get(node.output[0], "nothing")
        weights[name] = Weight(values=constants[name], axis=axis, op_type=reader)
    return weights


def _values(model: Any, names: Sequence[str], feeds: Mapping[str, Array]) -> dict[str, Array]:
    """What these tensors of a float model hold on ``feeds``."""
    onnx = require("onnx", extra="ort", purpose="placing fake quantization")
    ort = require("onnxruntime", extra="ort", purpose="placing fake quantization")
    given = {i.name for i in model.graph.input}
    there = {o.name for o in model.graph.output}
    inner = [n for n in names if n not in given]
    known = {v.name: v for v in model.graph.value_info}
    for name in inner:
        if name not in there:
            model.graph.output.append(known.get(name) or onnx.helper.make_empty_tensor_value_info(name))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
    )
    made = dict(zip(inner, session.run(inner, dict(feeds)), strict=True)) if inner else {}
    return {n: feeds[n] if n in given else made[n] for n in names}
