"""Calibrated ranges of a quantized IR: the ends of each FakeQuantize on an activation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgekd_openvino.runtime import read_model
from edgekd_openvino.unquantizing import QUANTIZER, is_stored


def activation_ranges(path: Path) -> dict[str, tuple[float, float]]:
    """Tensor that a FakeQuantize takes -> (input_low, input_high), per tensor (OpenVINO operation set, FakeQuantize-1).

    A tensor of several names is given by each. Weights (constants, also converted ones) are left out. Channels with a
    range each (before a depthwise convolution, or multiplied on the way by smoothing) give the tensor all of their ranges
    together.
    """
    found: dict[str, tuple[float, float]] = {}
    for op in read_model(path).get_ordered_ops():
        if op.get_type_name() != QUANTIZER:
            continue
        port = op.input(0).get_source_output()
        low, high = (op.input(i).get_source_output().get_node() for i in (1, 2))
        ends = [e.get_data() for e in (low, high) if e.get_type_name() == "Constant"]
        if len(ends) != 2 or is_stored(port.get_node()):
            continue
        factors, port = _smoothing(port)
        limits = [end.astype(np.float64) / factors for end in ends]
        for name in port.get_names():
            found[name] = (float(min(v.min() for v in limits)), float(max(v.max() for v in limits)))
    return found


def _smoothing(port: Any) -> tuple[Any, Any]:
    """What the channels of a tensor are multiplied by on their way to a quantizer, and the tensor before that."""
    node = port.get_node()
    if node.get_type_name() == "Multiply":
        for k, side in enumerate(node.input_values()):
            factors = side.get_node().get_data() if side.get_node().get_type_name() == "Constant" else None
            if factors is not None and (factors > 0).all():
                return factors.astype(np.float64), node.input_value(1 - k)
    return np.ones(1), port
