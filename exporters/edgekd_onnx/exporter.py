"""ONNX as a format: export from torch, quantize, and read files from outside."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact, record_file
from edgekd.data.example import Array
from edgekd.errors import ModelError, UsageError
from edgekd.lazy import require
from edgekd.model import MODEL_FILE, Model
from edgekd.parity import (
    PARITY_ATOL,
    PARITY_RTOL,
    PARITY_SEED,
    batch_feeds,
    check_parity,
    parity_batches,
    parity_feeds,
)
from edgekd.quantize.config import QuantConfig
from edgekd.spec import Dim, TensorSpec
from edgekd.stages import tool_versions
from edgekd.target import SessionOptions
from edgekd.workload import StaticCost
from edgekd_onnx import writing
from edgekd_onnx.writing import ENTRY, EXTERNAL, one_line, quiet, strip_provenance, write_proto

#: The newest opset that ONNX Runtime 1.20 and TensorRT 10.3 read whole, and the one torch's exporter is written for.
DEFAULT_OPSET = 18
_OPSETS = range(18, 24)

_OPTIONS = ("opset", "shapes", "feeds", "atol", "rtol")


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


def _to_proto(module: Any, model: Model, opset: int, shapes: Mapping[str, Any]) -> Any:
    torch = require("torch", extra="torch", purpose="exporting to ONNX")
    require("onnxscript", extra="torch", purpose="exporting to ONNX")
    # Batch 2: torch.export takes sizes 0 and 1 for constants.
    feeds = batch_feeds(model.inputs, shapes, PARITY_SEED, 2)
    args = tuple(torch.from_numpy(feeds[s.name]) for s in model.inputs)
    try:
        with quiet(), torch.inference_mode(False):
            program = torch.onnx.export(
                module, args, input_names=[s.name for s in model.inputs],
                output_names=[s.name for s in model.outputs], opset_version=opset, dynamo=True,
                dynamic_shapes=_dynamic_shapes(model.inputs), verbose=False,
            )  # fmt: skip
            proto = program.model_proto
    except torch.onnx.OnnxExporterError as e:
        raise ModelError(
            f"torch cannot export {model.name} to ONNX opset {opset} ({one_line(e.__cause__ or e)})",
            "change the module so that torch.export can trace it, or try another --opset",
        ) from e
    found = {o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")}
    if found != {opset}:
        raise ModelError(
            f"torch exported {model.name} at opset {sorted(found)}, asked for {opset}",
            f"use --opset {DEFAULT_OPSET}",
        )
    strip_provenance(proto)
    _rename_symbols(proto, model.inputs)
    return proto


def _output_specs(session: Any, model: Model) -> tuple[TensorSpec, ...]:
    """The exported file's outputs, with the model's symbol names where a dimension stayed symbolic."""
    specs = []
    for found, wanted in zip(session.outputs, model.outputs, strict=True):
        shape: list[Dim] = list(found.shape)
        if len(found.shape) == len(wanted.shape):
            shape = [
                w if isinstance(f, str) and isinstance(w, str) else f
                for f, w in zip(found.shape, wanted.shape, strict=True)
            ]
        specs.append(TensorSpec(name=found.name, dtype=found.dtype, shape=tuple(shape)))
    return tuple(specs)


class OnnxExporter:
    """Writes and reads ``.onnx``."""

    format = "onnx"

    def export(self, model: Model, out: Path, options: Mapping[str, Any]) -> Artifact:
        """Write ``model`` into the existing folder ``out`` as ``model.onnx``, checked against torch.

        Args:
            model: a ``model.json`` folder.
            out: where to write; equal models and options give equal bytes.
            options: ``opset`` (int), ``shapes`` (of :func:`edgekd.spec.parse_shapes`), ``feeds`` (real feeds that
                parity is checked on as well as seeded ones), ``atol``, ``rtol``.

        Raises:
            ModelError: in training mode, not exportable, or beyond the tolerance (nothing is left in ``out``);
            UsageError: an unknown option or opset.
        """
        from edgekd_onnx.runtime import OnnxRuntime
        from edgekd_torch.modules import load_module
        from edgekd_torch.runtime import TorchRuntime, refuse_training

        unknown = [k for k in options if k not in _OPTIONS]
        if unknown:
            raise UsageError(
                f"the onnx exporter has no option '{unknown[0]}'", f"it knows {', '.join(_OPTIONS)}"
            )
        opset = options.get("opset") or DEFAULT_OPSET
        if opset not in _OPSETS:
            raise UsageError(f"opset {opset} is not supported", f"choose {_OPSETS[0]} to {_OPSETS[-1]}")
        shapes = options.get("shapes") or {}
        atol, rtol = float(options.get("atol", PARITY_ATOL)), float(options.get("rtol", PARITY_RTOL))
        torch = require("torch", extra="torch", purpose="exporting to ONNX")
        module = load_module(model)
        refuse_training(module, model.name)
        size = sum(t.numel() * t.element_size() for t in module.state_dict().values())
        files: tuple[str, ...] = (ENTRY, EXTERNAL)
        sessions: list[Any] = []
        try:
            files = write_proto(
                _to_proto(module, model, opset, shapes), out, large=size > writing.EXTERNAL_BYTES
            )
            refuse_training(module, model.name)
            threads = SessionOptions(threads=torch.get_num_threads())
            sessions.append(TorchRuntime().open(model.folder / MODEL_FILE, threads))
            sessions.append(OnnxRuntime().open(out / ENTRY, threads))
            _refuse_other_names(model, sessions[1])
            parity = check_parity(
                sessions[0],
                sessions[1],
                parity_feeds(model.inputs, shapes, options.get("feeds") or ()),
                atol=atol,
                rtol=rtol,
                batches=parity_batches(model.inputs, shapes),
            )
            inputs, outputs = sessions[1].inputs, _output_specs(sessions[1], model)
        except BaseException:
            for name in files:
                with contextlib.suppress(OSError):
                    (out / name).unlink()
            raise
        finally:
            for session in sessions:
                session.close()
        return Artifact(
            folder=out,
            entry=ENTRY,
            format="onnx",
            dtype="float32",
            files=tuple(record_file(out, f) for f in sorted(files)),
            inputs=inputs,
            outputs=outputs,
            prepare=dict(model.prepare),
            output=dict(model.output),
            lineage={
                "model": model.as_artifact().digest,
                "factory": model.factory,
                "opset": opset,
                "parity": parity.to_json(),
                "tools": tool_versions("torch", "onnx", "onnxscript", "onnxruntime"),
            },
        )  # fmt: skip

    def quantize(
        self, artifact: Artifact, config: QuantConfig, feeds: Iterable[Mapping[str, Array]], out: Path
    ) -> Artifact:
        """Write a statically quantized Q/DQ twin of ``artifact`` into the existing folder ``out``.

        Args:
            artifact: float32 ONNX.
            config: ``variant`` picks u8 activations (CPU) or symmetric s8 (TensorRT).
            feeds: calibration feeds; read once, at most ``config.examples`` examples.
            out: where to write; equal inputs give equal bytes.

        Raises:
            DataError: no feeds, feeds that do not fit, NaN or infinity; ModelError: nothing to quantize.
        """
        from edgekd_onnx.quantizing import quantize_artifact

        return quantize_artifact(artifact, config, feeds, out)

    def read(self, path: Path, outputs: Sequence[str] = ()) -> Artifact:
        """A ``.onnx`` file from outside as an artifact; nothing is written.

        Args:
            path: the file; external data beside it belongs to the artifact.
            outputs: the outputs that matter, in order; empty for all.

        Raises:
            ModelError: missing, damaged or invalid; PolicyError: external data that this file may not reach.
        """
        from edgekd_onnx.reading import read_artifact

        return read_artifact(path, outputs)

    def count_cost(self, artifact: Artifact, feeds: Mapping[str, Array]) -> StaticCost:
        """See :class:`edgekd.workload.CountingExporter`."""
        from edgekd_onnx.cost import count_cost

        return count_cost(artifact, feeds)

    def write_product(self, dtype: str, size: int, out: Path) -> Artifact:
        """See :class:`edgekd.workload.CountingExporter`."""
        from edgekd_onnx.gemm import write_product

        return write_product(dtype, size, out)


def _refuse_other_names(model: Model, session: Any) -> None:
    for kind, wanted, found in (
        ("inputs", model.inputs, session.inputs),
        ("outputs", model.outputs, session.outputs),
    ):
        if [s.name for s in wanted] != [s.name for s in found]:
            raise ModelError(
                f"{model.name} was exported with {kind} {[s.name for s in found]}, expected {[s.name for s in wanted]}",
                "an input that the module never uses, or an output named twice, is lost: remove it",
            )
    for want, have in zip(model.inputs, session.inputs, strict=True):
        if want.shape != have.shape:
            raise ModelError(
                f"{model.name} was exported with input {have}, expected {want}",
                "the module fixes that size while it is traced: use tensor sizes, not Python numbers",
            )
