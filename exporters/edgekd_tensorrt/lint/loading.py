"""Opens a model for the lint: parsed without its weights, functions inlined, checked, with inferred types."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import ModelError, PolicyError
from edgekd.files import sha256_file
from edgekd.inspect.external_data import ExternalData
from edgekd.inspect.limits import LIMITS
from edgekd.lazy import require
from edgekd.lfs_pointer import refuse_pointer_file
from edgekd_onnx.reading import DEFAULT_DOMAIN
from edgekd_onnx.writing import one_line
from edgekd_tensorrt.lint.isolation import check_and_infer, inline_functions
from edgekd_tensorrt.lint.wire import slim

#: Bytes of the largest tensor that is read with the model: shapes, axes and most scales are far below, weights above.
_LARGEST = 4096
_PURPOSE = "checking ONNX files"
_DAMAGED = "the file is damaged or not ONNX: export or copy it again"
_UNKNOWN_DOMAIN = "edgekd.unknown"


@dataclass(slots=True, kw_only=True)
class Loaded:
    """An open model.

    Attributes:
        model: ModelProto; large tensors hold no values, functions are inlined.
        typed: the same with inferred types; large constants are inputs of its graph.
        faults: what the checker and shape inference say, each with whether it is an error.
        unreadable: names of external tensors whose data is not there, with the reason.
    """

    path: Path
    sha256: str
    model: Any
    typed: Any
    faults: list[tuple[str, bool]]
    unreadable: dict[str, str]
    _buffer: memoryview = field(repr=False)
    _left_out: dict[str, tuple[int, int]] = field(repr=False)

    def array(self, tensor: Any) -> NDArray[Any] | None:
        """The values of a TensorProto of this model, read where they lie; None where they cannot be read."""
        onnx = require("onnx", extra="ort", purpose=_PURPOSE)
        numpy_helper = require("onnx.numpy_helper", extra="ort", purpose=_PURPOSE)
        span = self._left_out.get(tensor.doc_string)
        if span is not None:
            tensor = onnx.TensorProto.FromString(bytes(self._buffer[span[0] : span[1]]))
        if tensor.name in self.unreadable or tensor.data_type == onnx.TensorProto.STRING:
            return None
        try:
            return np.asarray(numpy_helper.to_array(tensor, str(self.path.parent)))
        except (ValueError, TypeError, KeyError, OSError, onnx.checker.ValidationError):
            return None  # fewer bytes than its shape needs, or an unknown element type: the checker names it


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Loaded]:
    """Open ``path`` for as long as the block runs.

    Raises:
        ModelError: missing, unreadable, empty, or not ONNX.
    """
    onnx = require("onnx", extra="ort", purpose=_PURPOSE)
    protobuf = require("google.protobuf.message", extra="ort", purpose=_PURPOSE)
    try:
        if not path.is_file():
            raise ModelError(f"{path} does not exist", "check the path")
        if path.stat().st_size == 0:
            raise ModelError(f"{path} is empty", _DAMAGED)
        digest = sha256_file(path)
        file = path.open("rb")
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror}", "check the path and its permissions") from e
    with file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as buffer:
        try:
            left = slim(buffer, largest=_LARGEST)
            model = onnx.ModelProto.FromString(left.data)
        except (ValueError, protobuf.DecodeError) as e:
            refuse_pointer_file(path, ModelError)
            raise ModelError(f"cannot read {path} as ONNX ({one_line(e)})", _DAMAGED) from e
        if not model.HasField("graph") or not model.opset_import or not model.graph.output:
            raise ModelError(f"{path} holds no ONNX graph", _DAMAGED)
        faults: list[tuple[str, bool]] = []
        model = inline_functions(model, faults) if model.functions else model
        typed = _typed(model, faults)
        yield Loaded(
            path=path, sha256=digest, model=model, typed=typed, faults=faults, unreadable=_unreadable(path, model),
            _buffer=buffer, _left_out=left.left_out,
        )  # fmt: skip


def _typed(model: Any, faults: list[tuple[str, bool]]) -> Any:
    onnx = require("onnx", extra="ort", purpose=_PURPOSE)
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    _constants_to_inputs(typed.graph, typed.graph, onnx)
    # The checker wants outputs with shapes, runtimes do not: without one, the output is inferred like any tensor.
    for output in [o for o in typed.graph.output if not o.type.tensor_type.HasField("shape")]:
        if output.type.WhichOneof("value") in (None, "tensor_type"):
            typed.graph.output.remove(output)
    _set_unknown_apart(typed, onnx)
    return check_and_infer(typed, faults)


def _constants_to_inputs(graph: Any, top: Any, onnx: Any) -> None:
    """Large constants become inputs of the outermost graph, so that nothing misses their values."""
    names = {i.name for i in top.input}

    def add(name: str, tensor: Any) -> None:
        if name not in names:
            names.add(name)
            top.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tuple(tensor.dims)))

    def empty(tensor: Any) -> bool:
        return bool(tensor.data_location == onnx.TensorProto.EXTERNAL) or is_left_out(tensor)

    for tensor in [t for t in graph.initializer if empty(t)]:
        add(tensor.name, tensor)
        graph.initializer.remove(tensor)
    for node in list(graph.node):
        for attribute in node.attribute:
            if (
                node.op_type == "Constant"
                and attribute.name == "value"
                and empty(attribute.t)
                and node.output
            ):
                add(node.output[0], attribute.t)
                graph.node.remove(node)
                break
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _constants_to_inputs(inner, top, onnx)


def is_left_out(tensor: Any) -> bool:
    """Whether the walk left this tensor's values in the file."""
    return bool(tensor.doc_string.startswith("edgekd:left-out:"))


def _set_unknown_apart(model: Any, onnx: Any) -> None:
    """Plugins often stand in ONNX's own domain, where the checker refuses what it does not know."""
    known = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain in DEFAULT_DOMAIN}
    found = False
    waiting = [model.graph]
    while waiting:
        for node in waiting.pop().node:
            if node.domain in DEFAULT_DOMAIN and node.op_type not in known:
                node.domain, found = _UNKNOWN_DOMAIN, True
            for attribute in node.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
    if found:
        model.opset_import.append(onnx.helper.make_opsetid(_UNKNOWN_DOMAIN, 1))


def _unreadable(path: Path, model: Any) -> dict[str, str]:
    """External tensors of the graph and its branches whose data is missing, too short, or outside the folder."""
    onnx = require("onnx", extra="ort", purpose=_PURPOSE)
    found: dict[str, str] = {}
    beside = ExternalData(path, LIMITS)
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        tensors = [(t.name, t) for t in graph.initializer]
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    tensors.append((node.output[0] if node.output else node.name, attribute.t))
                waiting += [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
        for name, tensor in tensors:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                continue
            try:
                beside.check(tensor.name, [(e.key, e.value) for e in tensor.external_data], None)
            except (ModelError, PolicyError) as e:
                found[name] = e.what
    return found
