"""A sweep for the terminal: every setting that raced, what was chosen, and where it is kept."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.evidence.measurement import TWIN, Measurement
from edgekd.measure.configuration import BATCH, THREADS, Configuration, Trial, shown
from edgekd.pipeline.sweep import Swept
from edgekd.report.amounts import plural
from edgekd.report.text import table
from edgekd.report.words import DASH
from edgekd.tuned import THROUGHPUT

_OUTCOMES = {"tie": "not shown faster"}
_SOURCES = {"sweep": "found by this sweep", "metadata": "from the models' metadata", "asked": "asked for"}


def sweep_lines(swept: Swept, target: str) -> list[str]:
    """Text lines: what raced and how it fared beside the default, then what was chosen."""
    sweep = swept.sweep
    per = "time per example" if swept.record.objective == THROUGHPUT else "time per call"
    scale = 1 if swept.record.objective == THROUGHPUT else sweep.default.batch
    start = shown({**_whole(sweep.default), **sweep.default.settings})
    lines = [
        f"sweep of {swept.label} for {target}: {per}, from {start} ({sweep.default_time_ns * scale / 1e6:.3f} ms, "
        f"{sweep.runtime}, {sweep.seconds:.0f} s)"
    ]
    rows = [
        (
            ("* " if t is sweep.confirmation and sweep.best != sweep.default else "") + shown(t.changes),
            DASH if t.time_ns is None else f"{t.time_ns * scale / 1e6:.3f}",
            _ratio(t),
            f"{t.restarts}",
            "confirmed"
            if t is sweep.confirmation and t.outcome == "better"
            else _OUTCOMES.get(t.outcome, t.outcome),
        )
        for t in (*sweep.trials, *([sweep.confirmation] if sweep.confirmation else []))
    ]
    if rows:
        lines += table(("setting", "ms", "x default", "restarts", ""), rows)
    else:
        lines.append("  nothing to choose from: one CPU, or every setting was given")
    for t in sweep.trials:
        if t.reason:
            lines.append(f"  {shown(t.changes)}: {t.reason}")
    return [*lines, f"  {_chosen(swept)}", f"  {_kept(swept, target)}"]


def _whole(configuration: Configuration) -> dict[str, Any]:
    return {THREADS: configuration.threads, BATCH: configuration.batch}


def _ratio(trial: Trial) -> str:
    if trial.ratio is None:
        return DASH
    if trial.lower is None or trial.upper is None:
        return f"{trial.ratio:.3f}"
    return f"{trial.ratio:.3f} [{trial.lower:.3f}, {trial.upper:.3f}]"


def _chosen(swept: Swept) -> str:
    sweep, confirmed = swept.sweep, swept.sweep.confirmation
    if sweep.best != sweep.default and confirmed is not None:
        return (
            f"chosen: {shown(sweep.best.changes_from(sweep.default))}: {_ratio(confirmed)} of the default's time in "
            f"{plural(confirmed.restarts, 'fresh restart')}; answers differ by {sweep.difference or 0:.1g} of the largest"
        )
    if confirmed is not None:
        return (
            f"chosen: the default; {shown(confirmed.changes)} was faster in the search, and not beyond noise in "
            f"{plural(confirmed.restarts, 'fresh restart')}"
        )
    return "chosen: the default; nothing was faster beyond noise"


def _kept(swept: Swept, target: str) -> str:
    if swept.kept is not None:
        near = swept.kept.is_relative_to(Path.cwd())
        return f"kept in {swept.kept.relative_to(Path.cwd()) if near else swept.kept}"
    return f"not kept: {swept.why_not}. To use them: {command_for(swept, target)}"


def command_for(swept: Swept, target: str) -> str:
    """The command that measures with these settings, where they could not be kept."""
    parts = ["edgekd", "bench", swept.label, "--target", target, "--threads", str(swept.record.threads)]
    if swept.record.objective != THROUGHPUT and swept.record.batch != 1:
        parts += ["--batch", str(swept.record.batch)]
    for name, value in swept.record.settings.items():
        parts += ["--setting", shown({name: value})]
    return shlex.join(parts)


def settings_lines(measurement: Measurement) -> list[str]:
    """What every arm ran with, where that was not the default; and why swept settings were not used, if so."""
    arms: list[Mapping[str, Any]] = [a for name, a in measurement.arms.items() if name != TWIN]
    source = str(arms[0].get("settings_from", "default"))
    note = str(measurement.environment.get("settings_note") or "")
    if source == "default" or (source == "asked" and not any(a.get("settings") for a in arms)):
        return [f"  {note}"] if note else []
    own = "; ".join(
        f"{a.get('name')}: {shown({THREADS: a.get('threads'), **dict(a.get('settings') or {})})}"
        for a in arms
    )
    return [f"  settings {_SOURCES[source]}: {own}"]
