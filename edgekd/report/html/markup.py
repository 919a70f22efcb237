"""HTML elements that cannot be broken out of: every child and attribute that is not markup already is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

#: Characters that HTML cannot hold, or that make text read otherwise than it is written (bidirectional overrides).
_UNSAFE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_VOID = frozenset({"meta", "br", "img", "hr"})
_SHAPES = frozenset({"line", "circle", "rect", "path", "polygon"})


class Html(str):
    """Markup: written as it is. Any other string is text, and escaped."""

    __slots__ = ()


Child = str | Iterable["Child"] | None
Attribute = str | float | bool | None


def text(value: str) -> Html:
    """Untrusted text as markup.

    >>> text("</script> & co")
    '&lt;/script&gt; &amp; co'
    """
    return Html(escape(_UNSAFE.sub("\N{REPLACEMENT CHARACTER}", value)))


def join(*children: Child) -> Html:
    """Children one after the other; None is nothing."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            parts.append(str(child))
        elif isinstance(child, str):
            parts.append(str(text(child)))
        else:
            parts.append(str(join(*child)))
    return Html("".join(parts))


def number(value: float) -> str:
    """A coordinate with at most two decimals.

    >>> number(12.0), number(0.126), number(-0.001)
    ('12', '0.13', '0')
    """
    short = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if short == "-0" else short


def el(tag: str, *children: Child, **attributes: Attribute) -> Html:
    """An element. ``class_`` is class and ``aria_label`` is aria-label; None and False leave an attribute out.

    >>> el("td", "a < b", class_="word", colspan=2)
    '<td class="word" colspan="2">a &lt; b</td>'
    """
    parts = [f"<{tag}"]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        key = name.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(f" {key}")
        else:
            shown = value if isinstance(value, str) else number(value)
            parts.append(f' {key}="{text(shown)}"')
    if tag in _VOID:
        return Html("".join([*parts, ">"]))
    body = join(*children)
    if not body and tag in _SHAPES:
        return Html("".join([*parts, "/>"]))
    return Html("".join([*parts, ">", str(body), f"</{tag}>"]))
