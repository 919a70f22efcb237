"""Leave operators of a wholly quantized IR in float, without calibrating anything again.

NNCF places quantizers by operator, and ranges do not hang on what else is quantized. So a mixture is the whole model in
which the quantizers before some operators are passed by: activations reach them as they were made, and their weights
are those of the float model.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

QUANTIZER = "FakeQuantize"
#: What lies between a stored weight and the operator that uses it.
_OF_WEIGHTS = ("Constant", "Convert", "Subtract", "Multiply", "Reshape", "Transpose", QUANTIZER)
#: What only moves numbers on: it is not quantized itself, and what comes behind it is.
MOVING = (
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Concat", "StridedSlice", "Split", "VariadicSplit", "MaxPool", "Pad",
)  # fmt: skip


def is_stored(node: Any) -> bool:
    """Whether a tensor comes of constants alone."""
    if node.get_type_name() == "Constant":
        return True
    if node.get_type_name() not in _OF_WEIGHTS or not node.get_input_size():
        return False
    return all(is_stored(v.get_node()) for v in node.input_values())


def leave_in_float(quantized: Any, source: Any, names: Collection[str]) -> None:
    """Take quantization from operators, in place.

    A quantizer that several operators read stays for the others; one that lies before a Reshape or a Concat goes for
    all that read those.

    Args:
        quantized: an ``openvino.Model`` that NNCF quantized; its operators are called as in ``source``.
        source: the float model.
        names: friendly names of operators; what was not quantized stays as it is.
    """
    floats = {str(op.get_friendly_name()): op for op in source.get_ops()}
    for op in quantized.get_ordered_ops():
        name = str(op.get_friendly_name())
        if name not in names or op.get_type_name() == QUANTIZER:
            continue
        for k, value in enumerate(op.input_values()):
            if not is_stored(value.get_node()):
                _pass_by(op.input(k))
            elif value.get_node().get_type_name() != "Constant":
                op.input(k).replace_source_output(floats[name].input_value(k))
    quantized.validate_nodes_and_infer_types()


def _pass_by(port: Any) -> None:
    """Connect an input with what its quantizers read."""
    value = port.get_source_output()
    while value.get_node().get_type_name() == QUANTIZER and not is_stored(value.get_node()):
        value = value.get_node().input_value(0)
        port.replace_source_output(value)
    node = value.get_node()
    if node.get_type_name() in MOVING:
        for k, inner in enumerate(node.input_values()):
            if not is_stored(inner.get_node()):
                _pass_by(node.input(k))
