"""A runtime that says it runs on a CUDA device, and events of a clock that counts what was enqueued; for children."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import TargetUnavailableError
from edgekd.measure import operations
from edgekd.measure.device_events import OUT_OF_DEVICE_MEMORY
from edgekd.spec import TensorSpec
from edgekd.target import Placement, SessionOptions


class FakeDevice:
    """A host and a queue, each with its own time: a kernel begins when it is enqueued and the one before is through.

    Attributes:
        host: the host's clock; now: when the device is through with all that was enqueued. Nanoseconds.
        call_ns, launch_ns: what a call of ``kernels`` equal kernels takes on the device, and the host to enqueue.
    """

    copy_ns, copy_launch_ns, flush_launch_ns = 20_000.0, 4_000.0, 6_000.0

    def __init__(self, call_ns: float = 1000.0, launch_ns: float = 0.0, kernels: int = 1) -> None:
        self.host = self.now = 0.0
        self.call_ns, self.launch_ns, self.kernels = call_ns, launch_ns, kernels
        self.log: list[str] = []

    def work(self, kind: str, ns: float, launch_ns: float = 0.0) -> None:
        self.log.append(kind)
        self.enqueue(ns, launch_ns)

    def enqueue(self, ns: float, launch_ns: float) -> None:
        self.host += launch_ns
        self.now = max(self.now, self.host) + ns

    def clock(self) -> int:
        return round(self.host)


class FakeEvents:
    """An event source whose events are moments of a :class:`FakeDevice`."""

    name = "fake events"

    def __init__(self, device: FakeDevice, cache: int = 1 << 20) -> None:
        self.device, self.cache = device, cache

    def pair(self) -> tuple[list[float], list[float]]:
        return [0.0], [0.0]

    def record(self, event: list[float], stream: int) -> None:
        self.device.log.append("record")
        event[0] = max(self.device.now, self.device.host)

    def wait(self, event: list[float]) -> None:
        self.device.log.append("wait")
        self.device.host = max(self.device.host, event[0])

    def done(self, event: list[float]) -> bool:
        return event[0] < self.device.host

    def elapsed_ns(self, start: list[float], end: list[float]) -> float:
        return end[0] - start[0]

    def cache_bytes(self) -> int:
        return self.cache

    def new_stream(self) -> int:
        return 5

    def wait_for_stream(self, stream: int) -> None:
        self.device.log.append(f"wait for {stream}")
        self.device.host = max(self.device.host, self.device.now)

    def flush(self, stream: int, nbytes: int) -> None:
        self.device.work("flush", nbytes / 4000, self.device.flush_launch_ns)  # 4 TB/s

    def hold(self, stream: int, copies: int) -> None:
        for _ in range(copies):
            self.device.work("hold", self.device.copy_ns, self.device.copy_launch_ns)

    def close(self) -> None: ...


class FakeCall:
    """A bound call on a fake device."""

    stream = 5

    def __init__(self, device: FakeDevice, feeds: Mapping[str, Any]) -> None:
        self.device, self.feeds = device, feeds

    def launch(self) -> None:
        device = self.device
        device.log.append("launch")
        for _ in range(device.kernels):
            device.enqueue(device.call_ns / device.kernels, device.launch_ns / device.kernels)

    def __call__(self) -> None:
        self.launch()
        time.sleep(1e-5)


class WaitingCall:
    """A bound call that cannot be enqueued without waiting."""

    def __call__(self) -> None:
        time.sleep(1e-5)


class FakeSession:
    inputs = (TensorSpec(name="x", dtype="float32", shape=("batch", 4)),)
    outputs = (TensorSpec(name="y", dtype="float32", shape=("batch", 4)),)

    def __init__(self, settings: Mapping[str, Any], threads: int) -> None:
        self.settings = settings
        self.device = FakeDevice(
            float(settings.get("call_ns", 1000.0)), float(settings.get("launch_ns", 0.0)),
            int(settings.get("kernels", 1)),
        )  # fmt: skip
        self.placement = Placement(
            device="cuda", provider="cuda", runtime="fake 1", threads=threads, detail={}
        )

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        return {"y": np.asarray(feeds["x"])}

    def bind(self, feeds: Mapping[str, Any]) -> Callable[[], object]:
        return WaitingCall() if self.settings.get("waits") else FakeCall(self.device, feeds)

    def close(self) -> None: ...


class FakeGpuRuntime:
    name = "fake"
    formats = ("onnx",)

    def unavailable(self, device: str, provider: str) -> str:
        return ""

    def open(self, path: Path, options: SessionOptions) -> FakeSession:
        settings = dict(options.settings or {})
        if settings.get("full"):
            raise TargetUnavailableError(
                f"{OUT_OF_DEVICE_MEMORY}: A GPU has too little", "use a smaller batch"
            )
        session = FakeSession(settings, options.threads)
        operations.event_source = lambda: FakeEvents(session.device)
        return session
