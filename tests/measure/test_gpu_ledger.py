"""What a GPU did meanwhile: read through a made-up NVML that refuses every call that would change something."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekd.measure import gpu_ledger, ledger, nvml
from edgekd.measure.gpu_ledger import GpuWatch, NoGpu, UnreadGpu, entries_of, reason_names, watch_for
from edgekd.measure.nvml import GpuReading


class _NvmlError(Exception):
    pass


class _Nvml:
    """Answers the questions there are; anything else (above all nvmlDeviceSet…) is an AttributeError."""

    NVMLError = _NvmlError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, reasons: int = 0x1, pids: tuple[int, ...] = ()) -> None:
        self.reasons, self.pids = reasons, pids

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return "gpu"

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "A GPU"

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return "GPU-1"

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"580.1"

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return 13010

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(total=1 << 30, used=5)

    def nvmlDeviceGetClockInfo(self, handle: str, which: int) -> int:
        return {1: 1980, 2: 3201}[which]

    def nvmlDeviceGetTemperature(self, handle: str, which: int) -> int:
        return 44

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return 300_500

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:
        raise _NvmlError("Not Supported")

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        return self.reasons

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=p, usedGpuMemory=1) for p in self.pids]


def gpu(fake: Any) -> nvml.Gpu:
    return nvml.Gpu(fake, "gpu")


def reading(**values: Any) -> GpuReading:
    names = ("sm_mhz", "memory_mhz", "temperature_c", "power_w", "utilisation", "reasons", "processes")
    return GpuReading(**{**dict.fromkeys(names), **values})


def test_one_look_reads_everything_and_what_is_not_told_is_none() -> None:
    found = gpu(_Nvml(reasons=0x4, pids=(7, 8))).read()
    assert (found.sm_mhz, found.memory_mhz, found.temperature_c, found.power_w) == (1980, 3201, 44, 300.5)
    assert (found.utilisation, found.reasons, found.processes) == (None, 4, (7, 8))
    known = gpu(_Nvml()).identity()
    assert (known["driver"], known["cuda_driver"], known["memory_bytes"]) == ("580.1", "13.1", 1 << 30)
    assert known["ecc"] is known["mig"] is known["power_limit_w"] is None


def test_an_older_driver_s_name_of_the_reasons_serves() -> None:
    class Older(_Nvml):
        def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
            raise _NvmlError("Function Not Found")

        def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
            return 0x8

    assert gpu(Older()).read().reasons == 8


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0x8, {"HW slowdown"}),
        (0x20, {"SW thermal slowdown"}),
        (0x40 | 0x8, {"HW slowdown", "HW thermal slowdown"}),
        (0x80, {"HW power brake"}),
        (0x4, set()),
        (0x1, set()),
    ],
)
def test_slowdowns_make_a_restart_not_count_and_a_power_cap_does_not(bits: int, names: set[str]) -> None:
    made = entries_of([reading(reasons=0x1), reading(reasons=bits)], set())
    assert set(made["throttled"]) == names
    entries = ledger.with_gpu({"absent": []}, made)
    why = ledger.redraw_reason(entries)
    assert bool(why) == bool(names)
    assert all(name in why for name in names)
    if bits != 1:
        assert made["reasons"][reason_names(bits)[0]] == 0.5


def test_an_unknown_bit_keeps_its_number() -> None:
    assert reason_names(0x4000 | 0x1) == ["idle", "0x4000"]


def test_medians_and_ranges_and_what_was_never_read() -> None:
    made = entries_of([reading(sm_mhz=m, power_w=100.0) for m in (345.0, 1900.0, 1980.0)], set())
    assert (made["sm_mhz"], made["sm_mhz_min"], made["sm_mhz_max"]) == (1900, 345, 1980)
    assert made["memory_mhz"] is made["throttled"] is made["other_processes"] is None
    kept = ledger.with_gpu({"absent": ["steal"]}, made)
    assert "gpu.memory_mhz" in kept["absent"]
    assert "steal" in kept["absent"]


@pytest.mark.parametrize(
    ("processes", "own", "others"),
    [
        ((7, 8, 9), {7, 8}, 1),
        ((7,), {7, 8}, 0),
        ((101, 102, 103), {7, 8}, 1),
        ((101,), {7, 8}, 0),
        ((5,), set(), 1),
    ],
)
def test_other_users_are_counted(processes: tuple[int, ...], own: set[int], others: int) -> None:
    assert entries_of([reading(processes=processes)], own)["other_processes"] == others


def test_the_watch_reads_meanwhile_and_ends() -> None:
    watch = GpuWatch(gpu(_Nvml(reasons=0x4, pids=(7,))), period_s=0.001)
    watch.begin({7})
    deadline = time.monotonic() + 30
    while len(watch._readings) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    found = watch.end()
    assert found is not None
    assert found["readings"] >= 5
    assert found["identity"]["name"] == "A GPU"
    assert found["before"]["processes"] == 1
    assert found["reasons"] == {"SW power cap": 1.0}
    assert watch._thread is not None
    assert not watch._thread.is_alive()


def test_what_watches_a_target(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert isinstance(watch_for("cpu"), NoGpu)
    assert watch_for("cpu").end() is None
    monkeypatch.setattr(nvml, "_DRIVER", tmp_path / "absent")
    silent = watch_for("cuda")
    assert isinstance(silent, UnreadGpu)
    assert (silent.end() or {})["unavailable"] == {"reason": "no NVIDIA driver on this machine"}
    monkeypatch.setattr(nvml, "_DRIVER", tmp_path)
    monkeypatch.setitem(sys.modules, "pynvml", _Nvml())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert isinstance(watch_for("cuda"), GpuWatch)


def test_nothing_in_the_package_sets_a_clock_or_a_limit(repository: Path) -> None:
    named = [
        p for p in (repository / "edgekd").rglob("*.py") if "nvmlDeviceSet" in p.read_text(encoding="utf-8")
    ]
    assert named == []
    assert gpu_ledger.RATE_HZ == 10.0
