"""Latency: each measurement's raw calls as a distribution per arm, their quantiles, and what the machine did."""

from __future__ import annotations

from collections.abc import Sequence

from edgekd.report import words
from edgekd.report.amounts import plural
from edgekd.report.distribution import Distribution, Histogram
from edgekd.report.html.markup import Child, Html, el, join, number
from edgekd.report.html.parts import anchored, facts, fold, scroll, section, share, table
from edgekd.report.html.scale import Scale
from edgekd.report.view import LatencyTable, View, flatten, ledger_ranges

_ROW, _TOP = 84, 8
#: Width of the drawing's own units; it is stretched to the page.
_UNITS = 1000.0


def latency_section(view: View) -> Html | None:
    """The judged measurements open, those that were only chosen by behind one summary."""
    if not view.latencies:
        return None
    judged = [t for t in view.latencies if t.selected] or list(view.latencies)
    others = [t for t in view.latencies if t not in judged]
    parts: list[Child] = [el("p", words.LATENCY_NOTE.replace("`", ""), class_="soft")]
    parts += [_measurement(t, i) for i, t in enumerate(judged)]
    if others:
        more = [_measurement(t, len(judged) + i, short=True) for i, t in enumerate(others)]
        noun = "measurement" if len(others) == 1 else "measurements"
        parts.append(fold(f"{len(others)} more {noun}, of the selection", *more))
    return section("latency", "Latency", *parts)


def _measurement(timings: LatencyTable, index: int, *, short: bool = False) -> Html:
    title = words.latency_title(timings)
    name = " and ".join(r.name for r in timings.rows)
    rows = words.latency_rows(timings)
    parts: list[Child] = [el("h3", name), el("p", title, class_="soft")]
    if timings.distribution is not None:
        parts.append(distribution_figure(timings.distribution, index))
    parts.append(table("", words.LATENCY_HEADER, rows, name=f"Quantiles of {name}"))
    if timings.resources:
        lines = el("pre", "\n".join(timings.resources))
        parts.append(fold("What each model needs", scroll(f"Resources of {name}", lines)))
    if timings.ledgers and not short:
        readings = [
            *ledger_ranges(timings.ledgers),
            *((f"redrawn {i + 1}", reason) for i, reason in enumerate(timings.redrawn)),
            *flatten(timings.environment),
        ]
        parts.append(
            fold(
                f"Ledger: what the machine did over {plural(timings.restarts, 'restart')}",
                facts(readings, name=f"Ledger of {name}"),
            )
        )
    return el("div", *parts, class_="block")


def distribution_figure(distribution: Distribution, index: int) -> Html:
    """A row per arm: how often each latency was seen, with p50, p90 and p99 marked. The table holds the figures."""
    scale = Scale(low=distribution.low_ns, high=distribution.high_ns, log=distribution.log)
    height = _TOP + _ROW * len(distribution.arms)
    marks: list[Html] = []
    unit, size = _unit(distribution.high_ns)
    in_units = Scale(low=scale.low / size, high=scale.high / size, log=scale.log)
    for tick in in_units.spaced(5, 0.1):
        at = in_units.at(tick)
        marks.append(el("line", x1=share(at), x2=share(at), y1=_TOP, y2=height, class_="grid"))
        marks.append(el("text", f"{tick:g}", x=share(at), y=height + 15, text_anchor=anchored(at, 0.04)))
    for i, arm in enumerate(distribution.arms):
        marks.append(_arm(arm, scale, _TOP + i * _ROW, f"arm{i % 4}"))
    kind = "log axis" if scale.log else "linear axis"
    marks.append(
        el("text", f"{unit} per call or query ({kind})", x="50%", y=height + 33, text_anchor="middle")
    )
    beyond = [f"{a.beyond:,} of {a.name}" for a in distribution.arms if a.beyond]
    slowest = max(a.max_ns for a in distribution.arms)
    note = "Each row is scaled to its own peak; lines mark p50, p90 and p99." + (
        f" Beyond the axis: {', '.join(beyond)}; the slowest took {words.milliseconds(slowest)}."
        if beyond
        else ""
    )
    spoken = "; ".join(
        f"{a.name}: p50 {words.milliseconds(a.quantiles_ns[0])}, p99 {words.milliseconds(a.quantiles_ns[2])}"
        for a in distribution.arms
    )
    return el(
        "figure",
        el(
            "svg",
            el("title", "Latency distribution per arm", id=f"dist-{index}-t"),
            el("desc", f"{spoken}. The table below holds the quantiles.", id=f"dist-{index}-d"),
            join(marks),
            class_="plot",
            width="100%",
            height=height + 40,
            role="img",
            aria_labelledby=f"dist-{index}-t dist-{index}-d",
        ),
        el("figcaption", note),
    )


def _unit(high_ns: float) -> tuple[str, float]:
    return next(((u, s) for u, s in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)) if high_ns >= s), ("ns", 1.0))


def _arm(arm: Histogram, scale: Scale, top: float, kind: str) -> Html:
    base = top + _ROW - 14
    tall = _ROW - 34
    drawn = el(
        "svg",
        el("path", d=_outline(arm.counts), class_=f"area {kind}"),
        x=0,
        y=base - tall,
        width="100%",
        height=tall,
        viewBox=f"0 0 {_UNITS:g} 100",
        preserveAspectRatio="none",
    )
    marks = [el("line", x1=0, x2="100%", y1=base, y2=base, class_="axis"), drawn]
    for label, at in zip(("p50", "p90", "p99"), (scale.at(q) for q in arm.quantiles_ns), strict=True):
        marks.append(
            el("line", x1=share(at), x2=share(at), y1=base - tall, y2=base + 5, class_=f"mark {label}")
        )
    name = arm.name if len(arm.name) <= 40 else f"{arm.name[:20]}…{arm.name[-19:]}"
    marks.append(el("text", name, x=0, y=top + 14, class_="strong"))
    return join(marks)


def _outline(counts: Sequence[int]) -> str:
    """The counts as a filled line over bins, lightly smoothed, scaled to their peak; runs of nothing take two points."""
    n = len(counts)
    padded = [0, *counts, 0]
    smooth = [(padded[i] + 2 * padded[i + 1] + padded[i + 2]) / 4 for i in range(n)]
    peak = max(smooth) or 1.0
    points: list[tuple[float, float]] = [(0.0, 100.0)]
    for i, value in enumerate(smooth):
        flat = value == 0 and points[-1][1] == 100 and (i + 1 == n or smooth[i + 1] == 0)
        if not flat:
            points.append((_UNITS * (i + 0.5) / n, 100 - 100 * value / peak))
    points.append((_UNITS, 100.0))
    return "M" + "L".join(f"{number(round(x, 1))} {number(round(y, 1))}" for x, y in points) + "Z"
