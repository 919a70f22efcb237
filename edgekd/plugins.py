"""Plugins are entry points; there is no other registry. Listing imports nothing, loading imports one."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from edgekd.errors import MissingDependencyError, UsageError

GROUPS = ("edgekd.exporters", "edgekd.runtimes", "edgekd.devices", "edgekd.tasks", "edgekd.meters")


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
    return f"{found[name].module}:{found[name].attr}"


def load_plugin(group: str, name: str) -> Any:
    """Import one plugin and return what its entry point names (a class).

    Raises:
        UsageError: no such plugin; MissingDependencyError: its import failed.
    """
    return load_path(plugin_path(group, name))


def load_path(path: str) -> Any:
    """Import ``module:attribute``.

    Raises:
        MissingDependencyError: the module does not import, or has no such attribute.
    """
    import importlib

    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as e:
        raise MissingDependencyError(
            f"the plugin {path} does not load ({e})", "install it again, or what it needs"
        ) from e
