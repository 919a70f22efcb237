"""A glance at times inside a child that is open already: an order, not evidence. Imports numpy and one runtime.

Sessions stay open side by side between :func:`open_one` and :func:`close_all`, so that blocks can take turns. Nothing is
pinned and no process is fresh: what is near the fastest has to be measured by :mod:`edgekd.measure.interleave`.
"""

from __future__ import annotations

import time
from typing import Any

from edgekd.child.sessions import open_session
from edgekd.data.example import Array
from edgekd.measure.operations import bind_query, block_calls_for, time_calls

Reply = tuple[dict[str, Any], list[Array]]

#: Numbers of a block: see :class:`edgekd.measure.arm.Protocol`, of which these are the least that METHOD 1 asks.
_BLOCK = {"block_calls": 10, "block_ms": 8.0, "block_cap_ms": 200.0, "min_block_calls": 2}


def open_one(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """Open a session beside those that are open, bind its feeds and run it for ``warm_s``.

    Raises:
        ModelError, DataError: as opening and binding say.
    """
    session, _ = open_session(args)
    run = bind_query(session, dict(zip(args["feeds"], arrays, strict=True)), 1, args["path"])
    end = time.perf_counter() + args["warm_s"]
    calls = time_calls(run, 3)
    while time.perf_counter() < end:
        calls += time_calls(run, 1)
    # The session owns what is bound.
    state.setdefault("glanced", {})[args["name"]] = (session, run, block_calls_for(min(calls[1:]), _BLOCK))
    return {"threads": session.placement.threads}, []


def time_one(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """One block of an open session: its shortest call, nanoseconds."""
    _, run, count = state["glanced"][args["name"]]
    return {"ns": min(time_calls(run, count))}, []


def close_all(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """Let go of every session."""
    state.pop("glanced", None)
    return {}, []
