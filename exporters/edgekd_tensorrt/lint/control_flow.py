"""If and Loop (TRT062)."""

from __future__ import annotations

from collections.abc import Iterator

from edgekd_tensorrt.lint.context import Context, shape_text
from edgekd_tensorrt.lint.findings import Finding
from edgekd_tensorrt.lint.graph import Graph, Node


def control_findings(context: Context) -> Iterator[Finding]:
    for node in context.nodes:
        if node.domain != "":
            continue
        inner = dict(node.inner)
        if node.op_type == "If" and {"then_branch", "else_branch"} <= set(inner):
            yield from _branches(context, node, inner["then_branch"], inner["else_branch"])
        elif node.op_type == "Loop" and "body" in inner:
            yield from _loop(context, node, inner["body"])


def _branches(context: Context, node: Node, then: Graph, other: Graph) -> Iterator[Finding]:
    for one, two in zip(then.outputs, other.outputs, strict=False):
        if one == two:
            yield context.find("TRT062", node, f"both branches name their output '{one}'", tensor=one)
        first, second = then.shape(one), other.shape(two)
        if first is not None and second is not None and len(first) != len(second):
            yield context.find(
                "TRT062", node, f"'{one}' has {len(first)} dimensions, '{two}' of the other branch {len(second)}", tensor=one
            )  # fmt: skip


def _loop(context: Context, node: Node, body: Graph) -> Iterator[Finding]:
    carried = len(node.inputs) - 2
    for before, after in zip(body.inputs[2:], body.outputs[1 : 1 + carried], strict=False):
        one, two = body.shape(before), body.shape(after)
        if one is None or two is None:
            continue
        same = len(one) == len(two) and not any(
            isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(one, two, strict=True)
        )
        if not same:
            yield context.find(
                "TRT062", node, f"'{before}' goes in as {shape_text(one)} and comes out as {shape_text(two)} ('{after}')",
                tensor=after,
            )  # fmt: skip
    if len(body.outputs) > 1 + carried and not node.graph.is_fixed(node.input(0)):
        yield context.find(
            "TRT062", node, f"it stacks '{body.outputs[1 + carried]}', and how often it runs is not constant",
            tensor=node.output(carried),
        )  # fmt: skip
