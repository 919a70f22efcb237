"""The order of the suite's steps, and the parts of the page that they make: a network at a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import gpu_energy
import gpu_races
from gpu_cells import BASELINE, ENERGY, Cell, groups_for
from gpu_page import slug
from gpu_steps import StepStore

from edgekd.errors import EdgeKDError

NOT_YET = "not run yet; run the command again"

#: What a step of the suite gives, or why it may not begin: the time is over.
Late = Callable[[], str]


class Parts:
    """Every part that was asked for, as far as its steps are there.

    Attributes:
        missing: step -> why it is not there.
    """

    def __init__(
        self, plan: gpu_races.Plan, networks: Sequence[tuple[str, int]], store: StepStore, late: Late
    ) -> None:
        self._plan, self._store, self._late = plan, store, late
        self._groups = groups_for(plan.device)
        self._parts = {network: _empty(*network) for network in networks}
        self.missing: dict[str, str] = {}
        for name, batch in networks:
            for step in (*plan.groups, *(f"energy of {c.label}" for c in self._energy_cells())):
                self.missing[f"{_title(name, batch)}: {step}"] = NOT_YET

    def made(self) -> list[dict[str, Any]]:
        """Parts of which a step is there."""
        return [p for p in self._parts.values() if p["parameters"] is not None]

    def run(self, say: Callable[[str], None]) -> Iterator[None]:
        """Run or read back step after step, and yield after each one that was run."""
        for (name, batch), part in self._parts.items():
            title = _title(name, batch)
            network = gpu_races.Network(name, batch, self._plan, self._store, say)
            try:
                for group, cells in self._groups.items():
                    if group not in self._plan.groups:
                        part["not_run"].update({c.label: "not asked for" for c in cells})
                        continue
                    for _ in self._race(network, group, part):
                        yield
                for cell in self._energy_cells():
                    for _ in self._energy(network, cell, part):
                        yield
            except EdgeKDError as e:
                # Not even the baseline runs: neither will the steps that are left.
                for step in [s for s in self.missing if s.startswith(f"{title}: ")]:
                    del self.missing[step]
                self.missing[title] = str(e)
                yield

    def _energy_cells(self) -> list[Cell]:
        """Cells whose energy is asked for, of those that this device has."""
        asked = ENERGY if self._plan.energy is None else self._plan.energy
        cells = {c.label: c for c in (BASELINE, *(c for g in self._groups.values() for c in g))}
        return [cells[label] for label in asked if label in cells]

    def _step(
        self,
        network: gpu_races.Network,
        step: str,
        file: str,
        own: Mapping[str, Any],
        run: Callable[[], dict[str, Any]],
    ) -> tuple[dict[str, Any] | None, bool]:
        """A step, kept or run now; None where it may not begin. And whether it was run."""
        name, place = f"{network.title}: {step}", f"{network.name}-b{network.batch}/{file}"
        kept, other = self._store.read(place, own)
        if kept is not None:
            self.missing.pop(name, None)
            return kept, False
        why = self._late()
        if why:
            self.missing[name] = f"{why} ({other})" if other else why
            return None, False
        if other:
            network.say(f"{name} is run again: {other}")
        made = self._store.write(place, own, {**run(), "parameters": network.parameters})
        self.missing.pop(name, None)
        return made, True

    def _race(self, network: gpu_races.Network, group: str, part: dict[str, Any]) -> Iterator[None]:
        cells = self._groups[group]
        own = {"protocol": asdict(self._plan.protocol), "cells": [asdict(c) for c in cells]}
        step, ran = self._step(
            network, group, f"race-{slug(group)}", own, lambda: gpu_races.race_group(network, group, cells)
        )
        if step is None:
            return
        part["parameters"] = step["parameters"]
        part["not_run"].update(step["not_run"])
        part["numerics"].update(step["numerics"])
        if step["race"] is not None:
            made = {k: step[k] for k in ("collected_at", "uuid")}
            part["races"][group] = {**step["race"], **made, "protocol": step["conditions"]["protocol"]}
        if ran:
            yield

    def _energy(self, network: gpu_races.Network, cell: Cell, part: dict[str, Any]) -> Iterator[None]:
        name = f"{network.title}: energy of {cell.label}"
        group = next((g for g, cells in self._groups.items() if cell in cells), "")
        why = ""
        if group and group not in self._plan.groups:
            why = "its group was not asked for"
        elif f"{network.title}: {group}" in self.missing:
            self.missing[name] = f"{group} was not raced yet; run the command again"
            return
        elif group and cell.label not in {r["label"] for r in part["races"].get(group, {}).get("rows", ())}:
            why = "it did not race"
        if why:
            self.missing.pop(name, None)
            part["energy"][cell.label] = {"unavailable": f"not measured: {why}"}
            return
        step, ran = self._step(
            network, f"energy of {cell.label}", f"energy-{slug(cell.label)}", gpu_energy.conditions(cell, self._plan.device),
            lambda: {"energy": gpu_energy.measure_energy(network, cell)},
        )  # fmt: skip
        if step is None:
            return
        part["parameters"] = step["parameters"]
        part["energy"][cell.label] = step["energy"]
        if ran:
            yield


def _title(name: str, batch: int) -> str:
    return f"{name}, batch {batch}"


def _empty(name: str, batch: int) -> dict[str, Any]:
    return {
        "model": name,
        "batch": batch,
        "parameters": None,
        "races": {},
        "not_run": {},
        "numerics": {},
        "energy": {},
    }
