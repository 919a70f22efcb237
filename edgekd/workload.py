"""What a model asks of a machine: arithmetic and bytes, node by node, and where a call's time goes.

Plain values that runtimes and exporters make and :mod:`edgekd.measure` puts together, and the protocols of the
plugins that can make them. Both protocols are optional: where a plugin lacks one, the evidence says *unavailable*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.target import SessionOptions


def midmean(values: Sequence[float]) -> float:
    """The mean of the middle half: not moved by calls that were interrupted, and finer than the clock's resolution.

    >>> midmean([1.0, 2.0, 3.0, 900.0])
    2.5

    Args:
        values: at least one.
    """
    ordered = sorted(values)
    quarter = len(ordered) // 4
    middle = ordered[quarter : len(ordered) - quarter]
    return sum(middle) / len(middle)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTime:
    """Time of one node as the runtime runs it.

    Attributes:
        name, op: as the runtime names them after its own rewriting of the graph.
        ns_per_call: time in it, and in no node inside it, in one call of the model; see :func:`midmean`.
        provider: where it ran; may be empty.
        output_shapes: ``float32[1,64,56,56]``; empty where the runtime does not tell.
    """

    name: str
    op: str
    ns_per_call: float
    provider: str = ""
    output_shapes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Where the time of ``calls`` calls went. Made in a pass of its own: profiling costs time.

    Attributes:
        source: what timed them, with its version.
        calls: profiled calls, warm-up not among them; ``ns_per_call``: of a whole call, profiler included.
        resolution_ns: of one node's time in one call, which may be that much too small.
    """

    source: str
    calls: int
    ns_per_call: float
    resolution_ns: int
    nodes: tuple[NodeTime, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Profile:
        nodes = tuple(
            NodeTime(**{**n, "output_shapes": tuple(n.get("output_shapes", ()))}) for n in value["nodes"]
        )
        return Profile(**{**value, "nodes": nodes})


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCost:
    """Cost of one node of the file, at the shapes it was asked for.

    Attributes:
        macs: multiply-accumulates of convolutions and matrix products; 0 for an operator that has none; None where
            they could not be counted. ``dtype``: that they are done in; empty without any.
        weight_bytes: constants that it reads. ``activation_bytes``: what it reads and writes besides, at the dtypes
            on file; None where a shape is unknown.
        fusible: elementwise on what only the node before makes for it: a runtime that fuses moves nothing for it.
    """

    name: str
    op: str
    dtype: str
    macs: int | None
    weight_bytes: int
    activation_bytes: int | None
    fusible: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticCost:
    """What one call of a file costs, counted and not measured.

    Attributes:
        parameters: elements of its weights; ``parameter_bytes``: their bytes on file.
        boundary_bytes: its inputs and outputs together; None where a shape is unknown.
        nodes: one entry per node that runs.
        not_counted: operator -> why some of its nodes are missing from the sums.
    """

    parameters: int
    parameter_bytes: int
    boundary_bytes: int | None
    nodes: tuple[NodeCost, ...]
    not_counted: Mapping[str, str] = field(default_factory=dict)

    @property
    def macs_by_dtype(self) -> dict[str, int]:
        """Multiply-accumulates per dtype; empty for a model without any."""
        macs: dict[str, int] = {}
        for node in self.nodes:
            if node.macs:
                macs[node.dtype] = macs.get(node.dtype, 0) + node.macs
        return macs

    @property
    def fused_bytes(self) -> int:
        """Bytes of the nodes that a runtime cannot fuse away."""
        return sum(n.weight_bytes + (n.activation_bytes or 0) for n in self.nodes if not n.fusible)

    def to_json(self) -> dict[str, Any]:
        """Sums, and sums per operator. Where ``not_counted`` is not empty they are lower bounds (``whole`` false)."""
        by_op: dict[str, dict[str, Any]] = {}
        for node in self.nodes:
            entry = by_op.setdefault(
                node.op, {"op": node.op, "nodes": 0, "macs": 0, "weight_bytes": 0, "activation_bytes": 0}
            )
            entry["nodes"] += 1
            entry["macs"] += node.macs or 0
            entry["weight_bytes"] += node.weight_bytes
            entry["activation_bytes"] += node.activation_bytes or 0
        macs = sum(self.macs_by_dtype.values())
        weights = sum(n.weight_bytes for n in self.nodes)
        activations = sum(n.activation_bytes or 0 for n in self.nodes)
        return {
            "parameters": self.parameters,
            "parameter_bytes": self.parameter_bytes,
            "boundary_bytes": self.boundary_bytes,
            "macs": macs,
            "flops": 2 * macs,
            "macs_by_dtype": self.macs_by_dtype,
            "weight_bytes": weights,
            "activation_bytes": activations,
            "bytes_moved": weights + activations,
            "fused_bytes_moved": self.fused_bytes,
            "nodes": len(self.nodes),
            "by_op": sorted(by_op.values(), key=lambda e: (-e["macs"], e["op"])),
            "not_counted": dict(self.not_counted),
            "whole": not self.not_counted,
        }


@runtime_checkable
class ProfilingRuntime(Protocol):
    """What a runtime plugin may offer besides opening files: where the time of a call goes."""

    def profile(
        self, path: Path, options: SessionOptions, feeds: Mapping[str, Array], *, calls: int, warm_up: int
    ) -> Profile:
        """Run ``warm_up`` calls that do not count and ``calls`` that do, and say where their time went.

        Raises:
            ModelError, DataError, TargetUnavailableError: as opening and running.
        """
        ...


@runtime_checkable
class CountingExporter(Protocol):
    """What an exporter plugin may offer besides writing files: their cost, and a known one to measure a peak with."""

    def count_cost(self, artifact: Artifact, feeds: Mapping[str, Array]) -> StaticCost:
        """Count parameters, arithmetic and bytes of one call with ``feeds``; reads the file, runs nothing.

        Raises:
            ModelError: the file cannot be read.
        """
        ...

    def write_product(self, dtype: str, size: int, out: Path) -> Artifact:
        """Write a model of one square matrix product, ``size`` x ``size``, into the existing folder ``out``.

        One input, one constant weight, ``size`` ** 3 multiply-accumulates in ``dtype``.

        Raises:
            UsageError: it cannot write one in ``dtype``.
        """
        ...
