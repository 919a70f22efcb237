"""Ranges of quantization-aware training, given to ONNX Runtime's quantizer in place of calibrated ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import ModelError
from edgekd.quantize.config import QuantConfig
from edgekd_onnx.quantized_sites import rounded_activations
from edgekd_onnx.reading import load_graph

_FIX = "export the trained model as it is (without --optimize), or train it again with fake_quant"


def range_overrides(config: QuantConfig, prepared: Path) -> dict[str, Any]:
    """Extra options of ``quantize_static`` for ``config.ranges``; none where there are none.

    Raises:
        ModelError: a range of a tensor that the prepared file does not have.
    """
    if not config.ranges:
        return {}
    graph = load_graph(prepared).graph
    known = {i.name for i in graph.input} | {o for n in graph.node for o in n.output}
    for name, _, _ in config.ranges:
        if name not in known:
            raise ModelError(f"the range of '{name}' was trained, and the file has no such tensor", _FIX)
    # float32 values: the quantizer takes the type of its scales from them.
    return {
        "TensorQuantOverrides": {
            name: [{"rmin": np.array(low, np.float32), "rmax": np.array(high, np.float32)}]
            for name, low, high in config.ranges
        }
    }


def check_ranges_cover(proto: Any, config: QuantConfig, constants: Iterable[str]) -> None:
    """Refuse a quantized file in which an activation took a calibrated range although ranges were trained.

    Args:
        constants: names of the prepared file's constants.

    Raises:
        ModelError: names the tensor.
    """
    if not config.ranges:
        return
    trained = {name for name, _, _ in config.ranges}
    for name, owner in rounded_activations(proto.graph, frozenset(constants)).items():
        if owner not in trained:
            raise ModelError(f"no range was trained for '{name}', which is quantized here", _FIX)
