"""The ledger reads what the system offers and says None for the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.measure import ledger


def fake_root(root: Path, *, steal: int = 0, throttled: int | None = None, mhz: int | None = None) -> Path:
    (root / "proc/pressure").mkdir(parents=True, exist_ok=True)
    (root / "proc/stat").write_text(
        f"cpu  100 0 50 800 10 0 5 {steal} 0 0\ncpu0 50 0 25 400 5 0 2 {steal} 0 0\nintr 5\n"
    )
    (root / "proc/pressure/cpu").write_text(
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\nfull total=0\n"
    )
    (root / "proc/self").mkdir(exist_ok=True)
    (root / "proc/self/cgroup").write_text("0::/job/inner\n")
    if throttled is not None:
        (root / "sys/fs/cgroup/job").mkdir(parents=True, exist_ok=True)
        (root / "sys/fs/cgroup/job/cpu.stat").write_text(
            f"usage_usec 5\nnr_throttled 3\nthrottled_usec {throttled}\n"
        )
    if mhz is not None:
        folder = root / "sys/devices/system/cpu/cpu0/cpufreq"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scaling_cur_freq").write_text(f"{mhz * 1000}\n")
    return root


def entries(tmp_path: Path, before: dict, after: dict) -> dict:
    first = ledger.snapshot((0,), fake_root(tmp_path, **before))
    return ledger.ledger_between(first, ledger.snapshot((0,), fake_root(tmp_path, **after)))


def test_a_quiet_restart_counts(tmp_path: Path) -> None:
    found = entries(
        tmp_path, {"steal": 0, "throttled": 7, "mhz": 3000}, {"steal": 0, "throttled": 7, "mhz": 3000}
    )
    assert ledger.redraw_reason(found) == ""
    assert found["throttled_us"] == 0
    assert found["clock_move"] == 0


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"steal": 0}, {"steal": 100}, "steal 100.0% of CPU time"),
        ({"throttled": 0}, {"throttled": 20000}, "throttled for 20 ms"),
        ({"mhz": 3000}, {"mhz": 2700}, "clock moved 10.0%"),
    ],
)
def test_a_disturbed_restart_is_redrawn(tmp_path: Path, before: dict, after: dict, words: str) -> None:
    assert words in ledger.redraw_reason(entries(tmp_path, before, after))


def test_a_small_clock_move_is_no_reason(tmp_path: Path) -> None:
    assert ledger.redraw_reason(entries(tmp_path, {"mhz": 3000}, {"mhz": 2930})) == ""


def test_times_of_a_device_do_not_hang_on_the_processor_s_clock(tmp_path: Path) -> None:
    moved = {"throttled": 0, "mhz": 3000}, {"throttled": 20000, "mhz": 2000}
    found = ledger.by_device_events(entries(tmp_path, *moved))
    assert found["clock_move"] > 0.3, "recorded all the same"
    assert ledger.redraw_reason(found) == ""
    assert "GPU was throttled" in ledger.redraw_reason(
        ledger.with_gpu(found, {"throttled": {"HW slowdown": 1.0}})
    )
    stolen = ledger.by_device_events(entries(tmp_path, {"steal": 0}, {"steal": 100}))
    assert "steal" in ledger.redraw_reason(stolen)
    assert "stood still" in ledger.redraw_reason({**found, "suspended_s": 1.0})


def test_an_empty_system_gives_none_never_zero(tmp_path: Path) -> None:
    blank = ledger.snapshot((0,), tmp_path)
    found = ledger.ledger_between(blank, ledger.snapshot((0,), tmp_path))
    for name in ("steal", "pressure_some", "throttled_us", "clock_mhz", "clock_move", "temperature_c"):
        assert found[name] is None, name
    assert ledger.redraw_reason(found) == ""
    assert ledger.machine(tmp_path)["memory_bytes"] is None
    assert ledger.available_memory_bytes(tmp_path) is None


def test_this_machine_is_described() -> None:
    machine = ledger.machine()
    assert machine["cpus"] >= 1
    assert machine["python"].startswith("3.")
