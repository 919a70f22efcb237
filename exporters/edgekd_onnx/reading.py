"""Reading ``.onnx`` files from outside: whole, valid, and reaching nothing but their own folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact, record_file
from edgekd.errors import ModelError
from edgekd.inspect import inspect_file
from edgekd.lazy import require
from edgekd.lfs_pointer import refuse_pointer_file
from edgekd.spec import TensorSpec
from edgekd_onnx.runtime import dimension
from edgekd_onnx.writing import one_line

DEFAULT_DOMAIN = ("", "ai.onnx")
_INTEGER_OPS = {"QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger", "DynamicQuantizeLinear"}
_DAMAGED = "the file is damaged or not ONNX: export or copy it again"


def opset_of(model: Any) -> int:
    """The version of the default operator set; 0 where a model uses none of it."""
    return max((int(o.version) for o in model.opset_import if o.domain in DEFAULT_DOMAIN), default=0)


def load_graph(path: Path) -> Any:
    """Parse an ONNX file without its external data.

    Raises:
        ModelError: missing, unreadable, empty, or not ONNX.
    """
    onnx = require("onnx", extra="ort", purpose="reading ONNX files")
    protobuf = require("google.protobuf.message", extra="ort", purpose="reading ONNX files")
    try:
        if not path.is_file():
            raise ModelError(f"{path} does not exist", "check the path")
        if path.stat().st_size == 0:
            raise ModelError(f"{path} is empty", _DAMAGED)
        model = onnx.load(str(path), load_external_data=False)
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror}", "check the path and its permissions") from e
    except (protobuf.DecodeError, RuntimeError, ValueError) as e:
        refuse_pointer_file(path, ModelError)
        raise ModelError(f"cannot read {path} as ONNX ({one_line(e)})", _DAMAGED) from e
    if not model.HasField("graph") or not model.opset_import or not model.graph.output:
        raise ModelError(f"{path} holds no ONNX graph", _DAMAGED)
    return model


def external_files(path: Path) -> tuple[str, ...]:
    """Names of the files beside ``path`` that hold its external data, sorted; :mod:`edgekd.inspect` has checked all.

    Raises:
        PolicyError: the file breaks a rule of the inspector; ModelError: it, or one of those files, is missing.
    """
    found = inspect_file(path, digest=False)
    return tuple(sorted(file.relative_to(path.parent).as_posix() for file in found.files))


def guess_dtype(model: Any) -> str:
    """Precision in ONNX spelling: that of quantized weights where there are any, else of most float weights."""
    onnx = require("onnx", extra="ort", purpose="reading ONNX files")
    kinds = onnx.TensorProto
    types = {t.name: t.data_type for t in model.graph.initializer}
    used: set[int] = set()
    for node in model.graph.node:
        if node.op_type in _INTEGER_OPS:
            used.add(kinds.INT8)
        elif node.op_type == "MatMulNBits":
            bits = next((a.i for a in node.attribute if a.name == "bits"), 4)
            used.add(kinds.INT8 if bits == 8 else kinds.INT4)
        elif node.op_type == "DequantizeLinear" and node.input[0] in types:
            used.add(types[node.input[0]])
        elif node.op_type == "QuantizeLinear" and len(node.input) > 2:
            used.add(types.get(node.input[2], kinds.UINT8))
    for dtype, members in (
        ("int4", (kinds.INT4, kinds.UINT4)),
        ("float8e4m3fn", (kinds.FLOAT8E4M3FN,)),
        ("int8", (kinds.INT8, kinds.UINT8)),
    ):
        if used & set(members):
            return dtype
    names = {
        kinds.FLOAT: "float32",
        kinds.FLOAT16: "float16",
        kinds.BFLOAT16: "bfloat16",
        kinds.DOUBLE: "float64",
    }
    weights = dict.fromkeys(names.values(), 0)
    for tensor in model.graph.initializer:
        if tensor.data_type in names:
            weights[names[tensor.data_type]] += math.prod(tensor.dims)
    return max(weights, key=lambda n: weights[n]) if any(weights.values()) else "float32"


def _spec(path: Path, value: Any) -> TensorSpec:
    onnx = require("onnx", extra="ort", purpose="reading ONNX files")
    if value.type.WhichOneof("value") != "tensor_type":
        raise ModelError(
            f"{path}: '{value.name}' is not a tensor, and only tensors can be compared",
            "export the model without sequences, maps and optionals (sklearn: zipmap=False)",
        )
    tensor = value.type.tensor_type
    element = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    raw = [
        d.dim_value if d.HasField("dim_value") else (d.dim_param if d.HasField("dim_param") else None)
        for d in tensor.shape.dim
    ]
    return TensorSpec(
        name=value.name,
        dtype={"float": "float32", "double": "float64"}.get(element, element),
        shape=tuple(dimension(value.name, i, d) for i, d in enumerate(raw)),
    )


def read_artifact(path: Path, outputs: Sequence[str]) -> Artifact:
    """See :meth:`edgekd_onnx.exporter.OnnxExporter.read`."""
    onnx = require("onnx", extra="ort", purpose="reading ONNX files")
    external = external_files(path)
    model = load_graph(path)
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as e:
        raise ModelError(f"{path} is not valid ONNX ({one_line(e)})", _DAMAGED) from e
    weights = {t.name for t in model.graph.initializer}
    inputs = tuple(_spec(path, v) for v in model.graph.input if v.name not in weights)
    found = {v.name: _spec(path, v) for v in model.graph.output}
    missing = [name for name in outputs if name not in found]
    if missing:
        raise ModelError(f"{path} has no output '{missing[0]}'", f"it has {', '.join(found)}")
    return Artifact(
        folder=path.parent,
        entry=path.name,
        format="onnx",
        dtype=guess_dtype(model),
        files=tuple(record_file(path.parent, f) for f in sorted({path.name, *external})),
        inputs=inputs,
        outputs=tuple(found[name] for name in outputs) if outputs else tuple(found.values()),
        lineage={
            "source": path.name,
            "producer": f"{model.producer_name} {model.producer_version}".strip(),
            "opset": opset_of(model),
            "domains": {
                o.domain: int(o.version) for o in model.opset_import if o.domain not in DEFAULT_DOMAIN
            },
        },
    )
