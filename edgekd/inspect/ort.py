"""``.ort``: a FlatBuffer of ONNX Runtime's schema (onnxruntime/core/flatbuffers/schema/ort.fbs).

Bounds are checked for what a session needs first; ONNX Runtime verifies the whole buffer itself before it reads it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.inspect.flatbuffer import FlatBuffer, Table
from edgekd.inspect.limits import Limits
from edgekd.inspect.onnx_opsets import DOMAINS
from edgekd.inspect.rules import refuse

#: Slots of the tables, in the order of the schema.
_SESSION_VERSION, _SESSION_MODEL = 0, 1
_MODEL_PRODUCER, _MODEL_PRODUCER_VERSION, _MODEL_GRAPH = 2, 3, 7
_INITIALIZERS, _NODES = 0, 2
_TENSOR_NAME, _TENSOR_RAW, _TENSOR_EXTERNAL = 0, 4, 6
_NODE_NAME, _NODE_DOMAIN, _NODE_OP = 0, 2, 5


def inspect(path: Path, data: memoryview, limits: Limits) -> Mapping[str, Any]:
    """The graph, its operators and initializers; subgraphs are left to ONNX Runtime.

    Raises:
        PolicyError: a rule is broken.
    """
    flat = FlatBuffer(path, data, limits)
    session = flat.root()
    model = _inner(flat, session, _SESSION_MODEL, "the model")
    graph = _inner(flat, model, _MODEL_GRAPH, "the graph")
    nodes = flat.tables(graph, _NODES, "node")
    tensors = flat.tables(graph, _INITIALIZERS, "initializer")
    for count, rule in ((len(nodes), "nodes"), (len(tensors), "tensors")):
        most = limits.nodes if rule == "nodes" else limits.tensors
        if count > most:
            raise refuse(rule, path, f"it has {count} {rule}, at most {most} are read")
    ops: Counter[str] = Counter()
    for node in nodes:
        domain, op = flat.text(node, _NODE_DOMAIN, "a domain"), flat.text(node, _NODE_OP, "an operator")
        if domain not in DOMAINS:
            name = flat.text(node, _NODE_NAME, "the name of a node")
            raise refuse(
                "opset-domain",
                path,
                f"node '{name}' is {domain}::{op}, an operator that only a library of somebody's own could run",
            )
        ops[f"{domain}::{op}" if domain not in ("", "ai.onnx") else op] += 1
    return {
        "producer": " ".join(
            filter(
                None,
                (flat.text(model, n, "the producer") for n in (_MODEL_PRODUCER, _MODEL_PRODUCER_VERSION)),
            )
        ),
        "format_version": flat.text(session, _SESSION_VERSION, "the version"),
        "nodes": len(nodes),
        "ops": dict(sorted(ops.items(), key=lambda item: (-item[1], item[0]))),
        "tensors": len(tensors),
        "initializer_bytes": sum(_weight(flat, tensor) for tensor in tensors),
    }


def _inner(flat: FlatBuffer, table: Table, slot: int, what: str) -> Table:
    at = table.at(slot)
    if not at:
        raise flat.malformed(f"it has no {what.removeprefix('the ')}")
    return flat.table(at, what)


def _weight(flat: FlatBuffer, tensor: Table) -> int:
    at = tensor.at(_TENSOR_EXTERNAL)
    # -1, the schema's default, says that the data is here.
    if at and flat.u64(at, "an offset") != (1 << 64) - 1:
        name = flat.text(tensor, _TENSOR_NAME, "a name")
        raise refuse(
            "external-data-location",
            flat.path,
            f"tensor '{name}' keeps its data in a file that it does not name",
        )
    return flat.vector(tensor, _TENSOR_RAW, 1, "the data of a tensor")[1]
