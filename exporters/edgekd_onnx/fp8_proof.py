"""Whether the CPU's emulation of an FP8 graph computes what ONNX says, shown on real examples before it is believed.

Two steps. Every Q/DQ pair's output, read out of the unoptimised graph, is compared with a round trip through ``ml_dtypes``'
float8 of what went into it; and the graph with these outputs is compared with the session that evaluations open, whose
graph nothing was added to. End to end against another library would say less: where two libraries differ in the last bit of
a float32, a value on the edge between two FP8 values is rounded either way, and the answer moves by a whole step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.lazy import require
from edgekd.quantize.spool import CalibrationSpool
from edgekd.target import SessionOptions
from edgekd_onnx.emulation import FLOAT8, LEVEL
from edgekd_onnx.probe import OnnxProbe
from edgekd_onnx.runtime import OnnxRuntime

#: Largest difference of an output, over the output's greatest magnitude, and of a pair, over the value itself: both are
#: the same float32 operations, an FP8 step is 2^-3 of a value.
TOLERANCE = 1e-5
#: Real examples that it is shown on, at most.
EXAMPLES = 8
#: The largest finite value (OCP 8-bit floating point specification, E4M3); beyond it, QuantizeLinear saturates.
LARGEST = 448.0

_FIX = "report it, and quantize to int8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A tensor that is rounded to FP8.

    Attributes:
        source: what goes in; None of a weight that the file holds in FP8. result: what DequantizeLinear gives.
        scale: float32, () or (channels,) along ``axis``; weight: the FP8 values, widened to float32.
    """

    source: str | None
    result: str
    scale: Array
    axis: int
    weight: Array | None = None

    def wanted(self, value: Array | None) -> Array:
        """What ONNX says of this pair: ``value / scale``, saturated, to the nearest FP8 value (ties to even), times scale."""
        given = self.weight if value is None else value
        if given is None:
            raise ModelError(f"the FP8 pair of '{self.result}' has neither a weight nor a source", _FIX)
        scale = self.scale
        if scale.ndim:
            shape = [1] * given.ndim
            shape[self.axis] = -1
            scale = scale.reshape(shape)
        rounded = given if value is None else round_to_float8(given / scale)
        return np.asarray(rounded * scale, np.float32)


def round_to_float8(values: Array) -> Array:
    """float32 values as the nearest E4M3 ones, ties to even, saturated at 448; float32 of the same shape."""
    ml_dtypes = require("ml_dtypes", extra="ort", purpose="checking FP8")
    clipped = np.clip(values.astype(np.float32), -LARGEST, LARGEST)
    return np.asarray(clipped.astype(ml_dtypes.float8_e4m3fn).astype(np.float32))


def find_pairs(model: Any) -> list[Pair]:
    """The FP8 pairs of a graph, weights that are stored in FP8 among them.

    Raises:
        ModelError: an FP8 DequantizeLinear whose scale is no constant.
    """
    onnx = require("onnx", extra="ort", purpose="checking FP8")
    stored = {t.name: t for t in model.graph.initializer}
    quantized = {n.output[0]: n for n in model.graph.node if n.op_type == "QuantizeLinear"}
    kinds = onnx.TensorProto
    found = []
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        weight, before = stored.get(node.input[0]), quantized.get(node.input[0])
        kind = weight.data_type if weight is not None else _type_of(before, stored)
        if kind != kinds.FLOAT8E4M3FN:
            continue
        if node.input[1] not in stored:
            raise ModelError(f"the FP8 scale of '{node.output[0]}' is no constant", _FIX)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        scale = onnx.numpy_helper.to_array(stored[node.input[1]])
        values = None
        if weight is not None:
            values = np.asarray(onnx.numpy_helper.to_array(weight)).astype(np.float32)
        source = before.input[0] if before is not None else None
        found.append(Pair(source=source, result=node.output[0], scale=scale, axis=axis, weight=values))
    return found


def _type_of(node: Any, stored: Mapping[str, Any]) -> int:
    if node is None:
        return 0
    if len(node.input) > 2 and node.input[2] in stored:
        return int(stored[node.input[2]].data_type)
    return next((int(a.i) for a in node.attribute if a.name == "output_dtype"), 0)


def prove_emulation(path: Path, spool: CalibrationSpool, *, threads: int = 1) -> dict[str, Any]:
    """Show that this machine's emulation of an FP8 file is right.

    Args:
        spool: real examples; the first :data:`EXAMPLES` are taken.

    Returns:
        ``proved_on`` (examples), ``pairs``, ``max_abs_error`` (of the outputs), ``tolerance``, ``graph_level``.

    Raises:
        ModelError: names the pair or output that is off, with both values.
    """
    probe = OnnxProbe(path)
    pairs = find_pairs(probe.model)
    if not pairs:
        raise ModelError(f"{path} has no {FLOAT8} pair", "quantize it to FP8 first")
    probe.seen_as = {}  # tensors as they are, not as their consumers see them
    inputs = {s.name for s in spool.inputs}
    outputs = list(probe.outputs)
    inside = {n for p in pairs for n in (p.source, p.result) if n and n not in inputs}
    names = [*outputs, *sorted(inside - set(outputs))]
    examples, error = 0, 0.0
    with tempfile.TemporaryDirectory(prefix="edgekd-fp8-") as folder:
        inner = probe.open(names, Path(folder))
        plain = OnnxRuntime().open(path, SessionOptions(threads=threads))
        try:
            for feeds in map(spool.batch, range(spool.batches)):
                if examples >= EXAMPLES:
                    break
                part, count = _first(feeds, spool, EXAMPLES - examples)
                seen = {**part, **inner.run(part)}
                _check_pairs(pairs, seen)
                error = max(error, _check_outputs(outputs, seen, plain.run(part)))
                examples += count
        finally:
            inner.close()
            plain.close()
    return {
        "proved_on": examples, "pairs": len(pairs), "max_abs_error": error, "tolerance": TOLERANCE, "graph_level": LEVEL,
    }  # fmt: skip


def _first(feeds: Mapping[str, Array], spool: CalibrationSpool, room: int) -> tuple[dict[str, Array], int]:
    if not all(s.dynamic_batch for s in spool.inputs):
        return dict(feeds), len(next(iter(feeds.values()))) if all(a.ndim for a in feeds.values()) else 1
    part = {name: array[:room] for name, array in feeds.items()}
    return part, len(next(iter(part.values())))


def _check_pairs(pairs: Sequence[Pair], seen: Mapping[str, Array]) -> None:
    for pair in pairs:
        value = None if pair.source is None else seen[pair.source]
        wanted, found = pair.wanted(value), seen[pair.result]
        if found.shape != wanted.shape:
            raise ModelError(
                f"the FP8 pair of '{pair.result}' has shape {found.shape} in onnxruntime, ONNX says {wanted.shape}",
                _FIX,
            )
        # Not within, rather than beyond: NaN is neither.
        off = ~(np.abs(found - wanted) <= TOLERANCE * np.abs(wanted))
        if off.any():
            where = np.unravel_index(int(np.argmax(off)), off.shape)
            raise ModelError(
                f"onnxruntime rounds '{pair.source or pair.result}' to {found[where]:g} in FP8, ONNX says {wanted[where]:g}",
                _FIX,
            )


def _check_outputs(names: Sequence[str], wanted: Mapping[str, Array], found: Mapping[str, Array]) -> float:
    greatest = 0.0
    for name in names:
        a, b = np.asarray(wanted[name], np.float64), np.asarray(found[name], np.float64)
        error = float(np.max(np.abs(a - b), initial=0.0))
        size = float(np.max(np.abs(a), initial=0.0))
        if not error <= TOLERANCE * size:
            raise ModelError(
                f"onnxruntime's emulation of FP8 is off by {error:.3g} at output '{name}' (greatest magnitude {size:.3g}, "
                f"{TOLERANCE:g} of it is allowed): its answers are not to be believed",
                _FIX,
            )
        greatest = max(greatest, error)
    return greatest
