"""Licence expressions as SPDX writes them: ``A OR B`` leaves a choice, ``A AND B`` asks for both, brackets group.

Operators are those of the SPDX specification, annex "SPDX license expressions"; ``AND`` binds tighter than ``OR``.
``A WITH B`` stays one licence of that name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Strictness = tuple[int, ...]
_TOKEN = re.compile(r"[()]|[^\s()]+")
#: Brackets that an expression may have; real ones have a pair or two.
_MAX_BRACKETS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _All:
    parts: tuple[_Node, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Any:
    parts: tuple[_Node, ...]


_Node = str | _All | _Any


def licences_in(text: str, strictness: Callable[[str], Strictness]) -> tuple[str, ...]:
    """The licences that apply: every part of an ``AND``, and of an ``OR`` the choice whose strictest part is the mildest.

    Args:
        strictness: of one licence; more is stricter. The first of equals is chosen.

    Returns:
        Ids as they were written; the text itself where it is no expression.

    >>> licences_in("(GPL-3.0 OR MIT) AND BSD", lambda name: (len(name),))
    ('MIT', 'BSD')
    """
    if text.count("(") > _MAX_BRACKETS:
        return (text,)
    tokens = _TOKEN.findall(text)
    node, rest = _read(tokens, "OR")
    return (text,) if node is None or rest else _chosen(node, strictness)


def _chosen(node: _Node, strictness: Callable[[str], Strictness]) -> tuple[str, ...]:
    if isinstance(node, str):
        return (node,)
    parts = [_chosen(part, strictness) for part in node.parts]
    if isinstance(node, _Any):
        return min(parts, key=lambda names: max(map(strictness, names)))
    return tuple(dict.fromkeys(name for names in parts for name in names))


def _read(tokens: list[str], operator: Literal["OR", "AND"]) -> tuple[_Node | None, list[str]]:
    """Parts joined by an operator, and what is left; None where a part is missing."""
    parts: list[_Node] = []
    while True:
        part, tokens = _read(tokens, "AND") if operator == "OR" else _unit(tokens)
        if part is None:
            return None, tokens
        parts.append(part)
        if not tokens or tokens[0] not in (operator, operator.lower()):
            break
        tokens = tokens[1:]
    if len(parts) == 1:
        return parts[0], tokens
    return (_Any if operator == "OR" else _All)(parts=tuple(parts)), tokens


def _unit(tokens: list[str]) -> tuple[_Node | None, list[str]]:
    """A licence, whose name may have blanks, or a whole expression in brackets."""
    if tokens and tokens[0] == "(":
        node, rest = _read(tokens[1:], "OR")
        return (node, rest[1:]) if rest and rest[0] == ")" else (None, rest)
    end = next((k for k, t in enumerate(tokens) if t in ("(", ")", "AND", "OR", "and", "or")), len(tokens))
    return (" ".join(tokens[:end]) or None), tokens[end:]
