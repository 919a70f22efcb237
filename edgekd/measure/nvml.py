"""One NVIDIA GPU through NVML: energy counter and memory. Loads ``pynvml`` (package nvidia-ml-py) at the point of use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.errors import MissingDependencyError, TargetUnavailableError
from edgekd.lazy import require

_DRIVER = Path("/proc/driver/nvidia/version")


class Gpu:
    """A GPU that NVML knows.

    Attributes:
        name, uuid: of the device, for the record.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self.name, self.uuid = _text(nvml.nvmlDeviceGetName(handle)), _text(nvml.nvmlDeviceGetUUID(handle))

    def energy_joules(self) -> float:
        """Joules since the driver was loaded (nvmlDeviceGetTotalEnergyConsumption, mJ; Volta and newer).

        Raises:
            TargetUnavailableError: the device does not count.
        """
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000.0
        except self._nvml.NVMLError as e:
            raise TargetUnavailableError(f"{self.name} counts no energy ({e})") from e

    def used_bytes(self, pid: int) -> tuple[int, str]:
        """Device memory in use, and how that is known: by the process alone, else by all on the device.

        Raises:
            TargetUnavailableError: NVML does not say.
        """
        try:
            for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle):
                # None under some drivers and in containers with process numbers of their own.
                if process.pid == pid and process.usedGpuMemory:
                    return int(process.usedGpuMemory), "the process alone"
            return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used), "the whole device"
        except self._nvml.NVMLError as e:
            raise TargetUnavailableError(f"NVML does not say what {self.name} holds ({e})") from e


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def find_gpu(environ: Mapping[str, str] | None = None) -> Gpu:
    """The GPU that CUDA calls device 0: the first of CUDA_VISIBLE_DEVICES, else NVML's first.

    NVML counts in PCI order. Where GPUs differ and CUDA_DEVICE_ORDER is not PCI_BUS_ID, CUDA may count otherwise:
    :attr:`Gpu.uuid` goes into the evidence.

    Raises:
        MissingDependencyError: a driver is here, pynvml is not; TargetUnavailableError: no driver, or no such GPU.
    """
    environ = os.environ if environ is None else environ
    if not _DRIVER.exists():
        raise TargetUnavailableError("no NVIDIA driver on this machine")
    try:
        nvml = require("pynvml", extra="nvml", purpose="reading a GPU's counters")
    except MissingDependencyError as e:
        raise MissingDependencyError(e.what, "pip install nvidia-ml-py") from e
    wanted = environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    try:
        nvml.nvmlInit()
        if wanted and not wanted.isdigit():
            return Gpu(nvml, nvml.nvmlDeviceGetHandleByUUID(wanted))
        return Gpu(nvml, nvml.nvmlDeviceGetHandleByIndex(int(wanted or 0)))
    except nvml.NVMLError as e:
        raise TargetUnavailableError(
            f"NVML finds no GPU '{wanted or 0}' ({e})", "check CUDA_VISIBLE_DEVICES and nvidia-smi"
        ) from e
