"""Whether the machine was quiet, by the ledger alone: what a tail and a limit in milliseconds may be rejected on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.evidence.measurement import Measurement

#: A restart is quiet when less than this share of CPU time was stolen by the hypervisor ...
QUIET_STEAL = 0.01
#: ... some task waited for a CPU during less than this share of the time (PSI ``cpu some``, kernel's
#: Documentation/accounting/psi.rst), and the cgroup was not throttled. METHOD's redraw limits are five times as wide:
#: they protect a minimum, these a tail.
QUIET_PRESSURE = 0.05

READINGS = {"steal": "steal", "pressure_some": "CPU pressure", "throttled_us": "cgroup throttling"}


def noise_of(ledger: Mapping[str, Any]) -> str:
    """What was not quiet in a restart, as words; empty when it was quiet as far as its ledger tells.

    A reading that is absent is no proof of anything, and blocks nothing; the gate's reason names it.
    """
    steal, pressure, throttled = (ledger.get(k) for k in READINGS)
    found = []
    if steal is not None and steal >= QUIET_STEAL:
        found.append(f"steal {100 * steal:.1f} %")
    if pressure is not None and pressure >= QUIET_PRESSURE:
        found.append(f"CPU pressure {100 * pressure:.0f} %")
    if throttled:
        found.append(f"throttled {throttled / 1000:.0f} ms")
    return ", ".join(found)


def worst_noise(measurement: Measurement) -> str:
    """Each reading that was not quiet, at its worst."""
    found = {}
    for name in READINGS:
        values = [r.ledger[name] for r in measurement.restarts if r.ledger.get(name) is not None]
        found[name] = max(values) if values else None
    return noise_of(found)
