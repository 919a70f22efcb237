"""A meter that measures nothing, and the rules that every meter keeps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekd.errors import TargetUnavailableError
from edgekd.files import canonical_json
from edgekd.measure.meters import Meter
from edgekd.testing.conformance import ConformanceError


@dataclass
class FakeMeter:
    """A meter whose joules are watts times seconds.

    Attributes:
        watts: drawn all the time, by default at a constant rate.
        clock: seconds; another one in tests.
        fails_after: readings that succeed before the meter breaks; None for all.
        why: what :meth:`unavailable` says.
    """

    watts: float = 10.0
    name: str = "fake"
    update_s: float = 0.0001
    devices: tuple[str, ...] = ()
    clock: Callable[[], float] = field(default=time.perf_counter)
    fails_after: int | None = None
    why: str = ""
    readings: int = 0

    def unavailable(self) -> str:
        return self.why

    def describe(self) -> Mapping[str, Any]:
        return {"watts": self.watts}

    def read_joules(self) -> float:
        """Raises: TargetUnavailableError: once it has broken."""
        self.readings += 1
        if self.fails_after is not None and self.readings > self.fails_after:
            raise TargetUnavailableError("the fake meter broke", "mend it")
        return self.watts * self.clock()


def check_meter(meter: Meter, *, readings: int = 5) -> None:
    """Check a meter against the protocol, on a machine where it can be read.

    Raises:
        ConformanceError: names the rule.
    """

    def require(holds: object, rule: str, what: str) -> None:
        if not holds:
            raise ConformanceError(rule, what)

    require(isinstance(meter, Meter), "protocol", f"{type(meter).__name__} lacks a member of Meter")
    require(isinstance(meter.name, str) and meter.name, "protocol", "name is not a word")
    require(isinstance(meter.devices, tuple), "protocol", "devices is not a tuple")
    require(0 < meter.update_s < math.inf, "update", f"update_s is {meter.update_s}, not seconds above 0")
    why = meter.unavailable()
    require(isinstance(why, str) and "\n" not in why, "unavailable", f"says {why!r}, not one line")
    require(why == "", "available", f"cannot be read here: {why}")
    canonical_json(dict(meter.describe()))
    before = -math.inf
    for _ in range(readings):
        now = meter.read_joules()
        require(isinstance(now, float) and math.isfinite(now), "joules", f"read {now!r}, not a finite number")
        require(now >= before, "monotonic", f"fell from {before} to {now} J")
        before = now
