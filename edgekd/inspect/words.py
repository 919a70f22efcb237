"""An inspection as plain text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.inspect.inspection import Inspection
from edgekd.inspect.names import printable

#: Fact -> how it is called in the text, where its key is not word enough.
_WORDS: Mapping[str, str] = {
    "ir_version": "IR version",
    "opsets": "operator sets",
    "ops": "operators",
    "dtypes": "element types",
    "initializer_bytes": "weight bytes",
    "listed": "tensors",
}
#: Lines of one fact; the rest are counted.
_LINES = 40


def to_text(found: Inspection) -> str:
    """What ``edgekd inspect`` prints of one file, without a last line break."""
    rows = [("format", found.format), ("size", f"{found.size_bytes:,} bytes")]
    if found.sha256:
        rows.append(("sha256", found.sha256))
    for key, value in found.facts.items():
        rows += _rows(_WORDS.get(key, key.replace("_", " ")), value)
    for path, size in found.files.items():
        rows.append(("reaches", f"{path} ({size:,} bytes)"))
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  {printable(text)}".rstrip() for name, text in rows]
    return "\n".join([printable(str(found.path)), *lines])


def _rows(name: str, value: Any) -> list[tuple[str, str]]:
    if value in ("", None, [], {}):
        return []
    if isinstance(value, Mapping):
        if all(isinstance(v, (int, str, bool)) for v in value.values()) and not any(
            len(str(v)) > 30 for v in value.values()
        ):
            return [(name, ", ".join(f"{k} {_plain(v)}" for k, v in value.items()))]
        return _shortened(name, [f"{k}: {_plain(v)}" for k, v in value.items()])
    if isinstance(value, (list, tuple)):
        if all(isinstance(v, (int, str)) for v in value):
            return [(name, ", ".join(map(_plain, value)))]
        return _shortened(name, [_plain(v) for v in value])
    return [(name, _plain(value))]


def _shortened(name: str, lines: list[str]) -> list[tuple[str, str]]:
    rows = [(name if i == 0 else "", line) for i, line in enumerate(lines[:_LINES])]
    return rows + ([("", f"and {len(lines) - _LINES} more")] if len(lines) > _LINES else [])


def _plain(value: Any) -> str:
    """A value in a line: a tensor as ``name: dtype[shape]``, others by their parts."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        if {"dtype", "shape"} <= set(value):
            shape = value["shape"]
            dims = "" if shape is None else f"[{','.join('?' if d is None else str(d) for d in shape)}]"
            name = f"{value['name']}: " if "name" in value else ""
            rest = {k: v for k, v in value.items() if k not in ("name", "dtype", "shape")}
            more = f" ({', '.join(f'{k} {_plain(v)}' for k, v in rest.items())})" if rest else ""
            return f"{name}{value['dtype'] or 'no tensor'}{dims}{more}"
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_plain, value))}]"
    return str(value)
