"""The results page, the JSON summary and the plot, made from stored trials."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gate_power import plot
from gate_power.aims import INJECTIONS, targets
from gate_power.figures import measurement_figures, own_figures
from gate_power.journal import Journal, JournalError, read_journal
from gate_power.load import CONDITIONS
from gate_power.rates import rate, rejections, total
from gate_power.rules import EDGEKD
from gate_power.section import Section, row, section_lines, show_rate

SCHEMA = "edgekd.gate_power.summary/1"


def pooled(journals: Sequence[Journal]) -> dict[tuple[str, str], list[Journal]]:
    """(calls, condition) -> the studies made of it, in the page's order.

    Raises:
        JournalError: studies of one condition were made by other code or under other rules.
    """
    groups: dict[tuple[str, str], list[Journal]] = {}
    for calls in ("short", "long"):
        for condition in CONDITIONS:
            found = [
                j for j in journals if (j.key["calls"], j.key["condition"]) == (calls, condition) and j.trials
            ]
            if found:
                _check_alike(found, ("sources_sha256", "protocol", "models"))
                groups[calls, condition] = found
    return groups


def _check_alike(journals: Sequence[Journal], names: Sequence[str]) -> None:
    first = journals[0]
    for other in journals[1:]:
        for name in names:
            if other.key[name] != first.key[name]:
                raise JournalError(f"{other.path} and {first.path} differ in {name}; report on them apart")


def write_report(folders: Sequence[Path], out: Path) -> list[Path]:
    """Write ``gate_power.md``, ``.json``, ``.png`` and ``.svg`` into ``out``.

    Raises:
        JournalError: a study is missing, or studies cannot stand on one page.
    """
    journals = [read_journal(f) for f in folders]
    groups = pooled(journals)
    if not groups:
        raise JournalError("no trial has been made yet; run the study first")
    _check_alike(journals, ("limit", "looks", "alpha"))
    limit = float(journals[0].key["limit"])
    sections = [_section(*name, found, limit) for name, found in groups.items()]
    panels = [
        plot.Panel(title=f"{s.title} ({s.info['call_ms']:.3g} ms)", table=s.table)
        for s in sections
        if s.condition not in INJECTIONS and len(s.figures) > 1
    ]
    made = plot.draw(panels, limit, out) if panels else []
    lines = [*_head(journals, limit), *_overview(sections)]
    if panels:
        lines += ["", "![How often each rule rejects](gate_power.png)"]
    for s in sections:
        lines += section_lines(s)
    lines += _foot(journals, folders)
    out.mkdir(parents=True, exist_ok=True)
    page, summary = out / "gate_power.md", out / "gate_power.json"
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    value = {
        "schema": SCHEMA,
        "limit": limit,
        "sections": [_json(s, groups[s.calls, s.condition]) for s in sections],
    }
    summary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return [page, summary, *made]


def _section(calls: str, condition: str, found: Sequence[Journal], limit: float) -> Section:
    studies = [j.trials for j in found]
    planted = found[0].info["planted"]
    figures = own_figures(studies, planted, condition)
    measured = measurement_figures(studies)
    return Section(
        calls=calls,
        condition=condition,
        table=total([rejections(trials, limit) for trials in studies]),
        figures=figures,
        measured=measured,
        aims=targets(figures, measured, calls, condition),
        planted=planted,
        cpus=found[0].key["affinity"],
        info=found[0].info,
    )


def _json(section: Section, found: Sequence[Journal]) -> dict[str, Any]:
    return {
        "calls": section.calls,
        "condition": section.condition,
        "trials": sum(len(j.trials) for j in found),
        "call_ms": section.info["call_ms"],
        "planted": section.planted,
        "rejections": {r: {e: asdict(x) for e, x in by.items()} for r, by in section.table.items()},
        "edgekd": section.figures,
        "measured": section.measured,
        "targets": [{**asdict(a), "verdict": a.verdict.strip("*")} for a in section.aims],
        "key": {k: _without_boot(v) if k == "machine" else v for k, v in found[0].key.items()},
        "info": [{**j.info, "command": _command(j.info["command"])} for j in found],
    }


def _without_boot(machine: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in machine.items() if k != "boot_id"}


def _head(journals: Sequence[Journal], limit: float) -> list[str]:
    machine = journals[0].key["machine"]
    tools = ", ".join(f"{k} {v}" for k, v in sorted(journals[0].key["tools"].items()) if k != "stage")
    commits = sorted({_commit(j.info["commit"]) for j in journals})
    return [
        "# How often the latency gate is wrong",
        "",
        "Made by `bench/gate_power` from stored trials and not edited by hand; [how it is made and how to read"
        " it](../gate_power.md).",
        "",
        f"Limit {100 * (limit - 1):+g} %. One trial is one comparison as `edgekd gate --baseline A --student B` makes it; B is a"
        " copy of A that computes the same, or one with 3, 4, 5 or 10 per cent more layers. Rates stand with Wilson's 95 %"
        " interval. The peers ran in the same minutes, on some of the trials.",
        "",
        f"Machine: {machine['cpu']}, {machine['cpus']} CPUs, {machine['system']} {machine['kernel']}, Python {machine['python']};"
        f" {tools}; commit {', '.join(commits)}.",
    ]


def _overview(sections: Sequence[Section]) -> list[str]:
    """EdgeKD in one line per condition."""
    lines = [
        "",
        row(
            [
                "EdgeKD",
                "equal: rejected",
                "equal: undecided",
                "found at +4 %",
                "ratio error, median",
                "seconds, median",
            ]
        ),
        row(["---"] * 6),
    ]
    for s in sections:
        null, four = s.figures.get("null"), s.table[EDGEKD].get("4")
        wrong, undecided, error = "", "", ""
        if null is not None and s.condition in INJECTIONS:
            wrong = show_rate(rate(null["hit"]["rejected"], null["hit"]["trials"])) + ", of those hit"
        elif null is not None:
            wrong = show_rate(s.table[EDGEKD]["null"])
        if null is not None:
            hits = sum(null["decisions"][d]["hits"] for d in ("inconclusive", "error"))
            undecided = show_rate(rate(hits, null["trials"]))
            error = "" if null["ratio_error_median"] is None else f"{null['ratio_error_median']:.2f} points"
        alone = s.measured["by_candidates"].get(1)
        lines.append(
            row([
                s.title, wrong, undecided, show_rate(four) if four else "", error,
                f"{alone['wall_s_median']:.1f}" if alone else "",
            ])
        )  # fmt: skip
    return lines


def _foot(journals: Sequence[Journal], folders: Sequence[Path]) -> list[str]:
    commands = [_command(j.info["command"]) for j in journals]
    report = _command(["bench/gate_power", "report", *(f.name for f in folders)])
    return ["", "## Commands", "", "```text", *commands, report, "```"]


def _command(arguments: Sequence[str]) -> str:
    """A command as a reader would type it: absolute paths are this machine's own and become names."""
    shown = [Path(a).name if Path(a).is_absolute() else a for a in arguments[1:]]
    return " ".join(["python bench/gate_power", *shown])


def _commit(commit: str | None) -> str:
    if commit is None:
        return "unknown"
    return commit[:12] + (" with changes" if commit.endswith("+") else "")
