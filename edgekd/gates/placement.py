"""The placement gate: how much of the model ran on the accelerator, or in the precision that was asked for?"""

from __future__ import annotations

import re
from collections import Counter
from typing import Literal

from edgekd.evidence.placement import OpPlacement
from edgekd.gates.verdict import Decision, ErrorKind, Gate
from edgekd.placement import PlacedOp

#: What ONNX Runtime's names of providers end in.
_ENDING = re.compile(r"executionprovider$")
_WORDS = {"ops": "number", "time": "time", "macs": "multiply-accumulates"}
#: How many of the operators that ran elsewhere the reason names.
_NAMED = 3


def judge_placement(
    placement: OpPlacement,
    *,
    min_share: float,
    on: str = "",
    precision: str = "",
    by: Literal["ops", "time", "macs"] = "ops",
) -> Gate:
    """Judge the share of operators, or of their time, that ran where and how they should.

    Args:
        min_share: least share, a fraction; at the limit is within it.
        on: the place's name, in any case, without ``ExecutionProvider`` or the number of a device; empty takes the
            provider that the session reports, unless a precision alone is asked.
        precision: ONNX spelling; empty does not ask.
        by: count operators, or add up the time or the multiply-accumulates that the runtime reports for them.

    Returns:
        A gate without an interval: what ran where is known, not sampled. Inconclusive where the runtime does not tell.
    """
    wanted = on or ("" if precision else placement.provider)
    what = " in ".join(filter(None, [wanted, precision]))

    def gate(
        decision: Decision, reason: str, estimate: float | None = None, kind: ErrorKind | None = None
    ) -> Gate:
        return Gate(
            gate="placement",
            decision=decision,
            metric=f"share by {by}: {what}",
            against="",
            artifact=placement.artifact,
            target=placement.target,
            estimate=estimate,
            limit=min_share,
            unit="fraction",
            method=f"{_WORDS[by]} of the operators that the runtime reports",
            reason=reason,
            error_kind=kind,
            detail={"ops": len(placement.ops), "on": wanted, "precision": precision, "by": by},
        )

    if placement.problem or not placement.ops:
        return gate("inconclusive", placement.problem or f"{placement.target} reported no operator at all")
    if precision and not any(op.dtype for op in placement.ops):
        return gate("inconclusive", f"{placement.target} does not tell in which precision its operators ran")
    # What computes nothing (copies, reshapes, Q and DQ) has no precision, and no part in a share of one.
    ops = [op for op in placement.ops if op.dtype] if precision else list(placement.ops)
    weights = [_weight(op, by) for op in ops]
    known = [w for w in weights if w is not None]
    if len(known) < len(weights):
        lacking = next(op.name for op, w in zip(ops, weights, strict=True) if w is None)
        return gate(
            "inconclusive",
            f"{placement.target} gives no {_WORDS[by]} for {lacking}: judge by the number of operators (by: ops)",
        )
    total = sum(known)
    if total <= 0:
        return gate(
            "error",
            f"the operators of {placement.target} have no {_WORDS[by]} at all; collect it again",
            kind="input",
        )
    fits = [_fits(op, wanted, precision) for op in ops]
    elsewhere = [op for op, here in zip(ops, fits, strict=True) if not here]
    share = sum(w for w, here in zip(known, fits, strict=True) if here) / total if elsewhere else 1.0
    counted = f"{len(ops)} operators" + ("" if by == "ops" else f", weighed by {_WORDS[by]},")
    reason = f"{share:.1%} of {counted} ran on {what} (least {min_share:.1%})"
    if wanted == "" and precision:
        reason = f"{share:.1%} of {counted} ran in {precision} (least {min_share:.1%})"
    if elsewhere:
        reason += f"; not so: {_named(elsewhere)}"
    return gate("pass" if share >= min_share else "reject", reason, share)


def _weight(op: PlacedOp, by: str) -> float | None:
    if by == "ops":
        return 1.0
    return op.time_ns if by == "time" else op.macs


def _fits(op: PlacedOp, on: str, precision: str) -> bool:
    here = not on or _same_place(op.place, on)
    return here and (not precision or op.dtype == precision)


def _same_place(place: str, wanted: str) -> bool:
    """Whether a place is called so: ``cuda`` is the CUDAExecutionProvider, ``GPU`` is GPU.0, ``e`` is nobody."""
    name, asked = (_ENDING.sub("", text.lower()) for text in (place, wanted))
    return name == asked or name.partition(".")[0] == asked


def _named(ops: list[PlacedOp]) -> str:
    """The commonest kinds of operators with their places: ``Softmax x2 (CPUExecutionProvider, float32)``."""
    kinds = Counter((op.op_type, ", ".join(filter(None, [op.place, op.dtype]))) for op in ops)
    shown = [
        f"{kind}{f' x{n}' if n > 1 else ''} ({where or 'nowhere'})"
        for (kind, where), n in kinds.most_common(_NAMED)
    ]
    rest = len(kinds) - len(shown)
    return ", ".join(shown) + (f" and {rest} more kind{'s' if rest > 1 else ''}" if rest > 0 else "")
