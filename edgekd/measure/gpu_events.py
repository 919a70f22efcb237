"""Events of a CUDA device: torch's where torch is loaded, else those of ``cuda.bindings``, else torch's again."""

from __future__ import annotations

import sys
from typing import Any

from edgekd.errors import MissingDependencyError, TargetUnavailableError
from edgekd.lazy import require
from edgekd.measure.device_events import OUT_OF_DEVICE_MEMORY, EventSource, hold_bytes

_PURPOSE = "timing by device events"


class TorchEvents:
    """``torch.cuda.Event`` on streams given by number."""

    name = "torch.cuda.Event"

    def __init__(self) -> None:
        self._torch = require("torch", extra="torch", purpose=_PURPOSE)
        if not self._torch.cuda.is_available():
            raise MissingDependencyError(
                f"{_PURPOSE} needs a torch that sees the GPU, torch {self._torch.__version__} does not",
                "pip install cuda-python, or a CUDA build of torch",
            )
        self._streams: dict[int, Any] = {}
        self._pair: tuple[Any, Any] | None = None
        self._buffer: Any = None
        self._copied: tuple[Any, Any] | None = None

    def _stream(self, stream: int) -> Any:
        if stream not in self._streams:
            cuda = self._torch.cuda
            # Number 0 is the default stream; ExternalStream is for those that somebody else made.
            self._streams[stream] = cuda.ExternalStream(stream) if stream else cuda.default_stream()
        return self._streams[stream]

    def pair(self) -> tuple[Any, Any]:
        if self._pair is None:
            made = self._torch.cuda.Event
            self._pair = made(enable_timing=True), made(enable_timing=True)
        return self._pair

    def record(self, event: Any, stream: int) -> None:
        event.record(self._stream(stream))

    def wait(self, event: Any) -> None:
        event.synchronize()

    def done(self, event: Any) -> bool:
        return bool(event.query())

    def elapsed_ns(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end)) * 1e6

    def cache_bytes(self) -> int:
        return int(self._torch.cuda.get_device_properties(0).L2_cache_size)

    def new_stream(self) -> int:
        made = self._torch.cuda.Stream()
        self._streams[int(made.cuda_stream)] = made
        return int(made.cuda_stream)

    def wait_for_stream(self, stream: int) -> None:
        self._stream(stream).synchronize()

    def flush(self, stream: int, nbytes: int) -> None:
        torch = self._torch
        with torch.cuda.stream(self._stream(stream)):
            if self._buffer is None or self._buffer.numel() < nbytes:
                self._buffer = None  # the smaller one goes first
                self._buffer = self._room(nbytes, "flush its cache")
            self._buffer.zero_()

    def _room(self, nbytes: int, purpose: str) -> Any:
        torch = self._torch
        try:
            return torch.empty(nbytes, dtype=torch.int8, device="cuda")
        except torch.OutOfMemoryError as e:
            raise _no_room(torch.cuda.get_device_name(0), nbytes, purpose) from e

    def hold(self, stream: int, copies: int) -> None:
        torch = self._torch
        with torch.cuda.stream(self._stream(stream)):
            if self._copied is None:
                nbytes = hold_bytes(self.cache_bytes())
                pinned = torch.empty(nbytes, dtype=torch.int8, pin_memory=True)
                self._copied = self._room(nbytes, "hold its queue"), pinned
            buffer, pinned = self._copied
            for _ in range(copies):
                pinned.copy_(buffer, non_blocking=True)

    def close(self) -> None:
        self._pair = self._buffer = self._copied = None
        self._streams.clear()


class CudaEvents:
    """Events of the CUDA runtime through ``cuda.bindings.runtime``, whose calls return (error, values...)."""

    name = "cuda.bindings.runtime"

    def __init__(self) -> None:
        self._cuda = require("cuda.bindings.runtime", extra="tensorrt", purpose=_PURPOSE)
        self._pair: tuple[Any, Any] | None = None
        self._buffer: Any = None
        self._buffer_bytes = 0
        self._copied: tuple[Any, Any, int] | None = None
        self._made: list[Any] = []
        self._cache: int | None = None

    def _ask(self, name: str, *args: Any) -> Any:
        error, *made = getattr(self._cuda, name)(*args)
        self._check(name, error)
        return made[0] if made else None

    def _check(self, name: str, error: Any) -> None:
        if int(error) != 0:
            raise TargetUnavailableError(
                f"{name} failed with CUDA error {int(error)} ({getattr(error, 'name', error)})",
                "errors of CUDA last as long as the process: measure again",
            )

    def pair(self) -> tuple[Any, Any]:
        if self._pair is None:
            self._pair = self._ask("cudaEventCreate"), self._ask("cudaEventCreate")
        return self._pair

    def record(self, event: Any, stream: int) -> None:
        self._ask("cudaEventRecord", event, stream)

    def wait(self, event: Any) -> None:
        self._ask("cudaEventSynchronize", event)

    def done(self, event: Any) -> bool:
        (error,) = self._cuda.cudaEventQuery(event)
        if int(error) == int(self._cuda.cudaError_t.cudaErrorNotReady):
            return False
        self._check("cudaEventQuery", error)
        return True

    def elapsed_ns(self, start: Any, end: Any) -> float:
        return float(self._ask("cudaEventElapsedTime", start, end)) * 1e6

    def cache_bytes(self) -> int:
        if self._cache is None:
            attribute = self._cuda.cudaDeviceAttr.cudaDevAttrL2CacheSize
            self._cache = int(self._ask("cudaDeviceGetAttribute", attribute, 0))
        return self._cache

    def new_stream(self) -> int:
        made = self._ask("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)
        self._made.append(made)
        return int(made)

    def wait_for_stream(self, stream: int) -> None:
        self._ask("cudaStreamSynchronize", stream)

    def flush(self, stream: int, nbytes: int) -> None:
        if self._buffer_bytes < nbytes:
            self._free()
            self._buffer = self._room(nbytes, "flush its cache")
            self._buffer_bytes = nbytes
        self._ask("cudaMemsetAsync", self._buffer, 0, nbytes, stream)

    def _room(self, nbytes: int, purpose: str) -> Any:
        error, made = self._cuda.cudaMalloc(nbytes)
        if int(error) != 0:
            raise _no_room("the CUDA device", nbytes, purpose)
        return made

    def _free(self) -> None:
        buffer, self._buffer, self._buffer_bytes = self._buffer, None, 0
        if buffer is not None:
            self._ask("cudaFree", buffer)

    def hold(self, stream: int, copies: int) -> None:
        if self._copied is None:
            nbytes = hold_bytes(self.cache_bytes())
            pinned = self._ask("cudaMallocHost", nbytes)
            self._copied = self._room(nbytes, "hold its queue"), pinned, nbytes
        buffer, pinned, nbytes = self._copied
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        for _ in range(copies):
            self._ask("cudaMemcpyAsync", pinned, buffer, nbytes, kind, stream)

    def close(self) -> None:
        self._free()
        if self._copied is not None:
            buffer, pinned, _ = self._copied
            self._copied = None
            self._ask("cudaFree", buffer)
            self._ask("cudaFreeHost", pinned)
        pair, self._pair = self._pair or (), None
        for event in pair:
            self._ask("cudaEventDestroy", event)
        made, self._made = self._made, []
        for stream in made:
            self._ask("cudaStreamDestroy", stream)


def _no_room(device: str, nbytes: int, purpose: str) -> TargetUnavailableError:
    return TargetUnavailableError(
        f"{OUT_OF_DEVICE_MEMORY}: {device} has no {nbytes / (1 << 20):.3g} MiB left to {purpose} with",
        "use a smaller batch, or free the device",
    )


def event_source() -> EventSource:
    """The events to time with.

    Raises:
        MissingDependencyError: neither ``cuda.bindings`` nor a torch with CUDA is installed.
    """
    # A process that does without torch is not made to load it.
    kinds: list[type[TorchEvents] | type[CudaEvents]] = [CudaEvents, TorchEvents]
    if "torch" in sys.modules:
        kinds.reverse()
    try:
        return kinds[0]()
    except MissingDependencyError as first:
        try:
            return kinds[1]()
        except MissingDependencyError:
            raise MissingDependencyError(first.what, "pip install cuda-python") from first
