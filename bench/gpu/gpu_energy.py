"""Energy of one cell of the suite, whatever runtime it has."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import gpu_races
from gpu_cells import Cell

from edgekd.measure.meters import Meter, NvmlMeter, find_meters
from edgekd.measure.resources import Inspection, inspect_resources

INSPECTION = Inspection(starts=0)


def conditions(cell: Cell, device: str) -> dict[str, Any]:
    """What decides a cell's energy besides the conditions of every step."""
    meters = sorted(m.name for m in _meters(device)[0])
    return {"cell": asdict(cell), "inspection": asdict(INSPECTION), "meters": meters}


def _meters(device: str) -> tuple[list[Meter], dict[str, str]]:
    """The GPU's own meter, whether or not plugins are installed; on the CPU those there are."""
    if device != "cuda":
        return find_meters("", device)
    gpu = NvmlMeter()
    why = gpu.unavailable()
    return ([], {gpu.name: why}) if why else ([gpu], {})


def measure_energy(network: gpu_races.Network, cell: Cell) -> dict[str, Any]:
    """Meter -> joules per inference, gross and above idle; or ``unavailable`` and why.

    Raises:
        EdgeKDError: the network's baseline does not run, or the cell's file cannot be made.
    """
    meters, absent = _meters(network.plan.device)
    if not meters:
        return {"unavailable": "; ".join(f"{n}: {w}" for n, w in absent.items()) or "no meter"}
    network.say(f"{network.title}: energy of {cell.label}")
    arm = replace(
        network.baseline, label=cell.label, artifact=network.artifact(cell), settings=dict(cell.settings)
    )
    looked = inspect_resources(
        [arm], network.setting, inspection=INSPECTION, meters=meters, meters_absent=absent
    )[arm.name]
    readings = looked.get("energy")
    if not readings:
        return {"unavailable": looked["unavailable"].get("energy", "no reading")}
    return {
        meter: {
            "joules": entry["joules_per_call"] / network.batch,
            "above_idle": entry["joules_per_call_above_idle"] / network.batch,
            "watts": entry["busy_watts"],
            "idle_watts": entry["idle_watts"],
            "window_s": min(entry["block_seconds"]),
        }
        for meter, entry in readings.items()
    }
