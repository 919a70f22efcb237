"""The release engineer's view: one self-contained page, in light and dark, on paper and phones, without scripts."""

from edgekd.report.html.page import render_html

__all__ = ["render_html"]
