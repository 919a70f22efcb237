"""Which operators of a model ran where, and in which precision, as the runtime itself tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from edgekd.data.example import Array
from edgekd.target import SessionOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedOp:
    """One operator as it was executed (after fusion).

    Attributes:
        name: of the node, or of the fused group; op_type: the runtime's word for it.
        place: who ran it: ``CPUExecutionProvider``, ``XNNPACK``, ``portable``, ``CPU``, ``TensorRT``, ...
        dtype: what it computed in, in ONNX spelling; empty where the runtime does not tell, and of one that computes
            nothing (reshape, transpose, copy, quantize, cast): a share of a precision is of those that compute.
        time_ns: of one call, measured by the runtime; None where it does not tell.
        macs: multiply-accumulates of one call; None where the runtime does not tell.
        sources: names of the model's own nodes that it stands for, where they are known.
    """

    name: str
    op_type: str
    place: str
    dtype: str = ""
    time_ns: float | None = None
    macs: int | None = None
    sources: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@runtime_checkable
class PlacingRuntime(Protocol):
    """A runtime plugin that can tell where its operators ran; this is optional."""

    def place(self, path: Path, options: SessionOptions, feeds: Mapping[str, Array]) -> Sequence[PlacedOp]:
        """Open a model, run it on ``feeds``, and say what ran where, in execution order.

        Copies and reorders that the runtime put in count as operators of their own.

        Raises:
            As :meth:`edgekd.target.Runtime.open`.
        """
        ...
