"""Documents from outside: plain files of a bounded size, strict JSON, and values of the types that their schema names.

A document that passed :func:`check_types` may be incomplete, which its reader says; what it holds is of the right type
wherever its JSON Schema (:mod:`edgekd.schemas`) gives one.
"""

from __future__ import annotations

import functools
import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.errors import EdgeKDError

#: A real document has kilobytes; a measurement of an hour has a few megabytes.
LARGEST_BYTES = 64 << 20
#: Lists and objects within each other; real ones have about ten.
_DEEPEST = 100

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}


def read_plain_file(path: Path, kind: type[EdgeKDError], *, largest_bytes: int = LARGEST_BYTES) -> bytes:
    """The bytes of a plain file.

    Args:
        kind: of error, for what is no plain file and for more than ``largest_bytes``.

    Raises:
        OSError: missing or unreadable.
    """
    # Not to be waited for: opening a pipe waits for whoever writes to it.
    with open(
        path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
    ) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise kind(f"{path} is no plain file", "name a file")
        data = file.read(largest_bytes + 1)
    if len(data) > largest_bytes:
        raise kind(f"{path} has more than {largest_bytes} bytes, which no such file has", "name another file")
    return data


def is_file_name(path: str) -> bool:
    """Whether every part of a relative path can name a file (``NAME_MAX`` of the usual file systems is 255 bytes).

    >>> is_file_name("a/model.onnx"), is_file_name("x" * 256)
    (True, False)
    """
    parts = os.fsencode(path).split(b"/")
    return b"\0" not in b"".join(parts) and all(len(part) <= 255 for part in parts) and len(path) <= 1000


def parse_json(data: bytes | str) -> Any:
    """JSON as its standard has it (RFC 8259): no key twice, no NaN, no infinity, text that UTF-8 can hold.

    >>> parse_json('{"a": [1, 2.5]}')
    {'a': [1, 2.5]}

    Raises:
        ValueError: anything else, and what is nested deeper than 100.
    """
    try:
        value = json.loads(data, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite)
        _check_values(value, _DEEPEST)
    except RecursionError as e:
        raise ValueError("it is nested too deep") from e
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} is given twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


def _check_values(value: Any, deeper: int) -> None:
    if isinstance(value, str):
        if not value.isascii():
            value.encode()  # half of a surrogate pair is a UnicodeEncodeError, which is a ValueError
    elif isinstance(value, int):
        float_overflows = value.bit_length() > 1000
        if float_overflows:
            raise ValueError("a whole number is too large")
    elif isinstance(value, (dict, list)):
        if not deeper:
            raise ValueError(f"it is nested deeper than {_DEEPEST}")
        if isinstance(value, dict):
            for key in value:
                _check_values(key, 1)
        for item in value.values() if isinstance(value, dict) else value:
            _check_values(item, deeper - 1)


@functools.cache
def _schema(name: str) -> Mapping[str, Any] | None:
    from edgekd.schemas import WRITTEN, load_schema

    return load_schema(name) if name in WRITTEN else None


def type_problem(value: Any, document: str) -> str:
    """What in a document is of another type than its schema says; empty where nothing is.

    Args:
        value: the whole document, as JSON gave it.
        document: its name in :data:`edgekd.schemas.WRITTEN`; of others nothing is known.
    """
    schema = _schema(document)
    return "" if schema is None else _problem(value, schema, schema, "")


def _problem(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> str:
    if "$ref" in schema:
        return _problem(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, where)
    if "anyOf" in schema:
        branches = [_problem(value, branch, root, where) for branch in schema["anyOf"]]
        # The branch that went deepest is the one that was meant.
        return "" if "" in branches else max(branches, key=lambda said: said.index("' is "))
    types = schema.get("type", [])
    wanted: list[str] = [types] if isinstance(types, str) else types
    if not wanted and ("enum" in schema or "const" in schema):
        if isinstance(value, (dict, list)):
            return _said(where, value, "a plain value")
    elif wanted and not any(_is(value, name) for name in wanted):
        return _said(where, value, " or ".join(wanted))
    if isinstance(value, list):
        parts = [(str(i), item, schema.get("items")) for i, item in enumerate(value)]
    elif isinstance(value, dict):
        named, others = schema.get("properties", {}), schema.get("additionalProperties")
        parts = [(k, v, named.get(k, others)) for k, v in value.items()]
    else:
        return ""
    for key, item, inner in parts:
        if isinstance(inner, dict) and (
            found := _problem(item, inner, root, f"{where}.{key}" if where else key)
        ):
            return found
    return ""


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[name])


def _said(where: str, value: Any, wanted: str) -> str:
    text = repr(value)
    return f"'{where}' is {text if len(text) <= 60 else text[:59] + '…'}, expected {wanted}"
