"""What a model's file says of how it is quantized: beside what really ran, this tells why it is no faster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from edgekd.artifact import Artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightOnly:
    """A product of float activations with packed weights (onnxruntime, ContribOperators.md, MatMulNBits).

    Attributes:
        bits: of one weight; accuracy_level: 0 where the file leaves it to the runtime; 0 and 1 compute in float32.
    """

    name: str
    bits: int
    accuracy_level: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFacts:
    """Facts of one file.

    Attributes:
        quantize, dequantize: how many nodes of each it holds; FakeQuantize counts as both.
        activations: types that activations are quantized to, in ONNX spelling, sorted.
        weight_only: its weight-only products.
        depthwise: names of convolutions with one input channel per group.
        keep_float: nodes that were left in float on purpose.
        anchors: name of a node or tensor -> the product (convolution, matrix product) that a runtime fuses it into,
            or itself: runtimes name a fused operator after any of them.
        products: names of the convolutions and matrix products; empty where that was not looked at.
        beside: name of a Quantize or DequantizeLinear node -> the operator that it stands before or after.
    """

    quantize: int = 0
    dequantize: int = 0
    activations: tuple[str, ...] = ()
    weight_only: tuple[WeightOnly, ...] = ()
    depthwise: frozenset[str] = frozenset()
    keep_float: frozenset[str] = frozenset()
    anchors: Mapping[str, str] = field(default_factory=dict)
    products: frozenset[str] = frozenset()
    beside: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class DescribingExporter(Protocol):
    """An exporter plugin that can read how a file of its format is quantized; this is optional."""

    def graph_facts(self, artifact: Artifact) -> GraphFacts:
        """Read the file, without its weights where that is possible.

        Raises:
            ModelError: it cannot be read.
        """
        ...


def kept_float(artifact: Artifact) -> frozenset[str]:
    """Nodes that the artifact's quantization left in float on purpose, by its lineage."""
    config = artifact.lineage.get("quantization")
    names = config.get("keep_float", ()) if isinstance(config, Mapping) else ()
    return frozenset(map(str, names))
