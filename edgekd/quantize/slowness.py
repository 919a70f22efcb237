"""Why a quantized model is not faster than its float twin: rules over what ran, and over what the file says.

The causes are those that users of ONNX Runtime, OpenVINO and TensorRT meet, as their trackers and manuals tell
(onnxruntime.ai, "Quantize ONNX models", "Why am I not seeing performance improvements?"; docs.nvidia.com, TensorRT,
"Working with quantized types", Q/DQ placement). Every rule speaks of operators that were executed and timed.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgekd.placement import PlacedOp
from edgekd.quantize.executed import PRODUCTS, Executed, Pair, family, time_of
from edgekd.quantize.facts import GraphFacts
from edgekd.quantize.reason import Ratio, Reason, is_faster, microseconds, precision_of, slowest, told

#: Nodes that take a smaller share of the call are not told of.
LEAST_SHARE = 0.03
#: An operator that takes this part of its float twin's time or more has no faster kernel: the profilers count whole
#: microseconds, and the rest is not told from their own cost.
NO_GAIN = 0.9
#: From this ratio on, an operator left in float is slower than in the float model, and not by chance.
_SLOWED = 1.25
#: Below this median, what a runtime does between two operators (a microsecond or so) weighs as much as they do.
SHORT_NS = 2000.0
#: A Quantize at the input and a Dequantize at the output are the price of a float boundary.
_BOUNDARY = 2
#: Integer dot products of x86 and of ARM, as /proc/cpuinfo names them.
_DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
_X86 = ("x86_64", "amd64", "i686")
_ORT_CPU = "CPUExecutionProvider"
#: ONNX Runtime fuses Q/DQ pairs from this level on (its documentation, "Graph optimizations").
_UNFUSING = ("disable", "basic")

#: Causes that stand before all that they bring about, in this order.
_ROOTS = (
    "emulated", "graph_optimizations_off", "symmetric_on_cpu", "no_int8_instructions", "twin_precision",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Case:
    seen: Executed
    machine: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 1
    emulated: str = ""


def why_not_faster(
    float_ops: Sequence[PlacedOp],
    quantized_ops: Sequence[PlacedOp],
    *,
    facts: GraphFacts | None = None,
    float_facts: GraphFacts | None = None,
    machine: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    batch: int = 1,
    emulated: str = "",
    ratio: Ratio | None = None,
) -> tuple[Reason, ...]:
    """Reasons why a quantized model is not faster than its float twin, causes first, then by the time they explain.

    Args:
        float_ops, quantized_ops: what ran on the same target; may be empty where the runtime does not tell.
        facts, float_facts: of the two files.
        machine: of :func:`edgekd.measure.ledger.machine`: ``machine``, ``cpu_flags``.
        settings: of the quantized session; batch: examples per call.
        emulated: precision that the session emulates; empty where it computes in what the file says.
        ratio: time of the quantized model / time of the float one, with its interval; None where it was not measured.

    Returns:
        Nothing where the ratio's interval is below 1, and at least one reason elsewhere.
    """
    if is_faster(ratio):
        return ()
    case = _Case(
        seen=Executed(
            float_ops=float_ops,
            ops=quantized_ops,
            float_facts=float_facts or GraphFacts(),
            facts=facts or GraphFacts(),
        ),
        machine=machine or {},
        settings=settings or {},
        batch=batch,
        emulated=emulated,
    )
    found = [reason for rule in _RULES for reason in rule(case)]
    if emulated:
        # All else follows from it, and says nothing of hardware that has the precision.
        found = [r for r in found if r.kind == "emulated"]
    found.sort(
        key=lambda r: (_ROOTS.index(r.kind) if r.kind in _ROOTS else len(_ROOTS), -(r.time_share or 0.0))
    )
    return tuple(found) or (_unexplained(case),)


def _emulated(case: _Case) -> list[Reason]:
    if not case.emulated:
        return []
    ops = case.seen.requantizing
    return [
        Reason(
            kind="emulated",
            sentence=f"{case.emulated} is emulated here: values are rounded to it and the products run in float32, so "
            "its time says nothing of hardware that has it",
            nodes=slowest(ops),
            time_share=case.seen.share(ops),
            fix="measure it on hardware that computes in it; on this target ship int8 or the float model",
        )
    ]


def _graph_off(case: _Case) -> list[Reason]:
    level = str(case.settings.get("graph_level", ""))
    if level not in _UNFUSING or not (case.seen.facts.quantize or case.seen.requantizing):
        return []
    return [
        Reason(
            kind="graph_optimizations_off",
            sentence=f"the session runs at graph_level={level}, at which ONNX Runtime fuses no Q/DQ pair",
            fix="leave graph_level at its default (all)",
        )
    ]


def _symmetric(case: _Case) -> list[Reason]:
    on_cpu = any(op.place == _ORT_CPU for op in case.seen.ops)
    x86 = str(case.machine.get("machine", "x86_64")).lower() in _X86
    types = case.seen.facts.activations
    if not (on_cpu and x86) or "int8" not in types or "uint8" in types:
        return []
    # A symmetric range cannot start at 0, so Relu and Clip are not absorbed either.
    return [
        Reason(
            kind="symmetric_on_cpu",
            sentence="activations are symmetric int8 (s8s8, what TensorRT wants); ONNX Runtime's x86 kernels want uint8 "
            "activations with int8 weights (u8s8), and only those ranges absorb a Relu or Clip",
            fix="quantize again with --for cpu:onnxruntime",
        )
    ]


def _no_dot_products(case: _Case) -> list[Reason]:
    flags = case.machine.get("cpu_flags")
    cpu = all(op.place in (_ORT_CPU, "CPU", "XNNPACK", "XnnpackBackend", "portable") for op in case.seen.ops)
    if flags is None or not cpu or not case.seen.low or _DOT_PRODUCTS & set(flags):
        return []
    return [
        Reason(
            kind="no_int8_instructions",
            sentence=f"this CPU has no integer dot product ({', '.join(sorted(_DOT_PRODUCTS))}): 8-bit products cost "
            "about as many instructions as float32 ones",
            nodes=slowest(case.seen.low),
            fix="expect no gain here; ship the float model, or measure on a CPU with VNNI, AMX or SDOT",
        )
    ]


def _twin_precision(case: _Case) -> list[Reason]:
    timed = [op for op in case.seen.float_ops if op.dtype in ("bfloat16", "float16")]
    share = time_of(timed) / (time_of(case.seen.float_ops) or 1.0)
    products = [op for op in timed if family(op.op_type) in PRODUCTS]
    if not products or (time_of(case.seen.float_ops) and share < 0.5):
        return []
    kind = Counter(op.dtype for op in products).most_common(1)[0][0]
    left = [op for op in case.seen.fallback if op.dtype == "float32"]
    said = f"; here {told(left)} still run in float32" if left else ""
    return [
        Reason(
            kind="twin_precision",
            sentence=f"the float twin does not run in float32: {len(products)} of its products ran in {kind}{said}",
            fix=f"let what stays in float run in {kind} too, or read the ratio as against {kind}",
        )
    ]


def _accuracy_level(case: _Case) -> list[Reason]:
    asked = [n for n in case.seen.facts.weight_only if n.accuracy_level < 2]
    if not asked or not any(op.place == _ORT_CPU for op in (*case.seen.weight_only, *case.seen.ops)):
        return []
    level, names = asked[0].accuracy_level, {n.name for n in asked}
    ops = [op for op in case.seen.weight_only if op.name in names] or case.seen.weight_only
    return [
        Reason(
            kind="accuracy_level_float32" if level else "accuracy_level_missing",
            sentence=f"{len(asked)} of {len(case.seen.facts.weight_only)} weight-only products "
            f"({'/'.join(str(b) for b in sorted({n.bits for n in asked}))}-bit) have {'accuracy_level 1' if level else 'no accuracy_level'}: "
            f"they unpack to float32{_share_said(case, ops)}; e.g. {asked[0].name}",
            nodes=slowest(ops) or tuple(n.name for n in asked),
            time_share=case.seen.share(ops),
            fix="quantize again with accuracy_level 4, which multiplies in int8",
        )
    ]


def _weights_only(case: _Case) -> list[Reason]:
    nodes = case.seen.facts.weight_only
    if not nodes or any(n.accuracy_level < 2 for n in nodes):
        return []
    share = case.seen.share(case.seen.weight_only)
    return [
        Reason(
            kind="weights_not_the_bottleneck",
            sentence=f"only weights are packed ({len(nodes)} products{_share_said(case, case.seen.weight_only)}): that "
            "saves reading them from memory, which is what a call waits for only where weights are far larger than "
            "the cache and few rows are multiplied",
            nodes=slowest(case.seen.weight_only),
            time_share=share,
            fix="quantize activations as well (int8, static), or keep it for its size",
        )
    ]


def _dynamic(case: _Case) -> list[Reason]:
    ops = case.seen.measuring
    if not _tells(case, ops):
        return []
    return [
        Reason(
            kind="dynamic_ranges",
            sentence=f"{len(ops)} DynamicQuantizeLinear measure and quantize activations in every call"
            f"{_share_said(case, ops)}",
            nodes=slowest(ops),
            time_share=case.seen.share(ops),
            fix="quantize with static ranges (calibration data)",
        )
    ]


def _not_fused(case: _Case) -> list[Reason]:
    ops = case.seen.requantizing
    if not _tells(case, ops) or (len(ops) <= _BOUNDARY and not case.seen.total_ns):
        return []
    facts = case.seen.facts
    around = Counter(b for op in ops if (b := facts.beside.get(op.name)))
    near = ", ".join(f"{n} {kind}" for kind, n in around.most_common(4))
    filed = facts.quantize + facts.dequantize
    return [
        Reason(
            kind="qdq_not_fused",
            sentence=f"{len(ops)} Quantize/Dequantize operators"
            + (f" of {filed} in the file" if filed >= len(ops) else "")
            + f" run as nodes of their own{_share_said(case, ops)}"
            + (f", around {near}" if near else "")
            + (": float inputs or outputs are converted in every call" if len(ops) <= _BOUNDARY else ""),
            nodes=slowest(ops),
            time_share=case.seen.share(ops),
            fix="quantize what stands between them too, or leave the whole stretch in float",
        )
    ]


def _fallback(case: _Case) -> list[Reason]:
    ops = case.seen.fallback
    if case.seen.facts.weight_only and not (case.seen.facts.quantize or case.seen.low):
        return []
    if not _tells(case, ops):
        return []
    kept = [op for op in ops if {op.name, *op.sources} & case.seen.facts.keep_float]
    head = "no operator computes in low precision: " if not case.seen.low else ""
    usual = Counter(op.place for op in case.seen.ops).most_common(1)[0][0]
    away = Counter(op.place for op in ops if op.place != usual)
    where = f"; {', '.join(f'{n} of them on {place}' for place, n in away.items())}" if away else ""
    said = f"; {len(kept)} of them by choice (keep_float)" if kept else ""
    twin_ns = case.seen.in_twin(ops)
    if twin_ns and time_of(ops) > _SLOWED * twin_ns:
        # Weights that come out of a DequantizeLinear are no constants, so they cannot be packed beforehand.
        said += f"; the float model's own take {microseconds(twin_ns)}"
    return [
        Reason(
            kind="float_fallback",
            sentence=f"{head}{told(ops)} compute in {precision_of(ops)}{_share_said(case, ops)}{where}{said}",
            nodes=slowest(ops),
            time_share=case.seen.share(ops),
            fix="use an operator that the runtime has in int8, or another runtime" if len(kept) < len(ops) else
            "quantize those too, if the accuracy allows it",
        )
    ]  # fmt: skip


def _more_ops(case: _Case) -> list[Reason]:
    ops = case.seen.split
    if not _tells(case, ops):
        return []
    return [
        Reason(
            kind="more_ops",
            sentence=f"{len(case.seen.ops)} operators run against {len(case.seen.float_ops)} in float: {told(ops)} run "
            f"on their own, which the float model has fused into others{_share_said(case, ops)}",
            nodes=slowest(ops),
            time_share=case.seen.share(ops),
            fix="quantize them with the product before them, with ranges that let them be fused (u8 on a CPU)",
        )
    ]


def _reformat(case: _Case) -> list[Reason]:
    ops, before = case.seen.reformatting, case.seen.float_reformatting
    if len(ops) <= len(before) or not _tells(case, ops):
        return []
    return [
        Reason(
            kind="reformat",
            sentence=f"{len(ops)} operators only change layout or type ({told(ops)}) against {len(before)} in float"
            f"{_share_said(case, ops)}",
            nodes=slowest(ops),
            time_share=case.seen.share(ops),
            fix="keep neighbours in one precision: every border costs a copy",
        )
    ]


def _no_gain(case: _Case) -> list[Reason]:
    slow = [p for p in case.seen.pairs if p.low_ns >= NO_GAIN * p.float_ns]
    narrow = case.seen.facts.depthwise | case.seen.float_facts.depthwise
    found = []
    for kind, own, fix in (
        ("depthwise", [p for p in slow if p.anchor in narrow],
         "leave them in float if that costs no Q/DQ around them, or try another runtime"),
        ("same_kernels", [p for p in slow if p.anchor not in narrow],
         "leave them in float, try another runtime, or more channels: 8-bit kernels want wide layers"),
    ):  # fmt: skip
        share = sum(p.low_ns for p in own) / (case.seen.total_ns or 1.0)
        if own and share >= LEAST_SHARE:
            found.append(_pairs_reason(case, kind, own, share, fix))
    return found


def _pairs_reason(case: _Case, kind: str, own: Sequence[Pair], share: float, fix: str) -> Reason:
    ordered = sorted(own, key=lambda p: p.float_ns - p.low_ns)
    families = Counter(p.family for p in own)
    what = ", ".join(
        f"{n} of {sum(p.family == f for p in case.seen.pairs)} {f}" for f, n in families.most_common(3)
    )
    low, high = sum(p.low_ns for p in own), sum(p.float_ns for p in own)
    first = ", ".join(
        f"{p.anchor} ({microseconds(p.low_ns)} against {microseconds(p.float_ns)})" for p in ordered[:2]
    )
    word = (
        "depthwise: they have one channel per group, so little to multiply; " if kind == "depthwise" else ""
    )
    return Reason(
        kind=kind,
        sentence=f"{what} take as long in {precision_of([p.op for p in own])} as in float or longer ({word}{microseconds(low)} "
        f"against {microseconds(high)}, {100 * share:.0f} % of the call), e.g. {first}",
        nodes=tuple(p.op.name for p in ordered),
        time_share=share,
        fix=fix,
    )


def _overhead(case: _Case) -> list[Reason]:
    times = [op.time_ns for op in case.seen.ops if op.time_ns is not None]
    if not times or statistics.median(times) >= SHORT_NS:
        return []
    return [
        Reason(
            kind="overhead_bound",
            sentence=f"the call is short: {len(times)} operators take {microseconds(sum(times))} together at batch {case.batch}, "
            f"{microseconds(statistics.median(times))} in the median, about what a runtime spends between two",
            fix="compare at a greater --batch; at this one a smaller float model may be what helps",
        )
    ]


def _unexplained(case: _Case) -> Reason:
    now, before = case.seen.total_ns, time_of(case.seen.float_ops)
    if not now or not before:
        said = "the runtime does not tell what ran, or not how long"
        return Reason(kind="unexplained", sentence=said, fix="profile it with the runtime's own tools")
    return Reason(
        kind="unexplained",
        sentence=f"no single cause: its {len(case.seen.ops)} operators take {microseconds(now)} together, the float model's "
        f"{len(case.seen.float_ops)} take {microseconds(before)}",
        fix="measure again on a quiet machine, with more restarts",
    )


_RULES: tuple[Callable[[_Case], list[Reason]], ...] = (
    _emulated, _graph_off, _symmetric, _no_dot_products, _twin_precision, _accuracy_level, _weights_only, _dynamic,
    _not_fused, _fallback, _more_ops, _reformat, _no_gain, _overhead,
)  # fmt: skip


def _tells(case: _Case, ops: Sequence[PlacedOp]) -> bool:
    """Whether operators take enough of the call to speak of them; without times, whether there are any."""
    share = case.seen.share(ops)
    return bool(ops) and (share is None or share >= LEAST_SHARE)


def _share_said(case: _Case, ops: Sequence[PlacedOp]) -> str:
    share = case.seen.share(ops)
    return "" if share is None else f" ({microseconds(time_of(ops))}, {100 * share:.0f} % of the call)"
