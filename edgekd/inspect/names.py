"""Names in a file from outside: text that can be printed and compared."""

from __future__ import annotations

import re

#: ASCII control characters, and whatever is not ASCII.
_SUSPECT = re.compile(rb"[\x00-\x1f\x7f-\xff]")


def fault(data: memoryview | bytes, start: int, end: int, longest: int) -> str:
    """What is wrong with the name in ``data[start:end]``; empty where nothing is.

    >>> fault(b"conv1", 0, 5, 100)
    ''
    >>> fault(b"a\\x1bb", 0, 3, 100)
    'a name holds U+001B, a character that does not print'
    """
    if end - start > longest:
        return f"a name has {end - start} bytes, at most {longest} are read"
    if _SUSPECT.search(data, start, end) is None:
        return ""
    try:
        text = bytes(data[start:end]).decode()
    except UnicodeDecodeError:
        return f"the name {text_of(data, start, end)!r} is not UTF-8"
    if text.isprintable():
        return ""
    hidden = next(c for c in text if not c.isprintable())
    return f"a name holds U+{ord(hidden):04X}, a character that does not print"


def text_of(data: memoryview | bytes, start: int, end: int, longest: int = 120) -> str:
    """The text in ``data[start:end]`` for a message: shortened, and with nothing that does not print."""
    text = bytes(data[start : min(end, start + longest)]).decode(errors="replace")
    return printable(text) + ("\N{HORIZONTAL ELLIPSIS}" if end - start > longest else "")


def printable(text: str) -> str:
    """``text`` with a replacement for every character that a terminal would not show as it is."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def count_text(count: int) -> str:
    """A count for a message: a product of dimensions may have hundreds of digits.

    >>> count_text(7), count_text(1 << 90)
    ('7', '2^90')
    """
    return str(count) if count < 1 << 64 else f"2^{count.bit_length() - 1}"
