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


def is_smoothing(node: Any, floats: Collection[str]) -> bool:
    """Whether a node takes from the channels of an activation what SmoothQuant gave to the weights behind it.

    Args:
        floats: names of the float model's operators; nothing else that NNCF adds multiplies activations.
    """
    added = node.get_type_name() == "Multiply" and str(node.get_friendly_name()) not in floats
    return added and not is_stored(node)


def activation_port(node: Any) -> Any:
    """The input of a quantizer or of a smoothing multiplication that is no constant."""
    return next(p for p in node.inputs() if not is_stored(p.get_source_output().get_node()))


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
                _pass_by(op.input(k), floats)
            elif value.get_node().get_type_name() != "Constant":
                op.input(k).replace_source_output(floats[name].input_value(k))
    quantized.validate_nodes_and_infer_types()


def _pass_by(port: Any, floats: Collection[str]) -> None:
    """Connect an input with what its quantizers read, and with what was not smoothed for weights that are float's again."""
    value = port.get_source_output()
    while _is_between(value.get_node(), floats):
        value = activation_port(value.get_node()).get_source_output()
        port.replace_source_output(value)
    node = value.get_node()
    if node.get_type_name() in MOVING:
        for k, inner in enumerate(node.input_values()):
            if not is_stored(inner.get_node()):
                _pass_by(node.input(k), floats)


def _is_between(node: Any, floats: Collection[str]) -> bool:
    """Whether a node is there for what reads it to be quantized."""
    if node.get_type_name() == QUANTIZER:
        return not is_stored(node)
    return is_smoothing(node, floats)
