"""Evidence of where an artifact's operators ran, ``placement-….json`` in a run folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.errors import EvidenceError
from edgekd.files import read_json, write_json
from edgekd.placement import PlacedOp

PLACEMENT_SCHEMA = "edgekd.placement/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpPlacement:
    """What ran where when one artifact was run once on one target.

    Attributes:
        artifact: digest; target: as asked.
        provider: what the session says it uses, read back.
        ops: in execution order; empty with ``problem`` where the runtime does not tell.
        problem: why nothing is known, in one line.
        settings: of the session; environment: placement of the session as it was read back.
    """

    artifact: str
    target: str
    provider: str
    ops: tuple[PlacedOp, ...] = ()
    problem: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)


def save_placement(placement: OpPlacement, path: Path) -> None:
    """Write the document; equal evidence gives equal bytes."""
    write_json(
        path,
        {
            "schema": PLACEMENT_SCHEMA,
            "artifact": placement.artifact,
            "target": placement.target,
            "provider": placement.provider,
            "ops": [op.to_json() for op in placement.ops],
            "problem": placement.problem,
            "settings": dict(placement.settings),
            "environment": dict(placement.environment),
        },
    )


def load_placement(path: Path) -> OpPlacement:
    """Read the document back.

    Raises:
        EvidenceError: missing, of another version, not whole, or with a time that is none.
    """
    value = read_json(path, PLACEMENT_SCHEMA)
    try:
        ops = tuple(
            PlacedOp(
                name=str(op["name"]),
                op_type=str(op["op_type"]),
                place=str(op["place"]),
                dtype=str(op["dtype"]),
                time_ns=None if op["time_ns"] is None else float(op["time_ns"]),
                macs=None if op.get("macs") is None else int(op["macs"]),
                sources=tuple(map(str, op["sources"])),
            )
            for op in value["ops"]
        )
        found = OpPlacement(
            artifact=str(value["artifact"]),
            target=str(value["target"]),
            provider=str(value["provider"]),
            ops=ops,
            problem=str(value["problem"]),
            settings=dict(value["settings"]),
            environment=dict(value["environment"]),
        )
    except (KeyError, TypeError, ValueError) as e:
        raise EvidenceError(f"{path} is not a whole placement ({e!r})", "collect it again") from e
    for op in ops:
        if op.time_ns is not None and not (math.isfinite(op.time_ns) and op.time_ns >= 0):
            raise EvidenceError(f"{path}: {op.name} took {op.time_ns} ns", "collect it again")
        if op.macs is not None and op.macs < 0:
            raise EvidenceError(f"{path}: {op.name} has {op.macs} multiply-accumulates", "collect it again")
    return found
