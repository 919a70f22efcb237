"""Text that GitHub-flavoured Markdown shows as it is: no markup, no link, no mention, no table cell or line of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: GitHub links these wherever they stand; a zero-width space after them keeps them text.
_BREAK = "&#8203;"
_MARKUP = re.compile(r"([\\`*_~\[\]|$])")
#: The last: emoji, which are words between colons; a time of day is none.
_LINKED = re.compile(r"(@|#(?=\d)|GH-(?=\d)|:(?=//)|www(?=\.)|:(?=(?:100|1234|[\w-]*[A-Za-z+-][\w+-]*):))")


#: What makes a list or a heading of a line that starts with it.
_OPENS = re.compile(r"^(?:([-+])(?= |$)|(#{1,6})(?= |$)|(\d+)(?=[.)](?: |$)))")


def escape(text: str, *, linked: bool = False) -> str:
    """One line of text from evidence, safe anywhere in a line, also in a table cell.

    Args:
        linked: leave addresses and mentions as they are, for a file of its own: nobody is called by it.
    """
    kept = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    kept = kept.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    kept = _MARKUP.sub(r"\\\1", kept)
    kept = kept if linked else _LINKED.sub(rf"\1{_BREAK}", kept)
    return _OPENS.sub(lambda m: f"{m[3]}{_BREAK}" if m[3] else f"\\{m[0]}", kept)


def verbatim(text: str) -> list[str]:
    """Lines that show a text word for word: a quotation, or a fence where a quotation would read it as markup."""
    if escape(text, linked=True) == text:
        return [f"> {text}"]
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [f"{fence}text", *text.splitlines(), fence]


def code(text: str) -> str:
    """The same in the typeface of code."""
    return f"<code>{escape(text)}</code>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = ()) -> list[str]:
    """A table of cells that are escaped already: the first column to the left, the others to the right.

    Args:
        left: columns besides the first that hold words rather than figures.
    """

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "|".join("---" if i in (0, *left) else "---:" for i in range(len(header))) + "|"
    return [line(header), rule, *map(line, rows)]


def details(summary: str, lines: Sequence[str]) -> list[str]:
    """Lines that are folded away under a summary, escaped already."""
    return [f"<details><summary>{summary}</summary>", "", *lines, "", "</details>"]
