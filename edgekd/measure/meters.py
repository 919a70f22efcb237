"""Energy meters: counters of joules. Where there is none, energy is *unavailable*; nothing is guessed from a TDP."""

from __future__ import annotations

import math
import shlex
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from edgekd.errors import EdgeKDError, TargetUnavailableError, UsageError
from edgekd.measure.nvml import Gpu, find_gpu
from edgekd.plugins import list_plugins, load_plugin

GROUP = "edgekd.meters"
_COMMAND = "command:"

#: A command's counter is watched for so many steps, this often.
_STEPS = 3
_WATCH_S = 0.02

#: NVML's counter: watched for so long this often; a window lasts so long and so many steps.
_NVML_WATCH_S = 2.0
_NVML_POLL_S = 0.001
_NVML_WINDOW_S = 10.0
_NVML_STEPS = 100

#: A counter that is asked this often cannot have wrapped twice (see :class:`RaplMeter`).
LONGEST_BLOCK_S = 50.0


@runtime_checkable
class Meter(Protocol):
    """A meter plugin: a class without arguments, or one that :func:`find_meters` was told of.

    Attributes:
        name: what it is called in evidence.
        update_s: seconds between two movements of its counter; a block lasts many of them.
        devices: of targets that it says something about (``cpu``, ``cuda``); empty for all.
    """

    name: str
    devices: tuple[str, ...]
    update_s: float

    def unavailable(self) -> str:
        """Why it cannot be read here, with the fix after ``; ``; empty when it can."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """What it counts (domains, device), as plain data for the evidence; asked only when it can be read."""
        ...

    def read_joules(self) -> float:
        """Joules since some fixed moment; never falls. Asked at least every :data:`LONGEST_BLOCK_S` while it counts.

        Raises:
            InfrastructureError: it cannot be read any more.
        """
        ...


class RaplMeter:
    """RAPL through Linux's powercap: Intel's counters, and AMD's under the same names.

    Every package and its DRAM, summed; ``core`` and ``uncore`` are parts of a package, and ``psys`` holds the packages
    (Linux, Documentation/power/powercap/powercap.rst). Counters are microjoules and wrap at ``max_energy_range_uj``.

    Args:
        root: holds ``sys/class/powercap``; another folder in tests.
    """

    name = "rapl"
    #: A target on another device has a host, too.
    devices: tuple[str, ...] = ()
    #: Updated about every millisecond; wraps after about a minute at the earliest (Intel SDM vol. 3B,
    #: MSR_PKG_ENERGY_STATUS).
    update_s = 0.001

    def __init__(self, root: Path = Path("/")) -> None:
        self._zones = sorted(_counted(root / "sys/class/powercap"))
        self._last: dict[Path, int] = {}
        self._total_uj = 0

    def unavailable(self) -> str:
        if not self._zones:
            return "no RAPL counters in /sys/class/powercap (a virtual machine, a container, or no such processor)"
        for zone in self._zones:
            try:
                _number(zone / "energy_uj")
                _number(zone / "max_energy_range_uj")
            except PermissionError:
                # Root only since Linux 5.10 (CVE-2020-8694).
                return f"{zone / 'energy_uj'} may be read by root only; sudo chmod a+r {zone / 'energy_uj'}"
            except (OSError, ValueError) as e:
                return f"{zone / 'energy_uj'} cannot be read ({e})"
        return ""

    def describe(self) -> Mapping[str, Any]:
        return {"domains": [f"{z.name} {(z / 'name').read_text().strip()}" for z in self._zones]}

    def read_joules(self) -> float:
        for zone in self._zones:
            try:
                now = _number(zone / "energy_uj")
                moved = now - self._last.get(zone, now)
                if moved < 0:
                    moved += _number(zone / "max_energy_range_uj")
            except (OSError, ValueError) as e:
                raise TargetUnavailableError(
                    f"the meter rapl cannot be read any more ({e})", "measure again"
                ) from e
            self._last[zone] = now
            self._total_uj += moved
        return self._total_uj / 1e6


def _counted(powercap: Path) -> list[Path]:
    """Zones that together hold the energy once: ``intel-rapl:N`` packages, ``intel-rapl:N:M`` DRAM."""
    found = []
    for zone in powercap.glob("intel-rapl:*"):
        try:
            name = (zone / "name").read_text().strip()
        except OSError:
            continue
        if name.startswith("package") or name == "dram":
            found.append(zone)
    return found


def _number(path: Path) -> int:
    return int(path.read_text())


class NvmlMeter:
    """The total energy counter of the GPU that CUDA calls device 0: the board, not its host.

    The counter moves in steps (every 20 to 100 ms on newer GPUs: PETSc manual, PetscLogGpuEnergyMeter), and a window of
    less than a step reads 0. So the step is found by watching, a window lasts 100 of them and at least ten seconds,
    and every reading waits for the counter to move: both ends of a window lie on a step.
    """

    name = "nvml"
    devices: tuple[str, ...] = ("cuda",)
    update_s = 0.1

    def __init__(self) -> None:
        self._gpu: Gpu | None = None
        self._seen = False

    @property
    def window_s(self) -> float:
        """Least length of a block; see :func:`edgekd.measure.energy.measure_energy`."""
        return max(_NVML_WINDOW_S, _NVML_STEPS * self.update_s)

    def _found(self) -> Gpu:
        if self._gpu is None:
            self._gpu = find_gpu()
        return self._gpu

    def unavailable(self) -> str:
        try:
            self._found().energy_joules()
            return "" if self._seen else self._watch()
        except EdgeKDError as e:
            return str(e)

    def _watch(self) -> str:
        """Watch the counter for two seconds and keep its longest step; why not, where it stands still."""
        begin = since = time.monotonic()
        last = self._found().energy_joules()
        steps: list[float] = []
        while (now := time.monotonic()) - begin < _NVML_WATCH_S:
            time.sleep(_NVML_POLL_S)
            joules = self._found().energy_joules()
            if joules > last:
                steps.append(time.monotonic() - since)
                last, since = joules, time.monotonic()
        # The first one was under way when the watch began.
        if len(steps) < 2:
            return (
                f"the energy counter of {self._found().name} moved {len(steps)} times in {now - begin:.1f} s"
            )
        self.update_s, self._seen = max(steps[1:]), True
        return ""

    def describe(self) -> Mapping[str, Any]:
        return {"device": self._found().name, "uuid": self._found().uuid, "step_s": self.update_s}

    def read_joules(self) -> float:
        """Joules at the counter's next step.

        Raises:
            TargetUnavailableError: the device does not count any more, or the counter stands still.
        """
        first, begin = self._found().energy_joules(), time.monotonic()
        while (joules := self._found().energy_joules()) == first:
            if time.monotonic() - begin > _NVML_WATCH_S:
                raise TargetUnavailableError(
                    f"the energy counter of {self._found().name} stood still for {_NVML_WATCH_S:g} s",
                    "measure without energy: --meter none",
                )
            time.sleep(_NVML_POLL_S)
        return joules


class CommandMeter:
    """An external meter behind a command that prints its cumulative joules: ``command:read-wattmeter --joules``.

    How often its counter moves is seen when it is first asked whether it can be read.

    Args:
        command: split as a shell would, run without one.
        timeout_s: for one reading, and for the counter to move.
    """

    name = "command"
    devices: tuple[str, ...] = ()

    def __init__(self, command: str, timeout_s: float = 10.0) -> None:
        self._argv, self._timeout_s = _split(command), timeout_s
        self._last = -math.inf
        self.update_s = timeout_s

    def unavailable(self) -> str:
        try:
            return self._watch()
        except EdgeKDError as e:
            return str(e)

    def _watch(self) -> str:
        """See the counter move three times and keep the longest step; why not, where it stands still."""
        begin = since = time.monotonic()
        last = self.read_joules()
        steps: list[float] = []
        while len(steps) < _STEPS:
            time.sleep(_WATCH_S)
            joules, now = self.read_joules(), time.monotonic()
            if joules > last:
                steps.append(now - since)
                last, since = joules, now
            elif now - begin > self._timeout_s:
                shown = shlex.join(self._argv)
                return f"the meter command `{shown}` stood at {joules:g} J for {now - since:.1f} s; check the meter"
        self.update_s = max(steps)
        return ""

    def describe(self) -> Mapping[str, Any]:
        return {"command": shlex.join(self._argv)}

    def read_joules(self) -> float:
        shown = shlex.join(self._argv)
        try:
            done = subprocess.run(
                self._argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=self._timeout_s, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as e:
            raise TargetUnavailableError(f"the meter command `{shown}` failed ({e})", "run it by hand") from e
        said = (done.stdout if done.returncode == 0 else done.stderr or done.stdout).strip()
        try:
            joules = float(said) if done.returncode == 0 else math.nan
        except ValueError:
            joules = math.nan
        if not math.isfinite(joules):
            raise TargetUnavailableError(
                f"the meter command `{shown}` ended with {done.returncode} and said {said[:80]!r}",
                "it has to print one number: joules so far",
            )
        if joules < self._last:
            raise TargetUnavailableError(
                f"the meter command `{shown}` fell from {self._last:g} to {joules:g} J",
                "it has to print joules so far, not watts",
            )
        self._last = joules
        return joules


def _split(command: str) -> list[str]:
    """Words of a command, as a shell splits them.

    Raises:
        UsageError: a quotation mark without its twin.
    """
    try:
        return shlex.split(command)
    except ValueError as e:
        raise UsageError(f"the meter command `{command}` cannot be read ({e})", "close the quotation") from e


def find_meters(asked: str, device: str) -> tuple[list[Meter], dict[str, str]]:
    """The meters that can be read here, and why the others cannot.

    Args:
        asked: empty for every installed meter that goes with the device, ``none``, a meter's name, or ``command:…``.
        device: of the target.

    Returns:
        Meters, and name -> reason (what, and the fix after ``; ``).

    Raises:
        UsageError: no such meter; TargetUnavailableError: a meter asked for by name cannot be read.
    """
    if asked == "none":
        return [], {}
    meters: list[Meter]
    if asked.startswith(_COMMAND):
        if not _split(asked.removeprefix(_COMMAND)):
            raise UsageError("the meter command: names no command", "for example command:'cat /run/joules'")
        meters = [CommandMeter(asked.removeprefix(_COMMAND))]
    else:
        meters = [load_plugin(GROUP, name)() for name in ([asked] if asked else list_plugins(GROUP))]
        meters = [m for m in meters if asked or not m.devices or device in m.devices]
    reasons = {m.name: m.unavailable() for m in meters}
    if asked and any(reasons.values()):
        what, _, fix = next(filter(None, reasons.values())).partition("; ")
        raise TargetUnavailableError(f"the meter '{asked}' cannot be read: {what}", fix)
    return [m for m in meters if not reasons[m.name]], {n: why for n, why in reasons.items() if why}
