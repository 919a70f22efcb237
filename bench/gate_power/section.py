"""One condition's part of the results page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekd.gates.statistic import STATISTICS, WALL_MINIMUM
from gate_power.aims import INJECTIONS, Target
from gate_power.figures import DECISIONS
from gate_power.rates import Rate
from gate_power.rules import EDGEKD

_CONDITIONS = {
    "quiet": "nothing else of ours runs",
    "loaded": "bursts of work on every CPU of the study, 200 ms on and 200 ms off on average, a third of them memory copies",
    "burst": "rare bursts of work of about a second on every CPU of the study",
    "throttle": "measuring children stopped for 60 of every 100 ms in rare bursts of about a second (SIGSTOP; stands in for a CPU quota)",
    "steal": "a real-time-priority hog takes 5 of every 15 ms in rare bursts of about a second (stands in for steal)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What is known of one condition.

    Attributes:
        table: rule -> effect -> rate; figures: effect -> EdgeKD's figures; measured: figures of measurements.
        planted: effect -> what was planted; cpus: of the study; info: of its first start.
    """

    calls: str
    condition: str
    table: Mapping[str, Mapping[str, Rate]]
    figures: Mapping[str, Mapping[str, Any]]
    measured: Mapping[str, Any]
    aims: Sequence[Target]
    planted: Mapping[str, Mapping[str, Any]]
    cpus: Sequence[int]
    info: Mapping[str, Any]

    @property
    def title(self) -> str:
        return f"{self.calls} calls, {self.condition}"


def row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def effect_name(effect: str) -> str:
    return "equal" if effect == "null" else f"+{effect} %"


def show_rate(rate: Rate) -> str:
    def figure(share: float) -> str:
        # "0 %" and "100 %" are said of none and of all only.
        digits = 1 if 0 < share < 0.01 or 0.99 < share < 1 else 0
        return f"{100 * share:.{digits}f}"

    if not rate.n:
        return "no trial"
    return f"{figure(rate.share)} % [{figure(rate.low)}, {figure(rate.high)}] ({rate.hits}/{rate.n})"


def section_lines(section: Section) -> list[str]:
    """Markdown: what was done, how often each rule rejected, EdgeKD's figures, the targets."""
    effects = list(section.figures)
    lines = [
        "",
        f"## {section.title[0].upper()}{section.title[1:]}",
        "",
        _circumstances(section),
        *_grouping(section),
        "",
        row(["rejected by", *(_planted(e, section.planted[e]) for e in effects)]),
        row(["---"] * (len(effects) + 1)),
    ]
    for name, rates in section.table.items():
        bold = "**" if name == EDGEKD else ""
        cells = [f"{bold}{show_rate(rates[e])}{bold}" if e in rates else "" for e in effects]
        lines.append(row([f"{bold}{name}{bold}", *cells]))
    lines += ["", row(["EdgeKD", *map(effect_name, effects)]), row(["---"] * (len(effects) + 1))]
    lines += [
        row([words, *(cell(section.figures[e]) for e in effects)]) for words, cell in _figure_rows(section)
    ]
    if section.aims:
        lines += ["", row(["target", "asked", "found", ""]), row(["---"] * 4)]
        lines += [row([a.name, a.asked, a.found, a.verdict]) for a in section.aims]
    return lines


def _circumstances(section: Section) -> str:
    info, measured = section.info, section.measured
    cpus = ", ".join(str(c) for c in section.cpus)
    text = (
        f"Calls of {info['call_ms']:.3g} ms, one thread, on CPU {cpus}; {_CONDITIONS[section.condition]}."
        f" Planted slow-downs as measured over {info['calibration_restarts']} restarts, in points with standard error."
    )
    if measured["load_cpus"] is not None:
        text += f" The load used {measured['load_cpus']:.2f} CPUs (median)."
    if measured["disturbed_calls"] is not None:
        text += (
            f" {measured['disturbed_calls']:.1%} of the calls took at least 1.25 times their arm's fastest"
            " (median over measurements)."
        )
    return text


def _grouping(section: Section) -> list[str]:
    """How many candidates a measurement had, and what follows from several."""
    by = section.measured["by_candidates"]
    parts = [
        f"{v['measurements']} with {k} candidate{'s' if k > 1 else ''} ({v['wall_s_median']:.1f} s each, median)"
        for k, v in by.items()
    ]
    text = (
        f"{section.measured['measurements']} measurements: {', '.join(parts)}; "
        f"{section.measured['redrawn']} restarts redrawn."
    )
    if any(k > 1 for k in by):
        text += (
            " Trials of one measurement share the samples of the baseline and of its hidden twin: the trials of a column"
            " are independent of each other, the columns are not. Each candidate is judged by itself, at its own first"
            " look that decides. Seconds of a comparison are taken from measurements of one candidate only."
        )
    return ["", text]


def _planted(effect: str, planted: Mapping[str, Any]) -> str:
    name = effect_name(effect)
    if planted["ratio"] is None:
        return name
    return f"{name} (measured {100 * (planted['ratio'] - 1):+.2f} ± {100 * planted['error']:.2f})"


Cell = Callable[[Mapping[str, Any]], str]


def _figure_rows(section: Section) -> list[tuple[str, Cell]]:
    figures = section.figures.values()

    def decision(name: str) -> Cell:
        return lambda f: f"{f['decisions'][name]['hits']} of {f['trials']}"

    def number(name: str, form: str) -> Cell:
        return lambda f: "" if f[name] is None else form.format(f[name])

    def statistic(name: str) -> Cell:
        return lambda f: f"{f['statistics'].get(name, 0)} of {sum(f['statistics'].values())}"

    def seconds(f: Mapping[str, Any]) -> str:
        alone = f["alone"]
        return f"{alone['wall_s_median']:.1f} / {alone['wall_s_p95']:.1f}" if alone["trials"] else ""

    def error(f: Mapping[str, Any]) -> str:
        return (
            ""
            if f["ratio_error_median"] is None
            else f"{f['ratio_error_median']:.2f} / {f['ratio_error_p95']:.2f}"
        )

    def scatter(f: Mapping[str, Any]) -> str:
        s = f["restart_scatter"]
        return "" if s is None else f"{s.get('candidate', 0):.2f} / {s.get('baseline_twin', 0):.2f} %"

    rows: list[tuple[str, Cell]] = [
        ({"pass": "passed", "reject": "rejected"}.get(d, d), decision(d)) for d in DECISIONS
    ]
    if section.condition in INJECTIONS:
        rows.append(
            (
                "hit by the injection / rejected of these",
                lambda f: f"{f['hit']['trials']} / {f['hit']['rejected']}",
            )
        )
    rows += [
        ("absolute ratio error, median / p95, points", error),
        ("the same against layers / layers, median", number("ratio_error_built_median", "{:.2f}")),
        ("mean of the ratio error, points", number("bias", "{:+.2f}")),
    ]
    if any(f["alone"]["trials"] for f in figures):
        rows.append(("wall seconds of one comparison, median / p95", seconds))
    rows += [
        ("restarts until it decided, mean", number("restarts_mean", "{:.1f}")),
        ("scatter between restarts, B/A and A'/A (block minima)", scatter),
        (
            "interval widened by A/A' / of these inconclusive",
            lambda f: f"{f['widened']['trials']} / {f['widened']['inconclusive']}",
        ),
    ]
    if section.calls == "long" or any(set(f["statistics"]) - {WALL_MINIMUM} for f in figures):
        rows += [(f"judged by: {name}", statistic(name)) for name in STATISTICS]
    return rows
