"""What a child on a board does for a host that runs a model over the link, and how a board's device is found."""

from __future__ import annotations

from typing import Any

from edgekd.child.sessions import open_session, placement_json
from edgekd.data.example import Array
from edgekd.plugins import load_path

Reply = tuple[dict[str, Any], list[Array]]

#: Devices that a runtime may use on a board, in the order they are tried where the target does not name one.
_DEVICES = ("cpu", "cuda")


def find_device(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """The first device that the runtime has here with the provider asked for; else why it has none."""
    runtime = load_path(args["runtime"])()
    reasons = {device: runtime.unavailable(device, args["provider"]) for device in _DEVICES}
    device = next((d for d, why in reasons.items() if not why), "")
    # Of several reasons the first is the plainest: no such module, no such provider.
    return {"device": device, "reason": "" if device else reasons[_DEVICES[0]]}, []


def open_for_link(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """Open a session for :func:`edgekd.child.sessions.run_once`, and say what it takes, gives and uses."""
    session, load_ns = open_session(args)
    state["session"] = session
    return {
        "inputs": [s.to_json() for s in session.inputs],
        "outputs": [s.to_json() for s in session.outputs],
        "placement": placement_json(session),
        "load_ns": load_ns,
    }, []
