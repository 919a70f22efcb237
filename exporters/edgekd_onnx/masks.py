"""Masks of attention: values that only say "not here", and for which no 8-bit grid has room beside the scores."""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd.lazy import require
from edgekd_onnx.reading import DEFAULT_DOMAIN

#: Magnitude from which on a value is taken for a mask: one of 255 steps of such a range is 39 or more, while a
#: difference of 16 between two scores makes one of the two weights vanish (e^-16 is about 1e-7).
GREATEST = 1e4
#: What makes a mask, or adds it to scores.
_MAKES = frozenset({"Add", "Concat", "ConstantOfShape", "Expand", "Mul", "Sub", "Trilu", "Where"})
#: What hands it on.
_HANDS_ON = frozenset({
    "Cast", "Gather", "Identity", "Max", "Min", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose",
    "Unsqueeze",
})  # fmt: skip
_CARRIES = _MAKES | _HANDS_ON
#: What makes weights between 0 and 1 of it.
_ENDS = frozenset({"LogSoftmax", "Softmax"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """Where the masks of a graph are.

    Attributes:
        nodes: that carry a mask, by what the constants say, and those that make weights of it.
        tensors: that hold one, and are read by nothing else that is quantized: they have no range.
        doubtful: tensors that hold one where their range says so: on the way to a Softmax, or of another operator too.
    """

    nodes: frozenset[str]
    tensors: frozenset[str]
    doubtful: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.nodes or self.doubtful)

    def left_in_float(self, graph: Any, ranges: Container[str], operators: Collection[str]) -> list[str]:
        """Nodes of ``operators`` that must not be quantized, sorted.

        Args:
            ranges: tensors that have a range.
        """
        without = {t for t in self.tensors | self.doubtful if t not in ranges}
        return sorted(
            n.name
            for n in graph.node
            if n.op_type in operators and (n.name in self.nodes or without & {*n.input, *n.output})
        )


def find_masks(graph: Any, operators: Collection[str]) -> Masks:
    """Follow great constants, and go back from every Softmax.

    Args:
        graph: prepared: nodes have names, constants are initializers, in topological order.
        operators: that the quantizer quantizes.
    """
    holds = {t.name for t in graph.initializer if _is_great(t)}
    made: set[str] = set()
    nodes: set[str] = set()
    for node in graph.node:
        if node.domain not in DEFAULT_DOMAIN:
            continue
        inputs = set(_values(node))
        own = node.op_type == "ConstantOfShape" and any(_is_great(a.t) for a in node.attribute)
        if own or (node.op_type in _MAKES and inputs & holds) or (node.op_type in _CARRIES and inputs & made):
            nodes.add(node.name)
            made.update(node.output)
            holds.update(node.output)
        elif node.op_type in _ENDS and inputs & made:
            nodes.add(node.name)
    shared = {
        i for n in graph.node if n.op_type in operators and n.op_type not in _CARRIES | _ENDS for i in n.input
    }
    doubtful = (_before_softmax(graph) - made) | (made & shared)
    return Masks(nodes=frozenset(nodes), tensors=frozenset(made - shared), doubtful=frozenset(doubtful))


def is_great(low: float, high: float) -> bool:
    """Whether a range is one of a mask."""
    return not (math.isfinite(low) and math.isfinite(high) and max(-low, high) < GREATEST)


def _values(node: Any) -> list[str]:
    """Inputs whose values are in the output."""
    if node.op_type == "Where":
        return list(node.input)[1:]
    return list(node.input)[:1] if node.op_type in ("Gather", "Expand") else list(node.input)


def _is_great(tensor: Any) -> bool:
    onnx = require("onnx", extra="ort", purpose="quantizing")
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    if tensor.data_type not in kinds:
        return False
    values = onnx.numpy_helper.to_array(tensor)
    return bool(values.size) and not bool(np.all(np.abs(values) < GREATEST))


def _before_softmax(graph: Any) -> set[str]:
    """Tensors that reach a Softmax through nothing but what carries masks, where at least one operator does."""
    maker: Mapping[str, Any] = {o: n for n in graph.node for o in n.output if o}
    found: set[str] = set()
    for end in (n for n in graph.node if n.op_type in _ENDS):
        waiting = [i for i in end.input[:1] if i in maker and maker[i].op_type in _CARRIES]
        while waiting:
            name = waiting.pop()
            if name in found:
                continue
            found.add(name)
            made = maker.get(name)
            if made is not None and made.op_type in _CARRIES:
                waiting += _values(made)
    constants = {t.name for t in graph.initializer}
    return found - constants
