"""Poisson arrivals, on a clock of the test's own: what waits is late, and an overload does not end well."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.measure import arrivals
from edgekd.measure.arrivals import poisson_schedule, serve


class Clock:
    """Time that passes when it is read (50 ns), slept through (and 60 µs too long), or worked through."""

    def __init__(self) -> None:
        self.ns = 0
        self.slept = 0

    def perf_counter_ns(self) -> int:
        self.ns += 50
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.slept += 1
        self.ns += round(seconds * 1e9) + 60_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(arrivals, "time", made)
    return made


def answer(clock: Clock, *, call_ms: float, rate_qps: float, count: int, bound_ms=None, most_over=None):
    def run() -> None:
        clock.ns += round(call_ms * 1e6)

    args = {
        "rate_qps": rate_qps, "count": count, "seed": 0, "most_over": most_over,
        "bound_ns": None if bound_ms is None else round(bound_ms * 1e6),
    }  # fmt: skip
    reply, (latencies,) = serve({"run": run}, args, [])
    return reply, latencies


def test_gaps_are_exponential_and_seeded() -> None:
    due = poisson_schedule(100.0, 20_000, 7)
    gaps = np.diff(due, prepend=0) / 1e9
    assert gaps.mean() == pytest.approx(0.01, rel=0.03)
    assert gaps.std() == pytest.approx(0.01, rel=0.05), "an exponential's deviation is its mean"
    assert (gaps >= 0).all()
    np.testing.assert_array_equal(due, poisson_schedule(100.0, 20_000, 7))
    assert (due != poisson_schedule(100.0, 20_000, 8)).any()
    np.testing.assert_allclose(poisson_schedule(200.0, 100, 7), due[:100] / 2, atol=1)


def test_a_lightly_loaded_server_answers_in_its_own_time(clock: Clock) -> None:
    reply, latencies = answer(clock, call_ms=1.0, rate_qps=5.0, count=200)
    assert np.median(latencies) == pytest.approx(1e6, rel=0.001)
    assert clock.slept > 190
    assert reply["waited"] < 10
    assert reply["late_ns"]["p99"] < 1000, "the spin hides the sleep's 60 µs"
    assert reply["over"] == 0


def test_queueing_counts_from_the_scheduled_arrival(clock: Clock) -> None:
    """Utilisation 0.8: an M/D/1 queue waits rho / (2 (1 - rho)) = 2 service times on average."""
    reply, latencies = answer(clock, call_ms=1.0, rate_qps=800.0, count=40_000)
    assert latencies.mean() == pytest.approx(3e6, rel=0.15)
    assert latencies.min() >= 1e6
    assert reply["waited"] == pytest.approx(0.8 * 40_000, rel=0.03), "PASTA: a share rho finds it busy"


def test_overload_grows_and_is_refused(clock: Clock) -> None:
    _, latencies = answer(clock, call_ms=1.0, rate_qps=2000.0, count=2000)
    # Every query adds half a service time to the queue.
    assert latencies[-1] == pytest.approx(1e9, rel=0.15)
    assert latencies[1000:].min() > latencies[:500].max()
    reply, cut = answer(clock, call_ms=1.0, rate_qps=2000.0, count=2000, bound_ms=20.0, most_over=5)
    assert reply["over"] == 6
    assert len(cut) < 200, "it ends as soon as it cannot be valid any more"
    assert (cut > 20e6).sum() == 6


def test_a_sleep_that_ends_late_is_part_of_the_latency(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def oversleep(seconds: float) -> None:
        clock.ns += round(seconds * 1e9) + 5_000_000

    monkeypatch.setattr(clock, "sleep", oversleep)
    reply, latencies = answer(clock, call_ms=1.0, rate_qps=5.0, count=50)
    assert np.median(latencies) == pytest.approx(5.8e6, rel=0.01)
    assert reply["late_ns"]["p50"] == pytest.approx(4.8e6, rel=0.01)
