"""Reading IR files from outside: whole, and reaching nothing but the ``.bin`` beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact, record_file
from edgekd.child import ChildProcess, Limits
from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.spec import TensorSpec
from edgekd_openvino.document import Document, scan, weights_path
from edgekd_openvino.runtime import read_model
from edgekd_openvino.specs import DTYPES, read_specs

Reply = tuple[dict[str, Any], list[Array]]

#: Reading an IR of hundreds of megabytes takes seconds.
_OPEN_S = 300.0
_FLOATS = ("f32", "f16", "bf16", "f64")
#: Weights in these are quantized, the narrowest first.
_QUANTIZED = (("i4", "u4", "nf4"), ("f8e4m3", "f8e5m2"), ("i8", "u8"))


def guess_dtype(found: Document) -> str:
    """Precision in ONNX spelling: that of quantized weights where there are any, else of most float weights.

    ``u8`` and ``i8`` constants are also what a network may compute on (indices, lookup tables): they count where
    something is quantized or scaled, and hold at least a tenth of the weights.
    """
    weights = found.weight_bytes
    whole = sum(weights.values())
    for kinds in _QUANTIZED:
        used = [k for k in kinds if weights.get(k, 0) * 10 >= whole > 0 and weights.get(k)]
        if used:
            name = used[0]
            return "int8" if name in ("i8", "u8") else "int4" if name in _QUANTIZED[0] else DTYPES[name]
    if "FakeQuantize" in found.types:
        return "int8"
    floats = {k: weights.get(k, 0) for k in _FLOATS}
    return DTYPES[max(floats, key=lambda k: floats[k])] if any(floats.values()) else "float32"


def describe_file(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """In the child: inputs and outputs of ``path``."""
    path = Path(args["path"])
    inputs, outputs = read_specs(read_model(path), path)
    return {"inputs": [s.to_json() for s in inputs], "outputs": [s.to_json() for s in outputs]}, []


def _specs(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs, found in a child: OpenVINO is native code, and the file is from outside."""
    with ChildProcess(f"opening {path}", Limits(timeout_s=_OPEN_S)) as child:
        found, _ = child.request("edgekd_openvino.reading:describe_file", {"path": str(path.absolute())})
    inputs, outputs = (tuple(TensorSpec.from_json(s) for s in found[k]) for k in ("inputs", "outputs"))
    return inputs, outputs


def read_artifact(path: Path, outputs: Sequence[str]) -> Artifact:
    """See :meth:`edgekd_openvino.exporter.OpenVinoExporter.read`."""
    if path.suffix.lower() != ".xml":
        raise ModelError(f"{path} is not an .xml file", "give the .xml; its .bin is looked for beside it")
    document = scan(path)
    inputs, made = _specs(path)
    found = {spec.name: spec for spec in made}
    missing = [name for name in outputs if name not in found]
    if missing:
        raise ModelError(f"{path} has no output '{missing[0]}'", f"it has {', '.join(found)}")
    names = {path.name}
    if weights_path(path).is_file():
        names.add(weights_path(path).name)
    return Artifact(
        folder=path.parent,
        entry=path.name,
        format="openvino",
        dtype=guess_dtype(document),
        files=tuple(record_file(path.parent, name) for name in sorted(names)),
        inputs=inputs,
        outputs=tuple(found[name] for name in outputs) if outputs else made,
        lineage={"source": path.name, "ir_version": document.version},
    )
