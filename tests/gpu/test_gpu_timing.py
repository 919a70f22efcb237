"""Device events against the host's clock, the ledger of a real GPU, and its energy counter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gpu.fixtures_cuda import cuda_torch, gpu_feeds, gpu_net

from edgekd.evidence.measurement import BASELINE
from edgekd.measure import Protocol, Setting, arms_of, measure
from edgekd.measure.device_events import EventSource, time_cold, time_warm
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
def source(request: pytest.FixtureRequest) -> EventSource:
    if request.param == "torch":
        return TorchEvents()
    pytest.importorskip("cuda.bindings.runtime", reason="pip install cuda-python")
    return CudaEvents()


class _Product:
    """A matrix product of a millisecond or more, on a stream of its own."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._a, self._out = (torch.randn(8192, 8192, device="cuda") for _ in range(2))
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
    on_device = float(np.median(time_warm(call, source, 20)))
    shared = float(np.median(time_warm(call, source, 5, replays=4)))
    assert 0.8 * wall < on_device < 1.05 * wall
    assert 0.9 * on_device < shared < 1.1 * on_device


def test_the_flush_is_outside_of_the_pair(cuda_torch: Any, source: EventSource) -> None:
    call = _Product(cuda_torch)
    time_calls(call, 5)
    small = float(np.median(time_cold([call], source, 20, 1 << 20)))
    large = float(np.median(time_cold([call], source, 20, 2 << 30)))
    # Zeroing 2 GiB takes about as long as the product itself; in the pair it would show.
    assert large < 1.25 * small


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
    warm, cold = (float(np.concatenate(b[BASELINE]).min()) for b in (restart.blocks, restart.cold_blocks))
    assert 0 < warm <= 1.5 * cold
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
