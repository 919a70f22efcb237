"""A search as a page: what was tried, what lies on the Pareto front, and the layers that suffer most."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgekd.gates.accuracy import amount
from edgekd.quantize.mixture import Trial
from edgekd.quantize.searched import Search

#: Rows of the sensitivity table, at most; all of them are in search.json.
_LAYERS = 12
_WORDS = {
    "pass": "holds", "reject": "rejected", "inconclusive": "inconclusive", "error": "not made",
    "slower": "slower, not judged", "skipped": "not judged: misses with other settings",
}  # fmt: skip


def pareto_front(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Those that no other beats in both accuracy and time; of the timed ones, the fastest first."""
    timed = [
        (t.latency.ratio, -t.difference, t)
        for t in trials
        if t.latency is not None and t.difference is not None
    ]
    front: list[Trial] = []
    least = float("inf")
    for _, loss, trial in sorted(timed, key=lambda x: x[:2]):
        if loss < least:
            front.append(trial)
            least = loss
    return tuple(front)


def search_page(found: Search) -> str:
    """The page as Markdown, which reads as text too."""
    unit = found.unit
    lines = [
        f"# Search: {found.model['reference']}",
        "",
        f"**{found.decision.upper()}**: {found.note}",
        "",
        f"- test split, judged once: {found.gate.reason}",
        f"- {found.evaluations} accuracy evaluations and {found.races} timings in {found.seconds:.0f} s "
        f"(budget {found.budget_s / 60:g} min{', used up' if found.out_of_time else ''})",
        f"- chosen on `{found.splits['select']['reference']}`, judged on `{found.splits['test']['reference']}`",
        "",
        f"| | {found.metric} against its own float32 | time against float32 | MiB | layers in float | selection |",
        "|---|---|---|---|---|---|",
    ]
    front = pareto_front(found.trials)
    ordered = sorted(
        found.trials, key=lambda t: (t.latency is None, t.latency.ratio if t.latency else 0.0, -t.n)
    )
    for trial in ordered:
        mark = "**" if trial.mixture.label == found.winner else ""
        star = " *" if trial in front else ""
        lines.append(
            f"| {mark}{trial.mixture.label}{mark}{star} | {_accuracy(trial, unit)} | {_time(trial)} "
            f"| {_size(trial)} | {len(trial.mixture.kept)} | {_verdict(trial)} |"
        )
    lines += ["", "Bold: the winner. *: on the Pareto front of accuracy and time."]
    for label, layers in found.layers.items():
        lines += [
            "",
            f"Layers of {label}, the most sensitive first"
            + (f" ({_LAYERS} of {len(layers)})" if len(layers) > _LAYERS else ""),
            "",
            "| layer | operator | own error, dB | with all before it, dB | MACs |",
            "|---|---|---|---|---|",
        ]
        for x in layers[:_LAYERS]:
            macs = "" if x.macs is None else f"{x.macs:,}"
            lines.append(f"| {x.name} | {x.op_type} | {_db(x.own_sqnr_db)} | {_db(x.sqnr_db)} | {macs} |")
    return "\n".join(lines) + "\n"


def _db(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _accuracy(trial: Trial, unit: str) -> str:
    if trial.difference is None:
        return ""
    sign = "-" if trial.difference < 0 else "+"
    text = f"{sign}{amount(trial.difference, unit)}"
    if trial.interval is None or trial.interval == (0.0, 0.0):
        return text
    low, high = ("-" if x < 0 else "+" for x in trial.interval)
    ends = [amount(x, unit).removesuffix(" points") for x in trial.interval]
    return f"{text} [{low}{ends[0]}, {high}{ends[1]}] on {trial.n:,}"


def _time(trial: Trial) -> str:
    if trial.latency is None:
        return ""
    x = trial.latency
    if math.isinf(x.upper):
        return f"{x.ratio:.3f}x at a glance"
    return f"{x.ratio:.3f}x [{x.lower:.3f}, {x.upper:.3f}]"


def _size(trial: Trial) -> str:
    return f"{trial.size_bytes / 2**20:.3f}" if trial.size_bytes else ""


def _verdict(trial: Trial) -> str:
    word = _WORDS.get(trial.decision, trial.decision)
    if trial.decision == "error":
        return f"{word}: {trial.reason}".replace("|", "/")
    return f"{word}, with room" if trial.assured and trial.holds else word
