"""The operator table: which operators and element types TensorRT's parser takes (TRT001, TRT002, TRT004)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgekd_tensorrt.lint.context import Asked, Context
from edgekd_tensorrt.lint.findings import Finding
from edgekd_tensorrt.lint.graph import Node
from edgekd_tensorrt.lint.restrictions import broken

_FOLDER = Path(__file__).resolve().parent.parent

#: ONNX element type -> the table's word. FP64 is computed in FP32.
TABLE_TYPES: Mapping[str, str] = {
    "FLOAT": "FP32", "FLOAT16": "FP16", "BFLOAT16": "BF16", "DOUBLE": "FP32", "INT32": "INT32", "INT64": "INT64",
    "INT8": "INT8", "UINT8": "UINT8", "BOOL": "BOOL", "FLOAT8E4M3FN": "FP8", "INT4": "INT4", "FLOAT4E2M1": "FP4",
}  # fmt: skip

#: TensorRT's own operators (onnx-tensorrt, docs/TRT_custom_ops.md).
CUSTOM = (
    "TRT_FP8QuantizeLinear", "TRT_FP8DequantizeLinear", "TRT_INT4QuantizeLinear", "TRT_INT4DequantizeLinear",
    "TRT_FP4DynamicQuantize", "TRT_BlockQuantize", "TRT_BlockDequantize", "TRT_QuantizedAttention", "TRT_Attention",
    "TRT_KVCacheUpdate", "TRT_MoE",
)  # fmt: skip

#: The table is 11.1's. Swish is not in 10.15's; the release notes of 11.2.1 add DFT, and rank 5 and BF16 for GridSample,
#: so that every 11.3 has them.
_SINCE: Mapping[str, tuple[int, int]] = {"Swish": (11, 0), "TRT_MoE": (11, 0)}
_ADDED: Mapping[str, tuple[tuple[int, int], tuple[str, ...]]] = {
    "DFT": ((11, 3), ("FP32", "FP16", "BF16")),
    "GridSample": ((11, 3), ("FP32", "FP16", "BF16")),
}

#: The input whose type the table means, where it is not the first: Where's first is its condition.
_TYPED_INPUT: Mapping[str, int] = {"Where": 1}
#: Not by their first input: If reads a condition, Loop a count; Q and DQ have rules of their own.
_TYPES_ELSEWHERE = ("If", "Loop", "QuantizeLinear", "DequantizeLinear", "Shape", "Size", "Constant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Attributes:
    opset: first and last of the default domain.
    types: supported operator -> the table's type words; unsupported: the others that it lists.
    checks: operator -> what its restriction demands, see ``operator_checks.json``.
    """

    opset: tuple[int, int]
    types: Mapping[str, Sequence[str]]
    unsupported: frozenset[str]
    checks: Mapping[str, Sequence[Mapping[str, Any]]]


@lru_cache(maxsize=1)
def table() -> Table:
    """The stored table."""
    stored = json.loads((_FOLDER / "operators.json").read_text(encoding="utf-8"))
    checks = json.loads((_FOLDER / "operator_checks.json").read_text(encoding="utf-8"))
    return Table(
        opset=(stored["opset"][0], stored["opset"][1]),
        types=stored["supported"],
        unsupported=frozenset(stored["unsupported"]),
        checks={op: entry["checks"] for op, entry in checks["operators"].items()},
    )


def opset_findings(context: Context) -> Iterator[Finding]:
    """TRT001. 11.1's and 10.15's tables both say 9 to 24; the 11.x guide says 25, which 11.5's notes add."""
    low, high = table().opset
    opset, asked = context.opset, context.asked
    if opset == 0:
        yield context.find(
            "TRT001", None, f"the model declares no opset of the default domain, expected {low} to {high}"
        )
    elif opset == 25 and asked.major == 11:
        if not asked.at_least(11, 5):
            yield context.find(
                "TRT001", None, "opset 25: TensorRT 11.5 takes it, operators.md of 11.1 says 24", severity="warning",
                fix="export with --opset 24, or lint for TensorRT 11.5",
            )  # fmt: skip
    elif not low <= opset <= high:
        yield context.find("TRT001", None, f"opset {opset} is not in {low} to {high}")
    elif asked.major == 10 and asked.minor is not None and asked.minor < 15 and opset > 20:
        yield context.find(
            "TRT001", None, f"opset {opset}: known of TensorRT 10.15 and later, not of 10.{asked.minor}", severity="warning",
            fix="export with --opset 20, or read operators.md of that release",
        )  # fmt: skip


def operator_findings(context: Context) -> Iterator[Finding]:
    """TRT002 and TRT004."""
    for node in context.nodes:
        unknown = _unknown(node, context.asked)
        if unknown:
            yield context.find("TRT002", node, unknown)
        elif node.domain == "" and not _is_plugin(node, context.asked):
            yield from _types(context, node)
            yield from _restrictions(context, node)


def _is_plugin(node: Node, asked: Asked) -> bool:
    return node.op_type in asked.plugins or f"{node.domain}::{node.op_type}" in asked.plugins


def _unknown(node: Node, asked: Asked) -> str:
    op = node.op_type
    if _is_plugin(node, asked):
        return ""
    since = _SINCE.get(op)
    if since is not None and not asked.at_least(*since):
        return f"{op} is supported from TensorRT {since[0]}.{since[1]} on"
    if op in CUSTOM:
        return ""
    if node.domain:
        return f"{op} is of the domain '{node.domain}', which the parser does not know, and no plugin is declared"
    known = table()
    added = _ADDED.get(op)
    if op in known.types or (added is not None and asked.at_least(*added[0])):
        return ""
    return f"{op} is not supported" if op in known.unsupported else f"{op} is not in the parser's table"


def _types(context: Context, node: Node) -> Iterator[Finding]:
    if node.op_type in _TYPES_ELSEWHERE:
        return
    added = _ADDED.get(node.op_type)
    allowed = table().types.get(node.op_type, ())
    if added is not None and context.asked.at_least(*added[0]):
        allowed = added[1]
    name = node.input(_TYPED_INPUT.get(node.op_type, 0))
    read = [name] if name else []
    made = (
        [node.output(0)] if not node.inputs or node.op_type in ("Cast", "CastLike", "ConstantOfShape") else []
    )
    for tensor in (*read, *made):
        word = TABLE_TYPES.get(node.graph.elem(tensor), "")
        if not word or word in allowed or (tensor in read and _told_elsewhere(context, node, tensor, word)):
            continue
        verb = "reads" if tensor in read else "gives"
        yield context.find(
            "TRT004", node, f"{node.op_type} {verb} {word} ('{tensor}'), supported are {', '.join(allowed)}", tensor=tensor
        )  # fmt: skip


def _told_elsewhere(context: Context, node: Node, tensor: str, word: str) -> bool:
    """UINT8 inside the graph is TRT003; what a QuantizeLinear makes and another operator reads is TRT030."""
    maker = node.graph.made_by(tensor)
    return word == "UINT8" or (maker is not None and maker in context.steps)


def _restrictions(context: Context, node: Node) -> Iterator[Finding]:
    lifted = node.op_type in _ADDED and context.asked.at_least(*_ADDED[node.op_type][0])
    for check in () if lifted else table().checks.get(node.op_type, ()):
        found = broken(node, check)
        if found is not None:
            severity, tensor, message = found
            yield context.find("TRT004", node, message, tensor=tensor, severity=severity)
