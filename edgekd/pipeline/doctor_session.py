"""A session really made on a target: a library lists providers that it was built with, whether or not they load."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from edgekd.child import ChildProcess, Limits
from edgekd.pipeline.targets import ResolvedTarget
from edgekd.plugins import list_plugins, load_plugin
from edgekd.spec import draw_feeds
from edgekd.workload import CountingExporter

_EXPORTERS = "edgekd.exporters"
_SIDE = 64
#: A GPU's first session loads its libraries and its driver's state.
_TIMEOUT_S = 180.0


def needs_session(found: ResolvedTarget) -> bool:
    """Whether only a session tells: not on the CPU by its own provider, which is always there, and not on a board."""
    target = found.target
    own = target.device == "cpu" and target.provider.lower() in ("", "cpu", "cpuexecutionprovider")
    return not own and not target.remote and _writer(found) is not None


def _writer(found: ResolvedTarget) -> tuple[str, CountingExporter] | None:
    """A format that the target opens, and the exporter that writes a model of one product in it."""
    for name in found.runtime_paths:
        exporter = load_plugin(_EXPORTERS, name)() if name in list_plugins(_EXPORTERS) else None
        if isinstance(exporter, CountingExporter):
            return name, exporter
    return None


def try_session(found: ResolvedTarget) -> str:
    """Open and run a model of one node in a child: what was used, read back; a crash there costs nothing here.

    Raises:
        EdgeKDError: why it does not open, run, or run where it was asked to.
    """
    writer = _writer(found)
    if writer is None:
        return ""
    name, exporter = writer
    target = found.target
    with tempfile.TemporaryDirectory(prefix="edgekd-doctor-") as folder:
        artifact = exporter.write_product("float32", _SIDE, Path(folder))
        feeds = draw_feeds(artifact.inputs, seed=0, shapes={})
        with ChildProcess(f"a session on {target}", Limits.on(target.device, timeout_s=_TIMEOUT_S)) as child:
            reply, _ = child.request(
                "edgekd.child.sessions:open_for_runs",
                {
                    "runtime": found.runtime_paths[name],
                    "path": str(artifact.path),
                    "device": target.device,
                    "provider": target.provider,
                    "threads": 1,
                    "settings": {},
                },
            )
            child.request("edgekd.child.sessions:run_once", {"feeds": list(feeds)}, list(feeds.values()))
    placed: dict[str, Any] = reply["placement"]
    return f"a session ran on {placed['provider']}"
