"""Energy meters: RAPL on a made-up sysfs tree, NVML behind a made-up pynvml, and a command."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekd import plugins
from edgekd.errors import TargetUnavailableError, UsageError
from edgekd.measure import meters, nvml
from edgekd.measure.meters import CommandMeter, NvmlMeter, RaplMeter, find_meters
from edgekd.testing import check_meter

_ZONES = {
    "intel-rapl:0": ("package-0", 1_000_000),
    "intel-rapl:0:0": ("core", 700_000),
    "intel-rapl:0:1": ("dram", 50_000),
    "intel-rapl:1": ("package-1", 2_000_000),
    "intel-rapl:2": ("psys", 9_000_000),
    "intel-rapl-mmio:0": ("package-0", 1_000_000),
}
_RANGE = 262_143_328_850


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    for zone, (name, energy) in _ZONES.items():
        folder = tmp_path / "sys/class/powercap" / zone
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text(f"{energy}\n")
        (folder / "max_energy_range_uj").write_text(f"{_RANGE}\n")
    return tmp_path


def _set(root: Path, zone: str, energy: int) -> None:
    (root / "sys/class/powercap" / zone / "energy_uj").write_text(f"{energy}\n")


def test_rapl_sums_packages_and_dram_and_counts_no_part_twice(sysfs: Path) -> None:
    meter = RaplMeter(sysfs)
    assert meter.unavailable() == ""
    assert meter.describe() == {
        "domains": ["intel-rapl:0 package-0", "intel-rapl:0:1 dram", "intel-rapl:1 package-1"]
    }
    start = meter.read_joules()
    for zone, (_, energy) in _ZONES.items():
        _set(sysfs, zone, energy + 3_000_000)
    assert meter.read_joules() - start == pytest.approx(9.0)
    check_meter(meter)


def test_rapl_goes_on_when_a_counter_wraps(sysfs: Path) -> None:
    meter = RaplMeter(sysfs)
    _set(sysfs, "intel-rapl:0", _RANGE - 1_000_000)
    start = meter.read_joules()
    _set(sysfs, "intel-rapl:0", 500_000)
    assert meter.read_joules() - start == pytest.approx(1.5)
    _set(sysfs, "intel-rapl:0", 900_000)
    assert meter.read_joules() - start == pytest.approx(1.9)


def test_rapl_that_only_root_may_read_says_what_to_do(sysfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(meters, "_number", refuse)
    what, _, fix = RaplMeter(sysfs).unavailable().partition("; ")
    assert "may be read by root only" in what
    assert fix.startswith("sudo chmod a+r ")
    assert fix.endswith("intel-rapl:0/energy_uj")


def test_without_counters_rapl_is_unavailable(tmp_path: Path) -> None:
    assert "no RAPL counters" in RaplMeter(tmp_path).unavailable()


def test_rapl_that_vanishes_while_it_counts_raises(sysfs: Path) -> None:
    meter = RaplMeter(sysfs)
    meter.read_joules()
    (sysfs / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    with pytest.raises(TargetUnavailableError, match="cannot be read any more"):
        meter.read_joules()


class _NvmlError(Exception):
    pass


class _Nvml:
    """Stands in for pynvml: one GPU, or one that counts nothing."""

    NVMLError = _NvmlError

    def __init__(self, counts: bool = True, processes: tuple[tuple[int, int | None], ...] = ()) -> None:
        self.millijoules, self.counts, self.processes = 5_000, counts, processes
        self.asked: list[object] = []
        self.step = 1

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        self.asked.append(index)
        if index:
            raise _NvmlError("Invalid Argument")
        return "gpu"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self.asked.append(uuid)
        return "gpu"

    def nvmlDeviceGetName(self, handle: str) -> bytes:
        return b"A GPU"

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return "GPU-1"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if not self.counts:
            raise _NvmlError("Not Supported")
        self.millijoules += self.step
        return self.millijoules

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=p, usedGpuMemory=m) for p, m in self.processes]

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(used=700 << 20)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs a made-up pynvml and its driver."""
    monkeypatch.setattr(meters, "_NVML_WATCH_S", 0.05)
    monkeypatch.setattr(nvml, "_DRIVER", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(fake: _Nvml | None) -> _Nvml | None:
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return install


def test_nvml_counts_joules(driver: Any) -> None:
    fake = driver(_Nvml())
    meter = NvmlMeter()
    check_meter(meter)
    start = meter.read_joules()
    fake.millijoules += 2_500
    assert meter.read_joules() - start == pytest.approx(2.5, abs=0.01)
    assert {"device": "A GPU", "uuid": "GPU-1"}.items() <= meter.describe().items()


def test_a_gpu_that_counts_nothing_no_pynvml_and_no_driver_are_told_apart(
    driver: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    driver(_Nvml(counts=False))
    assert "A GPU counts no energy (Not Supported)" in NvmlMeter().unavailable()
    driver(None)
    assert NvmlMeter().unavailable().endswith("; pip install nvidia-ml-py")
    monkeypatch.setattr(nvml, "_DRIVER", tmp_path / "absent")
    assert NvmlMeter().unavailable() == "no NVIDIA driver on this machine"


@pytest.mark.parametrize(
    ("visible", "asked"), [("", 0), ("0,1", 0), ("GPU-1", "GPU-1"), (" MIG-2 ,GPU-1", "MIG-2")]
)
def test_the_gpu_is_the_one_that_cuda_calls_the_first(driver: Any, visible: str, asked: object) -> None:
    fake = driver(_Nvml())
    nvml.find_gpu({"CUDA_VISIBLE_DEVICES": visible})
    assert fake.asked == [asked]


def test_a_gpu_that_is_not_there_is_named(driver: Any) -> None:
    driver(_Nvml())
    with pytest.raises(TargetUnavailableError, match=r"no GPU '3' \(Invalid Argument\); check CUDA_VISIBLE"):
        nvml.find_gpu({"CUDA_VISIBLE_DEVICES": "3"})


def test_device_memory_is_the_process_s_own_where_nvml_tells(driver: Any) -> None:
    driver(_Nvml(processes=((7, 100 << 20), (8, None))))
    gpu = nvml.find_gpu({})
    assert gpu.used_bytes(7) == (100 << 20, "the process alone")
    assert gpu.used_bytes(8) == (700 << 20, "the whole device")
    assert gpu.used_bytes(9) == (700 << 20, "the whole device")


def test_a_command_is_a_meter(tmp_path: Path) -> None:
    check_meter(CommandMeter("date +%s.%N"))  # a meter of 1 W
    counter = tmp_path / "the joules"
    counter.write_text("14\n")
    meter = CommandMeter(f"cat '{counter}'")
    assert meter.read_joules() == 14.0
    counter.write_text("3")
    with pytest.raises(TargetUnavailableError, match=r"fell from 14 to 3 J; .* not watts"):
        meter.read_joules()


def test_how_often_a_command_s_counter_moves_is_seen() -> None:
    meter = CommandMeter("sh -c 'echo $(( $(date +%s%N) / 300000000 ))'")  # a step every 0.3 s
    assert meter.unavailable() == ""
    assert 0.25 < meter.update_s < 3.0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("echo 12", "stood at 12 J for"),
        ("echo hello", "ended with 0 and said 'hello'; it has to print one number"),
        ("echo nan", "said 'nan'"),
        ("sh -c 'echo 7; exit 3'", "ended with 3"),
        ("/no/such/command", "failed"),
        ("sleep 20", "timed out"),
        ("printf '\\377'", "it has to print one number"),
    ],
)
def test_a_command_that_gives_no_joules(command: str, message: str) -> None:
    assert message in CommandMeter(command, timeout_s=0.5).unavailable()


class _Ready:
    name, update_s, devices = "ready", 0.001, ()

    def unavailable(self) -> str:
        return ""


class _Locked(_Ready):
    name = "locked"

    def unavailable(self) -> str:
        return "locked away; find the key"


class _OfGpu(_Ready):
    name, devices = "gpu", ("cuda",)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        EntryPoint(name=n, value=f"made_up_meters:{c}", group="edgekd.meters")
        for n, c in (("ready", "Ready"), ("locked", "Locked"), ("gpu", "OfGpu"))
    ]
    module = SimpleNamespace(Ready=_Ready, Locked=_Locked, OfGpu=_OfGpu)
    monkeypatch.setitem(sys.modules, "made_up_meters", module)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [e for e in made if e.group == group])


@pytest.mark.usefixtures("installed")
def test_every_meter_of_the_device_is_read_and_the_others_have_a_reason() -> None:
    found, absent = find_meters("", "cpu")
    assert [m.name for m in found] == ["ready"]
    assert absent == {"locked": "locked away; find the key"}
    found, _ = find_meters("", "cuda")
    assert [m.name for m in found] == ["gpu", "ready"]
    assert [m.name for m in find_meters("gpu", "cpu")[0]] == ["gpu"]
    assert find_meters("none", "cpu") == ([], {})


@pytest.mark.usefixtures("installed")
def test_a_meter_asked_for_by_name_has_to_be_there() -> None:
    with pytest.raises(
        TargetUnavailableError, match="'locked' cannot be read: locked away; find the key"
    ) as e:
        find_meters("locked", "cpu")
    assert e.value.exit_code == 4
    with pytest.raises(UsageError, match="no meter is called 'watts'; known: gpu, locked, ready"):
        find_meters("watts", "cpu")
    with pytest.raises(UsageError, match="names no command"):
        find_meters("command: ", "cpu")
    with pytest.raises(UsageError, match=r"cannot be read \(No closing quotation\); close the"):
        find_meters("command:cat 'joules", "cpu")
