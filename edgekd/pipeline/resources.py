"""The resources of a measurement's arms: the inspection, the static cost, the machine's peaks, and the roofline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgekd.artifact import Artifact
from edgekd.board.measuring import inspect_on_board
from edgekd.data.example import Array
from edgekd.errors import EdgeKDError
from edgekd.evidence.measurement import TWIN, Measurement
from edgekd.measure.arm import Arm, Setting
from edgekd.measure.meters import Meter
from edgekd.measure.peaks import ComputePeak, MemoryLevel, measure_compute_peak, measure_memory_levels
from edgekd.measure.resources import Inspection, feeds_of_one_call, inspect_resources
from edgekd.measure.roofline import place_under_roofline
from edgekd.pipeline.targets import board_of
from edgekd.plugins import list_plugins, load_plugin
from edgekd.workload import CountingExporter, StaticCost

#: (label, artifact, feeds of so many examples), as :func:`edgekd.measure.run.measure_scenario` takes them.
Entry = tuple[str, Artifact, Callable[[int], Mapping[str, Array]]]


def with_resources(
    measurement: Measurement,
    entries: Sequence[Entry],
    setting: Setting,
    *,
    inspection: Inspection | None = None,
    meters: Sequence[Meter] = (),
    meters_absent: Mapping[str, str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Measurement:
    """The measurement with ``resources`` for every arm but the twin.

    Args:
        measurement: already made; nothing here can disturb it.
        entries: of its arms, the baseline's first, in order and without the twin.
        setting: that it was made in.
        inspection: how thoroughly; with ``profile`` the machine's peaks are measured and the roofline drawn.
        meters, meters_absent: of :func:`edgekd.measure.meters.find_meters`, asked before the race is run; a board
            keeps those that :meth:`edgekd.board.session.Board.find_meters` found.
        progress: called with what is done now; empty at the end.
    """
    inspection = inspection or Inspection()
    say = progress or (lambda text: None)
    arms = _arms(measurement, entries)
    costs = {arm.name: _count(arm) for arm in arms}
    nodes = {name: len(c.nodes) if isinstance(c, StaticCost) else None for name, c in costs.items()}
    board = board_of(setting.target)
    if board is None:
        found = inspect_resources(
            arms, setting, inspection=inspection, meters=meters, meters_absent=dict(meters_absent or {}),
            nodes=lambda arm: nodes[arm.name], progress=lambda label: say(f"inspect {label}"),
        )  # fmt: skip
    else:
        found = inspect_on_board(
            board, arms, setting, inspection=inspection, nodes=nodes, progress=lambda label: say(f"inspect {label}"),
        )  # fmt: skip
    machine = _Machine(setting, say)
    for arm in arms:
        evidence, cost = found[arm.name], costs[arm.name]
        if isinstance(cost, str):
            _absent(evidence, "cost", cost)
        else:
            evidence["cost"] = cost.to_json()
        if not inspection.profile:
            _absent(evidence, "roofline", "not asked for (--profile)")
        elif isinstance(cost, str):
            _absent(evidence, "roofline", cost)
        else:
            _draw(evidence, arm, cost, measurement, machine)
    say("")
    return replace(measurement, resources={**measurement.resources, **found})


def _absent(evidence: dict[str, Any], name: str, why: str) -> None:
    evidence[name] = None
    evidence["unavailable"][name] = why


def _arms(measurement: Measurement, entries: Sequence[Entry]) -> list[Arm]:
    """The arms again, as they were measured: their own threads, settings and batch."""
    arms = []
    raced = [(name, record) for name, record in measurement.arms.items() if name != TWIN]
    for (name, record), (label, artifact, feeds_at) in zip(raced, entries, strict=True):
        batch = measurement.session_batch(name)
        arms.append(
            Arm(
                name=name, label=label, artifact=artifact, feeds=feeds_at(batch), batch=batch,
                threads=record.get("threads"), settings=record.get("settings"),
                calls_per_query=int(record.get("calls_per_query", 1)),
            )
        )  # fmt: skip
    return arms


def _exporter(format_name: str) -> CountingExporter | None:
    if format_name not in list_plugins("edgekd.exporters"):
        return None
    exporter = load_plugin("edgekd.exporters", format_name)()
    return exporter if isinstance(exporter, CountingExporter) else None


def _count(arm: Arm) -> StaticCost | str:
    """The static cost of one call, or why there is none."""
    exporter = _exporter(arm.artifact.format)
    if exporter is None:
        return f"the cost of the format {arm.artifact.format} is not counted: no exporter plugin does"
    try:
        return exporter.count_cost(arm.artifact, feeds_of_one_call(arm))
    except EdgeKDError as e:
        return str(e)


class _Machine:
    """Peaks of this machine, each measured once, when it is first needed."""

    def __init__(self, setting: Setting, say: Callable[[str], None]) -> None:
        self._setting, self._say = setting, say
        self._peaks: dict[tuple[str, int], ComputePeak] = {}
        self._levels: dict[int, tuple[MemoryLevel, ...]] = {}

    def peak(self, dtype: str, threads: int, exporter: CountingExporter) -> ComputePeak:
        """Raises: as :func:`edgekd.measure.peaks.measure_compute_peak`."""
        if (dtype, threads) not in self._peaks:
            self._say(f"measure the machine's {dtype} peak")
            made = measure_compute_peak(dtype, threads, self._setting, exporter.write_product)
            self._peaks[dtype, threads] = made
        return self._peaks[dtype, threads]

    def levels(self, threads: int) -> tuple[MemoryLevel, ...]:
        """Raises: as :func:`edgekd.measure.peaks.measure_memory_levels`."""
        if threads not in self._levels:
            self._say("measure the machine's memory rate")
            self._levels[threads] = measure_memory_levels(threads, self._setting.timeout_s)
        return self._levels[threads]


def undisturbed_seconds(measurement: Measurement, arm: str) -> float | None:
    """Seconds of one call: the minimum of each block, the median over blocks (METHOD 1, step 5); None without blocks."""
    minima = [int(b.min()) for r in measurement.restarts for b in r.blocks.get(arm, ()) if len(b)]
    if not minima:
        return None
    calls = int(measurement.arms[arm].get("calls_per_query", 1))
    return float(np.median(minima)) / calls / 1e9


def _call_seconds(
    evidence: Mapping[str, Any], measurement: Measurement, arm: str, threads: int
) -> tuple[float | None, str]:
    """Seconds of one undisturbed call, and where they are from.

    On a busy machine every long call is interrupted, while the short products that the peak is taken from are not. One
    thread's CPU time leaves the interruptions out, so the lesser of the two counts.
    """
    known: dict[str, float] = {}
    raced, cpu = undisturbed_seconds(measurement, arm), evidence.get("cpu")
    if raced is not None:
        known["wall time of the race's block minima"] = raced
    elif evidence.get("ns_per_call"):
        known["wall time of the inspection"] = evidence["ns_per_call"] / 1e9
    if threads == 1 and cpu is not None:
        known["CPU time of the inspection"] = cpu["cpu_ns_per_call"] / 1e9
    source = min(known, key=lambda k: known[k], default="")
    return known.get(source), source


def _draw(
    evidence: dict[str, Any], arm: Arm, cost: StaticCost, measurement: Measurement, machine: _Machine
) -> None:
    """Put the roofline into an arm's evidence, or why there is none."""
    device = measurement.target.partition(":")[0]
    if device != "cpu":
        _absent(evidence, "roofline", f"peaks are measured on the CPU only, this ran on '{device}'")
        return
    threads = arm.threads or measurement.threads
    seconds, source = _call_seconds(evidence, measurement, arm.name, threads)
    exporter = _exporter(arm.artifact.format)
    if seconds is None or exporter is None:
        _absent(evidence, "roofline", "no time of a call is known")
        return
    if not cost.macs_by_dtype:
        why = "; ".join(f"{op}: {w}" for op, w in cost.not_counted.items())
        _absent(
            evidence, "roofline", f"the model has no arithmetic that is counted ({why or 'no product in it'})"
        )
        return
    try:
        peaks = {dtype: machine.peak(dtype, threads, exporter) for dtype in cost.macs_by_dtype}
        levels = machine.levels(threads)
    except EdgeKDError as e:
        _absent(evidence, "roofline", str(e))
        return
    evidence["roofline"] = {
        **place_under_roofline(cost, seconds, peaks, levels, evidence.get("profile")),
        "time_from": source,
        "threads": threads,
        "peaks": [p.to_json() for p in peaks.values()],
        "levels": [x.to_json() for x in levels],
    }
