"""A measurement on a board: what to measure goes there, what came of it comes back as the same evidence."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from edgekd.board.session import Board
from edgekd.data.example import Array
from edgekd.evidence.measurement import BASELINE, Measurement, load_measurement
from edgekd.measure.arm import Arm, Protocol, Setting
from edgekd.measure.resources import Inspection
from edgekd.measure.run import Entry
from edgekd.measure.scenario import Scenario


def _setting_json(setting: Setting) -> dict[str, Any]:
    return {
        "threads": setting.threads, "batch": setting.batch, "timeout_s": setting.timeout_s,
        "memory_bytes": setting.memory_bytes,
    }  # fmt: skip


def measure_on_board(
    board: Board,
    scenario: Scenario,
    baseline: Entry,
    candidates: Sequence[Entry],
    setting: Setting,
    *,
    record: Callable[[Mapping[str, Array]], Mapping[str, Any]],
    limits: Mapping[str, Mapping[str, Any]] | None = None,
    protocol: Protocol | None = None,
    progress: Callable[[int, int], None] | None = None,
    tune: Callable[[Arm, str], Arm] | None = None,
) -> Measurement:
    """As :func:`edgekd.measure.measure_scenario`, the whole of it over there.

    Args:
        limits: label -> what its judges ask (:meth:`edgekd.gates.timing.TimingLimits.to_json`): the board stops when
            they have seen enough. None: as soon as the scenario holds.

    Raises:
        TargetUnavailableError: the board vanished; StorageError: its disk; else as ``measure_scenario``.
    """
    protocol = protocol or scenario.stretched(Protocol())
    entries = [baseline, *candidates]
    makers = {label: feeds_at for label, _, feeds_at in entries}

    def feeds(label: str, count: int) -> tuple[Mapping[str, Array], Mapping[str, Any]]:
        made = makers[label](count)
        return made, record(made)

    reply, _ = board.request(
        "measure",
        {
            "scenario": asdict(scenario),
            "protocol": asdict(protocol),
            "setting": _setting_json(setting),
            "limits": None if limits is None else {label: dict(limit) for label, limit in limits.items()},
            "tuned": _tuned(entries, tune),
            "entries": [
                [label, board.send(artifact), dict(artifact.settings)] for label, artifact, _ in entries
            ],
        },
        feeds=feeds,
        progress=None if progress is None else lambda said: progress(*said),
    )
    with tempfile.TemporaryDirectory(prefix="edgekd-") as scratch:
        path, _ = (board.fetch(name, Path(scratch)) for name in reply["files"])
        found = load_measurement(path)
    return replace(
        found, target=str(setting.target), environment={**found.environment, "board": board.describe()}
    )


def _tuned(entries: Sequence[Entry], tune: Callable[[Arm, str], Arm] | None) -> dict[str, dict[str, Any]]:
    """What ``tune`` would give each label's arm."""
    if tune is None:
        return {}
    made = {}
    for label, artifact, _ in entries:
        plain = Arm(name=BASELINE, label=label, artifact=artifact, feeds={})
        arm = tune(plain, label)
        if arm is not plain:
            settings = None if arm.settings is None else dict(arm.settings)
            made[label] = {"threads": arm.threads, "settings": settings, "batch": arm.batch}
    return made


def inspect_on_board(
    board: Board,
    arms: Sequence[Arm],
    setting: Setting,
    *,
    inspection: Inspection,
    nodes: Mapping[str, int | None],
    progress: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """As :func:`edgekd.measure.resources.inspect_resources`, with the meters that :meth:`Board.find_meters` found.

    Args:
        nodes: of each arm's graph, by arm name.

    Raises:
        TargetUnavailableError: the board vanished.
    """
    made = {arm.label: arm.feeds for arm in arms}
    reply, _ = board.request(
        "inspect",
        {
            "arms": [
                {
                    "name": arm.name, "label": arm.label, "artifact": board.send(arm.artifact), "threads": arm.threads,
                    "settings": dict(arm.artifact.settings if arm.settings is None else arm.settings),
                    "batch": arm.batch or setting.batch, "calls_per_query": arm.calls_per_query,
                }
                for arm in arms
            ],
            "setting": _setting_json(setting),
            "inspection": asdict(inspection),
            "nodes": dict(nodes),
        },
        feeds=lambda label, count: (made[label], {}),
        progress=progress,
    )  # fmt: skip
    return dict(reply["arms"])
