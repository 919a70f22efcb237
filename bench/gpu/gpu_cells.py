"""What the GPU suite compares: cells of runtime x mode x precision, in groups that race together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Factories of gpu_nets.py; whether a network takes token ids is its own to say.
MODELS = ("resnet18", "resnet50", "vit_b16", "bert_base")
TINY_MODELS = ("tiny_resnet", "tiny_vit", "tiny_bert")

_GPU_PRECISIONS = ("float32", "tf32", "float16", "bfloat16", "float8e4m3fn", "int8")
_CPU_PRECISIONS = ("float32", "bfloat16", "float8e4m3fn", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One way to run a network.

    Attributes:
        label: as the page shows it, e.g. ``torch compile float16``.
        format: of the artifact that it opens: ``torch``, ``onnx`` or ``tensorrt``.
        dtype: of an exported file; ``float32`` for torch.
        settings: of its session.
    """

    label: str
    format: str
    dtype: str = "float32"
    settings: Mapping[str, Any] = field(default_factory=dict)


BASELINE = Cell(label="torch eager float32", format="torch")


def _torch(mode: str, precisions: Sequence[str]) -> tuple[Cell, ...]:
    cells = []
    for precision in precisions:
        settings: dict[str, Any] = {"mode": mode, "precision": precision}
        cells.append(Cell(label=f"torch {mode} {precision}", format="torch", settings=settings))
    return tuple(c for c in cells if c.label != BASELINE.label)


def groups_for(device: str) -> dict[str, tuple[Cell, ...]]:
    """Group -> its cells; each races against :data:`BASELINE` and its hidden twin."""
    precisions = _GPU_PRECISIONS if device == "cuda" else _CPU_PRECISIONS
    groups = {"torch eager": _torch("eager", precisions), "torch compile": _torch("compile", precisions)}
    halves = ("float32", "float16") if device == "cuda" else ("float32",)
    onnx = tuple(Cell(label=f"onnxruntime {d}", format="onnx", dtype=d) for d in halves)
    if device != "cuda":
        return {**groups, "onnxruntime": onnx}
    graphs = _torch("cuda-graph", precisions)
    engines = tuple(Cell(label=f"tensorrt {d}", format="tensorrt", dtype=d) for d in halves)
    return {**groups, "torch cuda-graph": graphs, "onnxruntime": onnx, "tensorrt": engines}


#: Cells whose energy is measured unless all or none are asked for; each takes most of a minute.
ENERGY = (
    BASELINE.label, "torch eager float16", "torch cuda-graph float16", "torch cuda-graph float8e4m3fn",
)  # fmt: skip
