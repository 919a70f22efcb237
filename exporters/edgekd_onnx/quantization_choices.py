"""Which quantizations of an ONNX file are worth trying on a device."""

from __future__ import annotations

import math
from typing import Any

from edgekd.artifact import Artifact
from edgekd.quantize.config import QuantConfig, config_of
from edgekd_onnx.reading import load_graph

#: Share of the weights in matrix products above which they are most of the work.
_MOST = 0.5
#: Weights below this stay in a processor's cache: reading fewer bits of them saves nothing.
_FEW_WEIGHTS = 1_000_000
_STATIC = ("minmax", "percentile", "mse", "entropy")


def quantization_choices(artifact: Artifact, device: str) -> tuple[QuantConfig, ...]:
    """Configurations for ``device`` (``cpu``, ``cuda``, a target), the most promising first.

    Static INT8 comes first on CPUs, by every calibration; dynamic and weight-only where matrix products hold most of the
    weights. A GPU runs symmetric Q/DQ on TensorRT only, so there it is that variant.
    """
    products, all_weights = _weights(load_graph(artifact.path).graph)
    of_products = bool(products) and products >= _MOST * all_weights
    variant = "cpu" if device.split(":")[0] == "cpu" else "tensorrt"
    static = [QuantConfig(variant=variant, calibration=c) for c in _STATIC]
    others: list[QuantConfig] = []
    if of_products and variant == "cpu":
        others.append(config_of("int8-dynamic"))
        if products >= _FEW_WEIGHTS:
            others += [config_of("int8-weights"), config_of("int4")]
    return (static[0], *others, *static[1:])


def _weights(graph: Any) -> tuple[int, int]:
    """Elements of constant weights: of matrix products, and of all weighted operators."""
    sizes = {t.name: math.prod(t.dims) for t in graph.initializer}
    moved = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Transpose" and n.input[0] in sizes}
    counted: dict[str, int] = {"Conv": 0, "ConvTranspose": 0, "Gemm": 0, "MatMul": 0}
    for node in graph.node:
        if node.op_type in counted:
            counted[node.op_type] += sizes.get(moved.get(node.input[1], node.input[1]), 0)
    return counted["Gemm"] + counted["MatMul"], sum(counted.values())
