"""Device events against the host's clock, the ledger of a real GPU, and its energy counter."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gpu.fixtures_cuda import cuda_torch, gpu_feeds, gpu_net

from edgekd.evidence.measurement import BASELINE
from edgekd.measure import Protocol, Setting, arms_of, measure
from edgekd.measure.device_events import EventSource, flush_bytes, time_cold, time_warm
from edgekd.measure.device_queue import Hold
from edgekd.measure.gpu_events import CudaEvents, TorchEvents
from edgekd.measure.gpu_ledger import GpuWatch, watch_for
from edgekd.measure.meters import NvmlMeter
from edgekd.measure.operations import time_calls
from edgekd.model import Model
from edgekd.target import SessionOptions, parse_target
from edgekd_torch.runtime import TorchRuntime

__all__ = ["cuda_torch", "gpu_feeds", "gpu_net"]

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cuda_torch")]


@pytest.fixture(params=["torch", "cuda.bindings"])
def source(request: pytest.FixtureRequest) -> Iterator[EventSource]:
    if request.param == "torch":
        made: EventSource = TorchEvents()
    else:
        pytest.importorskip("cuda.bindings.runtime", reason="pip install cuda-python")
        made = CudaEvents()
    yield made
    made.close()


def _held(source: EventSource, call: Any) -> Hold:
    hold = Hold(source, call.stream, time.perf_counter_ns)
    hold.calibrate(call)
    return hold


class _Product:
    """A matrix product on a stream of its own: of a millisecond or more at a side of 8192."""

    def __init__(self, torch: Any, side: int = 8192) -> None:
        self._torch = torch
        self._a, self._out = (torch.randn(side, side, device="cuda") for _ in range(2))
        self._stream = torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        self.stream = int(self._stream.cuda_stream)

    def launch(self) -> None:
        with self._torch.cuda.stream(self._stream):
            self._torch.mm(self._a, self._a, out=self._out)

    def __call__(self) -> None:
        self.launch()
        self._stream.synchronize()


def test_events_agree_with_the_host_on_long_calls(cuda_torch: Any, source: EventSource) -> None:
    call = _Product(cuda_torch)
    time_calls(call, 5)
    wall = float(np.median(time_calls(call, 20)))
    hold = _held(source, call)
    on_device = float(np.median(time_warm(call, source, 20, 1, hold).ns))
    shared = float(np.median(time_warm(call, source, 5, 4, hold).ns))
    assert 0.8 * wall < on_device < 1.05 * wall
    assert 0.9 * on_device < shared < 1.1 * on_device


def test_the_flush_is_outside_of_the_pair(cuda_torch: Any, source: EventSource) -> None:
    call = _Product(cuda_torch, side=1024)
    time_calls(call, 5)
    hold = _held(source, call)
    # Both flush the whole cache, so that the product itself takes as long after either.
    less = flush_bytes(source.cache_bytes())
    more = less + (2 << 30)
    small = float(np.median(time_cold([call], source, 20, less, hold).ns))
    large = float(np.median(time_cold([call], source, 20, more, hold).ns))
    start, end = source.pair()
    flushes = []
    for _ in range(5):
        source.record(start, call.stream)
        source.flush(call.stream, more)
        source.record(end, call.stream)
        source.wait(end)
        flushes.append(source.elapsed_ns(start, end))
    flush = float(np.median(flushes))
    assert flush > 2 * small, "a product that is not small against the flush proves nothing"
    assert large - small < 0.25 * flush


class _Steps:
    """Short kernels one after another, which the host enqueues more slowly than they run."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._x = torch.ones(256, device="cuda")
        self._stream = torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        self.stream = int(self._stream.cuda_stream)

    def launch(self) -> None:
        with self._torch.cuda.stream(self._stream):
            for _ in range(30):
                self._x.mul_(1.0)

    def __call__(self) -> None:
        self.launch()
        self._stream.synchronize()


def test_launches_are_no_part_of_a_sample(cuda_torch: Any, source: EventSource) -> None:
    call = _Steps(cuda_torch)
    time_calls(call, 20)
    hold = _held(source, call)
    bare = time_warm(call, source, 20, 5, Hold(source, call.stream, time.perf_counter_ns))
    if bare.late < 20:
        pytest.skip("this host enqueues short kernels faster than this GPU runs them")
    warm = time_warm(call, source, 20, 5, hold)
    cold = time_cold([call], source, 20, flush_bytes(source.cache_bytes()), hold)
    assert max(warm.late, cold.late) <= 2
    assert np.median(warm.ns) < np.median(bare.ns)
    assert np.median(warm.ns) < 1.1 * np.median(cold.ns)


def test_the_cache_has_a_size(source: EventSource) -> None:
    assert 1 << 20 <= source.cache_bytes() <= 1 << 30


def test_a_race_on_the_device(gpu_net: Model, gpu_feeds: dict[str, Any]) -> None:
    protocol = Protocol(min_restarts=1, max_restarts=1, rounds=2, block_ms=2.0, warm_s=0.05, warm_cap_s=1.0)
    setting = Setting(
        target=parse_target("cuda:torch"), runtime_paths={"torch": "edgekd_torch.runtime:TorchRuntime"},
        timeout_s=300, memory_bytes=1 << 30,
    )  # fmt: skip
    arms = arms_of(("a", gpu_net.as_artifact(), gpu_feeds), [("b", gpu_net.as_artifact(), gpu_feeds)])
    found = measure(arms, setting, inputs={}, protocol=protocol)
    restart = found.restarts[0]
    assert found.environment["clock"] == "torch.cuda.Event"
    assert set(restart.cold_blocks) == set(restart.wall_blocks) == set(found.arms)
    used = restart.children[BASELINE]["on_device"]
    # The pair was wholly enqueued before it began, so neither condition holds the host's launches.
    assert used["late"] + used["late_cold"] < 0.2 * used["samples"]
    assert used["device_ns"] > 0
    assert found.environment["host_bound"] == sorted(
        name for name, child in restart.children.items() if child["on_device"]["host_bound"]
    )
    assert restart.warmup[BASELINE]["device"]["flush_bytes"] >= 256 << 20
    assert "gpu" in restart.ledger


def test_the_ledger_reads_the_gpu(gpu_net: Model) -> None:
    watch = watch_for("cuda")
    if not isinstance(watch, GpuWatch):
        pytest.skip(f"NVML: {watch.end()}")
    watch.begin(set())
    found = watch.end()
    assert found is not None
    assert found["sm_mhz"] > 0
    assert found["identity"]["name"]
    assert found["reasons"] is not None


def test_the_energy_counter_moves() -> None:
    meter = NvmlMeter()
    why = meter.unavailable()
    if why:
        pytest.skip(f"meter nvml: {why}")
    assert 0.0005 < meter.update_s < 2.0
    assert meter.window_s >= 10.0
    first = meter.read_joules()
    assert meter.read_joules() > first
    assert TorchRuntime().unavailable("cuda", "") == ""
    assert SessionOptions(device="cuda").device == "cuda"
