"""Opening sessions inside children. Imports numpy and one runtime."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from edgekd.data.example import Array
from edgekd.errors import DataError
from edgekd.no_network import STATE_VARIABLE
from edgekd.plugins import load_path
from edgekd.target import Session, SessionOptions

Reply = tuple[dict[str, Any], list[Array]]


def open_session(args: dict[str, Any]) -> tuple[Session, int]:
    """Open what ``args`` describe; returns the session and the nanoseconds that took (imports not counted)."""
    runtime = load_path(args["runtime"])()
    options = SessionOptions(
        device=args["device"], provider=args["provider"], threads=args["threads"], settings=args["settings"]
    )
    # Imports the runtime now, so that the clock sees the model being opened and nothing else.
    runtime.unavailable(options.device, options.provider)
    start = time.perf_counter_ns()
    session = runtime.open(Path(args["path"]), options)
    return session, time.perf_counter_ns() - start


def placement_json(session: Session) -> dict[str, Any]:
    """What the session really uses, read back."""
    p = session.placement
    return {
        "device": p.device,
        "provider": p.provider,
        "runtime": p.runtime,
        "threads": p.threads,
        "detail": dict(p.detail),
    }


def network(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """Whether this child has a network: ``none``, or ``shared: why``."""
    return {"network": os.environ.get(STATE_VARIABLE, "shared: not asked")}, []


def describe(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """Open a model only to read its inputs, outputs and placement."""
    session, load_ns = open_session(args)
    return {
        "inputs": [s.to_json() for s in session.inputs],
        "outputs": [s.to_json() for s in session.outputs],
        "placement": placement_json(session),
        "load_ns": load_ns,
    }, []


def open_for_runs(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """Open a session and keep it for :func:`run_once`."""
    state["session"], load_ns = open_session(args)
    return {"load_ns": load_ns, "placement": placement_json(state["session"])}, []


def run_once(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """Outputs on given feeds; the reply's arrays are in the order of ``names``."""
    session: Session = state["session"]
    feeds = dict(zip(args["feeds"], arrays, strict=True))
    for spec in session.inputs:
        if spec.name not in feeds:
            raise DataError(f"no feed for the input '{spec.name}'", "map it with --map")
        spec.check(feeds[spec.name], where="the model")
    outputs = session.run(feeds)
    return {"names": list(outputs)}, list(outputs.values())
