"""Executed operators sorted by what they do in a quantized model, and the same operator found in its float twin."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from edgekd.measure.roofline import family_of
from edgekd.placement import PlacedOp
from edgekd.quantize.facts import GraphFacts

#: Operators that only change the precision of values, in the words of ONNX Runtime, OpenVINO, TensorRT, ExecuTorch
#: and LiteRT.
_REQUANTIZING = re.compile(
    r"(de)?quantize(linear)?|fakequantize|(\w+::)?(de)?quantize_per_\w+(\.\w+)?", re.IGNORECASE
)
#: Operators that measure the ranges of activations in every call (onnx, Operators.md, DynamicQuantizeLinear).
_MEASURING = frozenset({"DynamicQuantizeLinear"})
#: Operators that bring values into another layout, type or memory (ONNX Runtime, OpenVINO, TensorRT, XNNPACK).
_REFORMATTING = frozenset({
    "reorderinput", "reorderoutput", "reorder", "transpose", "permute", "reformat", "convert", "cast", "copy",
    "memcpytohost", "memcpyfromhost",
})  # fmt: skip
_WEIGHT_ONLY = frozenset({"MatMulNBits", "MatMulBnb4", "GatherBlockQuantized"})
#: Products: what all the time of a network should go into.
PRODUCTS = frozenset({
    "Conv", "MatMul", "ConvTranspose", "Convolution", "Deconvolution", "GroupConvolution", "FullyConnected",
    "CaskConvolution", "CaskGemmConvolution", "MatrixMultiply", "gemm", "Fully Connected",
})  # fmt: skip
#: Integer and 8-bit float types that quantized operators compute in.
LOW = frozenset({"int8", "uint8", "int4", "uint4", "float8e4m3fn", "float8e5m2"})
_FLOAT = ("float", "bfloat")
#: What ONNX Runtime adds to a node's name, or to its output's, where it rewrites it.
_ADDED = re.compile(r"(_token_\d+|_nchwc|_nhwc|_quant)+$")
_PREFIX = "fused "


def time_of(ops: Iterable[PlacedOp]) -> float:
    """Nanoseconds of these operators together; those without a time count nothing."""
    return sum(op.time_ns or 0.0 for op in ops)


def family(op_type: str) -> str:
    """The operator whatever the runtime calls its rewritten form.

    >>> family("QLinearConv"), family("QLinearAdd"), family("Clip")
    ('Conv', 'Add', 'Clip')
    """
    return family_of(family_of(op_type).removeprefix("QLinear"))


def is_float(op: PlacedOp) -> bool:
    """Whether it computes in a floating-point type of 16 bits or more."""
    return op.dtype.startswith(_FLOAT) and op.dtype not in LOW


def anchor_of(op: PlacedOp, facts: GraphFacts) -> str:
    """The node of the file that an executed operator stands for."""
    name = _ADDED.sub("", op.name).removeprefix(_PREFIX)
    for known in (*op.sources, op.name, name):
        if known in facts.anchors:
            return facts.anchors[known]
    return op.sources[0] if op.sources else name


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An operator in low precision, and the same in the float twin; times in nanoseconds."""

    anchor: str
    family: str
    op: PlacedOp
    low_ns: float
    float_ns: float


@dataclass(frozen=True, kw_only=True)
class Executed:
    """Two placements of one model: in float, and quantized.

    Attributes:
        float_ops, ops: what ran, of the float twin and of the quantized artifact.
    """

    float_ops: Sequence[PlacedOp]
    ops: Sequence[PlacedOp]
    float_facts: GraphFacts
    facts: GraphFacts

    @cached_property
    def total_ns(self) -> float:
        """Time of all operators of the quantized call; 0 where the runtime does not tell."""
        return time_of(self.ops)

    def share(self, ops: Iterable[PlacedOp]) -> float | None:
        """Their part of the quantized call's operator time; None where the runtime tells no times."""
        return time_of(ops) / self.total_ns if self.total_ns else None

    @cached_property
    def requantizing(self) -> list[PlacedOp]:
        return [op for op in self.ops if _requantizes(op)]

    @cached_property
    def measuring(self) -> list[PlacedOp]:
        return [op for op in self.ops if op.op_type in _MEASURING]

    @cached_property
    def weight_only(self) -> list[PlacedOp]:
        return [op for op in self.ops if op.op_type in _WEIGHT_ONLY]

    @cached_property
    def reformatting(self) -> list[PlacedOp]:
        return [op for op in self.ops if _reformats(op)]

    @cached_property
    def float_reformatting(self) -> list[PlacedOp]:
        return [op for op in self.float_ops if _reformats(op)]

    @cached_property
    def low(self) -> list[PlacedOp]:
        return [op for op in self.ops if op.dtype in LOW]

    @cached_property
    def split(self) -> list[PlacedOp]:
        """Operators that the float twin has fused into its products, and that run on their own here."""
        before = Counter(family(op.op_type) for op in self.float_ops)
        now = Counter(family(op.op_type) for op in self.ops)
        return [
            op
            for op in self.ops
            if op.dtype
            and op not in self.weight_only
            and op not in self.measuring
            and family(op.op_type) not in PRODUCTS
            and now[family(op.op_type)] > before[family(op.op_type)]
        ]

    @cached_property
    def fallback(self) -> list[PlacedOp]:
        """Operators that compute in float, as the twin's do."""
        apart = [*self.split, *self.weight_only, *self.requantizing, *self.reformatting]
        return [op for op in self.ops if is_float(op) and op not in apart]

    @cached_property
    def pairs(self) -> list[Pair]:
        """Operators in low precision that the float twin has as well, both timed."""
        before = _by_anchor(self.float_ops, self.float_facts)
        now = _by_anchor([op for op in self.low if op not in self.split], self.facts)
        return [
            Pair(
                anchor=key[0],
                family=key[1],
                op=ops[0],
                low_ns=time_of(ops),
                float_ns=time_of(before[key]),
            )
            for key, ops in now.items()
            if key in before and time_of(ops) and time_of(before[key])
        ]

    def in_twin(self, ops: Iterable[PlacedOp]) -> float:
        """Nanoseconds of the same operators in the float twin; 0 where it has none of them."""
        before = _by_anchor(self.float_ops, self.float_facts)
        return sum(time_of(before[key]) for key in _by_anchor(ops, self.facts) if key in before)


def _by_anchor(ops: Iterable[PlacedOp], facts: GraphFacts) -> Mapping[tuple[str, str], list[PlacedOp]]:
    found: dict[tuple[str, str], list[PlacedOp]] = {}
    for op in ops:
        found.setdefault((anchor_of(op, facts), family(op.op_type)), []).append(op)
    return found


def _requantizes(op: PlacedOp) -> bool:
    # XNNPACK's word for quantizing and dequantizing; elsewhere it is a cast.
    if op.place.lower().startswith("xnnpack") and op.op_type == "Convert":
        return True
    return bool(_REQUANTIZING.fullmatch(op.op_type))


def _reformats(op: PlacedOp) -> bool:
    return op.op_type.lower() in _REFORMATTING and not _requantizes(op)
