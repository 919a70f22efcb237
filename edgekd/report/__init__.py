"""Views of a run folder. JSON is the truth: every view is made from verdict.json, run.json and the stored evidence."""

from __future__ import annotations

from pathlib import Path

from edgekd.errors import UsageError
from edgekd.report.html import render_html
from edgekd.report.junit import render_junit
from edgekd.report.markdown import render_markdown
from edgekd.report.text import render_text
from edgekd.report.view import View, load_view

FORMATS = ("text", "md", "html", "junit")

__all__ = ["FORMATS", "View", "load_view", "render"]


def render(folder: Path, format: str, *, colour: bool = False) -> str:
    """One view of a run folder.

    Args:
        folder: holds ``run.json``, ``verdict.json`` and the evidence.
        format: one of :data:`FORMATS`.
        colour: escape codes in ``text``; the others never have any.

    Raises:
        UsageError: an unknown format. EvidenceError: no run, or no verdict yet.
    """
    if format not in FORMATS:
        raise UsageError(f"unknown report format '{format}'", f"choose one of {', '.join(FORMATS)}")
    view = load_view(folder)
    if format == "text":
        return render_text(view, colour=colour)
    return {"md": render_markdown, "html": render_html, "junit": render_junit}[format](view)
