"""Writing IR files: equal models give equal bytes, and nothing in them names this machine."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Sequence
from html import escape, unescape
from pathlib import Path
from typing import Any

from edgekd.errors import ModelError
from edgekd.files import storage_error, write_bytes
from edgekd.spec import TensorSpec
from edgekd_openvino.library import errors, openvino, reason
from edgekd_openvino.specs import record_dimensions

ENTRY, WEIGHTS = "model.xml", "model.bin"

_LAYER = re.compile(r'(<layer id=")(\d+)(" name=")([^"]*)(" type=")([^"]*)(")')
#: OpenVINO names a node of its own making after its type and a number that counts every node of the process.
_COUNTED = re.compile(r"[A-Za-z]+_(\d{1,9})")
#: Numbers so far ahead are somebody's own names: counting past them would take too long.
_AHEAD = 1_000_000
#: A model's rt_info that says how and from which path it was converted; the version is written anyway.
_PROVENANCE = ("conversion_parameters", "Runtime_version")


def count_past(names: Collection[str]) -> None:
    """Move OpenVINO's node counter past every name of a model that looks like one of its own.

    A node made from now on cannot have the name of one that the model brought, so the two can be told apart.
    """
    ov = openvino("writing OpenVINO models")

    def number() -> int:
        return int(str(ov.op.Parameter(ov.Type.f32, ov.Shape([])).get_name()).rpartition("_")[2])

    end = number() + _AHEAD
    found = (int(m[1]) for m in map(_COUNTED.fullmatch, names) if m)
    largest = max((n for n in found if n < end), default=0)
    while number() <= largest:
        pass


def write_model(
    model: Any,
    out: Path,
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    names: Collection[str],
    float16: bool = False,
) -> tuple[str, str]:
    """Write an ``openvino.Model`` into ``out`` as ``model.xml`` and ``model.bin``; returns both names, sorted.

    Args:
        inputs, outputs: whose names of dimensions are recorded.
        names: node names that the model brought; all others are counted anew (see :func:`count_past`).
        float16: keep weights in half precision; they are float32 again when the model is opened.

    Raises:
        StorageError: a write failed; ModelError: OpenVINO cannot write it.
    """
    ov = openvino("writing OpenVINO models")
    model.set_friendly_name("model")
    for key in _PROVENANCE:
        if key in model.rt_info:
            del model.rt_info[key]
    record_dimensions(model, inputs, outputs)
    try:
        with tempfile.TemporaryDirectory(prefix=".openvino-", dir=out) as work:
            written = Path(work) / ENTRY
            ov.save_model(model, str(written), compress_to_fp16=float16)
            text = written.read_text(encoding="utf-8")
            weights = written.with_suffix(".bin")
            weights.replace(out / WEIGHTS)
            write_bytes(out / ENTRY, name_layers(text, names).encode())
    except OSError as e:
        raise storage_error(e, out / ENTRY) from e
    except errors() as e:
        raise ModelError(
            f"openvino cannot write {out / ENTRY} ({reason(e)})", "free space, or use onnx"
        ) from e
    return WEIGHTS, ENTRY


def write_beside(model: Any, path: Path) -> None:
    """Keep an ``openvino.Model`` for later at ``path``, an .xml with its .bin; not for users.

    Raises:
        StorageError: a write failed; ModelError: OpenVINO cannot write it.
    """
    ov = openvino("writing OpenVINO models")
    try:
        ov.save_model(model, str(path), compress_to_fp16=False)
    except OSError as e:
        raise storage_error(e, path) from e
    except errors() as e:
        raise ModelError(f"openvino cannot write {path} ({reason(e)})", "free space, or use onnx") from e


def name_layers(text: str, names: Collection[str]) -> str:
    """An IR's XML in which every layer that did not bring its name is called by its type and place.

    >>> name_layers('<layer id="3" name="Reshape_23887" type="Const" version="opset1">', ())
    '<layer id="3" name="Const.3" type="Const" version="opset1">'
    """

    def named(match: re.Match[str]) -> str:
        kept = _brought(unescape(match[4]), names)
        name = match[4] if kept else escape(f"{match[6]}.{match[2]}")
        return f"{match[1]}{match[2]}{match[3]}{name}{match[5]}{match[6]}{match[7]}"

    return _LAYER.sub(named, text)


def _brought(name: str, names: Collection[str]) -> bool:
    """Whether a name is one of ``names``, or made of one: ``conv/WithoutBiases``, ``weight_compressed``."""
    while name:
        if name in names:
            return True
        name = name.removesuffix("_compressed") if name.endswith("_compressed") else name.rpartition("/")[0]
    return False
