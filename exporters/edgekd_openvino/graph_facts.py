"""How an IR is quantized, from its XML."""

from __future__ import annotations

from edgekd.artifact import Artifact
from edgekd.quantize.facts import GraphFacts, kept_float
from edgekd_openvino.document import scan
from edgekd_openvino.executed import SPLIT


def graph_facts(artifact: Artifact) -> GraphFacts:
    """See :class:`edgekd.quantize.facts.DescribingExporter`. A FakeQuantize quantizes and dequantizes.

    Operators are executed under their own names here (:attr:`edgekd.placement.PlacedOp.sources`), so no anchors.

    Raises:
        ModelError: it cannot be read.
    """
    found = scan(artifact.path)
    count = found.types.get("FakeQuantize", 0)
    return GraphFacts(
        quantize=count,
        dequantize=count,
        depthwise=frozenset(name.removesuffix(SPLIT) for name in found.grouped),
        keep_float=kept_float(artifact),
    )
