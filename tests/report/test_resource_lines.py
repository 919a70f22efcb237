"""Resources as text: every figure with its unit, every gap with its reason."""

from __future__ import annotations

from typing import Any

import pytest

from edgekd.evidence import Measurement
from edgekd.report.resources import count_words, resource_lines, time_words


def _measurement(resources: dict[str, Any]) -> Measurement:
    arms = {
        a: {"name": n, "artifact": "sha256:0"} for a, n in (("baseline", "t.onnx"), ("candidate", "s.onnx"))
    }
    return Measurement(
        arms=arms, target="cpu:onnxruntime", scenario="single-stream", batch=1, threads=1, inputs={}, protocol={},
        restarts=(), redrawn=(), environment={}, parent_cpu=0.0, collected_at="", resources=resources,
    )  # fmt: skip


def _evidence(**more: Any) -> dict[str, Any]:
    def times(ns: float) -> dict[str, Any]:
        return {"median": ns, "values": [ns]}

    return {
        "size_bytes": 3 << 20,
        "memory": {"after_import_bytes": 50 << 20, "after_load_bytes": 60 << 20, "peak_bytes": 62 << 20},
        "cpu": {"cpu_ns_per_call": 1.5e6, "parallelism": 0.98},
        "start": {"process_ns": times(150e6), "runtime_import_ns": times(50e6)},
        "load": {"cold": {"load_ns": times(120e6)}, "warm": {"load_ns": times(20e6)}},
        "first_call_ns": times(2.5e6),
        "energy": {"rapl": {"joules_per_call": 0.0456}},
        "cost": {"parameters": 77_706, "macs": 12_501_632, "bytes_moved": 1_995_424, "whole": True},
        "device_memory": None,
        "profile": None,
        "roofline": None,
        "ns_per_call": 1.4e6,
        "unavailable": {
            "device_memory": "device 'cpu' has no memory of its own",
            "profile": "not asked for (--profile)",
            "roofline": "not asked for (--profile)",
        },
        **more,
    }


def _rows(resources: dict[str, Any]) -> dict[str, str]:
    lines = resource_lines(_measurement(resources))
    return {line[2:].partition("  ")[0]: line for line in lines if line.startswith("  ")}


def test_every_row_has_its_unit() -> None:
    rows = _rows({"baseline": _evidence(), "candidate": _evidence(size_bytes=1 << 20)})
    assert rows["file size"].split() == ["file", "size", "3.00", "MiB", "1.00", "MiB"]
    for title, cell in {
        "parameters": "77.7 k", "MACs per call": "12.5 M", "bytes moved per call": "2 MB", "first call": "2.5 ms",
        "process start and imports": "200 ms", "load, cold": "120 ms", "load, warm": "20 ms",
        "peak memory": "62.00 MiB", "CPU time per call": "1.5 ms (0.98 CPUs)", "energy per call": "45.6 mJ (rapl)",
    }.items():  # fmt: skip
        assert rows[title].endswith(f"  {cell}"), rows[title]
    lines = resource_lines(_measurement({"baseline": _evidence()}))
    assert any(line.split() == ["of", "that,", "by", "the", "model", "12.00", "MiB"] for line in lines)
    assert not any("device memory" in line for line in lines)
    assert lines[-1].startswith("  energy per call")


def test_a_gap_of_all_is_one_line_with_the_reason() -> None:
    gap = _evidence(energy=None)
    gap["unavailable"] = {**gap["unavailable"], "energy": "rapl: no counters"}
    lines = resource_lines(_measurement({"baseline": gap, "candidate": gap}))
    assert [line for line in lines if "energy" in line] == [
        "  energy per call: unavailable (rapl: no counters)"
    ]


def test_a_gap_of_one_names_it() -> None:
    gap = _evidence(load={"cold": None, "warm": {"load_ns": {"median": 20e6, "values": []}}})
    gap["unavailable"] = {**gap["unavailable"], "load.cold": "4 pages stayed"}
    lines = resource_lines(_measurement({"baseline": _evidence(), "candidate": gap}))
    assert "  load, cold of s.onnx: unavailable (4 pages stayed)" in lines
    assert any(line.split() == ["load,", "cold", "120", "ms", "unavailable"] for line in lines)


def test_a_failed_inspection_is_explained_and_nothing_is_made_up() -> None:
    lost = {
        "size_bytes": 5,
        "memory": None,
        "cpu": None,
        "unavailable": {"memory": "it crashed", "cpu": "it crashed"},
    }
    text = "\n".join(resource_lines(_measurement({"baseline": lost})))
    assert "peak memory: unavailable (it crashed)" in text
    assert "load, warm: unavailable (not measured)" in text


def test_an_incomplete_count_is_a_lower_bound() -> None:
    cost = {"parameters": 10, "macs": 2_000, "bytes_moved": 9_000_000, "whole": False}
    rows = _rows({"baseline": _evidence(cost=cost)})
    assert rows["MACs per call"].endswith("  > 2 k")
    assert rows["bytes moved per call"].endswith("  > 9 MB")
    assert rows["parameters"].endswith("  10")


def _profiled(**roofline: Any) -> dict[str, Any]:
    profile = {
        "source": "onnxruntime 1 profiler", "calls": 40, "ns_per_call": 1.75e6,
        "by_op": [{"op": f"Op{i}", "nodes": i + 1, "share": 0.1, "ns_per_call": 1e5} for i in range(8)],
        "top": [{"name": "n" * 60, "op": "Op0", "share": 0.1, "ns_per_call": 1e5, "output_shapes": ["float32[1]"]}],
    }  # fmt: skip
    placed = {
        "sentence": "reaches 31 % of it", "achieved_flops_per_s": 31e9, "peak_flops_per_s": 100e9,
        "compute_seconds": 1e-3, "memory_seconds": 1e-4, "seconds_per_call": 3e-3, "achieved_bytes_per_s": 2e9,
        "peak_bytes_per_s": {"L2": 1e11, "memory": 1e10}, "flops_per_byte": 15.5,
        "by_family": [{"family": "Op", "ops": ["Op1", "Op2"], "share_of_peak": 0.45}],
    }  # fmt: skip
    return _evidence(profile=profile, roofline={**placed, **roofline})


def test_profile_and_roofline() -> None:
    text = "\n".join(resource_lines(_measurement({"baseline": _profiled()})))
    assert "  t.onnx: reaches 31 % of it\n" in text
    assert "arithmetic  31 GFLOP/s of 100 GFLOP/s; alone it takes 1 ms of 3 ms" in text
    assert "2 GB/s of 100 GB/s in L2, 10 GB/s in memory; alone they take 100 µs" in text
    assert "intensity   15.5 FLOP per byte" in text
    assert "(onnxruntime 1 profiler, 40 calls, which makes a call 25 % slower)" in text
    assert "Op1   10 %  100 µs  2 node(s)  45 % of the peak" in text
    assert "Op2   10 %  100 µs  3 node(s)\n" in text
    assert "2 more operators  20 %" in text
    assert "…" + "n" * 47 + "  float32[1]" in text


def test_a_profile_that_happened_to_be_faster_claims_no_gain() -> None:
    found = _profiled()
    found["ns_per_call"] = 2e6
    text = "\n".join(resource_lines(_measurement({"baseline": found})))
    assert "(onnxruntime 1 profiler, 40 calls)" in text


def test_a_roofline_that_could_not_be_drawn_says_why() -> None:
    found = _profiled()
    found["roofline"] = None
    found["unavailable"] = {"roofline": "no peak in bfloat16"}
    text = "\n".join(resource_lines(_measurement({"baseline": found})))
    assert "t.onnx: roofline unavailable (no peak in bfloat16)" in text
    assert "time per operator" in text


def test_nothing_was_looked_at() -> None:
    assert resource_lines(_measurement({})) == []


@pytest.mark.parametrize(
    ("ns", "words"), [(950.0, "950 ns"), (1e3, "1 µs"), (2.5e9, "2.5 s"), (1.5e12, "1500 s")]
)
def test_durations(ns: float, words: str) -> None:
    assert time_words(ns) == words


@pytest.mark.parametrize(("count", "words"), [(0, "0"), (999, "999"), (1e3, "1 k"), (2e12, "2 T")])
def test_counts(count: float, words: str) -> None:
    assert count_words(count) == words
