"""ONNX Runtime's own ``.ort`` format: optimised ahead of time, and what its minimal builds for phones read."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from edgekd.artifact import Artifact, record_file
from edgekd.data.example import Array
from edgekd.errors import ModelError, UsageError
from edgekd.files import storage_error, write_bytes
from edgekd.lazy import require
from edgekd.model import Model
from edgekd.parity import PARITY_ATOL, PARITY_RTOL, check_parity, parity_batches, parity_feeds
from edgekd.quantize.config import QuantConfig
from edgekd.stages import tool_versions
from edgekd.target import SessionOptions
from edgekd.tolerance import read_tolerances
from edgekd_onnx.emulation import FLOAT8
from edgekd_onnx.finishing import threads_here
from edgekd_onnx.ort_bytes import Contents, canonical, read_contents

ENTRY = "model.ort"

_LEVELS = {"basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED"}
_KNOWN = ("shapes", "feeds", "atol", "rtol", "graph_level")
#: The first step, to ONNX, understands these.
_OF_ONNX = ("opset", "optimize", "dtype", "io")
#: A flatbuffer's offsets are 32 bits, signed ones among them.
_MAX_BYTES = 2**31 - 1
#: ONNX's numbers of element types (onnx.proto, TensorProto.DataType).
_NAMES = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
_EIGHT_BITS = (2, 3)


class OrtFormatExporter:
    """Writes and reads ``.ort``; quantized models are quantized as ONNX first."""

    format = "ort"
    sources: tuple[str, ...] = ("onnx",)
    quantized_source = "onnx"
    quantized_variant = "cpu"
    #: The precision is chosen in the ONNX file that this is made of.
    COMMON = ("shapes", "atol", "rtol")
    OPTIONS: ClassVar[Mapping[str, str]] = {
        "graph_level": "how far the graph is optimised: extended (default), or basic (standard operators only)"
    }

    def export(self, model: Model, out: Path, options: Mapping[str, Any]) -> Artifact:
        """Write ``model`` into the existing folder ``out`` as ``model.ort``, by way of ONNX.

        Args:
            options: those of :meth:`convert`, and ``opset``, ``optimize``, ``dtype``, ``io`` of the ONNX exporter.

        Raises:
            ModelError, UsageError: as :meth:`edgekd_onnx.exporter.OnnxExporter.export` and :meth:`convert`.
        """
        from edgekd_onnx.exporter import OnnxExporter

        _refuse_unknown(options, (*_KNOWN, *_OF_ONNX))
        first = {k: v for k, v in options.items() if k != "graph_level"}
        rest = {k: v for k, v in options.items() if k in _KNOWN}
        with tempfile.TemporaryDirectory(prefix="edgekd-ort-") as folder:
            made = OnnxExporter().export(model, Path(folder), first)
            return self.convert(made, out, rest)

    def convert(self, artifact: Artifact, out: Path, options: Mapping[str, Any]) -> Artifact:
        """Write an ONNX artifact into the existing folder ``out`` as ``model.ort``, checked against it.

        Raises:
            ModelError: not ONNX, not openable, beyond 2 GiB, or beyond the tolerance (nothing is left in ``out``);
            UsageError: an option.
        """
        from edgekd_onnx.runtime import OnnxRuntime

        _refuse_unknown(options, _KNOWN)
        if artifact.format != "onnx":
            raise UsageError(
                f"{artifact.path} is {artifact.format}, .ort is made of onnx", "give the ONNX file"
            )
        if artifact.dtype == FLOAT8:
            raise UsageError(
                f"{artifact.path} holds {FLOAT8}, and onnxruntime's optimiser changes the answers of such graphs",
                "use the .onnx file itself",
            )
        level = options.get("graph_level") or "extended"
        if level not in _LEVELS:
            raise UsageError(f"graph_level {level!r} is not known", f"choose {', '.join(_LEVELS)}")
        atol, rtol = read_tolerances(options, PARITY_ATOL, PARITY_RTOL)
        shapes = options.get("shapes") or {}
        data = _save(artifact.path, _LEVELS[level])
        sessions: list[Any] = []
        try:
            write_bytes(out / ENTRY, data)
            threads = SessionOptions(threads=threads_here())
            sessions.append(OnnxRuntime().open(artifact.path, threads))
            sessions.append(OnnxRuntime().open(out / ENTRY, threads))
            parity = check_parity(
                sessions[0],
                sessions[1],
                parity_feeds(artifact.inputs, shapes),
                atol=atol,
                rtol=rtol,
                batches=parity_batches(artifact.inputs, shapes),
                real=options.get("feeds") or (),
                dtype=artifact.dtype,
            )
            made = self.read(out / ENTRY, [s.name for s in artifact.outputs])
        except BaseException:
            with contextlib.suppress(OSError):
                (out / ENTRY).unlink()
            raise
        finally:
            for session in sessions:
                session.close()
        return Artifact(
            folder=out,
            entry=ENTRY,
            format=self.format,
            # Neither 4-bit weights nor products of float activations are told from the file.
            dtype=artifact.dtype,
            files=made.files,
            inputs=made.inputs,
            outputs=made.outputs,
            prepare=dict(artifact.prepare),
            output=dict(artifact.output),
            lineage={
                **artifact.lineage,
                "source": artifact.digest,
                "graph_level": level,
                "domains": made.lineage["domains"],
                "parity": parity.to_json(),
                "tools": {**artifact.lineage.get("tools", {}), **tool_versions("onnxruntime", "flatbuffers")},
            },
        )

    def quantize(
        self, artifact: Artifact, config: QuantConfig, feeds: Iterable[Mapping[str, Array]], out: Path
    ) -> Artifact:
        """Refused: the graph is fused already.

        Raises:
            ModelError: always; says what to do instead.
        """
        raise ModelError(
            f"{artifact.path} is an .ort file, which cannot be quantized any more",
            "quantize the ONNX file, then export that to .ort",
        )

    def read(self, path: Path, outputs: Sequence[str] = ()) -> Artifact:
        """A ``.ort`` file from outside as an artifact; nothing is written.

        Raises:
            ModelError: missing, damaged, or of an ONNX Runtime that the installed one cannot read.
        """
        from edgekd_onnx.runtime import OnnxRuntime

        session = OnnxRuntime().open(path, SessionOptions(settings={"graph_level": "disable"}))
        inputs, found = session.inputs, {s.name: s for s in session.outputs}
        session.close()
        missing = [name for name in outputs if name not in found]
        if missing:
            raise ModelError(f"{path} has no output '{missing[0]}'", f"it has {', '.join(found)}")
        contents = read_contents(path)
        return Artifact(
            folder=path.parent,
            entry=path.name,
            format=self.format,
            dtype=_dtype(contents),
            files=(record_file(path.parent, path.name),),
            inputs=inputs,
            outputs=tuple(found[n] for n in outputs) if outputs else tuple(found.values()),
            lineage={
                "source": path.name,
                "producer": f"onnxruntime {contents.version}",
                "domains": list(contents.domains),
            },
        )


def _refuse_unknown(options: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = [k for k in options if k not in known]
    if unknown:
        raise UsageError(f"the ort exporter has no option '{unknown[0]}'", f"it knows {', '.join(known)}")


def _save(path: Path, level: str) -> bytes:
    """What ONNX Runtime saves of a model, in canonical order."""
    ort = require("onnxruntime", extra="ort", purpose="writing ORT format")
    from edgekd_onnx.runtime import ort_errors, reason

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.add_session_config_entry("session.save_model_format", "ORT")
    with tempfile.TemporaryDirectory(prefix="edgekd-ort-") as folder:
        file = Path(folder) / ENTRY
        options.optimized_model_filepath = str(file)
        try:
            ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0)
            data = file.read_bytes()
        except OSError as e:
            raise storage_error(e, file) from e
        except ort_errors() as e:
            raise ModelError(
                f"onnxruntime {ort.__version__} cannot save {path} in ORT format ({reason(e)})",
                _why_unsaved(path),
            ) from e
    if len(data) > _MAX_BYTES:
        raise ModelError(
            f"{path} makes an .ort file of {len(data)} bytes, the format ends at 2 GiB", "keep ONNX"
        )
    return canonical(data)


def _why_unsaved(path: Path) -> str:
    size = sum(f.stat().st_size for f in path.parent.iterdir() if f.is_file())
    if size > _MAX_BYTES:
        return "weights beyond 2 GiB do not fit: keep ONNX"
    return "check that the ONNX file runs on this ONNX Runtime; keep ONNX where it does"


def _dtype(contents: Contents) -> str:
    """Precision as :func:`edgekd_onnx.reading.guess_dtype` takes it: int8 where there are integer kernels or weights."""
    integer = any(op.startswith("QLinear") or op.endswith("Integer") for op in contents.operators)
    quantizes = any(op in ("QuantizeLinear", "DequantizeLinear") for op in contents.operators)
    eight = sum(contents.weights.get(t, 0) for t in _EIGHT_BITS)
    if integer or (quantizes and eight):
        return "int8"
    floats = {name: contents.weights.get(number, 0) for number, name in _NAMES.items()}
    return max(floats, key=lambda n: floats[n]) if any(floats.values()) else "float32"
