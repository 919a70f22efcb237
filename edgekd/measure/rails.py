"""Energy from a board's own power monitors: INA3221 and other chips that Linux shows under hwmon.

Units are those of Linux's Documentation/hwmon/sysfs-interface: millivolts, milliamperes, microwatts, microjoules.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.errors import TargetUnavailableError

#: Rails that carry a whole board or module, so that nothing is added to them: Jetson Orin Nano and NX (VDD_IN), Jetson
#: Nano and TX2 (POM_5V_IN, VDD_IN), Jetson Thor (VIN): labels of NVIDIA's device trees.
_WHOLE = ("vdd_in", "pom_5v_in", "vin")
#: Chips whose own readings are of the whole machine (ACPI power meter), and counters of whole sockets (amd_energy).
_WHOLE_CHIPS = ("power_meter",)
_SOCKET = re.compile(r"esocket\d+")
#: Channels that nothing is soldered to, and INA3221's own sum of shunt voltages.
_NOTHING = ("nc", "sum of shunt voltages")

_SAMPLE_S = 0.02
#: Samples further apart say too little of what was between them.
_LONGEST_GAP_S = 1.0
#: Nobody counts any more when nobody has asked for so long.
_FORGOTTEN_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rail:
    """One reading of a chip.

    Attributes:
        label: as the board's maker calls it; chip: the driver's name.
        energy: a counter of microjoules; else ``power`` (microwatts), or ``volts`` and ``amperes`` (milli).
    """

    label: str
    chip: str
    energy: Path | None = None
    power: Path | None = None
    volts: Path | None = None
    amperes: Path | None = None

    def read(self) -> float:
        """Joules so far of a counter, else watts now.

        Raises:
            OSError, ValueError: it cannot be read.
        """
        if self.energy is not None:
            return _number(self.energy) / 1e6
        if self.power is not None:
            return _number(self.power) / 1e6
        assert self.volts is not None
        assert self.amperes is not None
        return _number(self.volts) * _number(self.amperes) / 1e6


def _number(path: Path) -> int:
    return int(path.read_text())


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _rails_of(chip: Path) -> list[Rail]:
    name = _text(chip / "name") or chip.name
    found: list[Rail] = []

    def label(kind: str) -> str:
        return _text(chip / f"{kind}_label") or f"{name} {kind}"

    for path in sorted(chip.glob("energy*_input")):
        kind = path.name.removesuffix("_input")
        found.append(Rail(label=label(kind), chip=name, energy=path))
    for path in sorted([*chip.glob("power*_input"), *chip.glob("power*_average")]):
        kind = path.name.rpartition("_")[0]
        if label(kind) not in [r.label for r in found]:
            found.append(Rail(label=label(kind), chip=name, power=path))
    # Only INA chips pair voltage and current by number, and some compute the power themselves.
    if found or not name.startswith("ina"):
        return found
    for volts in sorted(chip.glob("in*_input")):
        number = volts.name.removeprefix("in").removesuffix("_input")
        amperes, named = chip / f"curr{number}_input", label(f"in{number}")
        enabled = _text(chip / f"in{number}_enable") != "0"
        if amperes.is_file() and enabled and named.lower() not in _NOTHING:
            found.append(Rail(label=named, chip=name, volts=volts, amperes=amperes))
    return found


def find_rails(root: Path = Path("/")) -> list[Rail]:
    """Every rail and energy counter under hwmon, in the order of their chips.

    Args:
        root: holds ``sys``; another folder in tests.
    """
    places = [
        *root.glob("sys/class/hwmon/hwmon*"),
        *root.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*"),
    ]
    chips = {p.resolve(): p for p in sorted(places)}
    return [rail for chip in chips.values() for rail in _rails_of(chip)]


def choose_rails(rails: Sequence[Rail], asked: str = "") -> tuple[list[Rail], str]:
    """The rails that together are the whole, each counted once; else none, and why.

    Args:
        asked: labels that add up to the whole on this board, separated by commas.
    """
    shown = ", ".join(r.label for r in rails)
    if asked:
        labels = [label.strip() for label in asked.split(",")]
        missing = [label for label in labels if label not in [r.label for r in rails]]
        if missing:
            return [], f"no rail is called '{missing[0]}' (there are {shown or 'none'}); correct EDGEKD_RAILS"
        return [r for r in rails if r.label in labels], ""
    for found in (
        [r for r in rails if r.label.lower() in _WHOLE][:1],
        [r for r in rails if r.chip in _WHOLE_CHIPS][:1],
        [r for r in rails if r.energy is not None and _SOCKET.fullmatch(r.label.lower())],
    ):
        if found:
            return found, ""
    if not rails:
        return [], "no power or energy sensor under /sys/class/hwmon"
    return [], (
        f"the rails {shown} are parts, and none is known to carry the whole board; "
        "name those that add up to it: EDGEKD_RAILS=LABEL,LABEL"
    )


class RailMeter:
    """Joules of a board, from its own power monitors.

    Where they count energy, the counters are read. Where they tell power, a thread of this process samples it and
    integrates by the trapezoid rule, for as long as somebody asks for joules.

    Args:
        root: holds ``sys``; another folder in tests.
        asked: labels that add up to the whole board; None takes ``EDGEKD_RAILS``.
        sample_s: seconds between samples; clock: seconds, for tests.
    """

    name = "hwmon"
    #: A board's input feeds all of its devices.
    devices: tuple[str, ...] = ()

    def __init__(
        self,
        root: Path = Path("/"),
        asked: str | None = None,
        sample_s: float = _SAMPLE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._all = find_rails(root)
        wanted = os.environ.get("EDGEKD_RAILS", "") if asked is None else asked
        self._rails, self._why = choose_rails(self._all, wanted)
        self._counts = bool(self._rails) and all(r.energy is not None for r in self._rails)
        if self._rails and not self._counts and any(r.energy is not None for r in self._rails):
            self._rails, self._why = (
                [],
                "EDGEKD_RAILS mixes counters of energy with readings of power; name one kind",
            )
        self._sample_s, self._clock = sample_s, clock
        #: A sample sees the moment it is taken; a counter is taken to move ten times a second.
        self.update_s = 0.1 if self._counts else sample_s
        self._lock = threading.Lock()
        self._joules, self._last = 0.0, -1.0
        self._sample: tuple[float, float] | None = None
        self._asked_at = 0.0
        self._thread: threading.Thread | None = None
        self._failed = ""

    def unavailable(self) -> str:
        """See :class:`edgekd.measure.meters.Meter`."""
        for rail in self._rails:
            try:
                rail.read()
            except PermissionError as e:
                return f"{e.filename} may not be read by this user; sudo chmod a+r {e.filename}"
            except (OSError, ValueError) as e:
                return f"the rail {rail.label} cannot be read ({e})"
        return self._why

    def describe(self) -> Mapping[str, Any]:
        """See :class:`edgekd.measure.meters.Meter`: what is counted, what is a part of it, and how."""
        others = [r.label for r in self._all if r not in self._rails]
        how = "counter" if self._counts else f"power, sampled every {self._sample_s * 1000:g} ms"
        return {
            "rails": [f"{r.chip} {r.label}" for r in self._rails],
            "how": how,
            **({"not_counted": others} if others else {}),
        }

    def read_joules(self) -> float:
        """See :class:`edgekd.measure.meters.Meter`."""
        if self._counts:
            joules = self._power()
            if joules < self._last:
                raise TargetUnavailableError(
                    f"the meter hwmon fell from {self._last:g} to {joules:g} J", "measure again"
                )
            self._last = joules
            return joules
        with self._lock:
            now = self._clock()
            if now - self._asked_at > _FORGOTTEN_S:
                self._sample, self._failed = None, ""
            self._asked_at = now
            self._take()
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="edgekd-rails", daemon=True)
                self._thread.start()
            return self._joules

    def _power(self) -> float:
        """The sum of the rails' readings.

        Raises:
            TargetUnavailableError: one cannot be read any more.
        """
        try:
            return sum(rail.read() for rail in self._rails)
        except (OSError, ValueError) as e:
            raise TargetUnavailableError(
                f"the meter hwmon cannot be read any more ({e})", "measure again"
            ) from e

    def _take(self) -> None:
        """Add what was drawn since the last sample; the lock is held.

        Raises:
            TargetUnavailableError: a rail cannot be read, or the samples are too far apart.
        """
        if self._failed:
            raise TargetUnavailableError(self._failed, "measure again")
        watts, now = self._power(), self._clock()
        if self._sample is not None:
            since = now - self._sample[0]
            if since > max(_LONGEST_GAP_S, 2 * self._sample_s):
                self._failed = f"the meter hwmon was not sampled for {since:.1f} s: the machine is too busy"
                raise TargetUnavailableError(self._failed, "measure again")
            self._joules += (watts + self._sample[1]) / 2 * since
        self._sample = (now, watts)

    def _watch(self) -> None:
        """Sample until nobody asks any more."""
        while True:
            time.sleep(self._sample_s)
            with self._lock:
                if self._clock() - self._asked_at > _FORGOTTEN_S or self._failed:
                    self._sample, self._thread = None, None
                    return
                try:
                    self._take()
                except TargetUnavailableError as e:
                    self._failed = e.what
