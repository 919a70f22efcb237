"""The accuracy-versus-latency plot: intervals on both axes, the gates' region, and labels that keep apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgekd.report.html.labels import Box, Label, place_labels
from edgekd.report.html.legend import legend, region_words, shape
from edgekd.report.html.markup import Html, el, join
from edgekd.report.html.scale import Scale, scale_over
from edgekd.report.pareto import ParetoChart, ParetoPoint, Reading, front
from edgekd.report.words import DECISION_WORDS

#: Up to this many candidates are labelled by name, where the plot is wide; others by their number in the table.
NAMED = 8
#: Differences beyond this many margins below the limit lie at the edge of the plot: a broken candidate would else
#: press all others into a line.
_MARGINS = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """The plot's area in pixels, and its axes."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    time: Scale
    accuracy: Scale

    def x(self, ratio: float) -> float:
        return self.left + self.time.at(ratio) * (self.width - self.left - self.right)

    def y(self, difference: float) -> float:
        return (
            self.height - self.bottom - self.accuracy.at(difference) * (self.height - self.top - self.bottom)
        )

    def place(self, point: ParetoPoint) -> tuple[float, float]:
        """Where a point is drawn: what lies below the axis stands on its lower edge."""
        y = self.y(point.accuracy.estimate) if self.holds(point) else self.height - self.bottom - 15
        return self.x(point.time.estimate), y

    def holds(self, point: ParetoPoint) -> bool:
        return point.accuracy.estimate >= self.accuracy.low

    @property
    def area(self) -> Box:
        return Box(x0=self.left, y0=self.top, x1=self.width - self.right, y1=self.height - self.bottom)


def pareto_figure(
    chart: ParetoChart, names: Mapping[str, str], numbers: Mapping[str, int], *, index: int, note: str
) -> Html:
    """The plot twice, for wide and for narrow pages: the style shows one, and its text is of the same size in both.

    Args:
        names: digest -> name; numbers: digest -> row of the candidates table.
    """
    wide = _plot(chart, names, numbers, name=f"pareto-{index}-wide", width=860, height=500)
    narrow = _plot(chart, names, numbers, name=f"pareto-{index}-narrow", width=340, height=400)
    return el(
        "figure",
        el("div", wide, class_="wide"),
        el("div", narrow, class_="narrow"),
        legend(chart),
        el("figcaption", note),
    )


def _frame(chart: ParetoChart, width: float, height: float) -> _Frame:
    everyone = (*chart.points, chart.reference)
    ratios = [v for p in everyone for v in (p.time.estimate, p.time.lower, p.time.upper)]
    time = scale_over([*ratios, chart.max_ratio], log=True, pad=0.07)
    if time.high / time.low < 1.5:
        time = Scale(low=time.low, high=time.high)
    shown: list[float] = []
    for p in everyone:
        shown += [v for v in (p.accuracy.estimate, p.accuracy.lower, p.accuracy.upper) if v is not None]
    limit = chart.least_difference
    if limit is not None and limit < 0:
        floor = limit * (1 + _MARGINS)
        shown = [*(v for v in shown if v >= floor), limit]
    elif limit is not None:
        shown.append(limit)
    accuracy = scale_over([*shown, 0.0], pad=0.1)
    return _Frame(
        width=width, height=height, left=58, right=14, top=16, bottom=52, time=time, accuracy=accuracy
    )


def _plot(
    chart: ParetoChart,
    names: Mapping[str, str],
    numbers: Mapping[str, int],
    *,
    name: str,
    width: float,
    height: float,
) -> Html:
    frame = _frame(chart, width, height)
    fraction = chart.unit == "fraction"
    marks = [*_region(chart, frame), *_axes(chart, frame, fraction), *_front(chart, frame)]
    for point in chart.points:
        marks.append(_bars(point, frame, "faint"))
    marks.append(_bars(chart.reference, frame, "reference"))
    for point in sorted(chart.points, key=lambda p: p.selected):
        label = f"{numbers.get(point.artifact, 0)}. {names.get(point.artifact, '')}"
        marks.append(_marker(point, frame, f"{label}: {_spoken(point, fraction)}"))
    x, y = frame.x(1.0), frame.y(0.0)
    marks.append(
        el(
            "rect",
            el("title", f"the {chart.against}"),
            x=x - 6,
            y=y - 6,
            width=12,
            height=12,
            class_="origin",
        )
    )
    marks += _labels(chart, frame, names, numbers)
    best = front([(p.time.estimate, p.accuracy.estimate) for p in chart.points])
    said = "; ".join(
        f"{names.get(chart.points[i].artifact, '')} {_spoken(chart.points[i], fraction)}" for i in best[:6]
    )
    return el(
        "svg",
        el("title", f"Accuracy against latency on {chart.target}", id=f"{name}-t"),
        el(
            "desc",
            f"{len(chart.points)} candidates beside the {chart.against}. Not beaten in both: {said}. "
            "The candidates table holds every figure.",
            id=f"{name}-d",
        ),
        join(marks),
        class_="pareto",
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_labelledby=f"{name}-t {name}-d",
    )


def _spoken(point: ParetoPoint, fraction: bool) -> str:
    accuracy = point.accuracy.estimate
    words = f"{100 * accuracy:+.2f} points" if fraction else f"{accuracy:+.4g}"
    return f"{point.time.estimate:.3f}x the time, {words}, {DECISION_WORDS[point.decision].lower()}"


def _region(chart: ParetoChart, frame: _Frame) -> list[Html]:
    """What both gates allow; where one is not asked, all of its axis."""
    if chart.max_ratio is None and chart.least_difference is None:
        return []
    area = frame.area
    right = area.x1 if chart.max_ratio is None else frame.x(chart.max_ratio)
    low = area.y1 if chart.least_difference is None else frame.y(chart.least_difference)
    marks = [
        el("rect", x=area.x0, y=area.y0, width=right - area.x0, height=low - area.y0, class_="allowed"),
    ]
    if chart.max_ratio is not None:
        marks.append(el("line", x1=right, x2=right, y1=area.y0, y2=low, class_="limit"))
    if chart.least_difference is not None:
        marks.append(el("line", x1=area.x0, x2=right, y1=low, y2=low, class_="limit"))
    return marks


def _axes(chart: ParetoChart, frame: _Frame, fraction: bool) -> list[Html]:
    area = frame.area
    narrow = frame.width < 500
    marks = []
    for tick in frame.time.spaced(4, 0.12) if narrow else frame.time.ticks(8):
        x = frame.x(tick)
        marks.append(el("line", x1=x, x2=x, y1=area.y0, y2=area.y1, class_="grid"))
        marks.append(el("text", f"{tick:g}x", x=x, y=area.y1 + 17, text_anchor="middle"))
    for tick in frame.accuracy.ticks(5 if narrow else 7):
        y = frame.y(tick)
        shown = f"{100 * tick:+.4g}" if fraction else f"{tick:+.4g}"
        marks.append(el("line", x1=area.x0, x2=area.x1, y1=y, y2=y, class_="grid"))
        marks.append(el("text", "0" if tick == 0 else shown, x=area.x0 - 7, y=y + 4, text_anchor="end"))
    kind = ", log axis" if frame.time.log else ""
    unit = "points" if fraction else chart.unit
    across = (
        f"time, ratio to the {chart.against}{kind}"
        if narrow
        else f"time per example: ratio to the {chart.against} on {chart.target}{kind} (further left is faster)"
    )
    up = f"{chart.metric or 'metric'} against the {chart.against} ({f'{unit}, ' if unit else ''}up is better)"
    middle = (area.y0 + area.y1) / 2
    marks.append(
        el("rect", x=area.x0, y=area.y0, width=area.x1 - area.x0, height=area.y1 - area.y0, class_="frame")
    )
    marks.append(
        el(
            "text",
            across,
            x=(area.x0 + area.x1) / 2,
            y=frame.height - 12,
            text_anchor="middle",
            class_="strong",
        )
    )
    marks.append(
        el(
            "text",
            up,
            x=0,
            y=0,
            transform=f"translate(13 {middle:g}) rotate(-90)",
            text_anchor="middle",
            class_="strong",
        )
    )
    return marks


def _front(chart: ParetoChart, frame: _Frame) -> list[Html]:
    """The staircase of what nothing beats in both: fastest to the left, most accurate on top."""
    everyone = [(p.time.estimate, p.accuracy.estimate) for p in (*chart.points, chart.reference)]
    corners = [(frame.x(everyone[i][0]), frame.y(everyone[i][1])) for i in front(everyone)]
    path = f"M{corners[0][0]:.1f} {frame.area.y1:.1f}V{corners[0][1]:.1f}"
    for x, y in corners[1:]:
        path += f"H{x:.1f}V{y:.1f}"
    return [el("path", d=f"{path}H{frame.area.x1:.1f}", class_="front")]


def _bars(point: ParetoPoint, frame: _Frame, kind: str) -> Html:
    x, y = frame.place(point)
    marks = []
    if (ends := _ends(point.time)) is not None:
        marks.append(el("line", x1=frame.x(ends[0]), x2=frame.x(ends[1]), y1=y, y2=y))
    if frame.holds(point) and (ends := _ends(point.accuracy)) is not None:
        marks.append(el("line", x1=x, x2=x, y1=frame.y(ends[0]), y2=frame.y(ends[1])))
    return el("g", *marks, class_=f"bars {kind} {point.decision}") if marks else Html("")


def _ends(reading: Reading) -> tuple[float, float] | None:
    if reading.lower is None or reading.upper is None:
        return None
    return reading.lower, reading.upper


def _marker(point: ParetoPoint, frame: _Frame, title: str) -> Html:
    x, y = frame.place(point)
    marks = [shape(point.decision, x, y, 6.5 if point.selected else 5, title)]
    if point.selected:
        marks.append(el("circle", cx=x, cy=y, r=11, class_="ring"))
    if not frame.holds(point):
        marks.append(el("path", d=f"M{x - 4:.1f} {y + 8:.1f}h8l-4 6z", class_="arrow"))
    return join(marks)


def _labels(
    chart: ParetoChart, frame: _Frame, names: Mapping[str, str], numbers: Mapping[str, int]
) -> list[Html]:
    narrow = frame.width < 500
    by_name = len(chart.points) <= NAMED and not narrow
    shown = "allowed" if narrow else region_words(chart)
    wanted = [_label(shown, frame.area.x0 + 6, frame.area.y0 + 4, key="region")]
    region = Box(x0=wanted[0].x, y0=wanted[0].y, x1=wanted[0].x + wanted[0].width, y1=wanted[0].y + 14)
    if chart.max_ratio is None and chart.least_difference is None:
        region = Box(x0=0, y0=0, x1=0, y1=0)
    labels = []
    for point in sorted(chart.points, key=lambda p: (not p.selected, p.time.estimate)):
        mark = str(numbers.get(point.artifact, ""))
        if by_name or (point.selected and not narrow):
            mark = f"{mark} {_short(names.get(point.artifact, ''))}"
        if not frame.holds(point):
            far = point.accuracy.estimate
            mark += f" ({100 * far:+.0f})" if chart.unit == "fraction" else f" ({far:+.3g})"
        x, y = frame.place(point)
        labels.append(_label(mark, x, y, key="chosen" if point.selected else ""))
    labels.insert(1, _label(chart.against, frame.x(1.0), frame.y(0.0), key="strong"))
    obstacles = [Box(x0=lb.x - 7, y0=lb.y - 7, x1=lb.x + 7, y1=lb.y + 7) for lb in labels]
    # On a phone a label far from its mark says less than none: the table has every number.
    placed = place_labels(labels, [region, *obstacles], frame.area, reach=24 if narrow else math.inf)
    marks = []
    if region.x1:
        marks.append(el("text", wanted[0].text, x=region.x0, y=region.y1 - 2, class_="label region"))
    for label, box in zip(labels, placed, strict=True):
        if box is None:
            continue
        cx = (box.x0 + box.x1) / 2
        near_x, near_y = min(max(label.x, box.x0), box.x1), min(max(label.y, box.y0), box.y1)
        if math.hypot(near_x - label.x, near_y - label.y) > 13:
            marks.append(el("line", x1=label.x, y1=label.y, x2=near_x, y2=near_y, class_="leader"))
        marks.append(
            el(
                "text",
                label.text,
                x=cx,
                y=box.y1 - 3,
                text_anchor="middle",
                class_=f"label {label.key}".rstrip(),
            )
        )
    return marks


def _short(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:12]}…{name[-13:]}"


def _label(text: str, x: float, y: float, *, key: str = "") -> Label:
    # 7.4 px is a wide digit of 12 px sans serif; a label that is guessed too wide only stands further off.
    return Label(text=text, x=x, y=y, width=7.4 * len(text) + 4, height=14, key=key)
