"""What every format shows, read once from a run folder. JSON is the truth; this only arranges it.

Fractions stay fractions here; percent and points are a matter of printing (:mod:`edgekd.report.words`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import InputError
from edgekd.evidence.measurement import TWIN, Measurement, load_measurement
from edgekd.evidence.run import Evidence, Run, load_run
from edgekd.evidence.speedup import Speedup
from edgekd.gates.latency import LatencySummary, summarise
from edgekd.gates.verdict import VERDICT_FILE, CandidateVerdict, Gate, Verdict, load_verdict
from edgekd.report.chain import ChainTable, load_links, table_of
from edgekd.report.distribution import Distribution, distribution_of
from edgekd.report.fidelity import FidelityTable, fidelity_tables
from edgekd.report.flips import FlipTable, flip_tables, with_thumbnails
from edgekd.report.lineage import Lineage, load_lineage
from edgekd.report.pareto import ParetoChart, pareto_charts
from edgekd.report.provenance import ProvenanceView, load_provenance
from edgekd.report.resources import resource_lines
from edgekd.report.speedup import load_speedups


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTable:
    """Raw call times of the arms of one measurement, with how it was made.

    Attributes:
        batch: examples per call; batches: by arm, where they have their own (offline).
        threads: of the sessions; arm_threads: by arm, where sweeps found other numbers for them.
        sessions: of each arm, side by side.
        rate_qps: queries per second that arrived; None but for the server.
        distribution: the raw calls, counted; resources: what the arms need, as lines of text.
        artifacts: arm -> digest; medians_ns: arm -> least and greatest median of a restart, nanoseconds.
    """

    target: str
    scenario: str
    batch: int
    threads: int
    restarts: int
    redrawn: tuple[str, ...]
    selected: bool
    batches: Mapping[str, int]
    arm_threads: Mapping[str, int]
    rate_qps: float | None
    rows: tuple[LatencySummary, ...]
    environment: Mapping[str, Any]
    ledgers: tuple[Mapping[str, Any], ...]
    sessions: int = 1
    distribution: Distribution | None = None
    resources: tuple[str, ...] = ()
    artifacts: Mapping[str, str] = field(default_factory=dict)
    medians_ns: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRow:
    """A candidate as the report lists it."""

    name: str
    format: str
    size_bytes: int
    selected: bool
    verdict: CandidateVerdict

    def gate(self, name: str) -> Gate | None:
        return next((g for g in self.verdict.gates if g.gate == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A run, its verdict, and the tables made from its evidence.

    Attributes:
        notes: the run's own, then what could not be read for the tables.
        pareto: accuracy against latency, per target.
        fidelity: how far the answers of what ships are displaced, per target and reference.
        flips: examples that flipped between the teacher and what ships, per target.
        speedups: quantized candidates beside their float twins.
        provenance: what the rules found of what was declared; None where nobody declared anything.
        lineage: where what ships comes from; None where nothing was selected.
    """

    run: Run
    verdict: Verdict
    chain: ChainTable | None
    candidates: tuple[CandidateRow, ...]
    latencies: tuple[LatencyTable, ...]
    notes: tuple[str, ...]
    pareto: tuple[ParetoChart, ...] = ()
    flips: tuple[FlipTable, ...] = ()
    fidelity: tuple[FidelityTable, ...] = ()
    speedups: tuple[Speedup, ...] = ()
    provenance: ProvenanceView | None = None
    lineage: Lineage | None = None

    def name_of(self, artifact: str) -> str:
        """What the run calls an artifact; a short digest where it does not know it."""
        return str(self.run.artifacts.get(artifact, {}).get("name", artifact[:19]))


def load_view(folder: Path) -> View:
    """Read a run folder (or an unpacked bundle).

    Evidence that cannot be read leaves its table out and says so in the notes: the report of a damaged run is still
    a report.

    Raises:
        EvidenceError: no run, or no verdict yet.
    """
    run = load_run(folder)
    verdict = load_verdict(folder / VERDICT_FILE)
    notes = list(run.notes)
    chain = None
    flips: tuple[FlipTable, ...] = ()
    fidelity: tuple[FidelityTable, ...] = ()
    if run.chain:
        try:
            links = load_links(folder, run)
            chain, flips = table_of(links, run), flip_tables(links, run)
            fidelity = fidelity_tables(links, run)
        except InputError as e:
            notes.append(f"The chain is not shown: {e}.")
    if flips:
        try:
            flips = with_thumbnails(folder, flips, data=links[0].evaluation.data)
        except InputError as e:
            notes.append(f"Flipped examples are shown without their images: {e}.")
    latencies: dict[str, LatencyTable] = {}
    for candidate in run.candidates:
        selected = run.selected.get(candidate.target) == candidate.artifact
        evidence = (candidate.test or Evidence()) if selected else candidate.select
        for source in evidence.timings:
            if source.measurement in latencies:
                continue
            try:
                measurement = load_measurement(folder / source.measurement)
                latencies[source.measurement] = _latency(measurement, selected)
            except InputError as e:
                notes.append(f"Timings are not shown: {e}.")
    speedups, unread = load_speedups(folder, run)
    provenance, lineage = None, None
    try:
        provenance = load_provenance(folder, run, verdict.policy)
        lineage = load_lineage(folder, run, provenance.declared if provenance else run.provenance)
    except InputError as e:
        notes.append(f"Provenance and lineage are not shown whole: {e}.")
    return View(
        run=run,
        verdict=verdict,
        chain=chain,
        candidates=tuple(_candidate(run, c) for c in verdict.candidates),
        latencies=tuple(sorted(latencies.values(), key=lambda t: not t.selected)),
        notes=(*notes, *unread),
        pareto=pareto_charts(folder, run, verdict),
        flips=flips,
        fidelity=fidelity,
        speedups=speedups,
        provenance=provenance,
        lineage=lineage,
    )


def _candidate(run: Run, verdict: CandidateVerdict) -> CandidateRow:
    record = run.artifacts.get(verdict.artifact, {})
    return CandidateRow(
        name=str(record.get("name", verdict.artifact[:19])),
        format=str(record.get("format", "")),
        size_bytes=int(record.get("size_bytes", 0)),
        selected=run.selected.get(verdict.target) == verdict.artifact,
        verdict=verdict,
    )


def _latency(measurement: Measurement, selected: bool) -> LatencyTable:
    rows = (summarise(measurement, arm) for arm in measurement.arms if arm != TWIN)
    return LatencyTable(
        target=measurement.target,
        scenario=measurement.scenario,
        batch=measurement.batch,
        threads=measurement.threads,
        restarts=len(measurement.restarts),
        redrawn=measurement.redrawn,
        selected=selected,
        batches={
            str(r.get("name", arm)): int(r.get("batch") or measurement.batch)
            for arm, r in measurement.arms.items()
            if arm != TWIN
        },
        arm_threads={
            str(r.get("name", arm)): int(r.get("threads") or measurement.threads)
            for arm, r in measurement.arms.items()
            if arm != TWIN
        },
        sessions=int(measurement.scenario_detail.get("sessions") or 1),
        rate_qps=measurement.scenario_detail.get("target_qps"),
        rows=tuple(r for r in rows if r is not None),
        environment=measurement.environment,
        ledgers=tuple(r.ledger for r in measurement.restarts),
        distribution=distribution_of(measurement),
        resources=tuple(resource_lines(measurement)),
        artifacts={arm: str(r.get("artifact", "")) for arm, r in measurement.arms.items() if arm != TWIN},
        medians_ns={arm: range_ for arm in measurement.arms if (range_ := _medians(measurement, arm))},
    )


def _medians(measurement: Measurement, arm: str) -> tuple[int, int] | None:
    """The range of the medians of the restarts' raw calls; None where no restart has any."""
    blocks = (np.concatenate(r.single_calls(arm)) for r in measurement.restarts if r.single_calls(arm))
    found = [int(np.sort(calls)[(len(calls) - 1) // 2]) for calls in blocks if len(calls)]
    return (min(found), max(found)) if found else None


def flatten(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested plain data as (dotted key, text) rows; what is absent says *unavailable*."""
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            rows += flatten(item, f"{name}.")
        elif isinstance(item, (list, tuple)):
            rows.append((name, ", ".join(map(str, item)) or "none"))
        else:
            rows.append((name, "unavailable" if item is None else str(item)))
    return rows


def ledger_ranges(ledgers: tuple[Mapping[str, Any], ...]) -> list[tuple[str, str]]:
    """Per reading, its least and greatest value over the restarts; ranges of numbers only."""
    found: dict[str, list[float]] = {}
    for ledger in ledgers:
        gpu = ledger.get("gpu")
        for key, item in [*ledger.items(), *((f"gpu.{k}", v) for k, v in (gpu or {}).items())]:
            if isinstance(item, Mapping) and key.startswith("gpu"):
                continue
            found.setdefault(key, [])
            if isinstance(item, (int, float)) and not isinstance(item, bool):
                found[key].append(float(item))
    rows = []
    for key, values in sorted(found.items()):
        if not values:
            rows.append((key, "unavailable"))
        else:
            low, high = min(values), max(values)
            rows.append((key, f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"))
    return rows
