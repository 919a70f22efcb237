"""Amounts as a reader expects them: a count with its noun, a number without a unit, a text that fits its place."""

from __future__ import annotations

import hashlib

#: Characters of a slice value or an answer that a table, a line or a test's name has room for.
ROOM = 60
_DIGEST = 8


def plural(count: int, noun: str) -> str:
    """
    >>> plural(1, "gate"), plural(2000, "example")
    ('1 gate', '2,000 examples')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def plain_number(value: float, unit: str, sign: str = "") -> str:
    """A number in a unit that is no fraction; one without a unit (a correlation, say) has four decimals.

    >>> plain_number(0.98182, ""), plain_number(-0.0002, "", "+"), plain_number(43.21987, "mm")
    ('0.9818', '-0.0002', '43.22')
    """
    digits = ".4f" if not unit and abs(value) < 10 else ".4g"
    # Rounded first, for a small negative number would read as minus zero.
    return f"{float(f'{value:{digits}}') + 0.0:{sign}{digits}}"


def shortened(text: str) -> str:
    """One line of at most 60 characters; a longer one ends in a piece of its digest, so that no two read alike.

    >>> shortened("x" * 100)
    'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…09ecb6eb'
    """
    line = " ".join(text.split())
    if len(line) <= ROOM:
        return line
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    return f"{line[: ROOM - _DIGEST - 1]}…{digest[:_DIGEST]}"
