"""Multiply-accumulates of the ONNX operators that are convolutions or matrix products, from shapes alone.

Each rule takes the node, the shapes of its inputs and of its first output (None where unknown), and gives the count
or None. Definitions: onnx, docs/Operators.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Shape = tuple[int, ...] | None
Rule = Callable[[Any, Sequence[Shape], Shape], int | None]


def _attribute(node: Any, name: str, default: Any) -> Any:
    onnx_value = next((a for a in node.attribute if a.name == name), None)
    if onnx_value is None:
        return default
    if isinstance(default, str):
        return onnx_value.s.decode(errors="replace")
    return onnx_value.i


def _conv(weight: int) -> Rule:
    """Each output element sums over the weight's input channels (of its group) and kernel."""

    def rule(node: Any, inputs: Sequence[Shape], output: Shape) -> int | None:
        w = inputs[weight]
        return None if output is None or w is None else math.prod(output) * math.prod(w[1:])

    return rule


def _conv_transpose(node: Any, inputs: Sequence[Shape], output: Shape) -> int | None:
    """Each input element is spread over the output channels (of its group) and kernel: W is (C, M/group, k…)."""
    x, w = inputs[0], inputs[1]
    return None if x is None or w is None else math.prod(x) * math.prod(w[1:])


def _matmul(node: Any, inputs: Sequence[Shape], output: Shape) -> int | None:
    a = inputs[0]
    return None if a is None or not a or output is None else math.prod(output) * a[-1]


def _gemm(node: Any, inputs: Sequence[Shape], output: Shape) -> int | None:
    a = inputs[0]
    if a is None or len(a) != 2 or output is None:
        return None
    return math.prod(output) * a[0 if _attribute(node, "transA", 0) else 1]


def _einsum(node: Any, inputs: Sequence[Shape], output: Shape) -> int | None:
    """One multiply-accumulate per combination of all indices; for two operands without an ellipsis."""
    terms = _attribute(node, "equation", "").replace(" ", "").partition("->")[0].split(",")
    if len(terms) != 2 or "." in "".join(terms):
        return None
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, inputs, strict=False):
        if shape is None or len(shape) != len(term):
            return None
        sizes.update(zip(term, shape, strict=True))
    return math.prod(sizes.values())


def _recurrent(gates: int) -> Rule:
    """Per step, batch row, direction and gate: hidden x (input + hidden). X is (steps, batch, input) or batch first."""

    def rule(node: Any, inputs: Sequence[Shape], output: Shape) -> int | None:
        x, w, r = inputs[0], inputs[1], inputs[2]
        if x is None or w is None or r is None or len(x) != 3:
            return None
        directions, hidden = w[0], r[-1]
        return x[0] * x[1] * directions * gates * hidden * (x[2] + hidden)

    return rule


RULES: Mapping[str, Rule] = {
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "LSTM": _recurrent(4),
    "GRU": _recurrent(3),
    "RNN": _recurrent(1),
}

#: Positions of the two operands of a product, where they are not the first two inputs.
OPERANDS: Mapping[str, tuple[int, int]] = {"QLinearConv": (0, 3), "QLinearMatMul": (0, 3)}

#: Operators of the standard domain that multiply and sum, and have no rule here.
UNCOUNTED = frozenset({"Attention", "DeformConv", "DFT", "STFT"})
