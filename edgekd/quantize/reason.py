"""A reason why a quantized model is no faster, and how its figures are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgekd.placement import PlacedOp
from edgekd.quantize.executed import is_float

#: Estimate, lower and upper bound of time / time of the float twin.
Ratio = tuple[float, float, float]

#: Names told in a sentence; all are in ``nodes``.
_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One reason why a quantized model is not faster.

    Attributes:
        kind: e.g. ``qdq_not_fused``; sentence: with its figures, for a reader.
        nodes: names of the executed operators that it is about, the slowest first.
        time_share: their part of the quantized call's operator time; None where it is about no operator of its own,
            or the runtime tells no times. Shares of one answer add up to 1 at most.
        fix: what to do.
    """

    kind: str
    sentence: str
    nodes: tuple[str, ...] = ()
    time_share: float | None = None
    fix: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "nodes": list(self.nodes)}


def is_faster(ratio: Ratio | None) -> bool:
    """Whether the whole interval of the ratio is below 1."""
    return ratio is not None and ratio[2] < 1


def microseconds(ns: float) -> str:
    return f"{ns / 1e3:,.0f} µs" if ns >= 1e4 else f"{ns / 1e3:.1f} µs"


def slowest(ops: Sequence[PlacedOp]) -> tuple[str, ...]:
    return tuple(op.name for op in sorted(ops, key=lambda op: -(op.time_ns or 0.0)))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED])


def told(ops: Sequence[PlacedOp]) -> str:
    """Counts by operator, and the names of the slowest.

    >>> told([PlacedOp(name="a", op_type="Softplus", place="CPU")])
    '1 Softplus (a)'
    """
    kinds = Counter(op.op_type for op in ops).most_common()
    counts = ", ".join(f"{n} {kind}" for kind, n in kinds[:4])
    more = f" and {sum(n for _, n in kinds[4:])} others" if len(kinds) > 4 else ""
    names = slowest(ops)
    return f"{counts}{more} ({_listed(names)}{', …' if len(names) > _NAMED else ''})"


def precision_of(ops: Sequence[PlacedOp]) -> str:
    kinds = Counter(op.dtype for op in ops if op.dtype)
    return (
        " and ".join(sorted(kinds))
        if kinds and len(kinds) < 3
        else "float"
        if any(map(is_float, ops))
        else "8 bits"
    )
