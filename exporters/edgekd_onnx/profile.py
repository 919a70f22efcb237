"""Per-node times from ONNX Runtime's own profiler, in a session of its own: profiling costs time."""

from __future__ import annotations

import bisect
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.target import SessionOptions
from edgekd.workload import NodeTime, Profile, midmean

#: ONNX Runtime's element names that are not ours (onnxruntime/core/framework/data_types.cc).
ORT_DTYPES = {"float": "float32", "double": "float64"}

#: The profiler writes whole microseconds (onnxruntime/core/common/profiler.cc, Chrome trace format "dur").
_RESOLUTION_NS = 1000
NODE_SUFFIX = "_kernel_time"


def profile_file(
    runtime: Any,
    path: Path,
    options: SessionOptions,
    feeds: Mapping[str, Array],
    *,
    calls: int,
    warm_up: int,
) -> Profile:
    """Profile ``calls`` calls after ``warm_up`` more; see :class:`edgekd.workload.ProfilingRuntime`.

    Args:
        runtime: has ``open_profiling(path, options, prefix)``.

    Raises:
        ModelError, DataError, TargetUnavailableError: as opening and running; ModelError also where the profiler
            wrote nothing that can be read.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-profile-") as folder:
        session = runtime.open_profiling(path, options, str(Path(folder) / "profile"))
        run = session.bind(feeds)
        for _ in range(warm_up + calls):
            run()
        trace = Path(session.end_profiling())
        try:
            events = json.loads(trace.read_bytes())
        except (OSError, ValueError) as e:
            raise ModelError(
                f"the profile of {path} cannot be read ({e})", "free space in the temporary folder"
            ) from e
        return read_events(events, source=f"{session.placement.runtime} profiler", warm_up=warm_up)


def read_events(events: Iterable[Mapping[str, Any]], *, source: str, warm_up: int) -> Profile:
    """A profile from the profiler's events (Chrome trace: ``ts`` and ``dur`` in microseconds).

    A node that holds a subgraph (If, Loop, Scan) spans the nodes in it; their time is taken off its own.

    Raises:
        ModelError: no call is left after the warm-up, as when the profiler's buffer was full.
    """
    whole = [e for e in events if e.get("ph") == "X"]
    runs = sorted((e for e in whole if e.get("name") == "model_run"), key=lambda e: int(e["ts"]))[warm_up:]
    if not runs:
        raise ModelError(f"{source} recorded no call after the warm-up of {warm_up}", "profile more calls")
    starts = [int(e["ts"]) for e in runs]
    nodes = [e for e in whole if e.get("cat") == "Node" and str(e["name"]).endswith(NODE_SUFFIX)]
    times: dict[tuple[str, str], list[int]] = {}
    first: dict[tuple[str, str], Mapping[str, Any]] = {}
    for event, own_us in own_times(nodes):
        args = event.get("args", {})
        key = (str(event["name"]).removesuffix(NODE_SUFFIX), str(args.get("op_name", "")))
        call = bisect.bisect_right(starts, int(event["ts"])) - 1
        if call >= 0:
            # A node in a loop runs several times in one call.
            times.setdefault(key, [0] * len(runs))[call] += own_us
            first.setdefault(key, args)
    return Profile(
        source=source,
        calls=len(runs),
        ns_per_call=midmean([int(e["dur"]) for e in runs]) * 1000,
        resolution_ns=_RESOLUTION_NS,
        nodes=tuple(
            NodeTime(
                name=name, op=op, ns_per_call=midmean(own) * 1000,
                provider=str(first[name, op].get("provider", "")), output_shapes=_shapes(first[name, op]),
            )
            for (name, op), own in times.items()
        ),
    )  # fmt: skip


def own_times(events: list[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], int]]:
    """(event, microseconds in it and in none inside it), by thread."""
    # Outer before inner: by start, and of those that start together the longer first.
    ordered = sorted(events, key=lambda e: (e.get("tid", 0), int(e["ts"]), -int(e["dur"])))
    own = [int(e["dur"]) for e in ordered]
    open_: list[int] = []
    for i, event in enumerate(ordered):
        while open_ and not _inside(event, ordered[open_[-1]]):
            open_.pop()
        if open_:
            own[open_[-1]] = max(0, own[open_[-1]] - int(event["dur"]))
        open_.append(i)
    return list(zip(ordered, own, strict=True))


def _inside(inner: Mapping[str, Any], outer: Mapping[str, Any]) -> bool:
    return inner.get("tid", 0) == outer.get("tid", 0) and int(inner["ts"]) < int(outer["ts"]) + int(
        outer["dur"]
    )


def _shapes(args: Mapping[str, Any]) -> tuple[str, ...]:
    found = args.get("output_type_shape") or []
    return tuple(
        f"{ORT_DTYPES.get(dtype, dtype)}[{','.join(str(int(n)) for n in shape)}]"
        for entry in found
        if isinstance(entry, Mapping)
        for dtype, shape in entry.items()
    )
