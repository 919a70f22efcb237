"""Figures as text: the one place where fractions become percent and points, and nanoseconds milliseconds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgekd.evidence.measurement import MULTI_STREAM, SERVER
from edgekd.gates.size import MIB
from edgekd.gates.verdict import Gate
from edgekd.report.amounts import ROOM, plain_number, plural, shortened
from edgekd.report.blame import blame, hop_costs
from edgekd.report.chain import ChainTable, Difference
from edgekd.report.flips import ERROR, FlipTable
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
#: Columns besides the first that hold words rather than figures.
GATE_WORDS = (1, 6)
CHAIN_HEADER = ("hop", "score", "against the teacher (one-sided 95 % bounds)", "this hop", "n")
FLIP_WORDS = (1, 2, 3, 6, 7)
CANDIDATE_HEADER = ("candidate", "decision", "accuracy", "latency", "size", "judged on", "target")
CANDIDATE_WORDS = (1, 5, 6)
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


def sides(gate: Gate) -> tuple[float | None, float | None]:
    """The two bounds of a gate; None for one that does not exist or is not finite."""
    low, high = gate.interval or (None, None)
    return tuple(x if x is not None and math.isfinite(x) else None for x in (low, high))  # type: ignore[return-value]


def figure(gate: Gate, value: float | None) -> str:
    """A gate's estimate, bound or limit in the unit that a reader expects."""
    if value is None or not math.isfinite(value):
        return DASH
    if gate.unit == "fraction":
        # Rates and shares; everything else in fractions is a difference.
        if gate.gate == "placement" or gate.metric in ("flips", "agreement"):
            return percent(value)
        return f"{points(value)} points"
    if gate.unit == "ratio":
        return f"{100 * (value - 1):+.2f} %" if gate.gate == "regression" else f"{value:.3f}x"
    if gate.unit == "MiB":
        return mebibytes(value * MIB)
    if is_difference(gate):
        return f"{plain_number(value, gate.unit, '+')} {gate.unit}".strip()
    return f"{value:.4g} {gate.unit}".strip()


def is_difference(gate: Gate) -> bool:
    """Whether the estimate is student minus reference, in the metric's own unit."""
    return gate.gate == "accuracy" or gate.gate.startswith("slice:")


def bounds(gate: Gate) -> str:
    unit = "points" if gate.unit == "fraction" else gate.unit if is_difference(gate) else ""
    low, high = (figure(gate, x).removesuffix(f" {unit}") for x in sides(gate))
    if low == high == DASH:
        return DASH
    if DASH in (low, high):
        return f"at most {high}" if low == DASH else f"at least {low}"
    return f"[{low}, {high}]"


def gate_name(gate: Gate) -> str:
    """What a gate asks, the same in every run: CI systems follow a test by its name.

    The usual reference, teacher or last release, is not named.
    """
    parts = [gate.gate if gate.slice is None else f"{gate.gate}={shortened(gate.slice)}"]
    if gate.gate in ("fidelity", "tail", "latency_absolute") and gate.metric:
        parts.append(gate.metric)
    if (share := gate.detail.get("min_ratio")) is not None:
        parts.append(f"{100 * share:g} %")
    if gate.gate == "size" and gate.unit == "ratio":
        parts.append("ratio")
    usual = "baseline" if gate.gate == "regression" else "" if gate.gate == "fidelity" else "teacher"
    if gate.against and gate.against != usual:
        parts.append(f"against {gate.against}")
    return " ".join(" ".join(parts).split())


def gate_names(gates: Sequence[Gate]) -> list[str]:
    """:func:`gate_name` of each; those that would be alike are numbered."""
    seen: dict[str, int] = {}
    names = []
    for gate in gates:
        name = gate_name(gate)
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


def reason(gate: Gate) -> str:
    """The gate's sentence; a slice's long value is cut as it is everywhere else."""
    if gate.slice is None or len(gate.slice) <= ROOM:
        return gate.reason
    return gate.reason.replace(gate.slice, shortened(gate.slice))


def _counted(gate: Gate) -> str:
    """A gate's n with what it counts."""
    if gate.n is None:
        return DASH
    if gate.unit == "ms":
        if gate.scenario in (MULTI_STREAM, SERVER):
            return f"{gate.n:,} {'query' if gate.n == 1 else 'queries'}"
        return plural(gate.n, "call")
    return plural(gate.n, "restart" if gate.unit == "ratio" else "example")


def gate_row(gate: Gate) -> tuple[str, ...]:
    name = gate_name(gate)
    return (
        name if not gate.metric or gate.metric in (gate.gate, *name.split()) else f"{name} ({gate.metric})",
        DECISION_WORDS[gate.decision],
        figure(gate, gate.estimate),
        bounds(gate),
        figure(gate, gate.limit),
        _counted(gate),
        gate.target,
    )


def difference(value: Difference | None) -> str:
    if value is None:
        return DASH
    if value.unit == "fraction":
        estimate, ends = points(value.estimate), [points(x) for x in value.interval or ()]
    else:
        estimate, ends = (
            plain_number(value.estimate, value.unit, "+"),
            [plain_number(x, value.unit, "+") for x in value.interval or ()],
        )
    return f"{estimate} [{', '.join(ends)}]" if ends else estimate


def metric_value(value: float, unit: str) -> str:
    """A metric in its own unit."""
    return percent(value) if unit == "fraction" else f"{plain_number(value, unit)} {unit}".strip()


def metric_header(chain: ChainTable) -> str:
    """The metric, and the unit that its column leaves out."""
    return chain.metric if chain.unit in ("fraction", "") else f"{chain.metric}, {chain.unit}"


def metric_cell(value: float, unit: str) -> str:
    """A value below :func:`metric_header`."""
    return percent(value) if unit == "fraction" else plain_number(value, unit)


def chain_rows(chain: ChainTable) -> list[tuple[str, ...]]:
    return [
        (
            r.label,
            metric_cell(r.mean, chain.unit),
            difference(r.to_teacher),
            difference(r.step),
            f"{r.n:,}",
        )
        for r in chain.rows
    ]


def chain_sentences(chain: ChainTable) -> list[str]:
    """What each hop cost, which one to blame, and what distillation gained over the control."""
    return [s for s in (*hop_costs(chain), blame(chain)) if s]


def flip_sentence(flips: FlipTable) -> str:
    """How many examples flipped, and where."""
    first = ", ".join(f"{n:,} on '{label}'" for label, n in flips.lost_on.items() if n)
    where = f"; {'lost most' if flips.graded else 'flipped first'}: {first}" if first else ""
    return (
        f"'{flips.label}' against the teacher, of {plural(flips.n, 'example')}: {flip_counts(flips)}{where}."
    )


def flip_counts(flips: FlipTable) -> str:
    """``15 lost, 12 gained``; graded scores do not flip."""
    worse, better = ("worse", "better") if flips.graded else ("lost", "gained")
    return f"{flips.lost:,} {worse}, {flips.gained:,} {better}"


def flip_title(flips: FlipTable) -> str:
    """What the rows are."""
    if flips.graded:
        return f"Largest worsenings ({flip_counts(flips)})"
    return f"Flipped examples ({flip_counts(flips)})"


def flip_header(flips: FlipTable) -> tuple[str, ...]:
    """Headers of :func:`flip_rows`."""
    loss = "error" if flips.loss == ERROR else "loss"
    if unit := flips.unit or ("" if flips.loss == ERROR else flips.loss):
        loss = f"{loss}, {unit}"
    on = "lost most on" if flips.graded else "flipped on"
    return ("example", "label", "teacher", "student", f"teacher's {loss}", f"student's {loss}", on, "slices")


def loss_value(value: float, flips: FlipTable) -> str:
    return f"{value:.4g}" if flips.loss == ERROR else f"{value:.3f}"


def flip_rows(flips: FlipTable) -> list[tuple[str, ...]]:
    return [
        (
            answer(r.id),
            answer(r.label),
            answer(r.teacher),
            answer(r.student),
            loss_value(r.teacher_loss, flips),
            loss_value(r.student_loss, flips),
            r.hop,
            ", ".join(f"{name} {shortened(value)}" for name, value in r.slices.items()) or DASH,
        )
        for r in flips.rows
    ]


def answer(value: object) -> str:
    """A label or an answer on one line; long ones (JSON, tags, text) are cut."""
    text = f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= ROOM else f"{text[: ROOM - 1]}…"


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
    examples = plural(table.batch, "example")
    per = "query" if table.scenario in (MULTI_STREAM, SERVER) else "call"
    rate = f" at {table.rate_qps:g} queries/s" if table.rate_qps else ""
    if len(set(table.batches.values())) > 1:
        examples = ", ".join(f"{name} {batch}" for name, batch in table.batches.items()) + " examples"
    counts = set(table.arm_threads.values()) or {table.threads}
    threads = plural(max(counts), "thread")
    if len(counts) > 1:
        threads = ", ".join(f"{name} {count}" for name, count in table.arm_threads.items()) + " threads"
    if table.sessions > 1:
        threads = f"{table.sessions} sessions of {threads}"
    thrown = f", {len(table.redrawn)} redrawn" if table.redrawn else ""
    where = "" if table.selected else " (selection)"
    return (
        f"{table.target}, {table.scenario}{rate}, {examples} per {per}, {threads}, "
        f"{plural(table.restarts, 'restart')}{thrown}{where}"
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
