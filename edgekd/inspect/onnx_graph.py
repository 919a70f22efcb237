"""The graphs of an ONNX file, walked without the weights: counts, names, tensors, operators.

Messages and field numbers: onnx/onnx.proto.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from edgekd.inspect import onnx_tensor, wire
from edgekd.inspect.external_data import ExternalData
from edgekd.inspect.limits import Limits
from edgekd.inspect.names import fault, text_of
from edgekd.inspect.onnx_opsets import DEFAULT_DOMAIN, Calls, FunctionKey
from edgekd.inspect.rules import refuse
from edgekd.inspect.wire import LENGTH, WireError

_ATTRIBUTE_RUNS = onnx_tensor.runs_of({7: 4, 8: None})
#: Fields that an import costs as much as.
_PER_IMPORT = 20
#: Fields of an attribute that hold one message or text: twice, and readers differ about what they say.
_ONCE = (1, 5, 6, 21, 22)


class GraphWalk:
    """Everything below a ModelProto, in one pass; see :mod:`edgekd.inspect.onnx` for the model itself.

    Attributes:
        external: the files beside the model.
        nodes, attributes, tensors: how many were met.
        initializer_bytes: of all tensors, in the file and beside it.
        dtypes: element type -> how many tensors.
    """

    def __init__(self, path: Path, data: memoryview, limits: Limits, budget: wire.Budget) -> None:
        self._path, self._data, self._limits, self._budget = path, data, limits, budget
        self.external = ExternalData(path, limits)
        self.nodes = self.attributes = self.tensors = self.initializer_bytes = 0
        self.dtypes: Counter[str] = Counter()
        self._name_bytes = 0

    def name(self, start: int, end: int) -> None:
        """Check the name in ``data[start:end]``.

        Raises:
            PolicyError: name-text.
        """
        limits = self._limits
        what = fault(self._data, start, end, limits.name_bytes)
        self._name_bytes += end - start
        if not what and self._name_bytes > limits.name_total_bytes:
            what = f"its names are more than {limits.name_total_bytes} bytes together"
        if what:
            raise refuse("name-text", self._path, what, "export it again with plain names")

    def text(self, start: int, end: int) -> str:
        """A checked name."""
        self.name(start, end)
        return bytes(self._data[start:end]).decode()

    def graph(self, start: int, end: int, depth: int, calls: Calls) -> None:
        """Walk the GraphProto in ``data[start:end]``.

        Args:
            depth: graphs around it.
            calls: takes its operators.

        Raises:
            PolicyError: a rule is broken; WireError: not a message, or the budget is spent.
        """
        if depth > self._limits.nesting:
            raise refuse("nesting", self._path, f"graphs nest deeper than {self._limits.nesting}")
        for number, kind, a, b in wire.fields(self._data, start, end, self._budget):
            if number in (1, 2, 5, 11, 12, 15):
                if kind != LENGTH:
                    raise _odd("graph", number, b)
                if number == 1:
                    self.node(a, b, depth, calls)
                elif number == 5:
                    self.tensor(a, b)
                elif number == 15:
                    self.sparse(a, b)
                elif number == 2:
                    self.name(a, b)
                else:
                    self._value(a, b)

    def node(self, start: int, end: int, depth: int, calls: Calls) -> None:
        """Walk the NodeProto in ``data[start:end]``; raises as :meth:`graph`."""
        self.nodes += 1
        if self.nodes > self._limits.nodes:
            raise refuse("nodes", self._path, f"it has more than {self._limits.nodes} nodes")
        name = first_output = op = domain = overload = (0, 0)
        seen: list[int] = []
        for number, kind, a, b in wire.fields(self._data, start, end, self._budget):
            if number > 8:
                continue
            if kind != LENGTH:
                raise _odd("node", number, b)
            if number == 5:
                self.attribute(a, b, depth, calls)
                continue
            if number == 6:
                continue
            self.name(a, b)
            if number == 2:
                first_output = first_output if first_output[1] else (a, b)
            elif number != 1:
                if number in seen:
                    raise _twice("node", number, a)
                seen.append(number)
                if number == 3:
                    name = (a, b)
                elif number == 4:
                    op = (a, b)
                elif number == 7:
                    domain = (a, b)
                else:
                    overload = (a, b)
        data = self._data
        key = (
            _plain(bytes(data[domain[0] : domain[1]]).decode()),
            bytes(data[op[0] : op[1]]).decode(),
            bytes(data[overload[0] : overload[1]]).decode(),
        )
        if key not in calls.first:
            where = name if name[1] > name[0] else first_output
            calls.first[key] = text_of(data, *where)
        calls.ops[key] += 1

    def attribute(self, start: int, end: int, depth: int, calls: Calls) -> None:
        """Walk the AttributeProto in ``data[start:end]``; raises as :meth:`graph`."""
        self.attributes += 1
        if self.attributes > self._limits.attributes:
            raise refuse("attributes", self._path, f"it has more than {self._limits.attributes} attributes")
        data, budget = self._data, self._budget
        walk: Mapping[int, Callable[[int, int], None]] = {
            1: self.name,
            5: self.tensor,
            6: lambda a, b: self.graph(a, b, depth + 1, calls),
            10: self.tensor,
            11: lambda a, b: self.graph(a, b, depth + 1, calls),
            21: self.name,
            22: self.sparse,
            23: self.sparse,
        }
        seen: list[int] = []
        at = start
        while at < end:
            run = onnx_tensor.match_run(_ATTRIBUTE_RUNS, data, at, end, budget)
            if run is not None:
                at = run[2]
                continue
            for number, kind, a, b in wire.fields(data, at, end, budget):
                at = b
                if number in walk:
                    if kind != LENGTH:
                        raise _odd("attribute", number, b)
                    if number in _ONCE:
                        if number in seen:
                            raise _twice("attribute", number, a)
                        seen.append(number)
                    walk[number](a, b)
                if at < end and data[at] in _ATTRIBUTE_RUNS:
                    break

    def sparse(self, start: int, end: int) -> None:
        """Walk the SparseTensorProto in ``data[start:end]``; raises as :meth:`graph`."""
        seen: list[int] = []
        dims: list[int] = []
        for number, kind, a, b in wire.fields(self._data, start, end, self._budget):
            if number in (1, 2):
                if kind != LENGTH:
                    raise _odd("sparse tensor", number, b)
                if number in seen:
                    raise _twice("sparse tensor", number, a)
                seen.append(number)
                self.tensor(a, b)
            elif number == 3 and kind == wire.VARINT and len(dims) <= self._limits.dimensions:
                dims.append(wire.signed(a))
        self._shape(dims, "a sparse tensor")

    def tensor(self, start: int, end: int) -> None:
        """Check the TensorProto in ``data[start:end]``; raises as :meth:`graph`."""
        self.tensors += 1
        limits = self._limits
        if self.tensors > limits.tensors:
            raise refuse("tensors", self._path, f"it has more than {limits.tensors} tensors")
        found = onnx_tensor.read(self._data, start, end, self._budget, limits.dimensions)
        self.name(*found.name)
        shown = text_of(self._data, *found.name)
        self._shape(found.dims, f"tensor '{shown}'")
        if found.type not in onnx_tensor.TYPES:
            raise refuse(
                "tensor-type", self._path, f"tensor '{shown}' has the unknown element type {found.type}"
            )
        if found.is_external or found.external:
            if found.needed_bytes is None or any(found.entries.values()):
                raise refuse(
                    "tensor-data", self._path, f"tensor '{shown}' has data of two kinds, or external strings"
                )
            held = self.external.check(shown, found.external, found.needed_bytes)
        else:
            short = found.shortfall()
            if short:
                raise refuse(
                    "tensor-data", self._path, f"tensor '{shown}' {short}", "export or copy it again"
                )
            held = end - start if found.needed_bytes is None else found.needed_bytes
        self.dtypes[onnx_tensor.TYPES[found.type][0]] += 1
        self.initializer_bytes += held
        if self.initializer_bytes > limits.initializer_bytes:
            raise refuse(
                "initializer-bytes",
                self._path,
                f"its tensors take more than {limits.initializer_bytes} bytes",
            )

    def function(self, start: int, end: int) -> tuple[FunctionKey, Calls, list[tuple[str, int]]]:
        """Walk the FunctionProto in ``data[start:end]``: its key, operators and imports; raises as :meth:`graph`."""
        calls = Calls()
        texts = {1: "", 10: "", 13: ""}
        imports: list[tuple[str, int]] = []
        seen: list[int] = []
        for number, kind, a, b in wire.fields(self._data, start, end, self._budget):
            if number in (1, 4, 5, 6, 7, 9, 10, 11, 13) and kind != LENGTH:
                raise _odd("function", number, b)
            if number in texts:
                if number in seen:
                    raise _twice("function", number, a)
                seen.append(number)
                texts[number] = self.text(a, b)
            elif number in (4, 5, 6):
                self.name(a, b)
            elif number == 7:
                self.node(a, b, 0, calls)
            elif number == 9:
                imports.append(self.opset(a, b))
            elif number == 11:
                self.attribute(a, b, 0, calls)
        return (_plain(texts[10]), texts[1], texts[13]), calls, imports

    def opset(self, start: int, end: int) -> tuple[str, int]:
        """Domain and version of the OperatorSetIdProto in ``data[start:end]``; raises as :meth:`graph`."""
        domain, version = "", 0
        self._budget.take(_PER_IMPORT)
        for number, kind, a, b in wire.fields(self._data, start, end, self._budget):
            if number == 1 and kind == LENGTH:
                domain = self.text(a, b)
            elif number == 2 and kind == wire.VARINT:
                version = wire.signed(a)
        return domain, version

    def _shape(self, dims: list[int], what: str) -> None:
        if len(dims) > self._limits.dimensions:
            raise refuse(
                "tensor-shape", self._path, f"{what} has more than {self._limits.dimensions} dimensions"
            )
        if any(d < 0 for d in dims):
            raise refuse("tensor-shape", self._path, f"{what} has the shape {onnx_tensor.shape_text(dims)}")

    def _value(self, start: int, end: int) -> None:
        for number, kind, a, b in wire.fields(self._data, start, end, self._budget):
            if number == 1 and kind == LENGTH:
                self.name(a, b)


def _plain(domain: str) -> str:
    return "" if domain in DEFAULT_DOMAIN else domain


def _odd(message: str, number: int, at: int) -> WireError:
    return WireError(
        "malformed", f"field {number} of a {message} before byte {at} is of a kind that ONNX does not use"
    )


def _twice(message: str, number: int, at: int) -> WireError:
    return WireError("malformed", f"field {number} of a {message} at byte {at} is there twice")
