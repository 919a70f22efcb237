"""Peaks of the machine: what is planned from cache sizes, and a short real run."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.errors import UsageError
from edgekd.measure import peaks
from edgekd.measure.arm import Setting
from edgekd.measure.peaks import cache_sizes, measure_compute_peak, measure_memory_levels, plan_levels
from edgekd.target import parse_target
from edgekd_onnx.gemm import write_product

_MIB = 1 << 20
SETTING = Setting(
    target=parse_target("cpu:onnxruntime"),
    runtime_paths={"onnx": "edgekd_onnx.runtime:OnnxRuntime"},
    timeout_s=60,
)


def _cache(root: Path, *indices: tuple[str, str, str]) -> Path:
    for i, values in enumerate(indices):
        folder = root / f"sys/devices/system/cpu/cpu0/cache/index{i}"
        folder.mkdir(parents=True)
        for name, value in zip(("type", "level", "size"), values, strict=True):
            (folder / name).write_text(f"{value}\n")
    return root


def test_cache_sizes_are_read_from_sysfs(tmp_path: Path) -> None:
    root = _cache(
        tmp_path,
        ("Data", "1", "48K"),
        ("Instruction", "1", "32K"),
        ("Unified", "2", "1024K"),
        ("Unified", "3", "32M"),
    )
    assert cache_sizes(root) == {1: 48 << 10, 2: _MIB, 3: 32 * _MIB}
    assert cache_sizes(tmp_path / "nowhere") == {}


def test_a_level_is_measured_with_half_of_it_in_use_and_memory_beyond_every_cache() -> None:
    caches = {1: 48 << 10, 2: _MIB, 3: 32 * _MIB}
    assert plan_levels(caches, 1, None) == [
        ("L2", _MIB, _MIB // 4), ("L3", 32 * _MIB, 8 * _MIB), ("memory", None, 64 * _MIB),
    ]  # fmt: skip
    # L2 is every CPU's own; the others are shared among the threads.
    assert plan_levels(caches, 4, None) == [
        ("L2", 4 * _MIB, _MIB // 4), ("L3", 32 * _MIB, 2 * _MIB), ("memory", None, 16 * _MIB),
    ]  # fmt: skip


def test_little_memory_and_no_sizes() -> None:
    assert plan_levels({}, 1, None) == [("memory", None, 256 * _MIB)]
    assert plan_levels({3: 32 * _MIB}, 1, 80 * _MIB)[-1] == ("memory", None, 10 * _MIB)
    assert plan_levels({2: _MIB}, 2, None)[0] == ("L2", _MIB, _MIB // 8)  # the last level is shared


def test_a_compute_peak_is_the_best_size_of_block_minima(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "_SIDES", (32, 96, 128))
    monkeypatch.setattr(peaks, "_BLOCK_S", 0.002)
    found = measure_compute_peak("float32", 1, SETTING, write_product)
    assert [s["side"] for s in found.sizes] == [32, 96, 128]
    assert found.flops_per_s == max(s["flops_per_s"] for s in found.sizes) > 1e8
    for size in found.sizes:
        assert len(size["seconds_per_call_values"]) == 5
        assert size["flops_per_s"] == pytest.approx(2 * size["side"] ** 3 / size["seconds_per_call"])


def test_the_time_budget_ends_the_sizes_after_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "_SIDES", (32, 64, 2048))
    monkeypatch.setattr(peaks, "_BLOCK_S", 0.001)
    found = measure_compute_peak("int8", 1, SETTING, write_product, budget_s=0.0)
    assert [s["side"] for s in found.sizes] == [32, 64]


def test_a_dtype_without_a_product_is_refused() -> None:
    with pytest.raises(UsageError, match="no ONNX matrix product in int4"):
        measure_compute_peak("int4", 1, SETTING, write_product)


@pytest.mark.parametrize("threads", [1, 2])
def test_copies_in_each_level(tmp_path: Path, threads: int) -> None:
    root = _cache(tmp_path, ("Unified", "2", "256K"), ("Unified", "3", "4M"))
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(f"MemAvailable: {64 << 10} kB\n")
    found = measure_memory_levels(threads, 60, root)
    assert [x.name for x in found] == ["L2", "L3", "memory"]
    assert found[-1].buffer_bytes == 8 * _MIB // threads
    for level in found:
        assert len(level.seconds) == 5
        assert level.threads == threads
        assert 1e8 < level.bytes_per_s < 1e13
