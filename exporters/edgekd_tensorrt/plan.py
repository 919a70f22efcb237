"""Plan files, told without TensorRT: the header, and the record of the engine beside it."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekd.errors import EvidenceError, ModelError
from edgekd.files import read_json, sha256_file
from edgekd.lfs_pointer import refuse_pointer_file
from edgekd.spec import TensorSpec
from edgekd_tensorrt.library import Version

#: Bytes 0..3 of a plan, a zero word, and the version in bytes 24..27 (trtexec of TensorRT OSS, sampleEngines.cpp).
MAGIC = b"ftrt"
_VERSION_AT = 24
HEADER_BYTES = 28

ENGINE_SCHEMA = "edgekd.engine/1"

Ends = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def read_header(path: Path) -> Version:
    """The TensorRT version that wrote a plan, from its first 28 bytes.

    Raises:
        ModelError: missing, not a plan, or cut short.
    """
    if not path.is_file():
        raise ModelError(f"{path} does not exist", "check the path")
    refuse_pointer_file(path, ModelError)
    try:
        with path.open("rb") as f:
            head = f.read(HEADER_BYTES)
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror}", "check its permissions") from e
    if len(head) < HEADER_BYTES or head[:4] != MAGIC or struct.unpack("<I", head[4:8])[0] != 0:
        raise ModelError(
            f"{path} is not a TensorRT plan (it begins with {head[:8].hex() or 'nothing'}, a plan with "
            f"{MAGIC.hex()}00000000)",
            "build the engine again: edgekd export MODEL --format tensorrt",
        )
    return Version(*head[_VERSION_AT:HEADER_BYTES])


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecord:
    """What must be known of a plan before its code is loaded; written beside it as ``NAME.plan.json``.

    Attributes:
        plan, plan_sha256: the file that it speaks of; files: all others that belong to the engine.
        tensorrt: version of the builder, as its bindings tell it.
        gpu: the device's name; sm: its compute capability, e.g. ``9.0``.
        hardware: hardware-compatibility level by name; version_compatible: runs on newer versions too.
        lean_runtime: it carries a runtime of its own, which is code to be allowed by name.
        dtype: precision in ONNX spelling, of the network's weights as in the source's artifact.
        inputs, outputs: at its boundary, with the symbols of the source.
        profiles: per optimisation profile, input name -> (min, opt, max) sizes.
        values: per profile, shape tensor -> (min, opt, max) values.
        source_sha256: of the ONNX file; refit: that file's name beside the plan where weights were stripped, else "".
        weight_streaming: weights may stay on the host.
    """

    plan: str
    plan_sha256: str
    files: tuple[str, ...]
    tensorrt: str
    gpu: str
    sm: str
    hardware: str
    version_compatible: bool
    lean_runtime: bool
    dtype: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[Mapping[str, Ends], ...]
    values: tuple[Mapping[str, Ends], ...]
    source_sha256: str
    refit: str = ""
    weight_streaming: bool = False

    def to_json(self) -> dict[str, Any]:
        made = asdict(self)
        made["inputs"] = [s.to_json() for s in self.inputs]
        made["outputs"] = [s.to_json() for s in self.outputs]
        return {"schema": ENGINE_SCHEMA, **made}


def _ends(groups: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Ends], ...]:
    return tuple(
        {name: (tuple(e[0]), tuple(e[1]), tuple(e[2])) for name, e in group.items()} for group in groups
    )


def record_path(plan: Path) -> Path:
    """Where the record of a plan is: beside it, with ``.json`` added."""
    return plan.with_name(plan.name + ".json")


def read_record(path: Path) -> EngineRecord:
    """The record beside a plan, checked against its bytes. Plans are native code: no record, no engine.

    Raises:
        ModelError: not a plan, no record, another SHA-256, or a version that the plan's own header contradicts.
    """
    header = read_header(path)
    beside = record_path(path)
    if not beside.is_file():
        raise ModelError(
            f"{path} is native code of TensorRT {header} and no record names its SHA-256 ({beside.name} is missing)",
            "only engines that EdgeKD built are loaded: edgekd export MODEL --format tensorrt",
        )
    try:
        value = read_json(beside, ENGINE_SCHEMA)
        fields = {k: v for k, v in value.items() if k != "schema"}
        record = EngineRecord(
            **{
                **fields,
                "files": tuple(str(f) for f in value["files"]),
                "inputs": tuple(TensorSpec.from_json(s) for s in value["inputs"]),
                "outputs": tuple(TensorSpec.from_json(s) for s in value["outputs"]),
                "profiles": _ends(value["profiles"]),
                "values": _ends(value["values"]),
            }
        )
    except (EvidenceError, KeyError, TypeError, IndexError, AttributeError) as e:
        raise ModelError(f"{beside} is no record of an engine ({e})", "build the engine again") from e
    found = sha256_file(path)
    if found != record.plan_sha256 or record.plan != path.name:
        raise ModelError(
            f"{path} has SHA-256 {found[:12]}…, its record names {record.plan} with {record.plan_sha256[:12]}…",
            "the plan was altered or swapped: build the engine again",
        )
    if not record.tensorrt.startswith(".".join(map(str, header[:3]))):
        raise ModelError(
            f"{path} says in its header TensorRT {header}, in its record {record.tensorrt}",
            "build the engine again",
        )
    return record
