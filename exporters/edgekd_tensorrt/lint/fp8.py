"""Where FP8 may stand: TRT054."""

from __future__ import annotations

from collections.abc import Iterator

from edgekd_tensorrt.lint.context import Context
from edgekd_tensorrt.lint.findings import Finding
from edgekd_tensorrt.lint.fusion import readers_of
from edgekd_tensorrt.lint.quantization import FP8, WEIGHTED

#: Readers of an FP8 DequantizeLinear.
_READERS = (*WEIGHTED, "Add", "Attention", "QuantizeLinear")


def fp8_findings(context: Context) -> Iterator[Finding]:
    """The first reader of each FP8 pair that FP8 has no kernel for."""
    for step in context.dequantizes():
        if step.low != FP8:
            continue
        readers = readers_of(step.graph, step.result)
        wrong = [n for n in readers if n.op_type not in _READERS and n not in context.steps]
        if wrong and not any(n.op_type in _READERS for n in readers):
            yield context.find(
                "TRT054", step.node, f"{wrong[0].op_type} '{wrong[0].label}' reads it", tensor=step.result
            )
