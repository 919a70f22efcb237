"""Figures as text: the one place where fractions become percent and points, and nanoseconds milliseconds."""

from __future__ import annotations

from edgekd.evidence.measurement import MULTI_STREAM, SERVER
from edgekd.gates.size import MIB
from edgekd.gates.verdict import Gate
from edgekd.report.chain import ChainTable, Difference
from edgekd.report.view import CandidateRow, LatencyTable

DECISION_WORDS = {
    "pass": "PASS",
    "reject": "REJECT",
    "inconclusive": "INCONCLUSIVE",
    "error": "ERROR",
    "not_run": "NOT RUN",
}

#: What the run's decision means for the student, as the sentence under the headline.
HEADLINES = {
    "pass": "The student may ship.",
    "reject": "The student may not ship: a limit is broken.",
    "inconclusive": "The evidence does not decide whether the student may ship.",
    "error": "The evidence cannot be judged.",
    "not_run": "Nothing was judged.",
}

GATE_HEADER = ("gate", "decision", "estimate", "bounds", "limit", "n", "target")
CHAIN_HEADER = ("hop", "score", "against the teacher (one-sided 95 % bounds)", "this hop", "n")
CANDIDATE_HEADER = ("candidate", "decision", "accuracy", "latency", "size", "judged on", "target")
LATENCY_HEADER = ("arm", "min", "p50", "p90", "p99", "calls")

DASH = "–"


def percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def points(fraction: float) -> str:
    """A difference of fractions as signed points.

    >>> points(-0.0042)
    '-0.42'
    """
    return f"{100 * fraction + 0.0:+.2f}"


def milliseconds(ns: float) -> str:
    return f"{ns / 1e6:.3f} ms" if ns >= 1e5 else f"{ns / 1e3:.2f} µs"


def mebibytes(size_bytes: float) -> str:
    return f"{size_bytes / MIB:.2f} MiB" if size_bytes >= 0.01 * MIB else f"{size_bytes / 1024:.2f} KiB"


def figure(gate: Gate, value: float | None) -> str:
    """A gate's estimate, bound or limit in the unit that a reader expects."""
    if value is None:
        return DASH
    if gate.unit == "fraction":
        return f"{points(value)} points"
    if gate.unit == "ratio":
        return f"{100 * (value - 1):+.2f} %" if gate.gate == "regression" else f"{value:.3f}x"
    if gate.unit == "MiB":
        return mebibytes(value * MIB)
    return f"{value:.4g} {gate.unit}".strip()


def bounds(gate: Gate) -> str:
    if gate.interval is None:
        return DASH
    low, high = (figure(gate, x).removesuffix(" points") for x in gate.interval)
    return f"[{low}, {high}]"


def _counted(gate: Gate) -> str:
    """What a gate's n counts."""
    if gate.unit == "ms":
        return "queries" if gate.scenario in (MULTI_STREAM, SERVER) else "calls"
    return "restarts" if gate.unit == "ratio" else "examples"


def gate_row(gate: Gate) -> tuple[str, ...]:
    name = gate.gate if gate.slice is None else f"{gate.gate}:{gate.slice}"
    return (
        name if not gate.metric or gate.metric == gate.gate else f"{name} ({gate.metric})",
        DECISION_WORDS[gate.decision],
        figure(gate, gate.estimate),
        bounds(gate),
        figure(gate, gate.limit),
        DASH if gate.n is None else f"{gate.n:,} {_counted(gate)}",
        gate.target,
    )


def difference(value: Difference | None, *, with_bounds: bool = True) -> str:
    if value is None:
        return DASH
    if value.interval is None or not with_bounds:
        return points(value.estimate)
    low, high = value.interval
    return f"{points(value.estimate)} [{points(low)}, {points(high)}]"


def chain_rows(chain: ChainTable) -> list[tuple[str, ...]]:
    return [
        (
            r.label,
            percent(r.mean),
            difference(r.to_teacher),
            difference(r.step, with_bounds=False),
            f"{r.n:,}",
        )
        for r in chain.rows
    ]


def chain_sentences(chain: ChainTable) -> list[str]:
    """What each hop cost, and what distillation gained over the control."""
    parts = []
    for r in chain.rows:
        if r.step is None or r.hop == "naive":
            continue
        verb = "cost" if r.step.estimate <= 0 else "gained"
        what = {"distilled": "Distillation", "exported": "Export", "quantized": "Quantization"}.get(
            r.hop, r.hop
        )
        parent = "the teacher" if r.step_from == "teacher" else f"'{r.step_from}'"
        parts.append(f"{what} {verb} {100 * abs(r.step.estimate):.2f} points ('{r.label}' against {parent}).")
    if chain.naive is not None:
        control = chain.naive
        if control.seeds == 1:
            parts.append(
                f"Against one naive student of the same network, trained without the teacher ({percent(control.mean)}), "
                f"distillation is {difference(control.gain_over_best)} points."
            )
        else:
            parts.append(
                f"Against {control.seeds} naive students of the same network, trained without the teacher (mean "
                f"{percent(control.mean)}, {percent(control.worst)} to {percent(control.best)}), distillation is "
                f"{points(control.gain_over_mean)} points over their mean and "
                f"{difference(control.gain_over_best)} over the best."
            )
    return parts


def candidate_row(row: CandidateRow) -> tuple[str, ...]:
    accuracy = row.gate("accuracy")
    latency = (
        row.gate("latency") or row.gate("regression") or row.gate("tail") or row.gate("latency_absolute")
    )
    return (
        f"{row.name} ({row.verdict.dtype}, {row.format})" + (" ← selected" if row.selected else ""),
        DECISION_WORDS[row.verdict.decision],
        DASH if accuracy is None else figure(accuracy, accuracy.estimate),
        DASH if latency is None else figure(latency, latency.estimate),
        mebibytes(row.size_bytes),
        "test" if row.selected else "selection split",
        row.verdict.target,
    )


def latency_title(table: LatencyTable) -> str:
    examples = "1 example" if table.batch == 1 else f"{table.batch} examples"
    per = "query" if table.scenario in (MULTI_STREAM, SERVER) else "call"
    rate = f" at {table.rate_qps:g} queries/s" if table.rate_qps else ""
    if len(set(table.batches.values())) > 1:
        examples = ", ".join(f"{name} {batch}" for name, batch in table.batches.items()) + " examples"
    counts = set(table.arm_threads.values()) or {table.threads}
    threads = "1 thread" if counts == {1} else f"{max(counts)} threads"
    if len(counts) > 1:
        threads = ", ".join(f"{name} {count}" for name, count in table.arm_threads.items()) + " threads"
    thrown = f", {len(table.redrawn)} redrawn" if table.redrawn else ""
    where = "" if table.selected else " (selection)"
    return (
        f"{table.target}, {table.scenario}{rate}, {examples} per {per}, {threads}, "
        f"{table.restarts} restarts{thrown}{where}"
    )


def latency_rows(table: LatencyTable) -> list[tuple[str, ...]]:
    return [
        (
            r.name,
            milliseconds(r.min_ns),
            milliseconds(r.p50_ns),
            milliseconds(r.p90_ns),
            milliseconds(r.p99_ns),
            f"{r.calls:,}",
        )
        for r in table.rows
    ]


LATENCY_NOTE = (
    "Quantiles over raw calls: what `latency_absolute` and `tail` judge. The ratio gates compare block minima of arms "
    "that ran in turns, so their ratio is steadier than a ratio of these."
)
