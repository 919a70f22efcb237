"""The timed loop and the warm-up, inside one process."""

from __future__ import annotations

import gc
from itertools import count

import numpy as np
import pytest

from edgekd.child import ChildProcess
from edgekd.measure import operations


def test_every_call_is_timed_once() -> None:
    calls = count()
    samples = operations.time_calls(lambda: next(calls), 25)
    assert len(samples) == 25
    assert next(calls) == 25
    assert min(samples) >= 0


def test_a_flat_series_is_steady_and_a_falling_one_is_not() -> None:
    rng = np.random.default_rng(0)
    flat = [int(1_000_000 + 3_000 * x) for x in rng.standard_normal(12)]
    falling = [int(1_000_000 - 30_000 * i + 3_000 * x) for i, x in enumerate(rng.standard_normal(12))]
    assert operations.is_steady(flat)
    assert not operations.is_steady(falling)


def test_equal_minima_are_steady() -> None:
    assert operations.is_steady([500] * 12)


@pytest.fixture
def _collector_back() -> object:
    yield
    gc.enable()
    gc.unfreeze()


@pytest.mark.usefixtures("_collector_back")
def test_warm_up_holds_its_bounds_and_fixes_the_block() -> None:
    calls = count()

    def run() -> None:
        next(calls)
        sum(range(2000))

    state = {"run": run}
    reply, _ = operations.warm_up(
        state,
        {
            "min_s": 0.05,
            "min_calls": 50,
            "cap_s": 1.0,
            "block_calls": 10,
            "block_ms": 8.0,
            "block_cap_ms": 200.0,
            "min_block_calls": 2,
            "long_s": 1.0,
        },
        [],
    )
    done = next(calls)
    assert reply["calls"] >= 50
    assert done >= reply["calls"]
    assert reply["seconds"] >= 0.05
    assert not gc.isenabled()
    _, (block,) = operations.run_block(state, {}, [])
    assert block.dtype == np.int64
    assert len(block) == reply["block_calls"] >= 10
    # About 8 ms of calls, by the warm-up's own estimate.
    assert block.min() * len(block) > 1e6


def test_peak_memory_is_the_child_s_own_not_its_parent_s() -> None:
    ballast = np.ones(400 << 17)  # 400 MiB in this process
    with ChildProcess("reporting its use") as child:
        peak = child.request("edgekd.measure.operations:report_use", {})[0]["peak_memory_bytes"]
    assert ballast.nbytes > 300 << 20
    assert 5 << 20 < peak < 300 << 20
