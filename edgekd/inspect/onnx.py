"""``.onnx`` files, without the onnx package: what is in them, and everything that no runtime should be asked to open.

Messages and field numbers: onnx/onnx.proto, ``ModelProto``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.inspect import wire
from edgekd.inspect.limits import Limits
from edgekd.inspect.names import printable, text_of
from edgekd.inspect.onnx_graph import GraphWalk
from edgekd.inspect.onnx_opsets import DOMAINS, Calls, FunctionKey, check_calls, check_import
from edgekd.inspect.onnx_tensor import TYPES, read_entry
from edgekd.inspect.rules import refuse
from edgekd.inspect.wire import LENGTH, VARINT, WireError, fields

#: Fields of a ModelProto. A file has no end of its own, so that any other is what somebody appended.
_IR_VERSION, _PRODUCER, _PRODUCER_VERSION, _DOMAIN, _VERSION, _DOC, _GRAPH, _OPSET = range(1, 9)
_METADATA, _TRAINING, _FUNCTION, _CONFIGURATION = 14, 20, 25, 26
_NUMBERS = (_IR_VERSION, _VERSION)
_MODEL = (*range(1, 9), _METADATA, _TRAINING, _FUNCTION, _CONFIGURATION)

#: Fields that a function costs as much as, to keep and to order.
_PER_FUNCTION = 60
_AGAIN = "export or copy it again"


def inspect(path: Path, data: memoryview, limits: Limits) -> Mapping[str, Any]:
    """Walk a ModelProto; see :mod:`edgekd.inspect.formats`.

    The facts: ``producer``, ``ir_version``, ``opsets`` (domain -> version), ``graph`` (its name), ``inputs`` and
    ``outputs`` (``{"name", "dtype", "shape"}``, unknown dimensions by name or None), ``nodes``, ``ops`` (operator ->
    count, domains other than ONNX's before ``::``), ``functions``, ``tensors``, ``dtypes`` (element type -> tensors),
    ``initializer_bytes``, ``metadata``.

    Raises:
        PolicyError: a rule is broken; ModelError: external data is missing.
    """
    if len(data) > limits.protobuf_bytes:
        raise refuse(
            "file-size",
            path,
            f"it has {len(data)} bytes, protobuf reads at most {limits.protobuf_bytes}",
            "keep its weights in external data",
        )
    try:
        return _Model(path, data, limits).facts()
    except WireError as e:
        raise refuse(e.rule, path, str(e), _AGAIN) from e


class _Model:
    def __init__(self, path: Path, data: memoryview, limits: Limits) -> None:
        self._path, self._data, self._limits = path, data, limits
        self._budget = wire.Budget(limits.fields)
        self._walk = GraphWalk(path, data, limits, self._budget)
        self._main = Calls()
        self._functions: dict[FunctionKey, Calls] = {}
        self._texts: dict[int, str] = {}
        self._numbers: dict[int, int] = {}
        self._metadata: dict[str, str] = {}
        self._graph = (0, 0)
        self._notes = 0

    def facts(self) -> Mapping[str, Any]:
        self._read()
        path, walk = self._path, self._walk
        if self._graph == (0, 0):
            raise refuse("malformed", path, "it holds no graph", _AGAIN)
        if not self._main.imports:
            raise refuse("malformed", path, "it imports no operators, so it holds no ONNX graph", _AGAIN)
        check_calls(path, self._main, self._functions, self._limits)
        ops: Counter[str] = Counter()
        for calls in (self._main, *self._functions.values()):
            for (domain, op, _), count in calls.ops.items():
                ops[f"{domain}::{op}" if domain else op] += count
        return {
            "producer": " ".join(filter(None, (self._texts.get(n) for n in (_PRODUCER, _PRODUCER_VERSION)))),
            "ir_version": self._numbers.get(_IR_VERSION, 0),
            "opsets": {domain or "ai.onnx": version for domain, version in self._main.imports.items()},
            **self._interface(),
            "nodes": walk.nodes,
            "ops": dict(sorted(ops.items(), key=lambda item: (-item[1], item[0]))),
            "functions": len(self._functions),
            "tensors": walk.tensors,
            "dtypes": dict(sorted(walk.dtypes.items())),
            "initializer_bytes": walk.initializer_bytes,
            "metadata": self._metadata,
            "files": sorted(walk.external.sizes.items()),
        }

    def _read(self) -> None:
        for number, kind, a, b in fields(self._data, 0, len(self._data), self._budget):
            if number not in _MODEL:
                raise refuse(
                    "trailing-bytes",
                    self._path,
                    f"field {number} before byte {b} is none of an ONNX model's",
                    _AGAIN,
                )
            if (kind != VARINT) if number in _NUMBERS else (kind != LENGTH):
                raise WireError(
                    "malformed", f"field {number} of the model before byte {b} has wire type {kind}"
                )
            if number in _NUMBERS:
                self._numbers[number] = wire.signed(a)
            elif number in (_PRODUCER, _PRODUCER_VERSION, _DOMAIN):
                self._texts[number] = self._walk.text(a, b)
            elif number == _GRAPH:
                if self._graph != (0, 0):
                    raise WireError("malformed", f"it holds a second graph at byte {a}")
                self._graph = (a, b)
                self._walk.graph(a, b, 1, self._main)
            elif number == _OPSET:
                check_import(self._path, self._main, *self._walk.opset(a, b))
            elif number == _METADATA:
                self._notes += 1
                if self._notes <= self._limits.names:
                    self._note(*read_entry(self._data, a, b, self._budget))
            elif number == _FUNCTION:
                self._add_function(a, b)
            elif number == _TRAINING:
                self._training(a, b)

    def _note(self, key: str, value: str) -> None:
        self._metadata[printable(key[:200])] = printable(value[:1000])

    def _add_function(self, start: int, end: int) -> None:
        self._budget.take(_PER_FUNCTION)
        key, calls, imports = self._walk.function(start, end)
        for domain, version in imports:
            check_import(self._path, calls, domain, version)
        shown = printable("::".join(filter(None, key)))[:200]
        if key in self._functions:
            raise refuse("function-duplicate", self._path, f"it defines the function '{shown}' twice")
        if key[0] in DOMAINS and key[0] in ("", "ai.onnx.ml"):
            raise refuse(
                "function-duplicate",
                self._path,
                f"its function '{shown}' would stand for an operator of ONNX itself",
            )
        self._functions[key] = calls

    def _training(self, start: int, end: int) -> None:
        for number, kind, a, b in fields(self._data, start, end, self._budget):
            if number in (1, 2) and kind == LENGTH:
                self._walk.graph(a, b, 1, self._main)

    def _interface(self) -> dict[str, Any]:
        """Name, inputs and outputs of the main graph; initializers that are listed as inputs are not inputs."""
        found: dict[int, list[dict[str, Any]]] = {11: [], 12: []}
        name, budget = "", wire.Budget(self._limits.fields)
        for number, _, a, b in fields(self._data, *self._graph, budget):
            if number in found and len(found[number]) < self._limits.names:
                found[number].append(_value(self._data, a, b, budget))
            elif number == 2:
                name = text_of(self._data, a, b)
        if not found[12]:
            raise refuse("malformed", self._path, "it holds no ONNX graph: nothing comes out of it", _AGAIN)
        weights = self._initializers(budget) if found[11] else set()
        return {
            "graph": name,
            "inputs": [v for v in found[11] if v["name"] not in weights],
            "outputs": found[12],
        }

    def _initializers(self, budget: wire.Budget) -> set[str]:
        names: set[str] = set()
        for number, _, a, b in fields(self._data, *self._graph, budget):
            if number == 5:
                for inner, kind, c, d in fields(self._data, a, b, budget):
                    if inner == 8 and kind == LENGTH:
                        names.add(text_of(self._data, c, d, self._limits.name_bytes))
        return names


def _value(data: memoryview, start: int, end: int, budget: wire.Budget) -> dict[str, Any]:
    """A ValueInfoProto: TypeProto is field 2, its tensor_type field 1 (elem_type 1, shape 2)."""
    made: dict[str, Any] = {"name": "", "dtype": "", "shape": None}
    for number, kind, a, b in fields(data, start, end, budget):
        if kind != LENGTH:
            continue
        if number == 1:
            made["name"] = text_of(data, a, b, 4096)
        elif number == 2:
            for field, wire_type, c, d in fields(data, a, b, budget):
                if field == 1 and wire_type == LENGTH:
                    made["dtype"], made["shape"] = _tensor_type(data, c, d, budget)
    return made


def _tensor_type(
    data: memoryview, start: int, end: int, budget: wire.Budget
) -> tuple[str, list[int | str | None] | None]:
    dtype, shape = "", None
    for number, kind, a, b in fields(data, start, end, budget):
        if number == 1 and kind == VARINT:
            dtype = TYPES[a][0] if a in TYPES else f"type {a}"
        elif number == 2 and kind == LENGTH:
            shape = [
                _dimension(data, c, d, budget)
                for n, k, c, d in fields(data, a, b, budget)
                if (n, k) == (1, LENGTH)
            ]
    return dtype, shape


def _dimension(data: memoryview, start: int, end: int, budget: wire.Budget) -> int | str | None:
    found: int | str | None = None
    for number, kind, a, b in fields(data, start, end, budget):
        if number == 1 and kind == VARINT:
            found = wire.signed(a)
        elif number == 2 and kind == LENGTH:
            found = text_of(data, a, b)
    return found
