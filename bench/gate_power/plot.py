"""The plot: how often each rule rejects, over the planted slow-down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from gate_power.models import EFFECTS
from gate_power.rates import Rate
from gate_power.rules import EDGEKD

_COLUMNS = 2
#: Nine rules stand beside each other over each planted slow-down.
_STEP = 0.1
#: What METHOD, section 5, asks of EdgeKD: at most one of 200 equal arms rejected, 99 % found at +4 %.
_TARGETS = {"null": 0.5, "4": 99.0}
_TARGET = "targets of EdgeKD: at most 0.5 % of equal, at least 99 % of +4 %"
#: Okabe and Ito's colours, which colour-blind readers tell apart.
_STYLES: Sequence[tuple[str, str, str, str]] = (
    (EDGEKD, "#000000", "o", "-"),
    ("interleaved block minima, rounds pooled: any slow-down", "#E69F00", "v", "-"),
    ("pytest-benchmark min:5% against the previous session", "#0072B2", "s", "-"),
    ("pytest-benchmark min:5% against one stored baseline", "#0072B2", "s", ":"),
    ("pytest-benchmark median:5% against the previous session", "#56B4E9", "D", "-"),
    ("pytest-benchmark median:5% against one stored baseline", "#56B4E9", "D", ":"),
    ("pytest-benchmark mean:5% against the previous session", "#D55E00", "^", "-"),
    ("pytest-benchmark mean:5% against one stored baseline", "#D55E00", "^", ":"),
    ("Mann-Whitney over repetitions in one process", "#009E73", "P", "-"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One condition: rule -> effect -> rate."""

    title: str
    table: Mapping[str, Mapping[str, Rate]]


def draw(panels: Sequence[Panel], limit: float, out: Path) -> list[Path]:
    """Write ``gate_power.png`` and ``.svg`` into ``out``; two panels in a row."""
    matplotlib.rcParams.update({"font.size": 9, "svg.hashsalt": "gate_power", "font.family": "DejaVu Sans"})
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(0.8 + 5.6 * columns, 1.4 + 3.9 * rows), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    handles: dict[str, Any] = {}
    for axis, panel in zip(axes.flat, panels, strict=False):
        handles |= _draw_panel(axis, panel, limit)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for line in axes:
        line[0].set_ylabel("trials rejected, %")
    shown = [name for name in handles if name != _TARGET] + [name for name in handles if name == _TARGET]
    figure.legend(
        [handles[n] for n in shown], shown, loc="outside lower center", ncols=min(2, columns), frameon=False,
        fontsize=8.5, title="vertical bars: Wilson 95 % intervals", title_fontsize=8.5,
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    made = [out / "gate_power.png", out / "gate_power.svg"]
    figure.savefig(made[0], dpi=150)
    figure.savefig(made[1], metadata={"Date": None})
    plt.close(figure)
    return made


def _draw_panel(axis: Any, panel: Panel, limit: float) -> dict[str, Any]:
    """One condition; returns what the legend shows, by name."""
    effects = [e for e in EFFECTS if any(e in rates for rates in panel.table.values())]
    places = {e: float(k) for k, e in enumerate(effects)}
    handles: dict[str, Any] = {}
    for index, (name, colour, marker, line) in enumerate(_STYLES):
        points = [(places[e], r) for e, r in panel.table.get(name, {}).items() if r.n]
        if not points:
            continue
        own = name == EDGEKD
        x = [place + (index - (len(_STYLES) - 1) / 2) * _STEP for place, _ in points]
        y = [100 * r.share for _, r in points]
        bars = [[100 * (r.share - r.low) for _, r in points], [100 * (r.high - r.share) for _, r in points]]
        # No line joins the markers: between two planted slow-downs nothing was tried.
        handles[name] = axis.errorbar(
            x, y, yerr=bars, color=colour, marker=marker, linestyle="none", markersize=7 if own else 5,
            elinewidth=2.0 if own else 1.1, capsize=0, zorder=5 if own else 3,
            markerfacecolor="white" if line == ":" else colour, clip_on=False,
        )  # fmt: skip
    for effect, percent in _TARGETS.items():
        if effect in places:
            (handles[_TARGET],) = axis.plot(
                [places[effect] - 0.46, places[effect] + 0.46], [percent] * 2, color="#CC0000", linewidth=1.0,
                linestyle=(0, (4, 2)), zorder=2,
            )  # fmt: skip
    for k in range(1, len(effects)):
        axis.axvline(k - 0.5, color="#dddddd", linewidth=0.8)
    if "null" in places and len(effects) > 1:
        axis.text(
            0.5,
            103.5,
            f"limit {100 * (limit - 1):+g} %",
            ha="center",
            va="bottom",
            color="#666666",
            fontsize=8,
        )
        axis.axvline(0.5, color="#666666", linestyle="--", linewidth=1.0)
    axis.set_title(panel.title, fontsize=10, pad=17)
    axis.set_xticks(list(places.values()), ["equal" if e == "null" else f"+{e} %" for e in effects])
    axis.set_xlim(-0.5, len(effects) - 0.5)
    axis.set_ylim(-2, 102)
    axis.set_xlabel("planted slow-down")
    axis.grid(axis="y", color="#eeeeee", linewidth=0.6)
    axis.tick_params(axis="x", length=0)
    axis.spines[["top", "right"]].set_visible(False)
    return handles
