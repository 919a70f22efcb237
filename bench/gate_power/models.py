"""The study's models: a chain of a hundred equal convolutions, and copies of it with a few more.

A layer more is one per cent more work of the very same kind, so the planted slow-down is known by construction and
stays what it is when another process takes half of the caches. What was achieved is measured as well (calibrate.py).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gate_power.sessions import feeds_of, open_session

#: Equal layers of the base model; one more is +1 %.
LAYERS = 100
#: One block of 16 channels: ONNX Runtime's NCHWc kernels work in these.
CHANNELS = 16
#: Different kernels, used in turn: together they fit into any second-level cache, whatever the number of layers.
KERNELS = 10
#: Layers more than the base, by effect in per cent.
EFFECTS: Mapping[str, int] = {"null": 0, "3": 3, "4": 4, "5": 5, "10": 10}
#: What a call should last, milliseconds: the least and the greatest.
WINDOWS_MS: Mapping[str, tuple[float, float]] = {"short": (0.6, 0.9), "long": (90.0, 120.0)}
_AIM_MS = {"short": 0.75, "long": 100.0}
_OPSET = 18


def build(layers: int, side: int, note: str = "") -> onnx.ModelProto:
    """A chain of ``layers`` 3 x 3 convolutions with ReLU over float32 (1, 16, side, side), then pooling to (1, 16).

    Args:
        layers: how many; the first ones of any two models of one ``side`` are equal.
        side: height and width in pixels.
        note: a doc string: changes the file's bytes and nothing that is computed.
    """
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    # He et al. 2015 (arXiv 1502.01852), equation 10: keeps the activations' size over the layers.
    scale = np.sqrt(2.0 / (CHANNELS * 9))
    for k in range(KERNELS):
        kernel = (rng.standard_normal((CHANNELS, CHANNELS, 3, 3)) * scale).astype(np.float32)
        # A little above zero: the activations never fade into slow denormal numbers.
        bias = np.full(CHANNELS, 0.01, np.float32)
        weights += [numpy_helper.from_array(kernel, f"w{k}"), numpy_helper.from_array(bias, f"b{k}")]
    for i in range(layers):
        feeding = [last, f"w{i % KERNELS}", f"b{i % KERNELS}"]
        nodes.append(helper.make_node("Conv", feeding, [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        last = f"r{i}"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["y"]))
    shape = [1, CHANNELS, side, side]
    graph = helper.make_graph(
        nodes, "chain", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, CHANNELS])], weights,
    )  # fmt: skip
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="gate_power"
    )
    model.ir_version = 9
    model.doc_string = note
    return model


def call_ms(side: int, seconds: float = 0.3) -> float:
    """The fastest of the base model's calls, in milliseconds."""
    session = open_session(build(LAYERS, side).SerializeToString())
    feeds, best, begin = feeds_of(session), float("inf"), time.perf_counter()
    while time.perf_counter() - begin < seconds or best == float("inf"):
        start = time.perf_counter_ns()
        session.run(None, feeds)
        best = min(best, (time.perf_counter_ns() - start) / 1e6)
    return best


def choose_side(calls: str) -> tuple[int, float]:
    """The input's side at which a call lasts about as long as asked here, and how long it does, in milliseconds.

    Raises:
        ValueError: no side within the window was found: the machine is far from any that was thought of.
    """
    low, high = WINDOWS_MS[calls]
    side = {"short": 16, "long": 160}[calls]
    for _ in range(6):
        found = call_ms(side, 0.3 if calls == "short" else 1.0)
        if low <= found <= high:
            return side, found
        side = max(2, round(side * (_AIM_MS[calls] / found) ** 0.5))
    raise ValueError(f"no input size gives calls of {low:g} to {high:g} ms (side {side}: {found:.3g} ms)")


def write_models(folder: Path, side: int) -> dict[str, Path]:
    """Write the base model and one copy per effect into ``folder``; effect (or ``base``) -> file."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"base": folder / "base.onnx"}
    files["base"].write_bytes(build(LAYERS, side).SerializeToString())
    for effect, more in EFFECTS.items():
        files[effect] = folder / f"effect-{effect}.onnx"
        files[effect].write_bytes(build(LAYERS + more, side, f"effect {effect}").SerializeToString())
    return files
