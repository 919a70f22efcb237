"""Figures of a run that other tools follow from run to run: one list, from which each tool's format is made.

Times of two runs are not comparable (docs/concepts.md); ratios to a reference that was measured beside the student
are. Both are here, and the formats' page says which to watch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgekd.evidence.measurement import BASELINE, SINGLE_STREAM
from edgekd.gates.size import MIB
from edgekd.gates.verdict import Gate
from edgekd.report import words
from edgekd.report.amounts import shortened
from edgekd.report.view import CandidateRow, LatencyTable, View

NANOSECONDS = "ns"
BYTES = "bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number of one candidate.

    Attributes:
        benchmark: ``<run>/<target>/<candidate>``, and what sets it apart: another split, a slice, a batch.
        measure: what it is a number of: ``latency``, ``accuracy``, ``file-size``, ``latency-ratio``, …
        value: in ``unit``, always finite; lower, upper: an interval, where there is one.
        smaller_is_better: None where neither is.
        said: a sentence about it, for tools that show one.
    """

    benchmark: str
    measure: str
    value: float
    lower: float | None = None
    upper: float | None = None
    unit: str = ""
    smaller_is_better: bool | None = True
    said: str = ""


def tracked_figures(view: View) -> tuple[Figure, ...]:
    """Every figure of every candidate, in the run's order; of two with the same names the first.

    Candidates that were not selected were judged on the selection split; their benchmarks say so.
    """
    found: dict[tuple[str, str], Figure] = {}
    for row, name in zip(view.candidates, candidate_names(view), strict=True):
        base = "/".join((view.run.name, row.verdict.target, name))
        base = plain(base) + ("" if row.selected else " (selection split)")
        for figure in _figures(view, row, base):
            bounded = figure.lower is None or figure.upper is None or figure.lower <= figure.upper
            if math.isfinite(figure.value) and bounded:
                found.setdefault((figure.benchmark, figure.measure), figure)
    return tuple(found.values())


def candidate_names(view: View) -> list[str]:
    """What each candidate is called; where two on one target are called alike, with a piece of their digest."""
    called = [(row.verdict.target, row.name) for row in view.candidates]
    return [
        row.name if called.count(key) == 1 else f"{row.name}@{row.verdict.artifact.rpartition(':')[2][:8]}"
        for row, key in zip(view.candidates, called, strict=True)
    ]


def plain(text: str) -> str:
    """One line without characters that are not printable."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def latency_of(view: View, row: CandidateRow) -> tuple[LatencyTable, str] | None:
    """The table that says most about a candidate's own latency, and its arm there."""
    for table in view.latencies:
        if table.target == row.verdict.target and table.selected == row.selected:
            for arm, artifact in table.artifacts.items():
                if arm != BASELINE and artifact == row.verdict.artifact:
                    return table, arm
    return None


def is_error_metric(gate: Gate) -> bool:
    """Whether the metric behind an accuracy gate is better when smaller: its differences are stored sign-flipped.

    Verdicts of earlier versions do not say so: there it is read from the signs.
    """
    if (said := gate.detail.get("error")) is not None:
        return bool(said)
    mine, theirs = gate.detail.get("candidate_mean"), gate.detail.get("baseline_mean")
    if gate.detail.get("min_ratio") is not None or mine is None or theirs is None or not gate.estimate:
        return gate.unit not in ("fraction", "")
    return bool((mine - theirs) * gate.estimate < 0)


def _figures(view: View, row: CandidateRow, base: str) -> Iterator[Figure]:
    if row.size_bytes > 0:
        yield Figure(benchmark=base, measure="file-size", value=row.size_bytes, unit=BYTES)
    for gate in row.verdict.gates:
        yield from _of_gate(gate, base)
    if (found := latency_of(view, row)) is not None:
        yield from _of_calls(*found, base)


def _of_calls(table: LatencyTable, arm: str, base: str) -> Iterator[Figure]:
    """Quantiles of raw calls; of the median also its range over restarts."""
    conditions = [table.scenario] if table.scenario != SINGLE_STREAM else []
    conditions += [f"batch {table.batch}"] if table.batch != 1 else []
    conditions += [f"{table.sessions} sessions"] if table.sessions > 1 else []
    name = f"{base} ({', '.join(conditions)})" if conditions else base
    for calls in table.rows:
        if calls.arm == arm:
            low, high = table.medians_ns.get(arm, (None, None))
            said = f"median of {calls.calls:,} calls, range over {table.restarts} restarts"
            yield Figure(
                benchmark=name, measure="latency", value=calls.p50_ns, lower=low, upper=high, unit=NANOSECONDS, said=said,
            )  # fmt: skip
            for quantile, ns in (("p90", calls.p90_ns), ("p99", calls.p99_ns)):
                said = f"{quantile} of {calls.calls:,} calls"
                yield Figure(
                    benchmark=name, measure=f"latency-{quantile}", value=ns, unit=NANOSECONDS, said=said
                )


def _of_gate(gate: Gate, base: str) -> Iterator[Figure]:
    """What a gate estimated, and for accuracies also the metric itself."""
    low, high = words.sides(gate)
    said = f"{words.DECISION_WORDS[gate.decision]}: {plain(words.reason(gate))}"
    if words.is_difference(gate):
        metric = "accuracy" if gate.metric == "top1" else gate.metric
        name = (
            base
            if gate.slice is None
            else f"{base}/{plain(gate.gate.removeprefix('slice:'))}={plain(shortened(gate.slice))}"
        )
        value = gate.detail.get("candidate_mean")
        if value is not None and gate.gate == "accuracy":
            smaller = is_error_metric(gate)
            yield Figure(
                benchmark=name, measure=slug(metric), value=value, unit=gate.unit, smaller_is_better=smaller, said=said,
            )  # fmt: skip
        if gate.estimate is not None:
            share = gate.detail.get("min_ratio")
            parts = [metric, "difference", gate.against, "" if share is None else f"{100 * share:g}pct"]
            yield Figure(
                benchmark=name, measure=slug("-".join(p for p in parts if p)), value=gate.estimate, lower=low,
                upper=high, unit=gate.unit, smaller_is_better=False, said=said,
            )  # fmt: skip
        return
    if gate.estimate is None:
        return
    factor, unit = {"ms": (1e6, NANOSECONDS), "MiB": (float(MIB), BYTES)}.get(gate.unit, (1.0, gate.unit))
    parts = [gate.gate, gate.metric if gate.metric not in (gate.gate, "latency") else ""]
    if gate.gate == "latency_absolute":
        parts = ["latency", gate.metric]
    elif gate.gate == "fidelity":
        parts = [gate.metric, gate.against]
    elif gate.gate == "size" and gate.unit == "MiB":
        return  # the file's size is there already, in bytes
    if gate.unit == "ratio":
        parts.append("ratio")
    yield Figure(
        benchmark=base,
        measure=slug("-".join(p for p in parts if p)),
        value=gate.estimate * factor,
        lower=None if low is None else low * factor,
        upper=None if high is None else high * factor,
        unit=unit,
        smaller_is_better=gate.gate != "placement" and gate.metric != "agreement",
        said=said,
    )


def slug(text: str) -> str:
    """Lower-case words joined by hyphens, at most 64 characters: what Bencher takes for a measure."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:64].strip("-") or "unnamed"


def check_names(views: Sequence[View]) -> None:
    """Refuse runs of one name in one document: their figures would be taken for each other's.

    Raises:
        UsageError: names the run.
    """
    from edgekd.errors import UsageError

    names = [v.run.name for v in views]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"two of the runs are called '{name}' and would be taken for one", "report them one by one"
            )
