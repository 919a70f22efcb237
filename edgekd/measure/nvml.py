"""One NVIDIA GPU through NVML: energy counter, memory, clocks. Loads ``pynvml`` (package nvidia-ml-py) at the point of use."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekd.errors import MissingDependencyError, TargetUnavailableError
from edgekd.lazy import require

_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """One look at a GPU; what the driver does not tell is None.

    Attributes:
        sm_mhz, memory_mhz: clocks now; temperature_c: of the chip; power_w: of the board, averaged by the driver over
            a second on most devices since Ampere (nvmlDeviceGetPowerUsage).
        utilisation: share of the driver's last sample period in which a kernel ran.
        reasons: bits of nvmlDeviceGetCurrentClocksEventReasons; processes: numbers of those that compute on it.
    """

    sm_mhz: float | None
    memory_mhz: float | None
    temperature_c: float | None
    power_w: float | None
    utilisation: float | None
    reasons: int | None
    processes: tuple[int, ...] | None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "processes": None if self.processes is None else len(self.processes)}


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

    def _ask(self, ask: Callable[[], Any]) -> Any:
        """An answer of NVML, or None where this device, driver or pynvml does not have the question."""
        try:
            return ask()
        except (self._nvml.NVMLError, AttributeError):
            return None

    def read(self) -> GpuReading:
        """Clocks, temperature, power, throttling and users now. Only ever reads."""
        n, h = self._nvml, self._handle

        def scaled(value: Any, by: float = 1.0) -> float | None:
            return None if value is None else float(value) * by

        reasons = self._ask(lambda: n.nvmlDeviceGetCurrentClocksEventReasons(h))
        if reasons is None:  # its name before driver 535
            reasons = self._ask(lambda: n.nvmlDeviceGetCurrentClocksThrottleReasons(h))
        processes = self._ask(lambda: n.nvmlDeviceGetComputeRunningProcesses(h))
        return GpuReading(
            sm_mhz=scaled(self._ask(lambda: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM))),
            memory_mhz=scaled(self._ask(lambda: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_MEM))),
            temperature_c=scaled(self._ask(lambda: n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU))),
            power_w=scaled(self._ask(lambda: n.nvmlDeviceGetPowerUsage(h)), 1e-3),
            utilisation=scaled(self._ask(lambda: n.nvmlDeviceGetUtilizationRates(h).gpu), 0.01),
            reasons=None if reasons is None else int(reasons),
            processes=None if processes is None else tuple(int(p.pid) for p in processes),
        )

    def identity(self) -> dict[str, Any]:
        """What does not change: name, UUID, driver, memory, ECC, MIG, power limit; None where not told."""
        n, h = self._nvml, self._handle
        driver = self._ask(n.nvmlSystemGetDriverVersion)
        total = self._ask(lambda: n.nvmlDeviceGetMemoryInfo(h).total)
        limit = self._ask(lambda: n.nvmlDeviceGetEnforcedPowerLimit(h))
        ecc, mig = (
            self._ask(lambda: n.nvmlDeviceGetEccMode(h)),
            self._ask(lambda: n.nvmlDeviceGetMigMode(h)),
        )
        cuda = self._ask(n.nvmlSystemGetCudaDriverVersion)
        return {
            "name": self.name,
            "uuid": self.uuid,
            "driver": None if driver is None else _text(driver),
            "cuda_driver": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
            "memory_bytes": None if total is None else int(total),
            "power_limit_w": None if limit is None else float(limit) / 1000,
            "ecc": None if ecc is None else bool(ecc[0]),
            "mig": None if mig is None else bool(mig[0]),
        }

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
