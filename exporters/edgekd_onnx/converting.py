"""An ONNX file as another ONNX file: opset, optimisation, precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact
from edgekd.errors import ModelError
from edgekd.lazy import require
from edgekd.spec import TensorSpec
from edgekd.stages import tool_versions
from edgekd.target import Session, SessionOptions
from edgekd_onnx.export_options import ExportOptions
from edgekd_onnx.finishing import Source, finish, threads_here
from edgekd_onnx.reading import external_files, opset_of


def load_whole(path: Path) -> Any:
    """An ONNX file with its weights in memory.

    Raises:
        ModelError: it cannot be read; PolicyError: external data that it may not reach.
    """
    onnx = require("onnx", extra="ort", purpose="converting ONNX files")
    external_files(path)
    return onnx.load(str(path))


def convert_file(artifact: Artifact, out: Path, asked: ExportOptions) -> Artifact:
    """See :meth:`edgekd_onnx.exporter.OnnxExporter.convert`."""
    from edgekd_onnx.runtime import OnnxRuntime

    if asked.dtype != "float32" and artifact.dtype != "float32":
        raise ModelError(
            f"{artifact.path} is {artifact.dtype}, only float32 becomes {asked.dtype}",
            "give the float32 file",
        )
    proto = load_whole(artifact.path)
    wanted = [s.name for s in artifact.outputs]

    def refuse(session: Session) -> None:
        for kind, ours, found in (
            ("inputs", artifact.inputs, session.inputs), ("outputs", artifact.outputs, session.outputs),
        ):  # fmt: skip
            missing = [s.name for s in ours if s.name not in {f.name for f in found}]
            if missing:
                raise ModelError(
                    f"{artifact.path} lost '{missing[0]}' of its {kind} in the conversion",
                    "nothing depends on it: convert without optimising",
                )

    def outputs(session: Session) -> tuple[TensorSpec, ...]:
        found = {s.name: s for s in session.outputs}
        return tuple(found[name] for name in wanted)

    source = Source(
        name=str(artifact.path),
        open_reference=lambda: OnnxRuntime().open(artifact.path, SessionOptions(threads=threads_here())),
        refuse=refuse,
        outputs=outputs,
        prepare=artifact.prepare,
        output=artifact.output,
        lineage={
            **artifact.lineage,
            "source": artifact.digest,
            "opset": opset_of(proto),
            "tools": {**artifact.lineage.get("tools", {}), **tool_versions("onnx", "onnxruntime")},
        },
        quantized=artifact.dtype if artifact.dtype.startswith(("int", "float8")) else "",
    )
    return finish(proto, source, asked, out)
