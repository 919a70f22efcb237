"""Names, types and shapes of an OpenVINO model's inputs and outputs. Needs openvino only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekd.errors import ModelError
from edgekd.spec import Dim, TensorSpec

#: Where an IR keeps the names of its dimensions: OpenVINO itself only knows that they vary.
_DIMENSIONS = ("edgekd", "dimensions")
#: What OpenVINO appends to an output's name to name the node behind it.
_SINK = "/sink_port_0"

#: OpenVINO's element types (openvino/core/type/element_type.hpp) in ONNX spelling.
DTYPES = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "f8e4m3": "float8e4m3fn",
    "f8e5m2": "float8e5m2", "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8", "i4": "int4",
    "u64": "uint64", "u32": "uint32", "u16": "uint16", "u8": "uint8", "u4": "uint4", "boolean": "bool",
    "string": "string",
}  # fmt: skip


def dtype_name(element: Any) -> str:
    """An ``openvino.Type`` in ONNX spelling; OpenVINO's own name where ONNX has none."""
    name = str(element.get_type_name())
    return DTYPES.get(name, name)


def port_name(port: Any) -> str:
    """The name that a port goes by: where fused nodes left it several, the one that its node has."""
    names = sorted(str(n) for n in port.get_names())
    node = str(port.node.get_friendly_name())
    own = node.removesuffix(_SINK)
    if own in names or not names:
        return own
    return names[0]


def read_specs(model: Any, path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """(inputs, outputs) of an ``openvino.Model``; a size that varies has its recorded name, else one of its own.

    Raises:
        ModelError: a rank that varies, or a name that occurs twice.
    """
    recorded = _recorded(model)
    sides = []
    for side, ports in (("inputs", model.inputs), ("outputs", model.outputs)):
        names = [port_name(p) for p in ports]
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice is not None:
            raise ModelError(f"{path} has two {side} called '{twice}'", "give each a name of its own")
        known = recorded.get(side)
        known = known if isinstance(known, list) and len(known) == len(names) else [None] * len(names)
        sides.append(tuple(_spec(p, n, k, path) for p, n, k in zip(ports, names, known, strict=True)))
    return sides[0], sides[1]


def _spec(port: Any, name: str, known: object, path: Path) -> TensorSpec:
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        raise ModelError(
            f"{path}: '{name}' has no fixed number of dimensions",
            "export it with known ranks (shape inference)",
        )
    dims: list[Dim] = []
    for axis, dim in enumerate(shape):
        if dim.is_static:
            dims.append(int(dim.get_length()))
            continue
        found = known[axis] if isinstance(known, list) and len(known) == len(shape) else None
        dims.append(found if isinstance(found, str) and found else f"{name}.{axis}")
    return TensorSpec(name=name, dtype=dtype_name(port.get_element_type()), shape=tuple(dims))


def _recorded(model: Any) -> dict[str, Any]:
    if not model.has_rt_info(list(_DIMENSIONS)):
        return {}
    try:
        found = json.loads(model.get_rt_info(list(_DIMENSIONS)).astype(str))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def record_dimensions(model: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Write the names of dimensions into a model, where :func:`read_specs` finds them again."""
    sides = {"inputs": [list(s.shape) for s in inputs], "outputs": [list(s.shape) for s in outputs]}
    model.set_rt_info(json.dumps(sides, separators=(",", ":"), sort_keys=True), list(_DIMENSIONS))
