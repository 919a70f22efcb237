"""OpenMetrics text (version 1.0): what a node exporter's textfile collector or a push gateway takes.

Base units: seconds, bytes, ratios. Gauges only; the decisions are state sets. A figure that does not exist has no
sample, for NaN would be a value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import get_args

from edgekd.gates.size import MIB
from edgekd.gates.verdict import Decision, Gate
from edgekd.report import words
from edgekd.report.amounts import shortened
from edgekd.report.tracked import candidate_names, latency_of
from edgekd.report.view import View

Labels = Mapping[str, str]

#: A gate's unit -> base unit as OpenMetrics spells it, and the factor to it.
_UNITS: Mapping[str, tuple[str, float]] = {
    "fraction": ("ratio", 1.0),
    "ratio": ("ratio", 1.0),
    "ms": ("seconds", 1e-3),
    "MiB": ("bytes", float(MIB)),
    "J": ("joules", 1.0),
    "nats": ("nats", 1.0),
}


@dataclass(slots=True)
class _Family:
    """A metric family: its samples stand together, under one TYPE, UNIT and HELP."""

    name: str
    kind: str
    help: str
    unit: str = ""
    samples: dict[str, str] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        yield f"# TYPE {self.name} {self.kind}"
        if self.unit:
            yield f"# UNIT {self.name} {self.unit}"
        yield f"# HELP {self.name} {_escape(self.help)}"
        for series, value in self.samples.items():
            yield f"{series} {value}"


class _Exposition:
    """Families in the order of their first sample."""

    def __init__(self) -> None:
        self.families: dict[str, _Family] = {}

    def gauge(self, name: str, help: str, labels: Labels, value: float | None, unit: str = "") -> None:
        """A sample, where the value exists and is finite; of two with the same labels the first stays."""
        if value is None or not math.isfinite(value):
            return
        whole = f"{name}_{unit}" if unit else name
        family = self.families.setdefault(whole, _Family(whole, "gauge", help, unit))
        family.samples.setdefault(f"{whole}{_labels(labels)}", _number(value))

    def info(self, name: str, help: str, labels: Labels) -> None:
        family = self.families.setdefault(name, _Family(name, "info", help))
        family.samples.setdefault(f"{name}_info{_labels(labels)}", "1")

    def states(self, name: str, help: str, labels: Labels, state: str) -> None:
        """A state set: one sample per decision, 1 for the one that holds."""
        family = self.families.setdefault(name, _Family(name, "stateset", help))
        for decision in get_args(Decision):
            series = f"{name}{_labels({**labels, name: decision})}"
            family.samples.setdefault(series, "1" if decision == state else "0")

    def text(self) -> str:
        lines = [line for family in self.families.values() for line in family.lines()]
        return "\n".join([*lines, "# EOF"]) + "\n"


def render_openmetrics(views: Sequence[View]) -> str:
    """One exposition of all the runs, told apart by the label ``run``."""
    out = _Exposition()
    for view in views:
        _run(out, view)
        _gates(out, view)
        _candidates(out, view)
    return out.text()


def _run(out: _Exposition, view: View) -> None:
    labels = {"run": view.run.name}
    out.states("edgekd_verdict", "What the run's gates come to.", labels, view.verdict.decision)
    about = {**labels, "version": view.verdict.edgekd}
    out.info("edgekd_run", "The run and the version of EdgeKD that judged it.", about)
    out.gauge(
        "edgekd_collected_timestamp", "When the evidence was collected, seconds since 1970 UTC.", labels,
        _seconds(view.verdict.collected_at), "seconds",
    )  # fmt: skip


def _gates(out: _Exposition, view: View) -> None:
    gates = view.verdict.gates
    for gate, name in zip(gates, _names(gates), strict=True):
        labels = {
            "run": view.run.name,
            "target": gate.target,
            "gate": name,
            "metric": gate.metric,
            "against": gate.against,
            "slice": shortened(gate.slice or ""),
            "model": view.name_of(gate.artifact) if gate.artifact else "",
        }
        out.states("edgekd_gate", "The decision of one gate.", labels, gate.decision)
        unit, factor = _UNITS.get(gate.unit, ("", 1.0))
        if not unit and gate.unit:
            labels["unit"] = gate.unit
        low, high = words.sides(gate)
        for what, value, told in (
            ("estimate", gate.estimate, "What a gate estimated."),
            ("lower_bound", low, "One-sided lower bound that a gate used."),
            ("upper_bound", high, "One-sided upper bound that a gate used."),
            ("limit", gate.limit, "The limit that a gate was asked."),
        ):
            out.gauge(f"edgekd_gate_{what}", told, labels, None if value is None else value * factor, unit)
        out.gauge(
            "edgekd_gate_samples", "Examples, calls or restarts that a gate was judged on.", labels, gate.n
        )
        for role, key in (("student", "candidate_mean"), (gate.against, "baseline_mean")):
            if gate.gate == "accuracy" and gate.detail.get(key) is not None:
                whose = {k: v for k, v in labels.items() if k in ("run", "target", "metric", "unit")}
                out.gauge(
                    "edgekd_metric", "Value of the metric over the test split.", {**whose, "role": role},
                    gate.detail[key], unit,
                )  # fmt: skip


def _candidates(out: _Exposition, view: View) -> None:
    for row, name in zip(view.candidates, candidate_names(view), strict=True):
        labels = {
            "run": view.run.name,
            "target": row.verdict.target,
            "model": name,
            "dtype": row.verdict.dtype,
            "format": row.format,
            "selected": "yes" if row.selected else "no",
        }
        out.states("edgekd_candidate", "The decision of one candidate.", labels, row.verdict.decision)
        if row.size_bytes > 0:
            out.gauge(
                "edgekd_artifact_size", "Size of the artifact's files.", labels, row.size_bytes, "bytes"
            )
        found = latency_of(view, row)
        for calls in found[0].rows if found else ():
            if found and calls.arm == found[1]:
                about = {**labels, "scenario": found[0].scenario, "batch": str(found[0].batch)}
                about |= {"sessions": str(found[0].sessions)} if found[0].sessions > 1 else {}
                for percentile, ns in (("p50", calls.p50_ns), ("p90", calls.p90_ns), ("p99", calls.p99_ns)):
                    told = "Percentile of raw call times; not comparable between runs."
                    out.gauge(
                        "edgekd_latency", told, {**about, "percentile": percentile}, ns / 1e9, "seconds"
                    )


def _names(gates: Sequence[Gate]) -> list[str]:
    """Names that are unique on each target."""
    names: dict[int, str] = {}
    for target in dict.fromkeys(g.target for g in gates):
        own = [i for i, g in enumerate(gates) if g.target == target]
        names.update(zip(own, words.gate_names([gates[i] for i in own]), strict=True))
    return [names[i] for i in range(len(gates))]


def _seconds(collected_at: str) -> float | None:
    try:
        when = datetime.fromisoformat(collected_at.replace("Z", "+00:00"))
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()


def _labels(labels: Labels) -> str:
    """Label values are UTF-8 with three escapes; an empty one is as good as none."""
    held = ",".join(f'{key}="{_escape(value)}"' for key, value in labels.items() if value)
    return f"{{{held}}}" if held else ""


def _escape(text: str) -> str:
    kept = text.encode("utf-8", "replace").decode().replace("\r", " ")
    return kept.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))
