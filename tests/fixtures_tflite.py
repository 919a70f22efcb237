"""Small ``.tflite`` files, written operator by operator: no converter is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekd_litert.flatbuffer import pack

WEIGHT = np.random.default_rng(3).standard_normal((3, 4)).astype(np.float32)
BIAS = np.array([0.5, -1.0, 0.25], np.float32)

_TYPES = {"float32": schema.TensorType.FLOAT32, "int32": schema.TensorType.INT32}


class _Builder:
    """One graph of tensors, constants and operators."""

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.buffers = [schema.BufferT()]
        self.model.operatorCodes = []
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model.subgraphs = [self.graph]

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        *,
        dtype: str = "float32",
        value: Any = None,
        open_batch: bool = False,
    ) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type = name.encode(), list(shape), _TYPES[dtype]
        if open_batch:
            made.shapeSignature = [-1, *shape[1:]]
        made.buffer = 0
        if value is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(value.tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            made.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def operator(
        self, code: int, inputs: Sequence[int], output: int, options: Any = None, custom: str = ""
    ) -> None:
        kind = schema.OperatorCodeT()
        kind.builtinCode, kind.deprecatedBuiltinCode, kind.version = code, min(code, 127), 1
        if custom:
            kind.customCode = custom.encode()
        self.model.operatorCodes.append(kind)
        made = schema.OperatorT()
        made.opcodeIndex = len(self.model.operatorCodes) - 1
        made.inputs, made.outputs = list(inputs), [output]
        if options is not None:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
            made.builtinOptions = options
        self.graph.operators.append(made)

    def signature(self, inputs: dict[str, int], outputs: dict[str, int], key: bytes = b"serve") -> None:
        made = schema.SignatureDefT()
        made.signatureKey, made.subgraphIndex = key, 0
        for attribute, named in (("inputs", inputs), ("outputs", outputs)):
            entries = []
            for name, index in named.items():
                entry = schema.TensorMapT()
                entry.name, entry.tensorIndex = name.encode(), index
                entries.append(entry)
            setattr(made, attribute, entries)
        self.model.signatureDefs = [*(self.model.signatureDefs or []), made]

    def write(self, path: Path, inputs: Sequence[int], outputs: Sequence[int]) -> Path:
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        path.write_bytes(pack(self.model))
        return path


def dense(path: Path, *, open_batch: bool = True, named: bool = True) -> Path:
    """``logits = x WEIGHT^T + BIAS``: x of 4, logits of 3; batch open or 1; with a signature or without."""
    made = _Builder()
    x = made.tensor("tensor/x", (1, 4), open_batch=open_batch)
    weight = made.tensor("weight", (3, 4), value=WEIGHT)
    bias = made.tensor("bias", (3,), value=BIAS)
    y = made.tensor("tensor/y", (1, 3), open_batch=open_batch)
    options = schema.FullyConnectedOptionsT()
    made.operator(schema.BuiltinOperator.FULLY_CONNECTED, (x, weight, bias), y, options)
    if named:
        made.signature({"x": x}, {"logits": y})
    return made.write(path, (x,), (y,))


def integer_sum(path: Path) -> Path:
    """``y = x + x`` on int32, which XNNPACK has no kernel for."""
    made = _Builder()
    x = made.tensor("x", (1, 4), dtype="int32")
    y = made.tensor("y", (1, 4), dtype="int32")
    made.operator(schema.BuiltinOperator.ADD, (x, x), y, schema.AddOptionsT())
    made.signature({"x": x}, {"y": y})
    return made.write(path, (x,), (y,))


def custom(path: Path) -> Path:
    """An operator that no build knows."""
    made = _Builder()
    x, y = made.tensor("x", (1, 4)), made.tensor("y", (1, 4))
    made.operator(schema.BuiltinOperator.CUSTOM, (x,), y, custom="EdgeKDNoSuchOp")
    made.signature({"x": x}, {"y": y})
    return made.write(path, (x,), (y,))


def two_names(path: Path) -> Path:
    """One tensor that the signature gives out under two names."""
    made = _Builder()
    x, y = made.tensor("x", (1, 4)), made.tensor("y", (1, 4))
    made.operator(schema.BuiltinOperator.ADD, (x, x), y, schema.AddOptionsT())
    made.signature({"x": x}, {"one": y, "two": y})
    return made.write(path, (x,), (y, y))


def two_signatures(path: Path) -> Path:
    """A file with two functions over one graph."""
    made = _Builder()
    x, y = made.tensor("x", (1, 4)), made.tensor("y", (1, 4))
    made.operator(schema.BuiltinOperator.ADD, (x, x), y, schema.AddOptionsT())
    made.signature({"a": x}, {"b": y})
    made.signature({"c": x}, {"d": y}, b"other")
    return made.write(path, (x,), (y,))
