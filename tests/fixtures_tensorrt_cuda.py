"""A contract double of ``cuda.bindings.runtime``: device memory is host memory with an owner, streams run at once."""

from __future__ import annotations

import ctypes
import enum
import os
import types
from typing import Any

from fixtures_tensorrt import GPU_VARIABLE, has_fault, note

Error = enum.IntEnum(
    "cudaError_t",
    {"cudaSuccess": 0, "cudaErrorMemoryAllocation": 2, "cudaErrorInsufficientDriver": 35, "cudaErrorNoDevice": 100,
     "cudaErrorInvalidDevice": 101, "cudaErrorInvalidValue": 1, "cudaErrorStreamCaptureInvalidated": 901},
)  # fmt: skip
Kind = enum.IntEnum("cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
Mode = enum.IntEnum("cudaStreamCaptureMode", {"cudaStreamCaptureModeThreadLocal": 1})
OK = Error.cudaSuccess

#: Address -> the buffer that owns it: what was allocated and not freed.
MEMORY: dict[int, Any] = {}
STREAMS: set[int] = set()
#: Stream -> runs captured so far; None marks a capture that broke.
CAPTURING: dict[int, list[Any] | None] = {}
#: Captured graphs that were not destroyed, by id.
GRAPHS: dict[int, Any] = {}


def inside(address: int, size: int) -> bool:
    """Whether these bytes belong to one allocation."""
    return any(start <= address and address + size <= start + len(buffer) for start, buffer in MEMORY.items())


class _Properties:
    def __init__(self) -> None:
        name, sm = os.environ.get(GPU_VARIABLE, "Double GPU;9.0").split(";")
        self.name = name.encode()
        self.major, self.minor = (int(n) for n in sm.split("."))
        self.multiProcessorCount, self.l2CacheSize, self.totalGlobalMem, self.ECCEnabled = (
            132,
            50 << 20,
            80 << 30,
            1,
        )
        self.uuid = types.SimpleNamespace(bytes=bytes(16))


def cudaGetDeviceCount() -> Any:
    return (Error.cudaErrorNoDevice, 0) if has_fault("no-gpu") else (OK, 1)


def cudaGetDevice() -> Any:
    return (Error.cudaErrorNoDevice, 0) if has_fault("no-gpu") else (OK, 0)


def cudaGetDeviceProperties(device: int) -> Any:
    return OK, _Properties()


def cudaDriverGetVersion() -> Any:
    return OK, 13000


def cudaRuntimeGetVersion() -> Any:
    return OK, 13000


def cudaMemGetInfo() -> Any:
    return OK, 1 << 20, 80 << 30


def cudaMalloc(size: int) -> Any:
    note("cudaMalloc", size)
    if has_fault("oom"):
        return Error.cudaErrorMemoryAllocation, None
    buffer = (ctypes.c_char * size)()
    MEMORY[ctypes.addressof(buffer)] = buffer
    return OK, ctypes.addressof(buffer)


def cudaFree(devPtr: int) -> Any:
    note("cudaFree")
    if devPtr not in MEMORY:
        raise AssertionError(f"freed {devPtr:#x}, which is not allocated")
    del MEMORY[devPtr]
    return (OK,)


def cudaMemcpyAsync(dst: int, src: int, count: int, kind: Any, stream: int) -> Any:
    note("cudaMemcpyAsync", kind.name)
    device = dst if kind is Kind.cudaMemcpyHostToDevice else src
    if count and not inside(device, count):
        raise AssertionError(f"copied {count} bytes at {device:#x}, outside any allocation")
    ctypes.memmove(dst, src, count)
    return (OK,)


def cudaStreamCreateWithFlags(flags: int) -> Any:
    if flags != 1:
        raise AssertionError("not a non-blocking stream")
    stream = 1000 + len(STREAMS)
    while stream in STREAMS:
        stream += 1
    STREAMS.add(stream)
    return OK, stream


def cudaStreamDestroy(stream: int) -> Any:
    STREAMS.discard(stream)
    return (OK,)


def cudaStreamSynchronize(stream: int) -> Any:
    if stream in CAPTURING:
        raise AssertionError("synchronised while capturing")
    return (OK,)


def cudaStreamBeginCapture(stream: int, mode: Any) -> Any:
    note("cudaStreamBeginCapture", mode.name)
    CAPTURING[stream] = []
    return (OK,)


def cudaStreamEndCapture(stream: int) -> Any:
    note("cudaStreamEndCapture")
    runs = CAPTURING.pop(stream)
    if runs is None:
        return Error.cudaErrorStreamCaptureInvalidated, None
    GRAPHS[id(runs)] = runs
    return OK, runs


def cudaGraphInstantiate(graph: Any, flags: int) -> Any:
    return OK, list(graph)


def cudaGraphLaunch(graphExec: Any, stream: int) -> Any:
    note("cudaGraphLaunch", stream)
    for run in graphExec:
        run()
    return (OK,)


def cudaGraphDestroy(graph: Any) -> Any:
    del GRAPHS[id(graph)]
    return (OK,)


def cudaGraphExecDestroy(graphExec: Any) -> Any:
    note("cudaGraphExecDestroy")
    return (OK,)


def cudaGetLastError() -> Any:
    note("cudaGetLastError")
    return (OK,)


def install() -> types.ModuleType:
    """The module; only what the table of the contract names is on it."""
    module = types.ModuleType("cuda.bindings.runtime")
    for name, value in list(globals().items()):
        if name.startswith("cuda"):
            setattr(module, name, value)
    module.cudaError_t, module.cudaMemcpyKind = Error, Kind  # type: ignore[attr-defined]
    module.cudaStreamCaptureMode, module.cudaStreamNonBlocking = Mode, 1  # type: ignore[attr-defined]
    return module
