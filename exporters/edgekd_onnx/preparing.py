"""An ONNX file made ready for a quantizer: named nodes, constants and batch norms folded, shapes inferred."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.errors import ModelError, UsageError
from edgekd.lazy import require
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.support import check_kept
from edgekd_onnx.reading import opset_of
from edgekd_onnx.shared_weights import separate_axes, transpose_shared
from edgekd_onnx.writing import EXTERNAL_BYTES, one_line, weight_bytes

#: QuantizeLinear has an ``axis``, which per-channel weights need, from this opset on (onnx, Operators.md).
CHANNEL_OPSET = 13
#: DequantizeLinear has ``block_size`` and 4-bit types from this opset on (onnx, Changelog.md, version 21).
BLOCK_OPSET = 21
#: QuantizeLinear takes FP8 from this opset on (onnx, Changelog.md, version 19).
FLOAT8_OPSET = 19
_EXTERNAL = "optimised.data"
#: What only hands values on; where it is optimised away, no other node does its work.
_HANDS_ON = frozenset({
    "Cast", "Dropout", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A float file as the quantizers take it.

    Attributes:
        path: of the prepared file; opset_before: of the file it was made of.
        covers: node of the prepared file -> the nodes of the float file that it does the work of, itself first.
        gone: nodes of the float file that compute nothing and are no longer there -> their operators.
    """

    path: Path
    opset_before: int
    covers: Mapping[str, tuple[str, ...]]
    gone: Mapping[str, str] = field(default_factory=dict)

    @property
    def large(self) -> bool:
        """Whether its weights lie in a file of their own."""
        return (self.path.parent / _EXTERNAL).exists()

    def nodes_of(self, names: Sequence[str]) -> list[str]:
        """The prepared nodes that do the work of these nodes of the float file, sorted.

        Raises:
            UsageError: the float file has no node of that name (names near misses), or optimisation has taken it out.
        """
        known = {inner: outer for outer, covered in self.covers.items() for inner in covered}
        for name in names:
            if name in self.gone and name not in known:
                raise UsageError(
                    f"keep_float names '{name}' ({self.gone[name]}), which computes nothing here and is optimised away",
                    "leave it out, or name the node whose result it hands on",
                )
        check_kept(names, known, "the float file")
        return sorted({known[n] for n in names})


def needed_opset(config: QuantConfig) -> int:
    """The least opset of the file that ``config`` is written into; 0 where any will do."""
    if config.dtype == "float8e4m3fn":
        return FLOAT8_OPSET
    if config.mode == "weight-only":
        return BLOCK_OPSET if config.dtype == "int4" or config.granularity == "block" else CHANNEL_OPSET
    return CHANNEL_OPSET if config.granularity == "channel" else 0


def prepare(source: Path, config: QuantConfig, folder: Path) -> Prepared:
    """Write a copy of ``source`` into ``folder`` that is ready for the quantizer of ``config``.

    The steps of ``onnxruntime.quantization.quant_pre_process``, which logs a failed optimisation and goes on with
    a model whose batch norms are not folded; here it is an error. Nodes without a name, or with one that another node
    has, are called as their first output.

    Raises:
        ModelError: the model cannot be optimised or converted.
    """
    onnx = require("onnx", extra="ort", purpose="quantizing")
    model = onnx.load(str(source))
    before = opset_of(model)
    name_nodes(model.graph)
    given = onnx.GraphProto()
    given.node.extend(model.graph.node)
    if before < (opset := needed_opset(config)):
        model = _convert(source, model, opset)
        name_nodes(model.graph)
    path = folder / "prepared.onnx"
    products = config.mode != "static"
    separate = config.granularity == "channel"
    covers = _optimise(source, model, given, path, products=products, separate=separate)
    left = {n for covered in covers.values() for n in covered}
    gone = {n.name: n.op_type for n in given.node if n.op_type in _HANDS_ON and n.name not in left}
    return Prepared(path=path, opset_before=before, covers=covers, gone=gone)


def name_nodes(graph: Any) -> None:
    """Give every node a name of its own, in place: the quantizers tell nodes apart by it."""
    seen: set[str] = set()
    for node in graph.node:
        if not node.name or node.name in seen:
            node.name = next((o for o in node.output if o), "")
        seen.add(node.name)


def _convert(source: Path, model: Any, opset: int) -> Any:
    onnx = require("onnx", extra="ort", purpose="quantizing")
    try:
        return onnx.version_converter.convert_version(model, opset)
    except (RuntimeError, ValueError, IndexError) as e:
        raise ModelError(
            f"{source} has opset {opset_of(model)}, this quantization needs {opset}, and onnx cannot convert it ({one_line(e)})",
            f"export it with --opset {opset} or later, or quantize per tensor",
        ) from e


def _optimise(
    source: Path, model: Any, given: Any, target: Path, *, products: bool, separate: bool
) -> dict[str, tuple[str, ...]]:
    onnx = require("onnx", extra="ort", purpose="quantizing")
    ort = require("onnxruntime", extra="ort", purpose="quantizing")
    from edgekd_onnx.runtime import ort_errors, reason

    folder = target.parent
    converted, optimised = folder / "converted.onnx", folder / "optimised.onnx"
    large = weight_bytes(model) > EXTERNAL_BYTES
    onnx.save_model(model, str(converted), save_as_external_data=large)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(optimised)
    # Basic: whatever goes further is made for this machine's CPU and would tie the file to it.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    if large:
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", _EXTERNAL)
    try:
        ort.InferenceSession(str(converted), options, providers=["CPUExecutionProvider"], enable_fallback=0)
        covers = _covers(given, _named(optimised, large=large))
        if products:
            covers = _gemm_to_matmul(optimised, covers, large=large)
        elif separate:
            _separate_axes(optimised, large=large)
        onnx.shape_inference.infer_shapes_path(str(optimised), str(target))
    except (*ort_errors(), onnx.shape_inference.InferenceError) as e:
        raise ModelError(
            f"{source} cannot be prepared for quantization ({reason(e)})", "check that it runs: edgekd bench"
        ) from e
    return covers


def _named(path: Path, *, large: bool) -> Any:
    """The graph of a file, whose nodes all have names of their own from now on."""
    onnx = require("onnx", extra="ort", purpose="quantizing")
    model = onnx.load(str(path))
    before = [n.name for n in model.graph.node]
    name_nodes(model.graph)
    if [n.name for n in model.graph.node] != before:
        _save(model, path, large=large)
    return model.graph


def _save(model: Any, path: Path, *, large: bool) -> None:
    onnx = require("onnx", extra="ort", purpose="quantizing")
    if large:  # onnx appends to a file that is there; the weights are in memory
        (path.parent / _EXTERNAL).unlink(missing_ok=True)
    onnx.save_model(model, str(path), save_as_external_data=large, location=_EXTERNAL)


def _gemm_to_matmul(
    path: Path, covers: Mapping[str, tuple[str, ...]], *, large: bool
) -> dict[str, tuple[str, ...]]:
    """Gemm as MatMul and Add, which is what the dynamic and weight-only operators are made of."""
    onnx = require("onnx", extra="ort", purpose="quantizing")
    models = require("onnxruntime.quantization.onnx_model", extra="ort", purpose="quantizing")
    model = onnx.load(str(path))
    transpose_shared(model.graph)
    models.ONNXModel(model).replace_gemm_with_matmul()
    # It transposes constants and leaves their old shapes behind.
    constants = {t.name for t in model.graph.initializer}
    for value in [v for v in model.graph.value_info if v.name in constants]:
        model.graph.value_info.remove(value)
    _save(model, path, large=large)
    # ONNXModel calls the two after the Gemm.
    return {
        n.name: covers.get(n.name, covers.get(n.name.removesuffix("_MatMul"), ())) for n in model.graph.node
    }


def _separate_axes(path: Path, *, large: bool) -> None:
    onnx = require("onnx", extra="ort", purpose="quantizing")
    model = onnx.load(str(path))
    if separate_axes(model.graph):
        _save(model, path, large=large)


def _covers(given: Any, made: Any) -> dict[str, tuple[str, ...]]:
    """Whose work each prepared node does: of the given nodes between its outputs and the tensors that are still there.

    Optimisation fuses nodes, and may give what it makes another name; the tensors that remain keep theirs.
    """
    maker = {o: n for n in given.node for o in n.output if o}
    kept = {o for n in made.node for o in n.output if o}
    by_name = {n.name: n for n in given.node}
    covers: dict[str, tuple[str, ...]] = {}
    taken: set[str] = set()
    for node in made.node:
        found: dict[str, str] = {}
        waiting = [o for o in node.output if o in maker]
        while waiting:
            one = maker[waiting.pop()]
            if one.name in found or one.name in taken:
                continue
            found[one.name] = one.op_type
            waiting += [i for i in one.input if i in maker and i not in kept]
        same = [n for n in (node.name,) if n in by_name]
        alike = [n for n, op in found.items() if op == node.op_type]
        product = [n for n, op in found.items() if {op, node.op_type} <= {"MatMul", "Gemm"}]
        others = [n for n, op in found.items() if op not in _HANDS_ON]
        order: Iterable[str] = dict.fromkeys([*same, *alike, *product, *others])
        covers[node.name] = tuple(order)
        taken.update(found)
    return covers
