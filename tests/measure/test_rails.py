"""The hwmon meter on made-up sysfs trees of real boards."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from edgekd.errors import TargetUnavailableError
from edgekd.measure.energy import measure_energy
from edgekd.measure.meters import find_meters
from edgekd.measure.rails import RailMeter, choose_rails, find_rails
from edgekd.testing import check_meter

#: Labels, millivolts and milliamperes as a Jetson Orin NX shows them.
_ORIN_NX = {1: ("VDD_IN", 5000, 1200), 2: ("VDD_CPU_GPU_CV", 5000, 400), 3: ("VDD_SOC", 5000, 300)}
_AGX = {1: ("VDD_GPU_SOC", 20000, 100), 2: ("VDD_CPU_CV", 20000, 50), 3: ("VIN_SYS_5V0", 5000, 900)}


def _chip(folder: Path, name: str, **files: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    for file, value in files.items():
        (folder / file).write_text(f"{value}\n")
    return folder


def _ina3221(root: Path, channels: dict[int, tuple[str, int, int]], hwmon: str = "hwmon1") -> Path:
    folder = _chip(root / f"sys/bus/i2c/drivers/ina3221/1-0040/hwmon/{hwmon}", "ina3221")
    for n, (label, millivolts, milliamperes) in channels.items():
        for file, value in (
            (f"in{n}_label", label),
            (f"in{n}_input", millivolts),
            (f"curr{n}_input", milliamperes),
        ):
            (folder / file).write_text(f"{value}\n")
    # The chip's own sum of shunt voltages, and the class link to the same chip.
    (folder / "in7_label").write_text("sum of shunt voltages\n")
    (folder / "in7_input").write_text("760\n")
    (folder / "curr7_input").write_text("360\n")
    (root / "sys/class/hwmon").mkdir(parents=True, exist_ok=True)
    (root / "sys/class/hwmon" / hwmon).symlink_to(folder)
    return folder


def test_the_rail_that_carries_the_module_is_counted_and_its_parts_are_not(tmp_path: Path) -> None:
    _ina3221(tmp_path, _ORIN_NX)
    meter = RailMeter(tmp_path, asked="")
    assert meter.unavailable() == ""
    assert meter.describe() == {
        "rails": ["ina3221 VDD_IN"],
        "how": "power, sampled every 20 ms",
        "not_counted": ["VDD_CPU_GPU_CV", "VDD_SOC"],
    }
    check_meter(meter)


def test_power_is_integrated_by_the_trapezoid_rule(tmp_path: Path) -> None:
    chip = _ina3221(tmp_path, _ORIN_NX)
    now = [100.0]
    meter = RailMeter(tmp_path, asked="", sample_s=3600.0, clock=lambda: now[0])
    start = meter.read_joules()
    (chip / "curr1_input").write_text("2000\n")  # 6 W -> 10 W
    now[0] += 0.5
    assert meter.read_joules() - start == pytest.approx(0.5 * (6.0 + 10.0) / 2)
    now[0] += 0.25
    assert meter.read_joules() - start == pytest.approx(4.0 + 0.25 * 10.0)


def test_a_gap_between_samples_is_no_reading(tmp_path: Path) -> None:
    _ina3221(tmp_path, _ORIN_NX)
    now = [100.0]
    meter = RailMeter(tmp_path, asked="", sample_s=0.4, clock=lambda: now[0])
    meter.read_joules()
    now[0] += 30.0
    with pytest.raises(TargetUnavailableError, match=r"not sampled for 30\.0 s"):
        meter.read_joules()
    now[0] += 61.0  # nobody asked for a minute: it starts anew, and what it said before stays
    before = meter.read_joules()
    now[0] += 0.2
    assert meter.read_joules() - before == pytest.approx(1.2)


def test_the_thread_sees_power_that_comes_and_goes_between_two_readings(tmp_path: Path) -> None:
    chip = _ina3221(tmp_path, _ORIN_NX)
    meter = RailMeter(tmp_path, asked="", sample_s=0.005)
    start = meter.read_joules()
    began = time.monotonic()
    (chip / "curr1_input").write_text("200000\n")  # 1,000 W
    time.sleep(1.0)  # a busy machine keeps threads waiting for tenths of a second
    (chip / "curr1_input").write_text("1200\n")
    seconds = time.monotonic() - began
    assert meter.read_joules() - start > 100 * seconds  # both ends alone would say 6 W


def test_the_thread_ends_when_nobody_counts(tmp_path: Path) -> None:
    _ina3221(tmp_path, _ORIN_NX)

    def watching() -> set[threading.Thread]:
        return {t for t in threading.enumerate() if t.name == "edgekd-rails"}

    before = watching()  # another test's may still be ending
    now = [0.0]
    meter = RailMeter(tmp_path, asked="", sample_s=0.005, clock=lambda: now[0])
    meter.read_joules()
    (mine,) = watching() - before
    now[0] = 100.0
    mine.join(timeout=20)
    assert not mine.is_alive()


def test_a_board_without_a_whole_rail_asks_which_add_up(tmp_path: Path) -> None:
    _ina3221(tmp_path, _AGX)
    why = RailMeter(tmp_path, asked="").unavailable()
    assert "VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0" in why
    assert "; name those that add up to it: EDGEKD_RAILS=" in why
    named = RailMeter(tmp_path, asked="VDD_GPU_SOC,VIN_SYS_5V0, VDD_CPU_CV")
    assert named.unavailable() == ""
    rails, _ = choose_rails(find_rails(tmp_path), "VDD_GPU_SOC,VIN_SYS_5V0, VDD_CPU_CV")
    assert sum(r.read() for r in rails) == pytest.approx(2.0 + 1.0 + 4.5)
    assert "no rail is called 'VDD_CPU'" in RailMeter(tmp_path, asked="VDD_CPU").unavailable()


def test_a_rail_that_nothing_is_soldered_to_is_none(tmp_path: Path) -> None:
    chip = _ina3221(tmp_path, {**_AGX, 4: ("NC", 0, 0)})
    (chip / "in2_enable").write_text("0\n")
    assert [r.label for r in find_rails(tmp_path)] == ["VDD_GPU_SOC", "VIN_SYS_5V0"]


def test_energy_counters_are_read_and_not_integrated(tmp_path: Path) -> None:
    chip = _chip(
        tmp_path / "sys/class/hwmon/hwmon0", "amd_energy", energy1_label="Ecore000", energy1_input=5_000_000,
        energy2_label="Esocket0", energy2_input=7_000_000, energy3_label="Esocket1", energy3_input=1_000_000,
    )  # fmt: skip
    meter = RailMeter(tmp_path, asked="")
    assert meter.describe()["rails"] == ["amd_energy Esocket0", "amd_energy Esocket1"]
    start = meter.read_joules()
    (chip / "energy2_input").write_text("9500000\n")
    assert meter.read_joules() - start == pytest.approx(2.5)
    check_meter(meter)
    (chip / "energy2_input").write_text("0\n")
    with pytest.raises(TargetUnavailableError, match="fell from"):
        meter.read_joules()


def test_the_acpi_power_meter_is_of_the_whole_machine(tmp_path: Path) -> None:
    _chip(tmp_path / "sys/class/hwmon/hwmon0", "power_meter", power1_average=42_000_000)
    _chip(tmp_path / "sys/class/hwmon/hwmon1", "amdgpu", power1_average=9_000_000, power1_label="PPT")
    rails, why = choose_rails(find_rails(tmp_path))
    assert why == ""
    assert [(r.chip, r.read()) for r in rails] == [("power_meter", 42.0)]


def test_a_graphics_card_alone_is_not_the_machine(tmp_path: Path) -> None:
    _chip(tmp_path / "sys/class/hwmon/hwmon1", "amdgpu", power1_average=9_000_000, power1_label="PPT")
    assert "the rails PPT are parts" in RailMeter(tmp_path, asked="").unavailable()


def test_voltages_of_other_chips_make_no_power(tmp_path: Path) -> None:
    _chip(tmp_path / "sys/class/hwmon/hwmon0", "nct6775", in1_input=900, curr1_input=100, in1_label="VIN")
    assert find_rails(tmp_path) == []
    assert "no power or energy sensor" in RailMeter(tmp_path, asked="").unavailable()


def test_a_rail_that_may_not_be_read_or_goes_away(tmp_path: Path) -> None:
    chip = _ina3221(tmp_path, _ORIN_NX)
    meter = RailMeter(tmp_path, asked="", sample_s=3600.0)
    meter.read_joules()
    (chip / "curr1_input").unlink()
    with pytest.raises(TargetUnavailableError, match="cannot be read any more"):
        meter.read_joules()
    (chip / "curr1_input").write_text("not a number\n")
    assert "the rail VDD_IN cannot be read" in meter.unavailable()


def test_energy_per_call_from_rails(tmp_path: Path) -> None:
    _ina3221(tmp_path, _ORIN_NX)
    found, absent = measure_energy(
        [RailMeter(tmp_path, asked="")], lambda n: time.sleep(n * 0.01), 1e7, block_s=0.1
    )
    assert absent == {}
    assert found["hwmon"]["busy_watts"] == pytest.approx(6.0, rel=0.05)
    assert found["hwmon"]["counts"]["rails"] == ["ina3221 VDD_IN"]


def test_is_a_plugin() -> None:
    meters, reasons = find_meters("", "cpu")
    assert "hwmon" in [m.name for m in meters] + list(reasons)
