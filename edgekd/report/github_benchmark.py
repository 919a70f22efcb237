"""github-action-benchmark's ``customSmallerIsBetter``: a JSON list of ``{name, unit, value, range, extra}``.

The action alerts where a value has grown by a factor (``BenchmarkResult`` in its ``extract.ts``; its compare divides the
new value by the last). So what is listed grows when it gets worse, is never negative, and may be divided: accuracies
become error rates, and signed differences are left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from edgekd.report.tracked import Figure, tracked_figures
from edgekd.report.view import View


def render_github_benchmark(views: Sequence[View]) -> str:
    """A JSON list; empty where a run has no figure, which the action refuses."""
    entries = [entry for view in views for f in tracked_figures(view) if (entry := _entry(f))]
    return json.dumps(entries, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _entry(figure: Figure) -> dict[str, Any] | None:
    measure, unit, value = figure.measure, figure.unit, figure.value
    lower, upper = figure.lower, figure.upper
    if (
        figure.smaller_is_better is False
        and unit == "fraction"
        and 0 <= value <= 1
        and "difference" not in measure
    ):
        measure, unit, value = f"{measure} error rate", "fraction", 1 - value
        lower, upper = None if upper is None else 1 - upper, None if lower is None else 1 - lower
    elif figure.smaller_is_better is not True or value < 0:
        return None
    factor = 1.0
    if unit == "fraction":
        unit, factor = "%", 100.0
    entry = {
        "name": f"{figure.benchmark}: {measure}",
        "unit": unit or "1",
        "value": round(value * factor, 10),
    }
    if lower is not None or upper is not None:
        entry["range"] = f"[{_short(lower, factor)}, {_short(upper, factor)}]"
    if figure.said:
        entry["extra"] = figure.said
    return entry


def _short(value: float | None, factor: float) -> str:
    return "…" if value is None else f"{value * factor:.6g}"
