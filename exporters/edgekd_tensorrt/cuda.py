"""The CUDA runtime through cuda-bindings: every result checked, devices and memory by name."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgekd.errors import EdgeKDError, MissingDependencyError, ModelError, TargetUnavailableError
from edgekd.lazy import require

#: Environment variables that change what an engine does or how it is loaded.
WATCHED = ("NVIDIA_TF32_OVERRIDE", "CUDA_MODULE_LOADING", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
_PREFIX = "TRT_"
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A GPU as the CUDA runtime and NVML tell it.

    Attributes:
        sm: compute capability ``major.minor``; l2_bytes, memory_bytes: in bytes.
        cuda_driver, cuda_runtime: as CUDA counts: 13000 is 13.0.
        driver: the kernel driver's version; mig: ``on``, ``off``; both ``unknown`` without NVML.
    """

    name: str
    sm: str
    sm_count: int
    l2_bytes: int
    memory_bytes: int
    ecc: bool
    cuda_driver: int
    cuda_runtime: int
    driver: str
    mig: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Cuda:
    """The runtime API, with errors that name the device."""

    def __init__(self) -> None:
        self.cudart = require(
            "cuda.bindings.runtime", extra="tensorrt", purpose="memory and streams of TensorRT engines"
        )
        self._name = "the GPU"

    def check(self, result: tuple[Any, ...], doing: str) -> Any:
        """The value of a call, whose first element is an error code.

        Raises:
            ModelError: out of device memory, or any failure of the work itself; TargetUnavailableError: no usable GPU.
        """
        code, *values = result
        if code != self.cudart.cudaError_t.cudaSuccess:
            raise self.error(code, doing)
        return values[0] if len(values) == 1 else tuple(values)

    def error(self, code: Any, doing: str) -> EdgeKDError:
        """What a failed call means."""
        kinds = self.cudart.cudaError_t
        name = str(getattr(code, "name", code))
        if code == kinds.cudaErrorMemoryAllocation:
            return ModelError(
                f"{self._name} is out of memory ({doing}{self._free()})",
                "use a smaller batch or model, a lower workspace_mib, or stop what else runs on it",
            )
        if code in (kinds.cudaErrorNoDevice, kinds.cudaErrorInsufficientDriver, kinds.cudaErrorInvalidDevice):
            return TargetUnavailableError(
                f"CUDA finds no usable GPU ({name}, {doing})", "install a driver for this CUDA, see `edgekd doctor`"
            )  # fmt: skip
        return ModelError(f"CUDA failed on {self._name} ({name}, {doing})", "see the message; start again")

    def _free(self) -> str:
        code, *values = self.cudart.cudaMemGetInfo()
        if code != self.cudart.cudaError_t.cudaSuccess:
            return ""
        return f"; {values[0] / _MIB:.0f} of {values[1] / _MIB:.0f} MiB are free"

    def count(self) -> int:
        """How many GPUs CUDA sees.

        Raises:
            TargetUnavailableError: none, or no driver.
        """
        return int(self.check(self.cudart.cudaGetDeviceCount(), "counting devices"))

    def device(self) -> Device:
        """The current GPU.

        Raises:
            TargetUnavailableError: there is none.
        """
        index = self.check(self.cudart.cudaGetDevice(), "asking for the device")
        prop = self.check(self.cudart.cudaGetDeviceProperties(index), "asking for its properties")
        self._name = prop.name.decode() if isinstance(prop.name, bytes) else str(prop.name)
        told = _nvml_facts(bytes(prop.uuid.bytes))
        return Device(
            name=self._name,
            sm=f"{prop.major}.{prop.minor}",
            sm_count=int(prop.multiProcessorCount),
            l2_bytes=int(prop.l2CacheSize),
            memory_bytes=int(prop.totalGlobalMem),
            ecc=bool(prop.ECCEnabled),
            cuda_driver=int(self.check(self.cudart.cudaDriverGetVersion(), "asking for the driver")),
            cuda_runtime=int(self.check(self.cudart.cudaRuntimeGetVersion(), "asking for the runtime")),
            driver=told["driver"],
            mig=told["mig"],
        )

    def malloc(self, size_bytes: int, what: str) -> int:
        """Device memory; at least one byte, so that empty tensors have an address.

        Raises:
            ModelError: there is not enough.
        """
        wanted = max(1, size_bytes)
        return int(
            self.check(self.cudart.cudaMalloc(wanted), f"{wanted / _MIB:.1f} MiB for {what} were asked for")
        )

    def free(self, address: int) -> None:
        """Give memory back; a context that is broken already has lost it anyway."""
        self.cudart.cudaFree(address)

    def to_device(self, address: int, host: int, size_bytes: int, stream: int, what: str) -> None:
        kind = self.cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.check(self.cudart.cudaMemcpyAsync(address, host, size_bytes, kind, stream), f"copying {what} in")

    def to_host(self, host: int, address: int, size_bytes: int, stream: int, what: str) -> None:
        kind = self.cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.check(
            self.cudart.cudaMemcpyAsync(host, address, size_bytes, kind, stream), f"copying {what} out"
        )

    def new_stream(self) -> int:
        """A stream of its own: the default one synchronises with all others."""
        made = self.check(
            self.cudart.cudaStreamCreateWithFlags(self.cudart.cudaStreamNonBlocking), "making a stream"
        )
        return int(made)

    def synchronize(self, stream: int, doing: str = "running the engine") -> None:
        """Wait for everything on ``stream``.

        Raises:
            ModelError: what ran there failed.
        """
        self.check(self.cudart.cudaStreamSynchronize(stream), doing)

    def drop_stream(self, stream: int) -> None:
        self.cudart.cudaStreamDestroy(stream)


def _nvml_facts(device_uuid: bytes) -> dict[str, str]:
    """Driver version and MIG mode; ``unknown`` where NVML does not say."""
    told = {"driver": "unknown", "mig": "unknown"}
    try:
        nvml = require("pynvml", extra="nvml", purpose="naming the driver")
    except MissingDependencyError:
        return told
    try:
        nvml.nvmlInit()
        driver = nvml.nvmlSystemGetDriverVersion()
        told["driver"] = driver.decode() if isinstance(driver, bytes) else str(driver)
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.UUID(bytes=device_uuid)}")
        told["mig"] = "on" if nvml.nvmlDeviceGetMigMode(handle)[0] else "off"
    except (nvml.NVMLError, ValueError):
        return told
    return told


def environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that are set and matter."""
    environ = os.environ if environ is None else environ
    return {k: v for k, v in sorted(environ.items()) if k in WATCHED or k.startswith(_PREFIX)}
