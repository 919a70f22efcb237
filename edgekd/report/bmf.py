"""Bencher Metric Format: JSON of ``{benchmark: {measure: {value, lower_value, upper_value}}}``.

The format is that of bencher.dev's reference page, "Bencher Metric Format (BMF)"; ``latency`` is Bencher's built-in
measure, in nanoseconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from edgekd.report.tracked import tracked_figures
from edgekd.report.view import View

#: Bencher's longest name of a benchmark.
LONGEST = 1024


def render_bmf(views: Sequence[View]) -> str:
    """One JSON object; empty where a run has no figure."""
    document: dict[str, dict[str, dict[str, float]]] = {}
    for view in views:
        for f in tracked_figures(view):
            metric = {"value": f.value}
            if f.lower is not None:
                metric["lower_value"] = f.lower
            if f.upper is not None:
                metric["upper_value"] = f.upper
            document.setdefault(f.benchmark[:LONGEST], {})[f.measure] = metric
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
