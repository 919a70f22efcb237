"""Where events come from: torch.cuda and cuda.bindings, made up."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from edgekd.errors import MissingDependencyError, TargetUnavailableError
from edgekd.measure import gpu_events
from edgekd.measure.device_events import EventSource, time_cold
from edgekd.measure.device_queue import Hold


def unheld(source: EventSource) -> Hold:
    return Hold(source, 5, lambda: 0)


class _Event:
    def __init__(self, log: list[Any], enable_timing: bool) -> None:
        assert enable_timing
        self.log = log

    def record(self, stream: Any) -> None:
        self.log.append(("record", stream))

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def query(self) -> bool:
        return False

    def elapsed_time(self, end: Any) -> float:
        return 0.25


class _Entered:
    def __init__(self, log: list[Any], stream: Any) -> None:
        self.log, self.stream = log, stream

    def __enter__(self) -> None:
        self.log.append(("enter", self.stream))

    def __exit__(self, *_: object) -> None:
        self.log.append(("leave", self.stream))


class _Buffer:
    def __init__(self, log: list[Any], size: int) -> None:
        self.log, self.size = log, size

    def numel(self) -> int:
        return self.size

    def zero_(self) -> None:
        self.log.append(("zero", self.size))

    def copy_(self, other: _Buffer, non_blocking: bool) -> None:
        assert non_blocking
        assert other.size == self.size
        self.log.append(("copy", self.size))


def fake_torch(log: list[Any], *, full: bool = False) -> Any:
    class OutOfMemoryError(RuntimeError):
        pass

    def empty(size: int, dtype: Any, device: str = "cpu", pin_memory: bool = False) -> _Buffer:
        assert pin_memory is (device == "cpu")
        if full:
            raise OutOfMemoryError("CUDA out of memory")
        return _Buffer(log, size)

    cuda = SimpleNamespace(
        is_available=lambda: True,
        Event=lambda enable_timing: _Event(log, enable_timing),
        ExternalStream=lambda n: f"stream {n}",
        default_stream=lambda: "default stream",
        stream=lambda s: _Entered(log, s),
        get_device_properties=lambda i: SimpleNamespace(L2_cache_size=60 << 20),
        get_device_name=lambda i: "A GPU",
    )
    return SimpleNamespace(cuda=cuda, empty=empty, int8="int8", OutOfMemoryError=OutOfMemoryError)


def test_torch_s_events_go_on_the_call_s_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[Any] = []
    monkeypatch.setitem(sys.modules, "torch", fake_torch(log))
    source = gpu_events.event_source()
    assert source.name == "torch.cuda.Event"
    call = SimpleNamespace(stream=9, launch=lambda: log.append("launch"))
    found = time_cold([call], source, 1, 100, unheld(source))  # type: ignore[list-item]
    assert (found.ns, found.late) == ([250_000], 0)
    assert log == [
        ("enter", "stream 9"), ("zero", 100), ("leave", "stream 9"),
        ("record", "stream 9"), "launch", ("record", "stream 9"), "synchronize",
    ]  # fmt: skip
    source.record(source.pair()[0], 0)
    assert log[-1] == ("record", "default stream")
    assert source.cache_bytes() == 60 << 20
    source.hold(9, 2)
    assert log[-3:] == [("copy", 60 << 17)] * 2 + [("leave", "stream 9")]


def test_a_torch_without_cuda_is_no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    blind = fake_torch([])
    blind.cuda.is_available, blind.__version__ = lambda: False, "2.0"
    monkeypatch.setitem(sys.modules, "torch", blind)
    with pytest.raises(MissingDependencyError, match=r"torch 2\.0 does not; pip install cuda-python"):
        gpu_events.event_source()


def test_no_room_for_the_flush_names_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch([], full=True))
    with pytest.raises(TargetUnavailableError, match="out of device memory: A GPU has no 256 MiB") as e:
        gpu_events.TorchEvents().flush(1, 256 << 20)
    assert "\n" not in str(e.value)


def fake_cuda(log: list[Any], error: int = 0) -> Any:
    def call(name: str, *made: Any) -> Callable[..., Any]:
        def ask(*args: Any) -> tuple[Any, ...]:
            log.append((name, *args))
            return (error, *made)

        return ask

    numbers = itertools.count(1)
    calls = {name: call(name) for name in ("free", "freehost", "destroy", "undo")}
    return SimpleNamespace(
        cudaError_t=SimpleNamespace(cudaErrorNotReady=600),
        cudaMemcpyKind=SimpleNamespace(cudaMemcpyDeviceToHost="to host"),
        cudaEventQuery=lambda event: (600,),
        cudaMallocHost=call("mallochost", 0xDEF),
        cudaMemcpyAsync=call("copy"),
        cudaFree=calls["free"],
        cudaFreeHost=calls["freehost"],
        cudaEventDestroy=calls["destroy"],
        cudaStreamCreateWithFlags=call("stream", 77),
        cudaStreamDestroy=calls["undo"],
        cudaStreamNonBlocking=1,
        cudaEventCreate=lambda: (log.append("create"), (error, f"event {next(numbers)}"))[1],
        cudaEventRecord=call("record"),
        cudaEventSynchronize=call("synchronize"),
        cudaEventElapsedTime=call("elapsed", 0.5),
        cudaDeviceGetAttribute=call("attribute", 50 << 20),
        cudaMalloc=call("malloc", 0xABC),
        cudaMemsetAsync=call("memset"),
        cudaDeviceAttr=SimpleNamespace(cudaDevAttrL2CacheSize="L2"),
    )


def test_without_torch_loaded_the_events_are_cuda_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[Any] = []
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake_cuda(log))
    source = gpu_events.event_source()
    call = SimpleNamespace(stream=9, launch=lambda: log.append("launch"))
    for _ in range(2):
        found = time_cold([call], source, 1, 100, unheld(source))  # type: ignore[list-item]
        assert (found.ns, found.late) == ([500_000], 0)
    one = [
        ("memset", 0xABC, 0, 100, 9),
        ("record", "event 1", 9), "launch", ("record", "event 2", 9),
        ("synchronize", "event 2"), ("elapsed", "event 1", "event 2"),
    ]  # fmt: skip
    assert log == ["create", "create", ("malloc", 100), *one, *one], "events and buffer are made once"
    assert source.cache_bytes() == source.cache_bytes() == 50 << 20
    assert sum(entry[0] == "attribute" for entry in log) == 1


def test_what_was_made_on_the_device_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[Any] = []
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake_cuda(log))
    source = gpu_events.CudaEvents()
    source.flush(9, 100)
    source.flush(9, 200)
    freed = [("malloc", 100), ("memset", 0xABC, 0, 100, 9), ("free", 0xABC), ("malloc", 200)]
    assert log[:4] == freed, "the smaller buffer goes before the larger one comes"
    source.hold(9, 2)
    assert log[-2:] == [("copy", 0xDEF, 0xABC, 50 << 17, "to host", 9)] * 2
    assert (source.pair(), source.new_stream()) == (("event 1", "event 2"), 77)
    log.clear()
    source.close()
    ends = (
        ("free", 0xABC),
        ("free", 0xABC),
        ("freehost", 0xDEF),
        ("destroy", "event 1"),
        ("destroy", "event 2"),
    )
    assert log == [*ends, ("undo", 77)]
    source.close()
    assert len(log) == 6


def test_an_error_of_cuda_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake_cuda([], error=700))
    with pytest.raises(TargetUnavailableError, match="cudaEventCreate failed with CUDA error 700"):
        gpu_events.CudaEvents().pair()
    with pytest.raises(TargetUnavailableError, match="the CUDA device has no 1 MiB left to flush"):
        gpu_events.CudaEvents().flush(0, 1 << 20)


def test_without_any_library_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)

    def missing(module: str, **_: str) -> Any:
        raise MissingDependencyError(f"no {module}", "elsewhere")

    monkeypatch.setattr(gpu_events, "require", missing)
    with pytest.raises(MissingDependencyError, match=r"no cuda\.bindings\.runtime; pip install cuda-python"):
        gpu_events.event_source()
