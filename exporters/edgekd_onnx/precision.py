"""A float32 ONNX graph in float16 or bfloat16: what the operator set allows is converted, the rest is cast around.

Which types an operator takes at an opset is read from its schema (``onnx.defs``), not from a list kept here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.lazy import require
from edgekd_onnx import writing
from edgekd_onnx.reading import DEFAULT_DOMAIN, opset_of
from edgekd_onnx.writing import one_line, weight_bytes

#: Largest finite values (IEEE 754 binary16; bfloat16 has 8 bits of precision at float32's exponents).
_LARGEST = {"float16": 65504.0, "bfloat16": float.fromhex("0x1.fep127")}


def convert_precision(proto: Any, dtype: str, io: str) -> tuple[Any, dict[str, Any]]:
    """A copy of a float32 model that computes in ``dtype`` where its operators can, and what was done.

    Finite values beyond the type's range (a mask's -3e38) become its largest finite value, as infinity would turn
    sums into NaN.

    Args:
        dtype: ``float16`` or ``bfloat16``.
        io: ``float32`` keeps inputs and outputs, ``native`` converts them too.

    Raises:
        ModelError: a tensor whose type cannot be inferred, or a model beyond what protobuf holds.
    """
    onnx = require("onnx", extra="ort", purpose="converting to 16 bits")
    if weight_bytes(proto) > writing.EXTERNAL_BYTES:
        raise ModelError(
            f"onnx cannot infer the types of a model of {weight_bytes(proto)} bytes, which {dtype} needs",
            "leave it in float32",
        )
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    try:
        typed = onnx.shape_inference.infer_shapes(proto)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as e:
        raise ModelError(
            f"the types of this model cannot be inferred ({one_line(e)})", "leave it in float32"
        ) from e
    made = type(proto)()
    made.CopyFrom(typed)
    converter = _Converter(
        onnx=onnx, target=getattr(onnx.TensorProto, dtype.upper()), dtype=dtype, opset=opset_of(made)
    )
    converter.convert(made.graph, {})
    if io == "float32":
        converter.keep_boundary(made.graph)
    return made, {
        "dtype": dtype, "io": io, "clamped_values": converter.clamped, "casts": converter.casts,
        "kept_float32": dict(sorted(converter.kept.items())),
    }  # fmt: skip


@dataclass
class _Converter:
    """One conversion; counts what it does.

    Attributes:
        kept: operator -> how many nodes stay in float32, because their operator has no 16-bit form.
    """

    onnx: Any
    target: int
    dtype: str
    opset: int
    clamped: int = 0
    casts: int = 0
    kept: dict[str, int] = field(default_factory=dict)

    def convert(self, graph: Any, outer: Mapping[str, int]) -> None:
        """Convert a graph and those inside it; ``outer`` are the element types of the tensors around it."""
        types = {**outer, **_element_types(graph)}
        for tensor in graph.initializer:
            self._convert_tensor(tensor)
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type == self.onnx.TensorProto.FLOAT:
                value.type.tensor_type.elem_type = self.target
        nodes: list[Any] = []
        for node in graph.node:
            for attribute in node.attribute:
                for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                    self.convert(inner, types)
            nodes += self._converted(node, types)
        del graph.node[:]
        graph.node.extend(nodes)

    def _converted(self, node: Any, types: Mapping[str, int]) -> list[Any]:
        float_type = self.onnx.TensorProto.FLOAT
        if node.op_type in ("Constant", "ConstantOfShape"):
            self._convert_constant(node)
            return [node]
        if node.op_type == "Cast":
            for a in node.attribute:
                if a.name == "to" and a.i == float_type:
                    a.i = self.target
            return [node]
        back = self._stays_float(node, types)
        if back is None:
            for a in node.attribute:  # EyeLike, RandomNormalLike, ...: the type that they make
                if a.name == "dtype" and a.i == float_type:
                    a.i = self.target
            return [node]
        inputs, outputs = back
        if outputs or len(inputs) == len([i for i in node.input if types.get(i) == float_type]):
            self.kept[node.op_type] = self.kept.get(node.op_type, 0) + 1
        before = [self._cast(node.input[i], f"{node.output[0]}/in{i}", float_type) for i in inputs]
        for i, cast in zip(inputs, before, strict=True):
            node.input[i] = cast.output[0]
        after = []
        for i in outputs:
            name = node.output[i]
            node.output[i] = f"{name}/float32"
            after.append(self._cast(node.output[i], name, self.target, named=True))
        return [*before, node, *after]

    def _stays_float(self, node: Any, types: Mapping[str, int]) -> tuple[list[int], list[int]] | None:
        """Positions of the inputs and outputs that must stay float32; None where none has to."""
        float_type = self.onnx.TensorProto.FLOAT
        unknown = [i for i in (*node.input, *node.output) if i and i not in types]
        if unknown:
            raise ModelError(
                f"the type of '{unknown[0]}' at node '{node.name}' ({node.op_type}) is not known",
                "leave it in float32, or optimise with onnxslim first",
            )
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            return None
        if node.domain not in DEFAULT_DOMAIN:
            inputs = [i for i, n in enumerate(node.input) if n and types[n] == float_type]
            return inputs, [i for i, n in enumerate(node.output) if n and types[n] == float_type]
        schema = self.onnx.defs.get_schema(node.op_type, self.opset, "")
        allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
        wanted = f"tensor({self.dtype})"
        bound: set[str] = set()

        def stays(formals: Any, names: Any) -> list[int]:
            found = []
            for i, name in enumerate(names):
                if not name or types[name] != float_type:
                    continue
                formal = formals[min(i, len(formals) - 1)]
                if wanted not in allowed.get(formal.type_str, (formal.type_str,)):
                    found.append(i)
                    bound.add(formal.type_str)
            return found

        inputs, outputs = stays(schema.inputs, node.input), stays(schema.outputs, node.output)
        return (inputs, outputs) if bound else None

    def _cast(self, source: str, name: str, to: int, *, named: bool = False) -> Any:
        self.casts += 1
        output = name if named else f"{name}/cast"
        return self.onnx.helper.make_node("Cast", [source], [output], name=f"edgekd_cast_{self.casts}", to=to)

    def _convert_constant(self, node: Any) -> None:
        for a in node.attribute:
            if a.HasField("t"):
                self._convert_tensor(a.t)
            elif a.name in ("value_float", "value_floats"):
                values = np.asarray(a.f if a.name == "value_float" else list(a.floats), np.float32)
                tensor = self.onnx.numpy_helper.from_array(values)
                self._convert_tensor(tensor)
                a.CopyFrom(self.onnx.helper.make_attribute("value", tensor))
        if node.op_type == "ConstantOfShape" and not node.attribute:
            # Without a value it makes float32 zeros.
            tensor = self.onnx.numpy_helper.from_array(np.zeros(1, np.float32))
            self._convert_tensor(tensor)
            node.attribute.append(self.onnx.helper.make_attribute("value", tensor))

    def _convert_tensor(self, tensor: Any) -> None:
        if tensor.data_type != self.onnx.TensorProto.FLOAT:
            return
        values: Array = self.onnx.numpy_helper.to_array(tensor)
        largest = np.float32(_LARGEST[self.dtype])
        beyond = np.isfinite(values) & (np.abs(values) > largest)
        self.clamped += int(np.count_nonzero(beyond))
        kept = np.where(beyond, np.sign(values) * largest, values).astype(np.float32)
        raw = kept.astype(np.float16).tobytes() if self.dtype == "float16" else _bfloat16(kept)
        made = self.onnx.helper.make_tensor(tensor.name, self.target, list(tensor.dims), raw, raw=True)
        tensor.CopyFrom(made)

    def keep_boundary(self, graph: Any) -> None:
        """Casts behind the inputs and before the outputs that were float32."""
        first: list[Any] = []
        renamed: dict[str, str] = {}
        weights = {t.name for t in graph.initializer}
        float_type = self.onnx.TensorProto.FLOAT
        for value in graph.input:
            if value.name not in weights and value.type.tensor_type.elem_type == self.target:
                value.type.tensor_type.elem_type = float_type
                renamed[value.name] = f"{value.name}/{self.dtype}"
                first.append(self._cast(value.name, renamed[value.name], self.target, named=True))
        last: list[Any] = []
        outputs: dict[str, str] = {}
        for value in graph.output:
            if value.type.tensor_type.elem_type == self.target:
                value.type.tensor_type.elem_type = float_type
                # An output that is an input as well is already cast.
                source = renamed.get(value.name, f"{value.name}/{self.dtype}")
                if value.name not in renamed:
                    outputs[value.name] = source
                last.append(self._cast(source, value.name, float_type, named=True))
        _rename(graph, {**renamed, **outputs})
        nodes = [*first, *graph.node, *last]
        del graph.node[:]
        graph.node.extend(nodes)


def _bfloat16(values: Array) -> bytes:
    """Round to nearest, ties to even, on the bits of finite float32 values."""
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype("<u2").tobytes()


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Rename tensors everywhere in a graph and those inside it, its own inputs and outputs apart."""
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for value in graph.value_info:
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for values in (node.input, node.output):
            for i, name in enumerate(values):
                values[i] = names.get(name, name)
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _rename(inner, names)
                for value in inner.output:
                    value.name = names.get(value.name, value.name)


def _element_types(graph: Any) -> dict[str, int]:
    values: Iterable[Any] = (*graph.input, *graph.output, *graph.value_info)
    found = {v.name: int(v.type.tensor_type.elem_type) for v in values if v.type.HasField("tensor_type")}
    found |= {t.name: int(t.data_type) for t in graph.initializer}
    return found
