"""The roofline, on costs and peaks whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgekd.measure.peaks import ComputePeak, MemoryLevel
from edgekd.measure.roofline import memory_seconds, place_under_roofline
from edgekd.workload import NodeCost, StaticCost


def _peak(dtype: str, flops_per_s: float) -> ComputePeak:
    return ComputePeak(dtype=dtype, threads=1, flops_per_s=flops_per_s, sizes=())


def _level(name: str, holds: int | None, rate: float) -> MemoryLevel:
    return MemoryLevel(
        name=name, holds_bytes=holds, bytes_per_s=rate, buffer_bytes=1, threads=1, copies=1, seconds=(1.0,)
    )


def _node(macs: int, weights: int = 0, activations: int | None = 0, **more: Any) -> NodeCost:
    made: dict[str, Any] = {"name": "n", "op": "Conv", "dtype": "float32" if macs else "", **more}
    return NodeCost(macs=macs, weight_bytes=weights, activation_bytes=activations, **made)


def _cost(*nodes: NodeCost, **more: Any) -> StaticCost:
    return StaticCost(parameters=0, parameter_bytes=0, boundary_bytes=0, nodes=nodes, **more)


PEAKS = {"float32": _peak("float32", 100e9), "int8": _peak("int8", 400e9)}
LEVELS = (_level("L2", 1_000, 100e9), _level("L3", 1_000_000, 50e9), _level("memory", None, 10e9))


def test_compute_bound() -> None:
    # 1 GFLOP at 100 GFLOP/s is 10 ms; it took 25.
    found = place_under_roofline(_cost(_node(500_000_000, 400, 600)), 0.025, PEAKS, LEVELS)
    assert found["bound"] == "compute"
    assert found["compute_seconds"] == pytest.approx(0.010)
    assert found["share_of_peak"] == found["share_of_attainable"] == pytest.approx(0.4)
    assert found["achieved_flops_per_s"] == pytest.approx(40e9)
    assert found["achieved_bytes_per_s"] == pytest.approx(1000 / 0.025)
    assert found["flops_per_byte"] == pytest.approx(1e6)
    assert found["sentence"] == "reaches 40 % of this machine's float32 peak (100 GFLOP/s); compute-bound"


def test_memory_bound() -> None:
    # 200 MB of weights at 10 GB/s are 20 ms, 2 MFLOP take 20 µs.
    found = place_under_roofline(_cost(_node(1_000_000, 200_000_000, 0)), 0.025, PEAKS, LEVELS)
    assert found["bound"] == "memory"
    assert found["memory_seconds"] == pytest.approx(0.020)
    assert found["share_of_attainable"] == pytest.approx(0.8)
    assert found["share_of_peak"] == pytest.approx(20e-6 / 0.025)
    assert "memory-bound; 80 % of what its memory allows" in found["sentence"]


def test_bytes_are_charged_to_the_first_level_that_holds_them() -> None:
    nodes = (
        _node(0, 300, 900, op="Relu"),
        _node(0, 300, 5_000),
        _node(0, 0, 2_000_000),
        _node(0, 500, 700, fusible=True),  # its bytes do not move; its weights are still the model's
        _node(0, 0, None),
    )
    seconds, carried = memory_seconds(_cost(*nodes), LEVELS)
    assert carried == {"L2": 900, "L3": 1_100 + 5_000, "memory": 2_000_000}
    assert seconds == pytest.approx(900 / 100e9 + 6_100 / 50e9 + 2_000_000 / 10e9)


def test_dtypes_have_peaks_of_their_own() -> None:
    cost = _cost(_node(500_000_000), _node(2_000_000_000, dtype="int8"))
    found = place_under_roofline(cost, 0.040, PEAKS, LEVELS)
    assert found["compute_seconds"] == pytest.approx(0.010 + 0.010)
    assert found["peak_flops_per_s"] == pytest.approx(5e9 / 0.020)
    assert found["share_of_peak"] == pytest.approx(0.5)
    assert found["sentence"].startswith("reaches 50 % of this machine's float32 and int8 peak (250 GFLOP/s)")


def test_the_profile_says_where_the_time_goes_and_how_fast_it_is_there() -> None:
    cost = _cost(_node(300_000_000), _node(200_000_000), _node(100_000_000, op="Gemm"), _node(0, op="Relu"))
    # The profile took twice as long as the call does.
    rows = [("FusedConv", 0.6, 24e6), ("Conv", 0.2, 8e6), ("Softmax", 0.15, 6e6), ("FusedGemm", 0.05, 2e6)]
    profile = {"by_op": [{"op": o, "share": s, "ns_per_call": ns} for o, s, ns in rows]}
    found = place_under_roofline(cost, 0.020, PEAKS, LEVELS, profile)
    families = {f["family"]: f for f in found["by_family"]}
    assert families["Conv"]["share_of_time"] == pytest.approx(0.8)
    assert families["Conv"]["ops"] == ["FusedConv", "Conv"]
    assert families["Conv"]["flops_per_s"] == pytest.approx(1e9 / 0.016)
    assert families["Conv"]["share_of_peak"] == pytest.approx(0.010 / 0.016)
    assert families["MatMul"]["share_of_peak"] == pytest.approx(
        2.0
    )  # a lie of the clock is shown, not hidden
    assert families["Softmax"]["share_of_peak"] is None
    assert found["sentence"].endswith("80 % of the time in Conv, which reaches 62 %")


def test_what_is_not_counted_is_said() -> None:
    cost = _cost(_node(500_000_000), not_counted={"If": "1 of them: how often"})
    found = place_under_roofline(cost, 0.025, PEAKS, LEVELS)
    assert found["lower_bound"] is True
    assert found["sentence"].endswith("some operators are not counted, so it does more than this")


def test_no_arithmetic_and_no_peak_are_for_the_caller_to_ask_before() -> None:
    with pytest.raises(ValueError, match="cannot place"):
        place_under_roofline(_cost(_node(0)), 0.025, PEAKS, LEVELS)
    half = _cost(replace(_node(5), dtype="bfloat16"))
    with pytest.raises(ValueError, match="bfloat16"):
        place_under_roofline(half, 0.025, PEAKS, LEVELS)
