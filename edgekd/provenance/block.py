"""Plain YAML values of the ``provenance`` block, read one by one, each with its place for the sentence that refuses it."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from edgekd.errors import RecipeError

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_SHOWN = 60


class Place:
    """A place in the block, for the sentence that refuses what stands there."""

    def __init__(self, where: str, key: str = "provenance") -> None:
        self.where, self.key = where, key

    def at(self, step: str | int) -> Place:
        return Place(self.where, f"{self.key}.{step}")

    def refuse(self, what: str, fix: str = "see docs/provenance.md") -> RecipeError:
        start = f"{self.where}: " if self.where else ""
        return RecipeError(f"{start}{self.key} {what}", fix)


def read_day(text: str, place: Place) -> date:
    fix = "write a day as 2027-12-31"
    if not _DATE.fullmatch(text):
        raise place.refuse(f"is {quoted(text)}, which is no date", fix)
    try:
        return date.fromisoformat(text)
    except ValueError as e:
        raise place.refuse(f"is {quoted(text)}, which is no date ({e})", fix) from e


def check_keys(value: Mapping[str, Any], known: Sequence[str], place: Place) -> None:
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            raise place.refuse(
                f"has the unknown key {quoted(key)}", f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
            )  # fmt: skip


def read_list(value: Any, place: Place) -> list[Any]:
    """One or several, as a list."""
    if value is None:
        return []
    if isinstance(value, (str, Mapping)):
        return [value]
    if not isinstance(value, Sequence):
        raise place.refuse(f"is {quoted(value)}, expected one or a list")
    return list(value)


def read_choice(value: Any, allowed: tuple[str, ...], place: Place) -> str:
    if value not in allowed:
        raise place.refuse(f"is {quoted(value)}", f"choose one of {', '.join(allowed)}")
    return str(value)


def read_text(value: Mapping[str, Any], key: str, place: Place) -> str:
    return "" if value.get(key) is None else read_plain(value[key], place.at(key))


def read_plain(value: Any, place: Place) -> str:
    """Text on one line; numbers as they were most likely meant (``version: 3``)."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise place.refuse(f"is {quoted(value)}, expected text")
    text = unicodedata.normalize("NFC", " ".join(str(value).split()))
    # Cc and Cs: nothing that a terminal or a file cannot hold; Bidi controls would reorder a licence's name.
    if any(unicodedata.category(c) in ("Cc", "Cs") or c in _REORDERING for c in text):
        raise place.refuse(f"holds control characters: {quoted(text)}", "leave them out")
    return text


#: Unicode's bidirectional embeddings, overrides and isolates (UAX #9), which show text in another order than it has.
_REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def quoted(value: Any) -> str:
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
