"""ONNX as a format: export from torch, convert, quantize, and read files from outside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.errors import ModelError, UsageError
from edgekd.lazy import require
from edgekd.model import MODEL_FILE, Model
from edgekd.parity import PARITY_SEED, batch_feeds
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.facts import GraphFacts
from edgekd.quantize.layers import LayerError
from edgekd.spec import Dim, TensorSpec
from edgekd.stages import tool_versions
from edgekd.target import Session, SessionOptions
from edgekd.workload import StaticCost
from edgekd_onnx.export_options import DEFAULT_OPSET, FOLDER, OWN, ExportOptions, read_options
from edgekd_onnx.finishing import Source, finish
from edgekd_onnx.tracing import trace_module


def _to_proto(module: Any, model: Model, asked: ExportOptions) -> Any:
    # Batch 2: torch.export takes sizes 0 and 1 for constants.
    feeds = batch_feeds(model.inputs, asked.shapes, PARITY_SEED, 2)
    return trace_module(
        module, model.inputs, [s.name for s in model.outputs], feeds=feeds, opset=asked.opset or DEFAULT_OPSET,
        name=model.name,
    )  # fmt: skip


def _output_specs(session: Session, wanted: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The exported file's outputs, with the model's symbol names where a dimension stayed symbolic."""
    specs = []
    for found, want in zip(session.outputs, wanted, strict=True):
        shape: list[Dim] = list(found.shape)
        if len(found.shape) == len(want.shape):
            shape = [
                w if isinstance(f, str) and isinstance(w, str) else f
                for f, w in zip(found.shape, want.shape, strict=True)
            ]
        specs.append(TensorSpec(name=found.name, dtype=found.dtype, shape=tuple(shape)))
    return tuple(specs)


class OnnxExporter:
    """Writes and reads ``.onnx``."""

    format = "onnx"
    #: Folders of weights come before files, which are only changed.
    sources: tuple[str, ...] = ("huggingface", "onnx")
    OPTIONS: ClassVar[Mapping[str, str]] = {**OWN, **FOLDER}
    #: 2: attention masks stay float, shared weights get copies of their own.
    QUANTIZER: ClassVar[int] = 2

    def export(self, model: Model, out: Path, options: Mapping[str, Any]) -> Artifact:
        """Write ``model`` into the existing folder ``out`` as ``model.onnx``, checked against torch.

        Args:
            model: a ``model.json`` folder.
            out: where to write; equal models and options give equal bytes.
            options: ``opset`` (int), ``shapes`` (of :func:`edgekd.spec.parse_shapes`), ``feeds`` (real feeds that
                parity is checked on as well as seeded ones), ``atol``, ``rtol``, ``dtype``, and :data:`OPTIONS`.

        Raises:
            ModelError: in training mode, not exportable, or beyond the tolerance (nothing is left in ``out``);
            UsageError: an unknown option or opset.
        """
        from edgekd_torch.modules import load_module
        from edgekd_torch.runtime import TorchRuntime, refuse_training

        asked = read_options(options)
        asked = replace(asked, opset=asked.opset or DEFAULT_OPSET)
        torch = require("torch", extra="torch", purpose="exporting to ONNX")
        module = load_module(model)
        refuse_training(module, model.name)
        proto = _to_proto(module, model, asked)
        refuse_training(module, model.name)
        threads = SessionOptions(threads=torch.get_num_threads())
        source = Source(
            name=model.name,
            open_reference=lambda: TorchRuntime().open(model.folder / MODEL_FILE, threads),
            refuse=lambda session: _refuse_other_names(model, session, asked),
            outputs=lambda session: _output_specs(session, model.outputs),
            prepare=model.prepare,
            output=model.output,
            lineage={
                "model": model.as_artifact().digest,
                "factory": model.factory,
                "opset": asked.opset,
                "exporter": "torch.onnx dynamo",
                "tools": tool_versions("torch", "onnx", "onnxscript", "onnxruntime"),
            },
        )  # fmt: skip
        return finish(proto, source, asked, out)

    def convert(self, artifact: Artifact, out: Path, options: Mapping[str, Any]) -> Artifact:
        """Write a Hugging Face folder as ONNX, or an ONNX file in another opset, precision or form.

        Args:
            artifact: of format ``huggingface`` (see :func:`edgekd_onnx.huggingface.read_folder`) or ``onnx``.
            out: where to write; equal artifacts and options give equal bytes.
            options: as for :meth:`export`; of a folder also ``task``, ``part`` and ``exporter``.

        Raises:
            ModelError: it cannot be converted so, or beyond the tolerance (nothing is left in ``out``);
            PolicyError: a folder with code of its own; UsageError: an option.
        """
        if artifact.format == "huggingface":
            from edgekd_onnx.folder_export import convert_folder

            return convert_folder(artifact, out, read_options(options, FOLDER))
        if artifact.format == "onnx":
            from edgekd_onnx.converting import convert_file

            return convert_file(artifact, out, read_options(options))
        raise UsageError(
            f"{artifact.path} is {artifact.format}, which onnx cannot be made of",
            f"give {' or '.join(self.sources)}, or the torch model",
        )

    def quantize(
        self, artifact: Artifact, config: QuantConfig, feeds: Iterable[Mapping[str, Array]], out: Path
    ) -> Artifact:
        """Write a quantized twin of ``artifact`` into the existing folder ``out``, checked against it on the feeds.

        Args:
            artifact: float32 ONNX.
            config: ``variant`` picks u8 activations (CPU) or symmetric s8 (TensorRT).
            feeds: calibration feeds; read once, at most ``config.examples`` examples. Without any, what needs no
                calibration is checked on drawn inputs, and the lineage says so (``checked_on``).
            out: where to write; equal inputs give equal bytes.

        Raises:
            DataError: no feeds, feeds that do not fit, constant, NaN or infinity; ModelError: it cannot be quantized (names
            the node), or gives broken answers; UsageError: a configuration that is not written for this variant.
        """
        from edgekd_onnx.quantizing import quantize_artifact

        return quantize_artifact(artifact, config, feeds, out)

    def quantization_choices(self, artifact: Artifact, device: str) -> Sequence[QuantConfig]:
        """See :class:`edgekd.quantize.layers.SearchableExporter`."""
        from edgekd_onnx.quantization_choices import quantization_choices

        return quantization_choices(artifact, device)

    def layer_errors(
        self, artifact: Artifact, quantized: Artifact, feeds: Sequence[Mapping[str, Array]]
    ) -> Sequence[LayerError]:
        """See :class:`edgekd.quantize.layers.SearchableExporter`."""
        from edgekd_onnx.layer_errors import layer_errors

        return layer_errors(artifact, quantized, feeds)

    def quantized_ranges(self, quantized: Artifact, source: Artifact) -> Mapping[str, tuple[float, float]]:
        """See :meth:`edgekd.quantize.coverage.RangedExporter.quantized_ranges`."""
        from edgekd_onnx.ranges import ranges_in

        return ranges_in(quantized.path, source.path)

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

    def graph_facts(self, artifact: Artifact) -> GraphFacts:
        """See :class:`edgekd.quantize.facts.DescribingExporter`."""
        from edgekd_onnx.graph_facts import graph_facts

        return graph_facts(artifact)

    def write_product(self, dtype: str, size: int, out: Path) -> Artifact:
        """See :class:`edgekd.workload.CountingExporter`."""
        from edgekd_onnx.gemm import write_product

        return write_product(dtype, size, out)


def _refuse_other_names(model: Model, session: Session, asked: ExportOptions) -> None:
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
        # A dtype that was asked for may change the boundary with it.
        if want.shape != have.shape or (want.dtype != have.dtype and asked.io != "native"):
            raise ModelError(
                f"{model.name} was exported with input {have}, expected {want}",
                "the module fixes that size while it is traced: use tensor sizes, not Python numbers",
            )
