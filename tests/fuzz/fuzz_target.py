"""What a fuzz target is, and how bytes become edits of a document that was whole."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.errors import EdgeKDError

#: Reads one input; raises what it raises.
Reader = Callable[[bytes], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A door that outside bytes come through.

    Attributes:
        name: on the command line; reads: what it reads, for the table.
        prepare: given a scratch folder, the seeds (real files) and the reader.
        longest_bytes: the fuzzers make no longer input.
        refusals: what the reader may raise; anything else is a crash.
    """

    name: str
    reads: str
    prepare: Callable[[Path], tuple[Sequence[bytes], Reader]]
    longest_bytes: int = 1 << 14
    refusals: tuple[type[Exception], ...] = (EdgeKDError,)


class WronglyAcceptedError(Exception):
    """A reader took what it must refuse."""


class Choices:
    """Small numbers out of bytes; zeros once they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def below(self, limit: int) -> int:
        """A number in [0, limit)."""
        width = 1 if limit <= 256 else 4
        part = self._data[self._at : self._at + width]
        self._at += width
        return int.from_bytes(part, "little") % limit if limit > 0 else 0

    @property
    def left(self) -> bytes:
        return self._data[self._at :]


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


#: What a document does not expect. Depths below json's own limit, which reach the code behind it.
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 1.5, -0.0, 1e308, float("inf"), float("-inf"), float("nan"), 2**31, 2**63, 2**64,
    10**400, "", "0", "\0", "..", "../../etc/passwd", "/etc/passwd", "a/b", ".", "C:\\x", "x" * 5000, "\x1b[31mred",
    "\u202egpj", "two\nlines", "\ud800", "sha256:", "1e999", "nan", "None", "${HOME}", "python:os:system", "zoo:none",
    [], {}, [[]], [{}], {"": 0}, {"a": {"b": 1}}, [None], ["x"], ["x", "x"], [1, 2, 3], _nested(90), _nested(400),
    {"schema": "edgekd.run/1"}, {"schema": "edgekd.run/2"}, list(range(300)),
)  # fmt: skip


def edited(document: Any, choices: Choices) -> Any:
    """A copy of a document with up to four things changed, by the bytes."""
    document = copy.deepcopy(document)
    for _ in range(1 + choices.below(4)):
        document = _edit(document, choices)
    return document


def _edit(document: Any, choices: Choices) -> Any:
    parent: Any = None
    key: Any = None
    node = document
    while isinstance(node, (dict, list)) and node and choices.below(8):
        parent = node
        key = list(node)[choices.below(len(node))] if isinstance(node, dict) else choices.below(len(node))
        node = parent[key]
    kind = choices.below(8)
    if kind == 0 and isinstance(parent, (dict, list)):
        del parent[key]
        return document
    if kind == 1 and isinstance(node, dict):
        node[["extra", "", "schema", "\x1b]0;x\a", "name", "path"][choices.below(6)]] = _hostile(choices)
        return document
    if kind == 2 and isinstance(node, list):
        node.append(node[0] if node else _hostile(choices))
        return document
    if kind == 3 and isinstance(node, int) and not isinstance(node, bool):
        new: Any = node + [-1, 1, 2**31, 2**40][choices.below(4)]
    elif kind == 4 and isinstance(node, str):
        at = choices.below(len(node) + 1)
        new = node[:at] + ["\0", "\n", "é", "..", "/", ":", "\u2028", "#"][choices.below(8)] + node[at:]
    elif kind == 5:
        new = str(node)[:200]
    else:
        new = _hostile(choices)
    if parent is None:
        return new
    parent[key] = new
    return document


def _hostile(choices: Choices) -> Any:
    return copy.deepcopy(HOSTILE[choices.below(len(HOSTILE))])


def as_json(document: Any) -> bytes:
    """JSON as Python writes it, with NaN and Infinity, which other writers leave in files too."""
    return json.dumps(document, default=str).encode()


def document_or_bytes(document: Any, data: bytes) -> bytes:
    """The input as it stands, or, where it begins with an odd byte, edits of ``document`` that it chooses."""
    if data and data[0] & 1:
        return as_json(edited(document, Choices(data[1:])))
    return data[1:] if data[:1] == b"\0" else data
