"""Plugins are entry points; there is no other registry. Listing imports nothing, loading imports one."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from edgekd.errors import UsageError

GROUPS = ("edgekd.exporters", "edgekd.runtimes", "edgekd.devices", "edgekd.tasks")


def list_plugins(group: str) -> dict[str, EntryPoint]:
    """Name -> entry point of every installed plugin of a group; imports none of them."""
    return {e.name: e for e in sorted(entry_points(group=group), key=lambda e: e.name)}


def plugin_path(group: str, name: str) -> str:
    """Where a plugin lives, as ``module:attribute``.

    Raises:
        UsageError: no such plugin; the message names those there are.
    """
    found = list_plugins(group)
    if name not in found:
        noun = group.rpartition(".")[2].removesuffix("s")
        known = ", ".join(found) or "none: is edgekd installed?"
        raise UsageError(f"no {noun} is called '{name}'", f"known: {known}")
    return found[name].value


def load_plugin(group: str, name: str) -> Any:
    """Import one plugin and return what its entry point names (a class).

    Raises:
        UsageError: no such plugin; MissingDependencyError: its import failed.
    """
    return load_path(plugin_path(group, name))


def load_path(path: str) -> Any:
    """Import ``module:attribute``."""
    import importlib

    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)
