"""Tolerances of parity as options give them: numbers from recipes, text from ``--option NAME=VALUE``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgekd.errors import UsageError


def read_tolerances(options: Mapping[str, Any], atol: float, rtol: float) -> tuple[float, float]:
    """``atol`` and ``rtol`` of ``options``; see :func:`edgekd.parity.check_parity` for what they allow.

    Args:
        options: of an exporter.
        atol, rtol: where an option is not given, or None.

    Raises:
        UsageError: not a finite number >= 0.

    >>> read_tolerances({"rtol": "0.01"}, 1e-4, 1e-3)
    (0.0001, 0.01)
    """
    return _read(options, "atol", atol), _read(options, "rtol", rtol)


def _read(options: Mapping[str, Any], name: str, usual: float) -> float:
    given = options.get(name)
    if given is None:
        return usual
    try:
        value = -1.0 if isinstance(given, bool) else float(given)
    except (TypeError, ValueError, OverflowError):
        value = -1.0
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{name} {given!r} is not a finite number >= 0", f"for example {name}={usual:g}")
    return value
