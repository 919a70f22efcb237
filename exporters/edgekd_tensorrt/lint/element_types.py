"""Element types: what TensorRT has (TRT003), what the GPU has (TRT055), and what was asked for (TRT060)."""

from __future__ import annotations

from collections.abc import Iterator

from edgekd_tensorrt.lint.context import Context
from edgekd_tensorrt.lint.findings import Finding
from edgekd_tensorrt.lint.graph import Graph, Node
from edgekd_tensorrt.lint.limits import SMALLEST_SM
from edgekd_tensorrt.lint.operators import TABLE_TYPES

_READERS_OF_LOW = ("QuantizeLinear", "DequantizeLinear")
#: A DequantizeLinear of UINT8 is TRT011; a Shape reads no values.
_TAKES_UINT8 = ("Cast", "CastLike", "Shape", "Size", "DequantizeLinear")


def type_findings(context: Context) -> Iterator[Finding]:
    """TRT003: each tensor once, where it comes from."""
    for graph in context.graph.graphs():
        if graph.parent is None:
            yield from _inputs(context, graph)
        for name in graph.constants:
            yield from _constant(context, graph, name)
        for node in graph.nodes:
            for name in node.outputs:
                if name and name not in graph.constants:
                    yield from _made(context, node, name)


def _inputs(context: Context, graph: Graph) -> Iterator[Finding]:
    for name in graph.inputs:
        if name in graph.constants:
            continue
        kind, elem = graph.kind(name), graph.elem(name)
        if kind not in ("tensor_type", ""):
            word = kind.removesuffix("_type")
            yield context.find(
                "TRT003", None, f"input '{name}' is a {word}, only tensors are supported", tensor=name
            )
        elif elem == "DOUBLE":
            yield _double(context, None, f"input '{name}'", name)
        elif elem == "UINT8":
            reader = next((n for n, _ in graph.read_by(name) if n.op_type not in _TAKES_UINT8), None)
            if reader is not None:
                yield context.find(
                    "TRT003",
                    reader,
                    f"reads the UINT8 input '{name}'",
                    tensor=name,
                    fix="cast the input first",
                )
        elif elem and elem not in TABLE_TYPES:
            yield context.find("TRT003", None, f"input '{name}' is {elem}, which TensorRT lacks", tensor=name)


def _double(context: Context, node: Node | None, what: str, name: str) -> Finding:
    return context.find(
        "TRT003", node, f"{what} is DOUBLE, TensorRT computes it in FP32", tensor=name, severity="warning",
        fix="export in float32",
    )  # fmt: skip


def _constant(context: Context, graph: Graph, name: str) -> Iterator[Finding]:
    elem = graph.elem(name)
    readers = graph.read_by(name)
    node = graph.producer.get(name) or (readers[0][0] if readers else None)
    what = f"constant '{name}'"
    if elem == "DOUBLE":
        yield _double(context, node, what, name)
    elif elem == "UINT8":
        # A zero point or a quantized constant is judged by the rules about quantized types (TRT011, TRT012).
        if any(r.op_type not in _READERS_OF_LOW for r, _ in readers):
            yield context.find(
                "TRT003", node, f"{what} is UINT8, which only inputs and outputs may be", tensor=name
            )
    elif elem not in (*TABLE_TYPES, "UNDEFINED") and not (
        readers and all(r.op_type in _READERS_OF_LOW for r, _ in readers)
    ):
        yield context.find("TRT003", node, f"{what} is {elem}, which TensorRT lacks", tensor=name)


def _made(context: Context, node: Node, name: str) -> Iterator[Finding]:
    graph, elem = node.graph, node.graph.elem(name)
    if node in context.steps:
        return
    inherited = any(graph.elem(i) == elem for i in node.inputs if i)
    if elem == "DOUBLE" and not inherited:
        yield _double(context, node, f"'{name}'", name)
    elif elem == "UINT8":
        inner = [r for r, _ in graph.read_by(name) if r.op_type not in _TAKES_UINT8]
        if inner and not inherited:
            yield context.find(
                "TRT003", node, f"'{name}' is UINT8 inside the graph, only inputs and outputs may be", tensor=name,
                fix="cast to another type before it is used",
            )  # fmt: skip
    elif elem and elem not in TABLE_TYPES and elem != "UNDEFINED" and not inherited:
        yield context.find("TRT003", node, f"'{name}' is {elem}, which TensorRT lacks", tensor=name)


def target_findings(context: Context) -> Iterator[Finding]:
    """TRT055: the first place of each type that the GPU lacks."""
    target = context.asked.target_sm
    if target is None:
        return
    told: set[str] = set()
    for node, name, elem in _uses(context):
        needed = SMALLEST_SM.get(elem, 0)
        if target < needed and elem not in told:
            told.add(elem)
            yield context.find(
                "TRT055", node, f"'{name}' is {TABLE_TYPES[elem]}, which needs SM {needed}; the target is SM {target}",
                tensor=name,
            )  # fmt: skip


def _uses(context: Context) -> Iterator[tuple[Node | None, str, str]]:
    for name in context.graph.inputs:
        yield None, name, context.graph.elem(name)
    for node in context.nodes:
        step = context.steps.get(node)
        if step is not None:
            yield node, step.result if step.is_quantize else step.data, step.low
        for name in (*node.inputs, *node.outputs):
            if name:
                yield node, name, node.graph.elem(name)


def precision_findings(context: Context) -> Iterator[Finding]:
    """TRT060."""
    wanted = {"float16": "FLOAT16", "bfloat16": "BFLOAT16"}.get(context.asked.dtype or "")
    if wanted is None:
        return
    for node in context.nodes:
        name = node.output(0)
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and node.graph.elem(name) == "FLOAT":
            yield context.find(
                "TRT060", node, f"asked for {context.asked.dtype}, and '{name}' is float32: it is computed in float32",
                tensor=name,
            )  # fmt: skip
            return
