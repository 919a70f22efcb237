"""Views of run folders. JSON is the truth: every view is made from verdict.json, run.json and the stored evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgekd.errors import UsageError
from edgekd.report.bmf import render_bmf
from edgekd.report.github_benchmark import render_github_benchmark
from edgekd.report.html import render_html
from edgekd.report.junit import render_junit
from edgekd.report.markdown import render_markdown
from edgekd.report.openmetrics import render_openmetrics
from edgekd.report.pytest_benchmark import render_pytest_benchmark
from edgekd.report.sarif import RECIPE, render_sarif
from edgekd.report.text import render_text
from edgekd.report.tracked import check_names
from edgekd.report.view import View, load_view

#: For people, one run each; then other tools' formats, which hold several runs in one document.
FORMATS = (
    "text", "md", "html",
    "junit", "sarif", "bmf", "openmetrics", "github-action-benchmark", "pytest-benchmark",
)  # fmt: skip

__all__ = ["FORMATS", "View", "load_view", "render", "render_runs"]

_OF_VIEWS: Mapping[str, Callable[[Sequence[View]], str]] = {
    "junit": render_junit,
    "bmf": render_bmf,
    "openmetrics": render_openmetrics,
    "github-action-benchmark": render_github_benchmark,
}


def render(folder: Path, format: str, *, colour: bool = False) -> str:
    """One view of a run folder; the same folder gives the same bytes.

    Args:
        folder: holds ``run.json``, ``verdict.json`` and the evidence.
        format: one of :data:`FORMATS`.
        colour: escape codes in ``text``; the others never have any.

    Raises:
        UsageError: an unknown format. EvidenceError: no run, or no verdict yet.
    """
    return render_runs([folder], format, colour=colour)


def render_runs(folders: Sequence[Path], format: str, *, colour: bool = False, recipe: str = RECIPE) -> str:
    """One document of several runs: text and Markdown one after the other, other tools' formats merged.

    Args:
        folders, format, colour: as of :func:`render`.
        recipe: the file in the repository that SARIF findings point at.

    Raises:
        UsageError: an unknown format, two runs of one name where they would be taken for one, HTML of several runs, or
            a ``recipe`` outside the repository. EvidenceError: no run, or no verdict yet.
    """
    if format not in FORMATS:
        raise UsageError(f"unknown report format '{format}'", f"choose one of {', '.join(FORMATS)}")
    if format == "html" and len(folders) > 1:
        raise UsageError("an HTML report is of one run", "report the runs one by one")
    views = [load_view(folder) for folder in folders]
    if format == "text":
        return "\n".join(render_text(view, colour=colour) for view in views)
    if format == "md":
        return "\n".join(map(render_markdown, views))
    if format == "html":
        return render_html(views[0])
    check_names(views)
    if format == "pytest-benchmark":
        return render_pytest_benchmark(folders)
    return render_sarif(views, recipe=recipe) if format == "sarif" else _OF_VIEWS[format](views)
