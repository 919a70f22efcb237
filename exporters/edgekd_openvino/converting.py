"""From an ONNX artifact to an ``openvino.Model``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifact import Artifact
from edgekd.errors import ModelError
from edgekd.lazy import require
from edgekd_onnx.reading import load_graph
from edgekd_onnx.writing import quiet
from edgekd_openvino.library import errors, openvino, reason, version
from edgekd_openvino.specs import read_specs
from edgekd_openvino.writing import count_past

#: How OpenVINO names what it has no rule for: ``Type-opset``, or ``domain.Type``.
_NO_RULE = re.compile(r"No conversion rule found for operations: (.*)")
_SHOWN = 5


def graph_names(graph: Any) -> Iterator[str]:
    """Names of an ONNX graph's nodes and tensors, those in loops and branches too."""
    yield from (t.name for t in graph.initializer)
    yield from (v.name for v in graph.input)
    for node in graph.node:
        yield node.name
        yield from node.output
        for inner in _subgraphs(node):
            yield from graph_names(inner)


def _subgraphs(node: Any) -> Iterable[Any]:
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.HasField("g") else attribute.graphs


def input_ranges(artifact: Artifact) -> dict[str, tuple[float, float]]:
    """Input -> smallest and largest value that its QuantizeLinear can tell apart; none for a float model."""
    numpy_helper = require("onnx.numpy_helper", extra="ort", purpose="reading ONNX files")
    graph = load_graph(artifact.path).graph
    inputs = {s.name for s in artifact.inputs}
    tensors = {t.name: t for t in graph.initializer}
    found = {}
    for node in graph.node:
        known = len(node.input) == 3 and node.input[1] in tensors and node.input[2] in tensors
        if node.op_type != "QuantizeLinear" or node.input[0] not in inputs or not known:
            continue
        scale, zero = (numpy_helper.to_array(tensors[name]) for name in node.input[1:])
        if scale.ndim == 0 and zero.dtype.kind in "iu":
            ends = np.iinfo(zero.dtype)
            low, high = (float(scale) * (int(end) - int(zero)) for end in (ends.min, ends.max))
            found[node.input[0]] = (low, high)
    return found


def convert_onnx(artifact: Artifact) -> tuple[Any, frozenset[str]]:
    """An ``openvino.Model`` with the artifact's inputs and outputs, and the node names that it brought.

    Raises:
        ModelError: an operator that OpenVINO does not have, by node, or an input or output that was lost.
    """
    ov = openvino("converting to OpenVINO")
    proto = load_graph(artifact.path)
    names = frozenset(n for n in graph_names(proto.graph) if n)
    count_past(names)
    try:
        with quiet():
            model = ov.convert_model(str(artifact.path))
    except errors() as e:
        raise _refused(e, artifact.path, proto, version(ov)) from e
    wanted = [s.name for s in artifact.outputs]
    made = [s.name for s in read_specs(model, artifact.path)[1]]
    if wanted != made and set(wanted) <= set(made):
        results = model.get_results()
        model = ov.Model([results[made.index(n)] for n in wanted], model.get_parameters(), "model")
    for kind, specs, found in zip(
        ("inputs", "outputs"),
        (artifact.inputs, artifact.outputs),
        read_specs(model, artifact.path),
        strict=True,
    ):
        if [s.name for s in specs] != [s.name for s in found]:
            raise ModelError(
                f"openvino converted {artifact.path} with {kind} {[s.name for s in found]}, "
                f"expected {[s.name for s in specs]}",
                "give every input and output a name of its own",
            )
    return model, names


def _refused(error: BaseException, path: Path, proto: Any, found: str) -> ModelError:
    missing = _NO_RULE.search(str(error))
    if missing is None:
        return ModelError(
            f"openvino {found} cannot convert {path} ({reason(error)})",
            "export it with another opset or fixed shapes, or run the ONNX file with onnxruntime",
        )
    kinds = {k.strip().rpartition("-")[0] or k.strip() for k in missing[1].split(",")}
    nodes = [f"'{name}' ({kind})" for name, kind in _nodes_of(proto.graph) if kind in kinds]
    shown = ", ".join(nodes[:_SHOWN]) + (f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else "")
    return ModelError(
        f"openvino {found} has no operator for {shown or missing[1].strip()} of {path}",
        "replace it in the model, or run the ONNX file with onnxruntime",
    )


def _nodes_of(graph: Any) -> Iterator[tuple[str, str]]:
    """(name, ``domain.Type``) of every node; the first output stands for a name that is missing."""
    for node in graph.node:
        kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        yield node.name or (node.output[0] if node.output else ""), kind
        for inner in _subgraphs(node):
            yield from _nodes_of(inner)
