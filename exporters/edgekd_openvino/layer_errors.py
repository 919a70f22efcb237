"""How much each layer of an IR suffers from quantization: two passes, whatever the number of layers.

Both models name their operators alike (NNCF keeps friendly names). In the first pass they run side by side. In the
second every quantized layer of the quantized model is fed what the float model computes there, so that its error is its
own: the graph is cut before each quantizer of an activation, and the float tensor comes in as an input.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.lazy import require
from edgekd.quantize.layers import LayerError
from edgekd.spec import check_feeds
from edgekd_openvino.library import errors, reason
from edgekd_openvino.probe import compile_as_written
from edgekd_openvino.runtime import read_model
from edgekd_openvino.specs import read_specs
from edgekd_openvino.unquantizing import MOVING, QUANTIZER, activation_port, is_smoothing, is_stored

#: Output of a multiply-accumulate operator, per element, takes this product of the weight's dimensions (OpenVINO's
#: operator specifications: [out, in, ...], [groups, out, in, ...]).
_WEIGHT_DIMENSIONS = {"Convolution": 1, "GroupConvolution": 2}


@dataclass
class _Sums:
    signal: float = 0.0
    noise: float = 0.0

    def add(self, before: Array, after: Array) -> None:
        a, b = before.astype(np.float64), after.astype(np.float64)
        self.signal += float(np.sum(a * a))
        self.noise += float(np.sum((a - b) ** 2))

    @property
    def db(self) -> float | None:
        if self.noise == 0 or self.signal == 0:
            return None
        ratio = self.signal / self.noise
        return 10 * math.log10(ratio) if ratio > 0 and math.isfinite(ratio) else None


@dataclass
class _Layer:
    op_type: str
    whole: _Sums = field(default_factory=_Sums)
    own: _Sums = field(default_factory=_Sums)
    macs: int | None = None


def layer_errors(
    artifact: Artifact, quantized: Artifact, feeds: Sequence[Mapping[str, Array]]
) -> list[LayerError]:
    """See :meth:`edgekd.quantize.layers.SearchableExporter.layer_errors`; on the CPU, in one thread and float32.

    Raises:
        ModelError: the two are not of one network, or do not run; DataError: feeds that do not fit.
    """
    before, after = read_model(artifact.path), read_model(quantized.path)
    inputs = read_specs(before, artifact.path)[0]
    known = _named(before)
    layers = {
        str(op.get_friendly_name()): _Layer(op_type=str(op.get_type_name()))
        for op in after.get_ordered_ops()
        if _quantized_inputs(op) and not is_smoothing(op, known)
    }
    strange = [name for name in layers if name not in known]
    if strange:
        raise ModelError(
            f"{quantized.path} quantizes '{strange[0]}', and {artifact.path} has no operator of that name",
            "give the float model that it was made of",
        )
    macs = {name: known[name] for name in layers}
    cut = read_model(quantized.path)
    # What the cuts part from the results is no longer found from them.
    pieces = _named(cut)
    fed = _cut(cut, known)
    wanted = sorted({*layers, *(source for source, _ in fed.values())})
    passes = zip(
        feeds,
        _answers(before, known, wanted, feeds, inputs, str(artifact.path)),
        _answers(after, _named(after), list(layers), feeds, inputs, str(quantized.path)),
        strict=True,
    )
    own_run = _compile(cut, pieces, list(layers), str(quantized.path))
    for batch, floats, lossy in passes:
        own = _call(own_run, {**batch, **{k: floats[v] for k, v in fed.items()}}, str(quantized.path))
        for name, layer in layers.items():
            layer.whole.add(floats[name, 0], lossy[name, 0])
            layer.own.add(floats[name, 0], own[name, 0])
            layer.macs = _macs(macs[name], floats[name, 0].size / len(floats[name, 0]))
    return [
        LayerError(name=name, op_type=x.op_type, sqnr_db=x.whole.db, own_sqnr_db=x.own.db, macs=x.macs)
        for name, x in layers.items()
    ]


def _named(model: Any) -> dict[str, Any]:
    """Friendly name -> operator."""
    return {str(op.get_friendly_name()): op for op in model.get_ops()}


def _quantized_inputs(op: Any) -> list[Any]:
    """The activation quantizers that feed an operator; none for what is no layer."""
    if op.get_type_name() in (QUANTIZER, "Result", *MOVING):
        return []
    found, open_ = [], [v.get_node() for v in op.input_values()]
    while open_:
        source = open_.pop()
        if source.get_type_name() == QUANTIZER and not is_stored(source):
            found.append(source)
        elif source.get_type_name() in MOVING:
            open_ += [v.get_node() for v in source.input_values()]
    return found


def _cut(model: Any, known: Collection[str]) -> dict[str, tuple[str, int]]:
    """Feed every activation quantizer from an input of its own; input name -> the tensor that it takes."""
    ov = require("openvino", extra="openvino", purpose="comparing layers")
    fed: dict[str, tuple[str, int]] = {}
    made: dict[tuple[str, int], Any] = {}
    for op in model.get_ordered_ops():
        if op.get_type_name() != QUANTIZER or is_stored(op):
            continue
        port = op.input(0)
        if is_smoothing(port.get_source_output().get_node(), known):
            port = activation_port(port.get_source_output().get_node())
        source = port.get_source_output()
        node = source.get_node()
        if node.get_type_name() in ("Parameter", QUANTIZER):
            continue  # fed already, or rounded twice
        key = (str(node.get_friendly_name()), int(source.get_index()))
        if key not in made:
            name = f"edgekd-cut-{len(made)}"
            parameter = ov.op.Parameter(source.get_element_type(), source.get_partial_shape())
            parameter.output(0).set_names({name})
            made[key], fed[name] = parameter, key
        port.replace_source_output(made[key].output(0))
    model.add_parameters(list(made.values()))
    return fed


_Answers = dict[tuple[str, int], Array]


@dataclass(frozen=True)
class _Compiled:
    compiled: Any
    #: (operator, output port) of each result, in order.
    keys: tuple[tuple[str, int], ...]


def _compile(model: Any, ops: Mapping[str, Any], names: Sequence[str], where: str) -> _Compiled:
    """A model whose results are the outputs of the named operators; every port of each."""
    ov = require("openvino", extra="openvino", purpose="comparing layers")
    ports = [(name, k) for name in names for k in range(ops[name].get_output_size())]
    try:
        parameters = model.get_parameters()
        seen = ov.Model([ops[name].output(k) for name, k in ports], parameters, "layers")
        compiled = compile_as_written(seen)
    except errors() as e:
        raise ModelError(
            f"openvino cannot show the layers of {where} ({reason(e)})", "search onnx instead"
        ) from e
    return _Compiled(compiled, tuple(ports))


def _call(run: _Compiled, feeds: Mapping[str, Array], where: str) -> _Answers:
    try:
        made = run.compiled(dict(feeds))
    except errors() as e:
        raise ModelError(f"{where} failed while running ({reason(e)})", "check the model") from e
    return {key: np.array(made[k]) for k, key in enumerate(run.keys)}


def _answers(
    model: Any,
    ops: Mapping[str, Any],
    names: Sequence[str],
    feeds: Sequence[Mapping[str, Array]],
    inputs: Any,
    where: str,
) -> Iterator[_Answers]:
    run = _compile(model, ops, names, where)
    for batch in feeds:
        check_feeds(inputs, batch, where)
        yield _call(run, batch, where)


def _macs(op: Any, outputs: float) -> int | None:
    """Multiply-accumulates of one example of a convolution or a product with weights; None of others."""
    kind = str(op.get_type_name())
    if kind == "MatMul":
        shape = op.input_value(1).get_partial_shape()
        axis = len(shape) - (1 if op.get_attributes().get("transpose_b") else 2)
        return int(outputs * shape[axis].get_length()) if axis >= 0 and shape[axis].is_static else None
    skipped = _WEIGHT_DIMENSIONS.get(kind)
    shape = op.input_value(1).get_partial_shape() if skipped else None
    if skipped is None or shape is None or not shape.is_static:
        return None
    return int(outputs * math.prod(int(d) for d in shape.to_shape()[skipped:]))
