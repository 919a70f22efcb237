"""Where a model stands under this machine's roofline (Williams, Waterman, Patterson 2009), from counted cost and measured peaks.

The least time that the machine allows is the greater of two: that of its arithmetic at the measured peak of each
dtype, and that of its bytes at the measured rate of the level of memory that holds them. Bytes are counted node by
node as in the cache-aware roofline (Ilic, Pratas, Sousa 2014): a node's activations are charged at the first level
that holds them, weights at the first that holds all the model's weights; nodes that a runtime can fuse move nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.measure.peaks import ComputePeak, MemoryLevel
from edgekd.workload import StaticCost

#: Operators as runtimes rename them while they rewrite a graph -> the family that both names stand for.
_FAMILIES = {
    "Conv": ("Conv", "FusedConv", "ConvInteger", "QLinearConv", "NhwcFusedConv", "NhwcConv"),
    "MatMul": (
        "MatMul", "Gemm", "FusedMatMul", "FusedGemm", "MatMulInteger", "MatMulIntegerToFloat", "QLinearMatMul",
        "QGemm", "DynamicQuantizeMatMul", "MatMulNBits",
    ),
}  # fmt: skip


def family_of(op: str) -> str:
    """The common name of an operator and its rewritten forms.

    >>> family_of("FusedConv")
    'Conv'
    """
    return next((family for family, ops in _FAMILIES.items() if op in ops), op)


def _rate_for(held_bytes: int, levels: Sequence[MemoryLevel]) -> MemoryLevel:
    return next((x for x in levels if x.holds_bytes is None or held_bytes <= x.holds_bytes), levels[-1])


def memory_seconds(cost: StaticCost, levels: Sequence[MemoryLevel]) -> tuple[float, dict[str, int]]:
    """Least seconds that the bytes of one call take, and how many of them each level carries.

    Args:
        levels: from the inside out; the last holds everything.
    """
    carried: dict[str, int] = dict.fromkeys((x.name for x in levels), 0)
    weights = sum(n.weight_bytes for n in cost.nodes)
    carried[_rate_for(weights, levels).name] += weights
    for node in cost.nodes:
        if not node.fusible and node.activation_bytes:
            carried[_rate_for(node.activation_bytes, levels).name] += node.activation_bytes
    rates = {x.name: x.bytes_per_s for x in levels}
    return sum(count / rates[name] for name, count in carried.items()), carried


def place_under_roofline(
    cost: StaticCost,
    seconds_per_call: float,
    peaks: Mapping[str, ComputePeak],
    levels: Sequence[MemoryLevel],
    profile: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Achieved rates beside the machine's, and which of the two ceilings is the lower one.

    Args:
        cost: of one call. seconds_per_call: measured, of the undisturbed call (METHOD 1, step 5).
        peaks: dtype -> peak, for every dtype that ``cost`` has arithmetic in, at the session's threads.
        levels: from the inside out, copied by as many threads.
        profile: of :func:`edgekd.measure.resources.profile_json`, where there is one.

    Raises:
        ValueError: a cost without arithmetic, or a dtype without a peak; ask first.
    """
    macs = cost.macs_by_dtype
    if not macs or set(macs) - set(peaks):
        raise ValueError(f"cannot place {sorted(macs)} with peaks of {sorted(peaks)}")
    flops = 2 * sum(macs.values())
    compute_s = sum(2 * count / peaks[dtype].flops_per_s for dtype, count in macs.items())
    memory_s, carried = memory_seconds(cost, levels)
    moved = cost.fused_bytes
    bound = "compute" if compute_s >= memory_s else "memory"
    least_s = max(compute_s, memory_s)
    placed = {
        "seconds_per_call": seconds_per_call,
        "achieved_flops_per_s": flops / seconds_per_call,
        "achieved_bytes_per_s": moved / seconds_per_call,
        "peak_flops_per_s": flops / compute_s,
        "peak_bytes_per_s": {x.name: x.bytes_per_s for x in levels},
        "dtypes": sorted(macs),
        "flops_per_byte": flops / moved if moved else None,
        "compute_seconds": compute_s,
        "memory_seconds": memory_s,
        "bytes_by_level": carried,
        "least_seconds": least_s,
        "bound": bound,
        "share_of_peak": compute_s / seconds_per_call,
        "share_of_attainable": least_s / seconds_per_call,
        "by_family": _families(cost, peaks, profile, seconds_per_call),
        "lower_bound": bool(cost.not_counted),
    }
    return {**placed, "sentence": sentence_of(placed)}


def _families(
    cost: StaticCost,
    peaks: Mapping[str, ComputePeak],
    profile: Mapping[str, Any] | None,
    seconds_per_call: float,
) -> list[dict[str, Any]]:
    """Per family of operators: share of the profiled time, and the rate reached in it where it has arithmetic.

    Of the profile only the shares are used: its seconds hold the profiler's own, and whatever interrupted it.
    """
    if profile is None:
        return []
    share: dict[str, float] = {}
    ops: dict[str, list[str]] = {}
    for row in profile["by_op"]:
        family = family_of(row["op"])
        ops.setdefault(family, []).append(row["op"])
        share[family] = share.get(family, 0.0) + row["share"]
    seconds = {family: part * seconds_per_call for family, part in share.items()}
    compute_s: dict[str, float] = {}
    flops: dict[str, int] = {}
    for node in cost.nodes:
        if node.macs:
            family = family_of(node.op)
            flops[family] = flops.get(family, 0) + 2 * node.macs
            least = 2 * node.macs / peaks[node.dtype].flops_per_s
            compute_s[family] = compute_s.get(family, 0.0) + least
    return [
        {
            "family": family,
            "ops": ops[family],
            "share_of_time": share[family],
            # A family that a rewrite dissolved, or made, has no rate of its own.
            "flops_per_s": flops[family] / seconds[family] if family in flops and seconds[family] else None,
            "share_of_peak": compute_s[family] / seconds[family] if family in flops and seconds[family] else None,
        }
        for family in sorted(share, key=lambda f: -share[f])
    ]  # fmt: skip


def sentence_of(placed: Mapping[str, Any]) -> str:
    """One plain sentence on a placement."""
    kinds = " and ".join(placed["dtypes"])
    rate = placed["peak_flops_per_s"] / 1e9
    words = [
        f"reaches {100 * placed['share_of_peak']:.0f} % of this machine's {kinds} peak ({rate:.0f} GFLOP/s)"
    ]
    words.append(f"{placed['bound']}-bound")
    if placed["bound"] == "memory":
        words.append(f"{100 * placed['share_of_attainable']:.0f} % of what its memory allows")
    families = placed["by_family"]
    if families:
        first = families[0]
        said = f"{100 * first['share_of_time']:.0f} % of the time in {first['family']}"
        if first["share_of_peak"] is not None:
            said += f", which reaches {100 * first['share_of_peak']:.0f} %"
        words.append(said)
    if placed["lower_bound"]:
        words.append("some operators are not counted, so it does more than this")
    return "; ".join(words)
