"""OpenVINO IR as a format: made of ONNX, quantized by NNCF, read from outside."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from edgekd.artifact import Artifact, record_file
from edgekd.data.example import Array
from edgekd.errors import ModelError, UsageError
from edgekd.files import storage_error
from edgekd.model import MODEL_FILE, Model
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.facts import GraphFacts
from edgekd.quantize.layers import LayerError
from edgekd.stages import tool_versions
from edgekd.target import Session, SessionOptions
from edgekd_openvino.converting import convert_onnx, input_ranges
from edgekd_openvino.document import scan
from edgekd_openvino.parity import compare, parity_options, tolerances
from edgekd_openvino.reading import guess_dtype
from edgekd_openvino.runtime import OpenVinoRuntime
from edgekd_openvino.writing import ENTRY, WEIGHTS, write_model

_OPTIONS = ("shapes", "feeds", "atol", "rtol", "dtype")
#: Options that belong to the ONNX export before the conversion.
_OF_ONNX = ("opset",)
_DTYPES = ("float32", "float16")
#: SmoothQuant's alpha that suits most models (Xiao et al. 2023, section 5.1).
_USUAL_SMOOTHING = 0.5


class OpenVinoExporter:
    """Writes and reads OpenVINO IR.

    A torch model goes through ONNX: that keeps the names of its inputs, outputs and dimensions, which OpenVINO's own
    torch frontend renames, and it is the one way that zoo models, Hugging Face folders and ONNX files share.
    """

    format = "openvino"
    sources: tuple[str, ...] = ("onnx",)
    #: 2: without NNCF's fast bias correction; 4: a range for each channel only where asked.
    QUANTIZER: ClassVar[int] = 4

    def export(self, model: Model, out: Path, options: Mapping[str, Any]) -> Artifact:
        """Write ``model`` into the existing folder ``out`` as ``model.xml`` and ``model.bin``, checked against torch.

        Args:
            options: ``dtype`` (``float32`` or ``float16`` weights), ``opset`` of the ONNX file in between, ``shapes``,
                ``feeds``, ``atol``, ``rtol``.

        Raises:
            ModelError: not exportable, or beyond the tolerance (nothing is left in ``out``); UsageError: an option.
        """
        from edgekd_onnx.exporter import OnnxExporter
        from edgekd_torch.runtime import TorchRuntime

        _check_options(options, (*_OPTIONS, *_OF_ONNX))
        # Feeds are read once, and compared at the end only.
        first = {k: v for k, v in options.items() if k in ("opset", "shapes")}
        # Tolerances of float16 are shares of its outputs, and not of the float32 file in between.
        if options.get("dtype") != "float16":
            first |= {k: v for k, v in options.items() if k in ("atol", "rtol")}
        try:
            work = tempfile.TemporaryDirectory(prefix="edgekd-openvino-")
        except OSError as e:
            raise storage_error(e, Path(tempfile.gettempdir())) from e
        with work as folder:
            source = OnnxExporter().export(model, Path(folder), first)
            return _write(
                source, out, options,
                reference=lambda: TorchRuntime().open(model.folder / MODEL_FILE, parity_options()),
                lineage={k: v for k, v in source.lineage.items() if k != "parity"},
            )  # fmt: skip

    def convert(self, artifact: Artifact, out: Path, options: Mapping[str, Any]) -> Artifact:
        """Write an ONNX artifact as IR into the existing folder ``out``, checked against ONNX Runtime.

        A Q/DQ file stays INT8. ``options`` as in :meth:`export`, without ``opset``.

        Raises:
            ModelError: an operator that OpenVINO does not have, by node, or beyond the tolerance (nothing is left in
            ``out``); UsageError: an option.
        """
        from edgekd_onnx.runtime import OnnxRuntime

        _check_options(options, _OPTIONS)
        if artifact.format not in self.sources:
            raise ModelError(
                f"{artifact.path} has the format {artifact.format}, openvino is made of onnx",
                "export it to onnx",
            )
        # Quantized files are compared with what they say, not with ONNX Runtime's integer kernels.
        plain = SessionOptions(
            threads=parity_options().threads,
            settings={} if artifact.dtype in _DTYPES else {"graph_level": "disable"},
        )
        lineage = {k: v for k, v in artifact.lineage.items() if k not in ("parity", "tools")}
        return _write(
            artifact, out, options, reference=lambda: OnnxRuntime().open(artifact.path, plain),
            lineage={**lineage, "source": artifact.digest},
        )  # fmt: skip

    def quantize(
        self, artifact: Artifact, config: QuantConfig, feeds: Iterable[Mapping[str, Array]], out: Path
    ) -> Artifact:
        """Write an INT8 twin of a float32 IR into the existing folder ``out``, by NNCF's post-training quantization.

        Args:
            config: ``variant`` ``cpu`` makes activations asymmetric, ``tensorrt`` symmetric; ``calibration`` is
                ``minmax`` or ``percentile``.
            feeds: calibration feeds; read once, at most ``config.examples`` examples.

        Raises:
            DataError: no feeds, feeds that do not fit, NaN or infinity; ModelError: nothing to quantize; UsageError:
            a calibration that NNCF does not have.
        """
        from edgekd_openvino.quantizing import quantize_artifact

        return quantize_artifact(artifact, config, feeds, out)

    def quantization_choices(self, artifact: Artifact, device: str) -> Sequence[QuantConfig]:
        """See :class:`edgekd.quantize.layers.SearchableExporter`: static INT8; what mends uneven channels goes before
        what clips outliers."""
        from edgekd_openvino.graph_facts import graph_facts

        uneven = [QuantConfig(smoothing=_USUAL_SMOOTHING)]
        if graph_facts(artifact).depthwise:
            alone = QuantConfig(activation_granularity="channel")
            uneven = [alone, replace(alone, smoothing=_USUAL_SMOOTHING)]
        return (
            QuantConfig(), *uneven, *(QuantConfig(calibration=method) for method in ("percentile", "mse")),
        )  # fmt: skip

    def layer_errors(
        self, artifact: Artifact, quantized: Artifact, feeds: Sequence[Mapping[str, Array]]
    ) -> Sequence[LayerError]:
        """See :class:`edgekd.quantize.layers.SearchableExporter`."""
        from edgekd_openvino.layer_errors import layer_errors

        return layer_errors(artifact, quantized, feeds)

    def graph_facts(self, artifact: Artifact) -> GraphFacts:
        """See :class:`edgekd.quantize.facts.DescribingExporter`."""
        from edgekd_openvino.graph_facts import graph_facts

        return graph_facts(artifact)

    def quantized_ranges(self, quantized: Artifact, source: Artifact) -> Mapping[str, tuple[float, float]]:
        """See :meth:`edgekd.quantize.coverage.RangedExporter.quantized_ranges`."""
        from edgekd_openvino.ranges import activation_ranges

        return activation_ranges(quantized.path)

    def read(self, path: Path, outputs: Sequence[str] = ()) -> Artifact:
        """An ``.xml`` from outside, with the ``.bin`` beside it, as an artifact; nothing is written.

        Raises:
            ModelError: missing or damaged; PolicyError: weights that are a link.
        """
        from edgekd_openvino.reading import read_artifact

        return read_artifact(path, outputs)


def _check_options(options: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in options:
        if name not in known:
            raise UsageError(f"the openvino exporter has no option '{name}'", f"it knows {', '.join(known)}")
    dtype = options.get("dtype") or "float32"
    if dtype not in _DTYPES:
        fix = "quantize it: edgekd quantize" if dtype == "int8" else f"choose {' or '.join(_DTYPES)}"
        raise UsageError(f"openvino files are not written in {dtype}", fix)
    tolerances(options, dtype)


def _write(
    source: Artifact,
    out: Path,
    options: Mapping[str, Any],
    *,
    reference: Callable[[], Session],
    lineage: Mapping[str, Any],
) -> Artifact:
    """Convert an ONNX artifact, compare it with ``reference()``, and describe what was written."""
    wanted = options.get("dtype") or source.dtype
    if wanted != source.dtype and source.dtype != "float32":
        raise UsageError(
            f"{source.path} is {source.dtype}, it cannot become {wanted}", "give the float32 export"
        )
    model, names = convert_onnx(source)
    sessions: list[Session] = []
    try:
        files = write_model(
            model, out, inputs=source.inputs, outputs=source.outputs, names=names, float16=wanted == "float16"
        )
        sessions.append(reference())
        sessions.append(OpenVinoRuntime().open(out / ENTRY, parity_options()))
        ranges = {} if wanted in _DTYPES else input_ranges(source)
        parity = compare(sessions[0], sessions[1], options, wanted, [s.name for s in source.outputs], ranges)
        inputs, outputs = sessions[1].inputs, sessions[1].outputs
        dtype = guess_dtype(scan(out / ENTRY))
    except BaseException:
        for name in (ENTRY, WEIGHTS):
            with contextlib.suppress(OSError):
                (out / name).unlink()
        raise
    finally:
        for session in sessions:
            session.close()
    return Artifact(
        folder=out,
        entry=ENTRY,
        format="openvino",
        dtype=dtype,
        files=tuple(record_file(out, f) for f in files),
        inputs=inputs,
        outputs=outputs,
        prepare=dict(source.prepare),
        output=dict(source.output),
        lineage={
            **lineage,
            "parity": parity,
            "tools": {**source.lineage.get("tools", {}), **tool_versions("openvino", "onnx", "onnxruntime")},
        },
    )
