"""Energy per call, from meters whose joules are known."""

from __future__ import annotations

import time

import pytest

from edgekd.measure import energy
from edgekd.measure.energy import measure_energy
from edgekd.testing import FakeMeter


class _Clock:
    """Time that passes only while calls are made or someone sleeps; calls draw 30 W, sleep draws 10 W."""

    def __init__(self, seconds_per_call: float) -> None:
        self.seconds, self.joules, self.per_call = 0.0, 0.0, seconds_per_call

    def pass_time(self, seconds: float, watts: float) -> None:
        self.seconds += seconds
        self.joules += seconds * watts

    def run(self, count: int) -> None:
        self.pass_time(count * self.per_call, 30.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    made = _Clock(0.002)
    monkeypatch.setattr(energy.time, "sleep", lambda s: made.pass_time(s, 10.0))
    monkeypatch.setattr(energy.time, "perf_counter", lambda: made.seconds)
    return made


def test_energy_per_call_busy_and_idle(clock: _Clock) -> None:
    meter = FakeMeter(watts=1.0, clock=lambda: clock.joules, update_s=0.001)
    found, absent = measure_energy([meter], clock.run, 2e6, block_s=1.0)
    assert absent == {}
    entry = found["fake"]
    assert entry["joules_per_call"] == pytest.approx(0.06)
    assert entry["joules_per_call_above_idle"] == pytest.approx(0.04)
    assert entry["busy_watts"] == pytest.approx(30.0)
    assert entry["idle_watts"] == pytest.approx(10.0)
    assert entry["calls_per_block"] == 500
    assert entry["block_seconds"] == pytest.approx([1.0] * 3)
    assert len(entry["joules_per_call_values"]) == 3


def test_a_block_lasts_twenty_updates_of_the_slowest_meter(clock: _Clock) -> None:
    fast = FakeMeter(watts=1.0, clock=lambda: clock.joules, name="fast", update_s=0.001)
    slow = FakeMeter(watts=1.0, clock=lambda: clock.joules, name="slow", update_s=0.2)
    found, _ = measure_energy([fast, slow], clock.run, 2e6, block_s=1.0)
    assert found["fast"]["block_seconds"] == pytest.approx([4.0] * 3)
    assert found["slow"]["joules_per_call"] == pytest.approx(0.06)


def test_a_counter_that_stands_still_is_no_reading_of_zero(clock: _Clock) -> None:
    found, absent = measure_energy([FakeMeter(clock=lambda: 5.0)], clock.run, 2e6)
    assert found == {}
    assert "did not move in a block of 1.0 s" in absent["fake"]


@pytest.mark.parametrize("readings", [0, 1, 3, 7])
def test_a_meter_that_breaks_is_absent_with_its_reason_and_the_other_goes_on(
    clock: _Clock, readings: int
) -> None:
    broken = FakeMeter(name="broken", fails_after=readings, clock=lambda: clock.joules)
    whole = FakeMeter(name="whole", watts=1.0, clock=lambda: clock.joules)
    found, absent = measure_energy([broken, whole], clock.run, 2e6)
    assert list(found) == ["whole"]
    assert absent == {"broken": "the fake meter broke; mend it"}


def test_calls_too_long_for_a_counter_that_wraps(clock: _Clock) -> None:
    found, absent = measure_energy([FakeMeter()], clock.run, 60e9)
    assert found == {}
    assert "would last 60 s" in absent["fake"]


def test_with_the_real_clock() -> None:
    found, _ = measure_energy([FakeMeter(watts=50.0)], lambda n: time.sleep(n * 0.001), 1e6, block_s=0.05)
    assert found["fake"]["busy_watts"] == pytest.approx(50.0, rel=0.05)
