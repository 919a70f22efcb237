"""How one format becomes another: exporters say what they take, and the shortest way is found."""

from __future__ import annotations

from edgekd.errors import MissingDependencyError, UsageError
from edgekd.plugins import list_plugins, load_plugin
from edgekd.target import ConvertingExporter, Exporter, ModelQuantizer

_GROUP = "edgekd.exporters"


def exporter_for(format_name: str) -> Exporter:
    """The exporter plugin of a format.

    Raises:
        UsageError: no such format.
    """
    exporter: Exporter = load_plugin(_GROUP, format_name)()
    return exporter


def starts_with_onnx(exporter: Exporter) -> bool:
    """Whether a torch model reaches this format by way of ONNX."""
    return (
        isinstance(exporter, ConvertingExporter)
        and not isinstance(exporter, ModelQuantizer)
        and exporter.format != "onnx"
        and "onnx" in exporter.sources
    )


def find_route(source: str, wanted: str) -> tuple[str, ...]:
    """The formats to write, one after another, to get from ``source`` to ``wanted``; none where they are the same.

    Raises:
        UsageError: no such format, or no way.
    """
    exporter_for(wanted)
    ways: dict[str, tuple[str, ...]] = {source: ()}
    edges = {name: _sources(name) for name in list_plugins(_GROUP)}
    while wanted not in ways:
        reached = {
            name: (*ways[start], name)
            for name, starts in edges.items()
            if name not in ways
            for start in starts
            if start in ways
        }
        if not reached:
            into = ", ".join(n for n in edges if n != source and source in edges[n]) or "nothing"
            raise UsageError(
                f"there is no way from a file in format {source} to {wanted}",
                f"it can become {into}; or give the torch model",
            )
        ways |= reached
    return ways[wanted]


def _sources(name: str) -> tuple[str, ...]:
    try:
        exporter = exporter_for(name)
    except MissingDependencyError:
        return ()  # a plugin that does not load stands in nobody's way but its own
    return exporter.sources if isinstance(exporter, ConvertingExporter) else ()
