"""What the interpreter tells of an opened file: its boundary, its operators, and which of them a delegate took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import ModelError
from edgekd.spec import NUMPY_DTYPES, Dim, TensorSpec
from edgekd_litert.boundary import Affine, affine_of

_DELEGATE = "DELEGATE"
#: Operators that move, copy or re-code values and compute nothing: in no precision (LiteRT's schema.fbs,
#: BuiltinOperator).
MOVING = frozenset({
    "QUANTIZE", "DEQUANTIZE", "CAST", "RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "CONCATENATION", "PACK",
    "UNPACK", "SPLIT", "SPLIT_V", "SLICE", "STRIDED_SLICE", "PAD", "PADV2", "MIRROR_PAD", "TILE", "BROADCAST_TO",
    "SHAPE", "GATHER", "GATHER_ND", "EMBEDDING_LOOKUP", "SCATTER_ND", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH",
    "BATCH_TO_SPACE_ND", "SPACE_TO_BATCH_ND", "REVERSE_V2", "FILL",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One input or output.

    Attributes:
        index: of the tensor in the interpreter.
        spec: as stored in the file; affine: set where it is quantized.
    """

    index: int
    spec: TensorSpec
    affine: Affine | None

    @property
    def as_float(self) -> TensorSpec:
        """The spec where quantized values are taken and given as float32."""
        if self.affine is None:
            return self.spec
        return TensorSpec(name=self.spec.name, dtype="float32", shape=self.spec.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One node: LiteRT's name of the operator, the tensor it makes, their types, and whether a delegate runs it."""

    name: str
    op_type: str
    dtype: str
    operand_dtypes: tuple[str, ...]
    delegated: bool


def ports(
    details: Sequence[Mapping[str, Any]], names: Mapping[int, Sequence[str]], path: Path
) -> tuple[Port, ...]:
    """Inputs or outputs in the file's order.

    Args:
        details: ``get_input_details()`` or ``get_output_details()``.
        names: tensor index -> its names in the signature (an output may have several); a file without a signature
            gives its tensors' own names.

    Raises:
        ModelError: a tensor of strings or resources, or two of one name.
    """
    made: list[Port] = []
    for index, detail in {int(d["index"]): d for d in details}.items():
        dtype = np.dtype(detail["dtype"]).name
        # A tensor whose sizes are all fixed may leave the signature of its shape empty.
        signature = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
        for name in names.get(index) or (str(detail["name"]),):
            if dtype not in NUMPY_DTYPES:
                raise ModelError(
                    f"{path}: '{name}' holds {dtype}, only numbers can be compared",
                    "cut the model off before it",
                )
            shape = tuple(_dimension(name, i, int(d)) for i, d in enumerate(signature))
            spec = TensorSpec(name=name, dtype=dtype, shape=shape)
            made.append(Port(index=index, spec=spec, affine=affine_of(dtype, detail["quantization"])))
    seen = [p.spec.name for p in made]
    if twice := sorted({n for n in seen if seen.count(n) > 1}):
        raise ModelError(
            f"{path} has two inputs or two outputs called '{twice[0]}'", "give each a name of its own"
        )
    return tuple(made)


def _dimension(name: str, axis: int, size: int) -> Dim:
    if size >= 0:
        return size
    return "batch" if axis == 0 else f"{name}.{axis}"


def signature_names(interpreter: Any) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Tensor index -> names, of inputs and of outputs, from the file's one signature; empty where it has none or many."""
    found = list(interpreter._get_full_signature_list().values())
    made: tuple[dict[int, list[str]], dict[int, list[str]]] = ({}, {})
    if len(found) == 1:
        for kind, names in zip(("inputs", "outputs"), made, strict=True):
            for name, index in found[0][kind].items():
                names.setdefault(int(index), []).append(name)
    return made


def operators(interpreter: Any) -> tuple[Operator, ...]:
    """Every operator of the main graph, in execution order.

    A delegate stands in the list as a node of its own behind those that it replaced, which stay; those are what leads
    to its outputs without passing its inputs.
    """
    # The public methods do not list nodes; Interpreter._get_ops_details fails on types that numpy does not have.
    wrapped = interpreter._interpreter
    nodes = [
        (
            wrapped.NodeName(i),
            [int(t) for t in wrapped.NodeInputs(i)],
            [int(t) for t in wrapped.NodeOutputs(i)],
        )
        for i in range(wrapped.NumNodes())
    ]
    own = [n for n in nodes if n[0] != _DELEGATE]
    taken = _taken(own, [n for n in nodes if n[0] == _DELEGATE])
    return tuple(
        Operator(
            name=wrapped.TensorName(outputs[0], 0) if outputs else "",
            op_type=op_type,
            dtype=_dtype(wrapped, outputs[0]) if outputs else "",
            operand_dtypes=tuple(_dtype(wrapped, t) for t in inputs if t >= 0),
            delegated=i in taken,
        )
        for i, (op_type, inputs, outputs) in enumerate(own)
    )


def delegates(interpreter: Any) -> int:
    """How many delegated partitions the main graph has."""
    wrapped = interpreter._interpreter
    return sum(wrapped.NodeName(i) == _DELEGATE for i in range(wrapped.NumNodes()))


_Node = tuple[str, list[int], list[int]]


def _taken(nodes: Sequence[_Node], partitions: Sequence[_Node]) -> set[int]:
    maker = {t: i for i, (_, _, outputs) in enumerate(nodes) for t in outputs}
    taken: set[int] = set()
    for _, inputs, outputs in partitions:
        stop = set(inputs)
        left = [t for t in outputs if t not in stop]
        while left:
            node = maker.get(left.pop())
            if node is None or node in taken:
                continue
            taken.add(node)
            left += [t for t in nodes[node][1] if t not in stop]
    return taken


def _dtype(wrapped: Any, tensor: int) -> str:
    found = wrapped.TensorType(tensor, 0)
    return np.dtype(found).name if found else ""


def file_dtype(made: Sequence[Operator]) -> str:
    """Precision in ONNX spelling: int8 where operators work on 8-bit integers, float16 where their weights are kept so."""
    held = {d for op in made for d in (op.dtype, *op.operand_dtypes)}
    if held & {"int8", "uint8"}:
        return "int8"
    return "float16" if "float16" in held else "float32"
