"""A torch module as an ONNX model, by ``torch.onnx.export(dynamo=True)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.lazy import require
from edgekd.spec import TensorSpec
from edgekd_onnx.export_options import DEFAULT_OPSET
from edgekd_onnx.writing import one_line, quiet, strip_provenance


def _dynamic_shapes(inputs: Sequence[TensorSpec]) -> tuple[dict[int, Any], ...]:
    """``torch.export`` dimensions: one ``Dim`` per symbol, shared where the symbol is."""
    torch = require("torch", extra="torch", purpose="exporting to ONNX")
    symbols: dict[str, Any] = {}
    for spec in inputs:
        for dim in spec.shape:
            if isinstance(dim, str) and dim not in symbols:
                # Dim wants an identifier; the real name is put back by _rename_symbols.
                symbols[dim] = torch.export.Dim(f"edgekd_dim_{len(symbols)}")
    return tuple({i: symbols[d] for i, d in enumerate(s.shape) if isinstance(d, str)} for s in inputs)


def _rename_symbols(proto: Any, inputs: Sequence[TensorSpec]) -> None:
    names = list(dict.fromkeys(d for s in inputs for d in s.shape if isinstance(d, str)))
    real = {f"edgekd_dim_{i}": name for i, name in enumerate(names)}
    graph = proto.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in real:
                dim.dim_param = real[dim.dim_param]


def trace_module(
    module: Any,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str],
    *,
    feeds: Mapping[str, Array],
    opset: int,
    name: str,
    variadic: bool = False,
) -> Any:
    """An ``onnx.ModelProto`` of a module in eval mode.

    Args:
        feeds: example inputs; sizes of dynamic dimensions are 2 or more (torch.export takes 0 and 1 for constants).
        variadic: whether the module's ``forward`` takes ``*args``.

    Raises:
        ModelError: torch cannot trace it, or not at this opset.
    """
    torch = require("torch", extra="torch", purpose="exporting to ONNX")
    require("onnxscript", extra="torch", purpose="exporting to ONNX")
    args = tuple(torch.from_numpy(feeds[s.name]) for s in inputs)
    dynamic = _dynamic_shapes(inputs)
    try:
        with quiet(), torch.inference_mode(False):
            program = torch.onnx.export(
                module, args, input_names=[s.name for s in inputs], output_names=list(outputs),
                opset_version=opset, dynamo=True, dynamic_shapes=(dynamic,) if variadic else dynamic,
                verbose=False,
            )  # fmt: skip
            proto = program.model_proto
    except torch.onnx.OnnxExporterError as e:
        raise ModelError(
            f"torch cannot export {name} to ONNX opset {opset} ({one_line(e.__cause__ or e)})",
            "change the module so that torch.export can trace it, or try another --opset",
        ) from e
    found = {o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")}
    if found != {opset}:
        raise ModelError(
            f"torch exported {name} at opset {sorted(found)}, asked for {opset}",
            f"use --opset {DEFAULT_OPSET}",
        )
    strip_provenance(proto)
    _rename_symbols(proto, inputs)
    return proto
