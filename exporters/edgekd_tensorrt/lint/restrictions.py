"""The restrictions of the operator table, each decided on one node (``operator_checks.json`` names them)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgekd_tensorrt.lint.graph import Node

Check = Mapping[str, Any]
#: Severity, tensor (may be empty), message; None where the restriction is kept, or nothing can be said.
Broken = tuple[str, str, str] | None


def broken(node: Node, check: Check) -> Broken:
    """How ``node`` breaks one restriction."""
    decide = _DECIDE.get(check["check"])
    return None if decide is None else decide(node, check)


def _rank(node: Node, check: Check) -> Broken:
    name = node.input(check["input"])
    shape = node.graph.shape(name) if name else None
    if shape is None or len(shape) == check["value"]:
        return None
    return "error", name, f"'{name}' has {len(shape)} dimensions, supported are {check['value']}"


def _spatial(node: Node, check: Check) -> Broken:
    name = node.input(0)
    shape = node.graph.shape(name)
    if shape is None or len(shape) - 2 in check["among"]:
        return None
    wanted = " or ".join(map(str, check["among"]))
    return "error", name, f"'{name}' has {len(shape) - 2} spatial dimensions, supported are {wanted}"


def _attr_eq(node: Node, check: Check) -> Broken:
    value = node.attribute(check["attribute"])
    if value is None or value == check["value"]:
        return None
    return "error", "", f"{check['attribute']} is {value}, supported is {check['value']}"


def _attr_in(node: Node, check: Check) -> Broken:
    value = node.attribute(check["attribute"])
    if value is None or value in check["among"]:
        return None
    return "error", "", f"{check['attribute']} is '{value}', supported are {', '.join(check['among'])}"


def _attr_all(node: Node, check: Check) -> Broken:
    values = node.attribute(check["attribute"])
    if not isinstance(values, list) or all(v == check["value"] for v in values):
        return None
    return "error", "", f"{check['attribute']} is {values}, supported is {check['value']} in each dimension"


def _attr_absent(node: Node, check: Check) -> Broken:
    given = any(a.name == check["attribute"] for a in node.proto.attribute)
    return ("error", "", f"{check['attribute']} is given, it is not supported") if given else None


def _attr_ignored(node: Node, check: Check) -> Broken:
    given = node.attribute(check["attribute"]) is not None
    return ("warning", "", f"{check['attribute']} is given, TensorRT ignores it") if given else None


def _const_input(node: Node, check: Check) -> Broken:
    name = node.input(check["input"])
    if not name:
        return None
    if check["scope"] == "build":
        kept, wanted = node.graph.is_fixed(name), "a constant when the engine is built"
    else:
        kept, wanted = node.graph.constant(name) is not None, "an initializer"
    return (
        None
        if kept
        else ("error", name, f"'{name}' (input {check['input']}) is computed, it has to be {wanted}")
    )


def _const_eq(node: Node, check: Check) -> Broken:
    name = node.input(check["input"])
    value = node.graph.array(name) if name else None
    if value is None or value.size != 1 or value.reshape(-1)[0] == check["value"]:
        return None
    return "error", name, f"'{name}' is {value.reshape(-1)[0]}, supported is {check['value']}"


def _const_lt(node: Node, check: Check) -> Broken:
    name = node.input(check["input"])
    values = node.graph.ints(name) if name else []
    if values is None:
        if node.graph.is_fixed(name):
            return None
        return "warning", name, f"'{name}' is not constant: nothing says that it stays below {check['below']}"
    if all(v < check["below"] for v in values):
        return None
    return "error", name, f"'{name}' is {max(values)}, supported is below {check['below']}"


def _input_absent(node: Node, check: Check) -> Broken:
    name = node.input(check["input"])
    return ("error", name, f"input {check['input']} ('{name}') is not supported") if name else None


def _output_absent(node: Node, check: Check) -> Broken:
    name = node.output(check["output"])
    if not name or not (node.graph.read_by(name) or node.graph.is_output(name)):
        return None
    return "error", name, f"output {check['output']} ('{name}') is used, it is not supported"


def _static_shape(node: Node, check: Check) -> Broken:
    name = node.input(check["input"])
    shape = node.graph.shape(name) if name else None
    if shape is None or all(isinstance(d, int) for d in shape):
        return None
    return "error", name, f"'{name}' has a shape that varies, it has to be fixed"


def _static_axis(node: Node, check: Check) -> Broken:
    name = node.input(0)
    shape = node.graph.shape(name)
    axis = node.number(check["attribute"], -1)
    if shape is None or not -len(shape) <= axis < len(shape) or isinstance(shape[axis], int):
        return None
    return "error", name, f"dimension {axis} of '{name}' varies, it has to be fixed"


def _input_dtype(node: Node, check: Check) -> Broken:
    name = node.input(check["input"])
    elem = node.graph.elem(name) if name else ""
    if not elem or elem in check["among"]:
        return None
    return "error", name, f"'{name}' is {elem}, supported is {', '.join(check['among'])}"


def _pads_symmetric(node: Node, check: Check) -> Broken:
    pads = node.attribute("pads")
    if not isinstance(pads, list) or pads[: len(pads) // 2] == pads[len(pads) // 2 :]:
        return None
    return "error", "", f"pads {pads} differ between begin and end"


def _same_activations(node: Node, check: Check) -> Broken:
    names = node.attribute("activations")
    if node.attribute("direction") != "bidirectional" or not isinstance(names, list):
        return None
    half = len(names) // 2
    if [str(n).lower() for n in names[:half]] == [str(n).lower() for n in names[half:]]:
        return None
    return "error", "", f"activations {names} differ between the two directions"


def _resize_axes(node: Node, check: Check) -> Broken:
    axes, shape = node.attribute("axes"), node.graph.shape(node.input(0))
    scales = node.input(2)
    if not scales or not isinstance(axes, list) or shape is None or axes == list(range(len(shape))):
        return None
    return "error", scales, f"axes {axes} with scales: supported are all of 0 to {len(shape) - 1}"


def _real_input(node: Node, check: Check) -> Broken:
    name = node.input(0)
    shape = node.graph.shape(name)
    if shape is None or len(shape) != 3 or shape[-1] != 2:
        return None
    return "error", name, f"'{name}' is complex (its last dimension is 2), supported are real signals"


#: ``zero_const`` is TRT010; ``branch_*`` and ``loop`` are TRT062.
_DECIDE: Mapping[str, Callable[[Node, Check], Broken]] = {
    "rank": _rank,
    "spatial": _spatial,
    "attr_eq": _attr_eq,
    "attr_in": _attr_in,
    "attr_all": _attr_all,
    "attr_absent": _attr_absent,
    "attr_ignored": _attr_ignored,
    "const_input": _const_input,
    "const_eq": _const_eq,
    "const_lt": _const_lt,
    "input_absent": _input_absent,
    "output_absent": _output_absent,
    "static_shape": _static_shape,
    "static_axis": _static_axis,
    "input_dtype": _input_dtype,
    "pads_symmetric": _pads_symmetric,
    "bidir_same_activations": _same_activations,
    "resize_axes": _resize_axes,
    "real_input": _real_input,
}
ELSEWHERE = ("zero_const", "branch_same_rank", "branch_distinct_names", "loop")
