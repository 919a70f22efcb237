"""A precision of the student as a recipe asks for it: a float type to cast to, or a way to quantize."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgekd.errors import UsageError
from edgekd.quantize.config import ALIASES, MODES, WORDS, QuantConfig, config_of

#: Floating-point types; all but the first are casts, which take no calibration.
FLOATS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """One entry of a recipe's ``quantize`` list.

    Attributes:
        name: what reports call it.
        cast: the float type, where it is one; else empty.
        config: how to quantize; None for a float type.
        usual: whether the granularity is the usual one, and not asked for.
        search: what a search is given: ``max_drop``, ``budget_minutes``; None where the precision is said.
    """

    name: str
    cast: str = ""
    config: QuantConfig | None = None
    usual: bool = True
    search: Mapping[str, float] | None = None


def precision_of(entry: str | Mapping[str, Any]) -> Precision:
    """Read a word (``int8``, ``int8-dynamic``, ``bfloat16``, ...) or fields of :class:`QuantConfig`.

    >>> precision_of({"dtype": "int8", "calibration": "entropy"}).name
    'int8 entropy'

    Raises:
        UsageError: a word or a value that is not known, or a field that means nothing for this precision.
    """
    if isinstance(entry, str):
        if entry in FLOATS:
            return Precision(name=entry, cast=entry)
        if entry not in WORDS and entry not in ALIASES:
            known = ", ".join([*FLOATS, *WORDS, *ALIASES])
            raise UsageError(f"'{entry}' is not a precision of this version", f"choose one of {known}")
        return Precision(name=ALIASES.get(entry, entry), config=config_of(entry))
    fields = {k: v for k, v in entry.items() if v is not None}
    name = str(fields.pop("name", "") or "")
    if "search" in fields:
        return Precision(name=name or "searched", search=dict(fields["search"]))
    base = _base(str(fields.get("dtype", "int8")), fields.get("mode"))
    config = replace(base, **{**fields, **_names(fields, base)})
    config.check()
    _refuse_idle(config, fields)
    usual = not {"granularity", "block_size"} & set(fields)
    return Precision(name=name or _describe(config, base, fields), config=config, usual=usual)


def _base(dtype: str, mode: object) -> QuantConfig:
    usual = config_of(dtype)
    if mode is None or mode == usual.mode:
        return usual
    if dtype not in MODES and ALIASES.get(dtype) not in MODES:
        raise UsageError(f"precision '{dtype}' is {usual.mode}, asked for {mode}", f"say {usual.dtype}")
    same = [c for c in WORDS.values() if c.dtype == usual.dtype and c.mode == mode]
    return same[0] if same else replace(usual, mode=str(mode))


#: What may be said although it is as usual.
_MAY_BE_USUAL = ("smoothing", "activation_granularity")


def _refuse_idle(config: QuantConfig, fields: Mapping[str, Any]) -> None:
    """Refuse what was asked for and decides nothing: the configuration leaves it out."""
    meant = config.to_json()
    usual = QuantConfig()
    for key in fields:
        if key in _MAY_BE_USUAL and fields[key] == getattr(usual, key):
            continue
        if key not in meant and key != "keep_float":  # an empty list of nodes is as none
            raise UsageError(
                f"{key} '{fields[key]}' means nothing for {config.dtype} {config.mode} per {config.granularity}",
                f"leave {key} out",
            )


def _names(fields: Mapping[str, Any], base: QuantConfig) -> dict[str, Any]:
    # A word like int8-dynamic names a mode too.
    found: dict[str, Any] = {"dtype": base.dtype}
    if "keep_float" in fields:
        found["keep_float"] = tuple(sorted(fields["keep_float"]))
    return found


def _describe(config: QuantConfig, base: QuantConfig, fields: Mapping[str, Any]) -> str:
    """The dtype, then whatever is not usual of it."""
    word = next(
        (w for w, c in WORDS.items() if (c.dtype, c.mode) == (config.dtype, config.mode)), config.dtype
    )
    parts = [word]
    for key in fields:
        value = getattr(config, key)
        if key in ("dtype", "mode") or value == getattr(base, key):
            continue
        if key == "keep_float":
            parts.append(f"{len(value)} kept")
        elif key == "activation_granularity":
            parts.append(f"{value} activations")
        else:
            parts.append(str(value) if isinstance(value, str) else f"{key} {value}")
    return " ".join(parts)
