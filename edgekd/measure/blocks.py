"""Timed blocks of one restart, sorted by the clock that they were taken by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.data.example import Array
from edgekd.measure.device_events import COLD, DEVICE, ENQUEUE, WALL
from edgekd.measure.operations import CPU


def sorted_blocks(
    blocks: Mapping[str, Sequence[Mapping[str, Array]]],
) -> dict[str, dict[str, tuple[Array, ...]]]:
    """The blocks of a :class:`~edgekd.evidence.measurement.Restart` by field.

    Times by device events are compared only with their like: where one arm has none, all are compared by the host's
    clock, and those of the others are left out.

    Args:
        blocks: arm -> per round, name of a column -> int64 (calls,) nanoseconds.
    """

    def column(kind: str) -> dict[str, tuple[Array, ...]]:
        return {
            name: tuple(made[kind] for made in rounds)
            for name, rounds in blocks.items()
            if rounds and all(kind in made for made in rounds)
        }

    on_device = column(DEVICE)
    if len(on_device) == len(blocks):
        return {
            "blocks": on_device,
            "cold_blocks": column(COLD),
            "wall_blocks": column(WALL),
            "enqueue_blocks": column(ENQUEUE),
        }
    return {"blocks": column(WALL), "cpu_blocks": column(CPU)}


def wall_clock_reason(children: Mapping[str, Mapping[str, Any]]) -> str:
    """Why a device's arms were timed by the host's clock; empty where they were timed by events."""
    for name, child in children.items():
        if child.get("clock", "wall") == "wall":
            return f"{name}: {child.get('no_events') or 'its bound call has no events'}"
    return ""
