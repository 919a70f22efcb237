"""Bundles: :func:`release` writes one, :mod:`edgekd.release.verify` checks one with the standard library alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekd.release.bundle import release

__all__ = ["release"]


def __getattr__(name: str) -> Any:
    # On demand: `verify` must not need numpy or pydantic.
    if name == "release":
        from edgekd.release.bundle import release

        return release
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
