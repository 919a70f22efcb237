"""What a rule asks of a graph: who makes a tensor, who reads it, its type and shape, and its value where it is fixed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.lazy import require
from edgekd_onnx.reading import DEFAULT_DOMAIN
from edgekd_tensorrt.lint.loading import Loaded

#: Element types, ONNX's number -> its name (TensorProto.DataType).
_NAMES: dict[int, str] = {}

#: A size; the name of one that varies; None where nothing is known.
Dim = int | str | None


def type_name(number: int) -> str:
    """``FLOAT``, ``INT8``, …; ``UNDEFINED`` for a number that is none."""
    if not _NAMES:
        onnx = require("onnx", extra="ort", purpose="checking ONNX files")
        _NAMES.update({v: k for k, v in onnx.TensorProto.DataType.items()})
    return _NAMES.get(number, "UNDEFINED")


@dataclass(slots=True, eq=False)
class Node:
    """A node, with the graph that it stands in."""

    proto: Any = field(repr=False)
    graph: Graph = field(repr=False)
    index: int
    inner: list[tuple[str, Graph]] = field(default_factory=list)
    _attributes: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def op_type(self) -> str:
        return str(self.proto.op_type)

    @property
    def domain(self) -> str:
        return "" if self.proto.domain in DEFAULT_DOMAIN else str(self.proto.domain)

    @property
    def label(self) -> str:
        """Its name; its first output where it has none."""
        return str(self.proto.name) or next(filter(None, self.outputs), f"node {self.index}")

    @property
    def inputs(self) -> Sequence[str]:
        return self.proto.input  # type: ignore[no-any-return]

    @property
    def outputs(self) -> Sequence[str]:
        return self.proto.output  # type: ignore[no-any-return]

    def input(self, index: int) -> str:
        """The name of an input, empty where it is not given."""
        return str(self.inputs[index]) if index < len(self.inputs) else ""

    def output(self, index: int) -> str:
        return str(self.outputs[index]) if index < len(self.outputs) else ""

    def attribute(self, name: str) -> Any:
        """Its value: int, float, str, a list of them, a TensorProto; None where it is not given."""
        if self._attributes is None:
            onnx = require("onnx", extra="ort", purpose="checking ONNX files")
            made: dict[str, Any] = {}
            for proto in self.proto.attribute:
                if (
                    proto.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
                    or proto.ref_attr_name
                ):
                    continue
                try:
                    made[proto.name] = _plain(onnx.helper.get_attribute_value(proto))
                except ValueError:
                    continue  # an attribute of no type: the checker names it
            self._attributes = made
        return self._attributes.get(name)

    def number(self, name: str, default: int) -> int:
        """An integer attribute."""
        value = self.attribute(name)
        return value if isinstance(value, int) else default


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (list, tuple)) or type(value).__name__.startswith("Repeated"):
        return [_plain(v) for v in value]
    return value


class Graph:
    """One graph: the model's, or a branch or body in it. Names that it does not define are its parent's."""

    def __init__(
        self, proto: Any, typed: Any, loaded: Loaded, parent: Graph | None = None, where: str = ""
    ) -> None:
        self.proto, self.parent, self.where = proto, parent, where
        self._loaded = loaded
        self.inputs: list[str] = [i.name for i in proto.input]
        self.outputs: list[str] = [o.name for o in proto.output]
        self.constants: dict[str, Any] = {t.name: t for t in proto.initializer}
        self.sparse = {t.values.name for t in proto.sparse_initializer}
        self.producer: dict[str, Node] = {}
        self.consumers: dict[str, list[tuple[Node, int]]] = {}
        self._types = {v.name: v.type for part in (typed.value_info, typed.output, typed.input) for v in part}
        self._arrays: dict[str, NDArray[Any] | None] = {}
        self._fixed: set[str] = set()
        self.nodes = [Node(n, self, i) for i, n in enumerate(proto.node)]
        for node in self.nodes:
            for name in node.outputs:
                if name:
                    self.producer.setdefault(name, node)
            if node.op_type == "Constant" and node.domain == "" and node.outputs:
                value = next((a.t for a in node.proto.attribute if a.name == "value"), None)
                if value is not None:
                    self.constants.setdefault(node.output(0), value)
        for node in self.nodes:  # in order, as ONNX wants them: what a node reads was made before it
            if self._fold(node):
                self._fixed.update(filter(None, node.outputs))
        branches = _branches(typed)
        for node in self.nodes:
            for i, name in enumerate(node.inputs):
                if name and (home := self._home(name)) is not None:
                    home.consumers.setdefault(name, []).append((node, i))
            for attribute, inner in _inner(node.proto):
                match = next(branches, None)
                named = f"{attribute} of {node.op_type} '{node.label}'"
                node.inner.append(
                    (attribute, Graph(inner, inner if match is None else match, loaded, self, named))
                )

    def walk(self) -> Iterator[Node]:
        """Every node, those of branches and bodies after the node that holds them."""
        for node in self.nodes:
            yield node
            for _, inner in node.inner:
                yield from inner.walk()

    def graphs(self) -> Iterator[Graph]:
        yield self
        for node in self.nodes:
            for _, inner in node.inner:
                yield from inner.graphs()

    def _home(self, name: str) -> Graph | None:
        graph: Graph | None = self
        while graph is not None:
            if name in graph.producer or name in graph.constants or name in graph.inputs:
                return graph
            graph = graph.parent
        return None

    def made_by(self, name: str) -> Node | None:
        """The node that makes a tensor; None for inputs and initializers."""
        home = self._home(name)
        return None if home is None else home.producer.get(name)

    def read_by(self, name: str) -> list[tuple[Node, int]]:
        """The nodes that read a tensor, each with the position of the input."""
        home = self._home(name)
        return [] if home is None else home.consumers.get(name, [])

    def is_output(self, name: str) -> bool:
        home = self._home(name)
        return home is not None and name in home.outputs

    def constant(self, name: str) -> Any | None:
        """The TensorProto of an initializer or Constant node; None for what is computed or fed."""
        home = self._home(name)
        if home is None or name not in home.constants:
            return None
        return home.constants[name]

    def array(self, name: str) -> NDArray[Any] | None:
        """The value of a constant; None for what is none, or cannot be read."""
        home = self._home(name)
        tensor = None if home is None else home.constants.get(name)
        if home is None or tensor is None:
            return None
        if name not in home._arrays:
            home._arrays[name] = self._loaded.array(tensor)
        return home._arrays[name]

    def ints(self, name: str) -> list[int] | None:
        """A constant of whole numbers."""
        array = self.array(name)
        if array is None or array.size > 64 or not np.issubdtype(array.dtype, np.integer):
            return None
        return [int(v) for v in array.reshape(-1)]

    def is_fixed(self, name: str) -> bool:
        """Whether a tensor can be computed when an engine is built: from constants, or from shapes that do not vary."""
        home = self._home(name)
        return home is not None and (name in home.constants or name in home._fixed)

    def _fold(self, node: Node) -> bool:
        if node.op_type in ("Shape", "Size"):
            shape = self.shape(node.input(0))
            return shape is not None and all(isinstance(d, int) for d in shape)
        if node.op_type == "Constant":
            return True
        if any(a.HasField("g") for a in node.proto.attribute) or node.op_type.startswith("Random"):
            return False
        return bool(node.inputs) and all(self.is_fixed(i) for i in node.inputs if i)

    def elem(self, name: str) -> str:
        """Element type in ONNX's words; empty where it is not known."""
        tensor = self.constant(name)
        if tensor is not None:
            return type_name(tensor.data_type)
        kind = self._type(name)
        if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.elem_type:
            return ""
        return type_name(kind.tensor_type.elem_type)

    def kind(self, name: str) -> str:
        """``tensor_type``, ``sequence_type``, …; empty where it is not known."""
        kind = self._type(name)
        return "" if kind is None else str(kind.WhichOneof("value") or "")

    def shape(self, name: str) -> tuple[Dim, ...] | None:
        """Sizes; None where the rank is not known."""
        tensor = self.constant(name)
        if tensor is not None:
            return tuple(int(d) for d in tensor.dims)
        kind = self._type(name)
        if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
            return None
        return tuple(
            int(d.dim_value) if d.HasField("dim_value") else (d.dim_param or None)
            for d in kind.tensor_type.shape.dim
        )

    def _type(self, name: str) -> Any | None:
        graph: Graph | None = self
        while graph is not None:
            if name in graph._types:
                return graph._types[name]
            graph = graph.parent
        return None


def _inner(node: Any) -> Iterator[tuple[str, Any]]:
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            yield attribute.name, graph


def _branches(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        for _, inner in _inner(node):
            yield inner
