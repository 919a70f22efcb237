"""Calibrated ranges of a quantized IR: the ends of each FakeQuantize on an activation."""

from __future__ import annotations

from pathlib import Path

from edgekd_openvino.runtime import read_model


def activation_ranges(path: Path) -> dict[str, tuple[float, float]]:
    """Tensor that a FakeQuantize takes -> (input_low, input_high), per tensor (OpenVINO operation set, FakeQuantize-1).

    A tensor of several names is given by each. Weights (constants, also converted ones) are left out.
    """
    found: dict[str, tuple[float, float]] = {}
    for op in read_model(path).get_ordered_ops():
        if op.get_type_name() != "FakeQuantize":
            continue
        port = op.input(0).get_source_output()
        low, high = (op.input(i).get_source_output().get_node() for i in (1, 2))
        ends = [e.get_data() for e in (low, high) if e.get_type_name() == "Constant"]
        if len(ends) != 2 or any(e.size != 1 for e in ends):
            continue
        if port.get_node().get_type_name() in ("Constant", "Convert"):
            continue
        for name in port.get_names():
            found[name] = (float(ends[0].reshape(-1)[0]), float(ends[1].reshape(-1)[0]))
    return found
