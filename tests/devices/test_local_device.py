from __future__ import annotations

import os
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from edgekd.plugins import load_plugin
from edgekd_devices import local
from edgekd_devices.local import LocalCpu, cpu_features


def test_this_machine() -> None:
    profile = LocalCpu().profile()
    assert profile.arch == os.uname().machine
    assert profile.processors == len(os.sched_getaffinity(0))
    assert profile.memory_bytes is not None
    assert profile.memory_bytes > 1 << 28
    assert profile.price_usd_per_hour is None
    with pytest.raises(FrozenInstanceError):
        profile.arch = "other"  # type: ignore[misc]


def test_is_the_cpu_plugin() -> None:
    assert load_plugin("edgekd.devices", "cpu") is LocalCpu


def test_a_feature_counts_only_where_every_core_has_it() -> None:
    big_little = (
        "processor: 0\nFeatures\t: fp asimd asimddp bf16\nprocessor: 1\nFeatures\t: fp asimd asimddp\n"
    )
    assert cpu_features(big_little) == ("asimddp",)
    assert cpu_features("") == ()
    assert cpu_features("flags : fpu vme sse4_2\n") == ()


def test_precisions_follow_from_features_and_limits_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cpuinfo, limit = tmp_path / "cpuinfo", tmp_path / "memory.max"
    cpuinfo.write_text("flags\t: avx2 avx512_vnni avx512_bf16\n")
    limit.write_text("268435456\n")
    monkeypatch.setattr(local, "_CPUINFO", cpuinfo)
    monkeypatch.setattr(local, "_MEMORY_LIMIT", limit)
    profile = LocalCpu().profile()
    assert profile.dtypes == ("float32", "float64", "bfloat16", "int8")
    assert profile.memory_bytes == 268435456
    cpuinfo.unlink()
    limit.write_text("max\n")
    unknown = LocalCpu().profile()
    assert unknown.features == ()
    assert unknown.dtypes == ("float32", "float64")
    assert unknown.memory_bytes is not None
    assert unknown.memory_bytes > 268435456
