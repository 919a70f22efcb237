"""Ask a runtime, in a child, where the operators of an artifact ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact
from edgekd.child import ChildProcess, Limits
from edgekd.child.sessions import open_session, placement_json
from edgekd.data.example import Array
from edgekd.errors import DataError
from edgekd.evidence.placement import OpPlacement
from edgekd.measure.arm import Setting
from edgekd.placement import PlacedOp, PlacingRuntime
from edgekd.plugins import load_path
from edgekd.target import SessionOptions

Reply = tuple[dict[str, Any], list[Array]]


def place_ops(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """The child's part: open, read back, and ask; ``problem`` says why nothing is known."""
    session, _ = open_session(args)
    found = placement_json(session)
    session.close()
    runtime = load_path(args["runtime"])()
    if not isinstance(runtime, PlacingRuntime):
        return {
            "placement": found,
            "ops": [],
            "problem": f"{found['runtime']} does not tell where operators ran",
        }, []
    options = SessionOptions(
        device=args["device"], provider=args["provider"], threads=args["threads"], settings=args["settings"]
    )
    feeds = dict(zip(args["feeds"], arrays, strict=True))
    looks = [runtime.place(Path(args["path"]), options, feeds) for _ in range(args.get("looks", 1))]
    return {"placement": found, "ops": [op.to_json() for op in least_times(looks)], "problem": ""}, []


def least_times(looks: Sequence[Sequence[PlacedOp]]) -> list[PlacedOp]:
    """The operators of the first look with the least time of all: one that was interrupted tells nothing of itself."""
    times: dict[tuple[str, str], list[float]] = {}
    for op in (op for ops in looks for op in ops):
        if op.time_ns is not None:
            times.setdefault((op.name, op.op_type), []).append(op.time_ns)
    return [replace(op, time_ns=min(times.get((op.name, op.op_type), ()), default=None)) for op in looks[0]]


def place_artifact(
    label: str,
    artifact: Artifact,
    feeds: Mapping[str, Array],
    setting: Setting,
    settings: Mapping[str, Any] | None = None,
    looks: int = 1,
) -> OpPlacement:
    """Run an artifact once on a target and keep what ran where.

    Args:
        settings: of the session; None takes the artifact's own.
        looks: how often it is asked, in fresh sessions of one child; each operator keeps its least time.

    Raises:
        DataError: the target cannot open its format; ChildError, ModelError, TargetUnavailableError: as the child says.
    """
    if artifact.format not in setting.runtime_paths:
        raise DataError(
            f"{setting.target} cannot open {label} (format {artifact.format})", "export it for that runtime"
        )
    used = dict(artifact.settings if settings is None else settings)
    limits = Limits.on(
        setting.target.device, timeout_s=setting.timeout_s, memory_bytes=setting.memory_bytes,
        threads=setting.threads,
    )  # fmt: skip
    with ChildProcess(f"placing {label} on {setting.target}", limits, setting.search) as child:
        reply, _ = child.request(
            "edgekd.measure.placing:place_ops",
            {
                "runtime": setting.runtime_paths[artifact.format],
                "path": str(artifact.path.resolve()),
                "device": setting.target.device,
                "provider": setting.target.provider,
                "threads": setting.threads,
                "settings": used,
                "feeds": list(feeds),
                "looks": looks,
            },
            list(feeds.values()),
        )
    return OpPlacement(
        artifact=artifact.digest,
        target=str(setting.target),
        provider=str(reply["placement"]["provider"]),
        ops=tuple(PlacedOp(**{**op, "sources": tuple(op["sources"])}) for op in reply["ops"]),
        problem=reply["problem"],
        settings=used,
        environment=reply["placement"],
    )
