"""The lineage as a drawing: boxes in columns from what was learned from to what ships, and arrows between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgekd.report.html.markup import Html, el, join
from edgekd.report.lineage import Edge, Lineage, Node

#: Pixels. A digit of 12 px sans serif is 7.3 px wide, as in DejaVu Sans, the widest that the page asks for; a title is bold.
_LETTER, _LINE, _PAD, _GAP, _ROW_GAP = 7.3, 16, 10, 100, 18
_WIDEST = 30
#: What a drawing can hold before it says less than the list beside it.
_MOST_NODES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    """Where a node is drawn, in pixels."""

    node: Node
    x: float
    y: float
    width: float
    height: float


def lineage_figure(graph: Lineage) -> Html | None:
    """The drawing twice: side by side for wide pages, from top to bottom for narrow ones; None where it would be a tangle."""
    if len(graph.nodes) > _MOST_NODES:
        return None
    return el(
        "figure",
        el("div", _drawing(graph, "lineage-wide", across=True), class_="wide flow"),
        el("div", _drawing(graph, "lineage-narrow", across=False), class_="narrow flow"),
        el(
            "figcaption",
            "An arrow leads from what was learned or converted to what was made of it; the list below says the same.",
        ),
    )


def _drawing(graph: Lineage, name: str, *, across: bool) -> Html:
    boxes = _laid(graph) if across else _stacked(graph)
    placed = {b.node.key: b for b in boxes}
    width = max(b.x + b.width for b in boxes) + 1
    height = max(b.y + b.height for b in boxes) + 1
    arrows = [_arrow(placed, e, across) for e in graph.edges]
    # After all arrows, so that none crosses a word.
    said = [_label(placed, e) for e in graph.edges] if across else []
    told = "; ".join(_spoken(graph, e) for e in graph.edges)
    return el(
        "svg",
        el("title", "Lineage of what ships", id=f"{name}-t"),
        el("desc", f"{told or graph.nodes[0].title}.", id=f"{name}-d"),
        join(arrows),
        join(said),
        join(_draw(b) for b in boxes),
        class_="lineage",
        viewBox=f"0 0 {width:g} {height:g}",
        width=f"{width:g}",
        height=f"{height:g}",
        role="img",
        aria_labelledby=f"{name}-t {name}-d",
    )


def _spoken(graph: Lineage, edge: Edge) -> str:
    how = f", {edge.how}" if edge.how else ""
    return f"{graph.node(edge.source).title} to {graph.node(edge.target).title}{how}"


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST // 2]}…{text[-(_WIDEST // 2 - 1) :]}"


def _size(node: Node) -> tuple[float, float]:
    longest = max(len(_cut(t)) * (1.1 if i == 0 else 1) for i, t in enumerate((node.title, *node.lines)))
    return longest * _LETTER + 2 * _PAD, (1 + len(node.lines)) * _LINE + 2 * _PAD - 4


def _columns(graph: Lineage) -> list[list[Node]]:
    ranks = sorted({n.rank for n in graph.nodes})
    return [[n for n in graph.nodes if n.rank == rank] for rank in ranks]


def _laid(graph: Lineage) -> list[_Box]:
    """Columns from left to right, each in the middle of the tallest."""
    columns = _columns(graph)
    heights = [sum(_size(n)[1] for n in c) + _ROW_GAP * (len(c) - 1) for c in columns]
    boxes, x = [], 1.0
    for column, height in zip(columns, heights, strict=True):
        width = max(_size(n)[0] for n in column)
        y = 1 + (max(heights) - height) / 2
        for node in column:
            boxes.append(_Box(node=node, x=x, y=y, width=width, height=_size(node)[1]))
            y += _size(node)[1] + _ROW_GAP
        x += width + _GAP
    return boxes


def _stacked(graph: Lineage) -> list[_Box]:
    """One below the other, for a phone."""
    width = max(_size(n)[0] for n in graph.nodes)
    boxes, y = [], 1.0
    for column in _columns(graph):
        for node in column:
            boxes.append(_Box(node=node, x=29, y=y, width=width, height=_size(node)[1]))
            y += _size(node)[1] + _ROW_GAP
        y += _ROW_GAP
    return boxes


def _draw(box: _Box) -> Html:
    node = box.node
    rows = [el("text", _cut(node.title), x=box.x + _PAD, y=box.y + _PAD + 8, class_="strong title")]
    rows += [
        el("text", _cut(line), x=box.x + _PAD, y=box.y + _PAD + 8 + _LINE * i)
        for i, line in enumerate(node.lines, start=1)
    ]
    frame = el("rect", x=box.x, y=box.y, width=box.width, height=box.height, rx=7, class_=f"box {node.kind}")
    return el("g", el("title", ", ".join((node.title, node.kind, *node.lines))), frame, *rows)


def _arrow(placed: Mapping[str, _Box], edge: Edge, across: bool) -> Html:
    a, b = placed[edge.source], placed[edge.target]
    if across:
        x0, y0, x1, y1 = a.x + a.width, a.y + a.height / 2, b.x, b.y + b.height / 2
        bend = (x1 - x0) / 2
        path = f"M{x0:.1f} {y0:.1f}C{x0 + bend:.1f} {y0:.1f} {x1 - bend:.1f} {y1:.1f} {x1 - 7:.1f} {y1:.1f}"
        head = f"M{x1 - 8:.1f} {y1 - 4.5:.1f}L{x1:.1f} {y1:.1f}L{x1 - 8:.1f} {y1 + 4.5:.1f}z"
    else:
        # Along the left edge, so that an arrow passes by the boxes between.
        x0, y0, x1, y1 = a.x, a.y + a.height / 2, b.x, b.y + b.height / 2 - 6
        out = min(26.0, 12 + math.hypot(0, y1 - y0) / 40)
        path = f"M{x0:.1f} {y0:.1f}H{x0 - out:.1f}V{y1:.1f}H{x1 - 7:.1f}"
        head = f"M{x1 - 8:.1f} {y1 - 4.5:.1f}L{x1:.1f} {y1:.1f}L{x1 - 8:.1f} {y1 + 4.5:.1f}z"
    return el("g", el("path", d=path, class_="edge"), el("path", d=head, class_="head"))


def _label(placed: Mapping[str, _Box], edge: Edge) -> Html:
    """What happened on the way, over the middle of the arrow."""
    a, b = placed[edge.source], placed[edge.target]
    x, y = (a.x + a.width + b.x) / 2 - 2, (a.y + a.height / 2 + b.y + b.height / 2) / 2 - 6
    lines = reversed(_wrapped(edge.how)) if edge.how else ()
    return join(
        el("text", t, x=x, y=y - 13 * i, text_anchor="middle", class_="label") for i, t in enumerate(lines)
    )


def _wrapped(text: str) -> list[str]:
    """At most two lines that fit between two columns."""
    if len(text) * _LETTER <= _GAP - 14:
        return [text]
    first, _, rest = text.partition(" ")
    return [first, rest] if rest else [text]
