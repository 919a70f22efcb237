"""NVML's energy counter moves in steps: the step is found, windows are long, and both ends lie on a step."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from edgekd.errors import TargetUnavailableError
from edgekd.measure import energy, meters
from edgekd.measure.energy import measure_energy
from edgekd.measure.meters import NvmlMeter


class _Board:
    """A GPU of 100 W, whose counter moves every ``step_s``; time passes by sleeping and by calls of 1 ms at 400 W."""

    name, uuid = "A GPU", "GPU-1"

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s
        self.seconds = self.joules = self.shown = 0.0
        self.edges: list[float] = []

    def pass_time(self, seconds: float, watts: float = 100.0) -> None:
        before = self.seconds // self.step_s
        self.seconds += seconds
        self.joules += watts * seconds
        if self.seconds // self.step_s > before:
            self.shown = self.joules

    def run(self, calls: int) -> None:
        for _ in range(calls):
            self.pass_time(0.001, 400.0)

    def energy_joules(self) -> float:
        return self.shown


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(step_s: float) -> _Board:
        made = _Board(step_s)
        clock = SimpleNamespace(
            sleep=made.pass_time, monotonic=lambda: made.seconds, perf_counter=lambda: made.seconds
        )
        monkeypatch.setattr(meters, "find_gpu", lambda: made)
        monkeypatch.setattr(meters, "time", clock)
        monkeypatch.setattr(energy, "time", clock)
        return made

    return install


def test_the_step_is_found_and_a_window_holds_a_hundred(board: Any) -> None:
    board(0.02)
    meter = NvmlMeter()
    assert meter.unavailable() == ""
    assert meter.update_s == pytest.approx(0.02, abs=0.003)
    assert meter.window_s == 10.0, "at least ten seconds"
    board(0.15)
    slow = NvmlMeter()
    assert slow.unavailable() == ""
    assert slow.window_s == pytest.approx(15.0, rel=0.05)


def test_energy_per_call_gross_and_above_idle(board: Any) -> None:
    gpu = board(0.1)
    meter = NvmlMeter()
    assert meter.unavailable() == ""
    found, absent = measure_energy([meter], gpu.run, 1e6)
    assert absent == {}
    entry = found["nvml"]
    assert min(entry["block_seconds"]) >= 10.0
    # A step at the end of a window of a hundred: one percent.
    assert entry["joules_per_call"] == pytest.approx(0.4, rel=0.012)
    assert entry["joules_per_call_above_idle"] == pytest.approx(0.3, rel=0.02)
    assert entry["idle_watts"] == pytest.approx(100.0, rel=0.02)


def test_a_counter_that_stands_still_is_unavailable_never_zero(board: Any) -> None:
    board(math.inf)
    assert "moved 0 times in 2.0 s" in NvmlMeter().unavailable()
    with pytest.raises(TargetUnavailableError, match="stood still for 2 s; measure without energy"):
        NvmlMeter().read_joules()
