"""The engine inspector's JSON, of TensorRT 10 and 11: layers, tactics, types, and the model's nodes behind them.

11 replaced ``Bindings`` (names) by ``I/O Tensors`` (objects), and split ``Format/Datatype`` of a layer's tensors
(Migrating IEngineInspector Usage from TensorRT 10.x to 11.x, documentation of 11.3).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekd.errors import ModelError
from edgekd.placement import PlacedOp

#: As the inspector writes element types, by their first word or inside a format's description.
_DTYPES = {
    "FP32": "float32", "FLOAT": "float32", "FP16": "float16", "HALF": "float16", "BF16": "bfloat16",
    "BFLOAT16": "bfloat16", "INT8": "int8", "FP8": "float8e4m3fn", "INT4": "int4", "FP4": "float4e2m1",
    "INT32": "int32", "INT64": "int64", "BOOL": "bool", "UINT8": "uint8",
}  # fmt: skip
#: Kinds of layers that move, copy or re-code values and compute nothing: in no precision.
_MOVING = frozenset({
    "Reformat", "NoOp", "Shuffle", "Concatenation", "Slice", "Constant", "Cast", "Identity", "Gather", "Shape",
    "Quantize", "Dequantize", "Scatter", "Padding", "Assertion",
})  # fmt: skip
_WORD = re.compile(r"\b(" + "|".join(sorted(_DTYPES, key=len, reverse=True)) + r")\b", re.I)
#: Where a layer's metadata names the nodes that it was made of.
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of an engine, after fusion.

    Attributes:
        kind: the inspector's LayerType; tactic: its name, else its value; both may be empty.
        inputs, outputs: element types in ONNX spelling, empty strings where it does not tell.
        sources: names of ONNX nodes.
    """

    name: str
    kind: str
    tactic: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sources: tuple[str, ...]

    @property
    def dtype(self) -> str:
        """What it computes in: the type that it reads first."""
        return next((d for d in (*self.inputs, *self.outputs) if d), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What the inspector says of an engine. ``tensors``: its inputs and outputs by name."""

    layers: tuple[Layer, ...]
    tensors: tuple[str, ...]

    def histogram(self) -> dict[str, dict[str, int]]:
        """Layers by kind, tactic and first type."""
        return {
            "kinds": dict(sorted(Counter(x.kind or "unknown" for x in self.layers).items())),
            "tactics": dict(sorted(Counter(x.tactic or "unknown" for x in self.layers).items())),
            "dtypes": dict(sorted(Counter(x.dtype or "unknown" for x in self.layers).items())),
        }

    def placed(self) -> tuple[PlacedOp, ...]:
        """The layers as operators that TensorRT ran."""
        return tuple(
            PlacedOp(
                name=x.name, op_type=x.kind, place="TensorRT", dtype="" if x.kind in _MOVING else x.dtype,
                sources=x.sources,
            )
            for x in self.layers
        )  # fmt: skip


def element_type(text: str) -> str:
    """``float16`` of ``Channel major FP16 format where channel % 8 == 0``; empty where no type is named.

    >>> element_type("Row major linear FP32 format (kLINEAR)")
    'float32'
    """
    found = _WORD.search(text)
    return _DTYPES[found[1].upper()] if found else ""


def _tensor_type(tensor: object) -> str:
    if not isinstance(tensor, Mapping):
        return ""
    for key in ("Format/Datatype", "Datatype", "DataType", "Format"):
        if made := element_type(str(tensor.get(key, ""))):
            return made
    return ""


def _layer(entry: object) -> Layer:
    if isinstance(entry, str):  # ProfilingVerbosity.LAYER_NAMES_ONLY
        return Layer(name=entry, kind="", tactic="", inputs=(), outputs=(), sources=())
    if not isinstance(entry, Mapping) or not isinstance(entry.get("Name"), str):
        raise ModelError(f"the inspector describes a layer as {entry!r:.80}", "this version is not known yet")
    tactic = str(entry.get("TacticName") or entry.get("TacticValue") or "")
    return Layer(
        name=entry["Name"],
        kind=str(entry.get("LayerType", "")),
        tactic=tactic,
        inputs=tuple(_tensor_type(t) for t in _list(entry.get("Inputs"))),
        outputs=tuple(_tensor_type(t) for t in _list(entry.get("Outputs"))),
        sources=tuple(dict.fromkeys(_NODE.findall(str(entry.get("Metadata", ""))))),
    )


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def parse_inspection(text: str) -> Inspection:
    """Read ``get_engine_information(JSON)``.

    Raises:
        ModelError: not JSON, or without layers.
    """
    try:
        value = json.loads(text)
    except ValueError as e:
        raise ModelError(
            f"the engine inspector did not write JSON ({e})", "this version is not known yet"
        ) from e
    if not isinstance(value, dict) or not isinstance(value.get("Layers"), list):
        raise ModelError("the engine inspector lists no layers", "build with detailed profiling verbosity")
    tensors = [
        str(t.get("Name", "")) if isinstance(t, Mapping) else str(t)
        for t in _list(value.get("I/O Tensors", value.get("Bindings")))
    ]
    return Inspection(layers=tuple(_layer(e) for e in value["Layers"]), tensors=tuple(tensors))


def compare_builds(plans: Sequence[str], inspections: Sequence[Inspection]) -> dict[str, Any]:
    """How builds of one network differ.

    Args:
        plans: SHA-256 per build; inspections: in the same order.

    Returns:
        ``same_bytes``, ``same_layers``, ``same_tactics``, ``same_histogram``, and ``differing``: layers whose tactic
        (or whose presence) varies, with what each build chose (empty: it has no such layer).
    """
    chosen = [{x.name: x.tactic for x in i.layers} for i in inspections]
    names = list(dict.fromkeys(name for found in chosen for name in found))
    differing = [
        {"layer": name, "tactics": [found.get(name, "") for found in chosen]}
        for name in names
        if len({found.get(name) for found in chosen}) > 1
    ]
    histograms = [i.histogram() for i in inspections]
    return {
        "builds": len(plans),
        "same_bytes": len(set(plans)) == 1,
        "same_layers": all(set(found) == set(chosen[0]) for found in chosen),
        "same_tactics": not differing,
        "same_histogram": all(h == histograms[0] for h in histograms),
        "differing": differing,
    }
