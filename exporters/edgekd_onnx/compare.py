"""Where two ONNX files part: tensor by tensor, in the order in which they are computed."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import DataError, ModelError
from edgekd.files import storage_error
from edgekd.lazy import require
from edgekd.target import SessionOptions
from edgekd_onnx.origin import module_of
from edgekd_onnx.reading import external_files, load_graph
from edgekd_onnx.runtime import OnnxRuntime
from edgekd_onnx.writing import EXTERNAL_BYTES

#: Tensors fetched per pass: bounds the memory that intermediate results take.
TENSORS_PER_PASS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDifference:
    """How far one tensor of ``b`` is from the same tensor of ``a``, over all feeds.

    Attributes:
        name, op_type: the tensor and the operator of ``a`` that makes it.
        is_output: whether it is an output of ``a``.
        max_abs_error: max |a - b|; None where they cannot be subtracted (``problem`` says why).
        relative_error: max |a - b| / max |a|; None likewise, or where ``a`` is all zeros and ``b`` is not.
        sqnr_db: 10 log10(sum a^2 / sum (a - b)^2), in dB; None where equal or not defined.
        problem: other shapes, or NaN or infinity on one side only; else empty.
        module: the torch module that it was traced in; empty where neither file says.
    """

    name: str
    op_type: str
    is_output: bool
    max_abs_error: float | None
    relative_error: float | None
    sqnr_db: float | None
    problem: str
    module: str = ""

    def deviates(self, tolerance: float) -> bool:
        """Whether the relative error is beyond ``tolerance``."""
        if self.problem:
            return True
        if self.relative_error is None:
            return bool(self.max_abs_error)
        return self.relative_error > tolerance

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "op_type": self.op_type, "is_output": self.is_output,
            "max_abs_error": self.max_abs_error, "relative_error": self.relative_error, "sqnr_db": self.sqnr_db,
            "problem": self.problem, "module": self.module,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """The comparison of two files.

    Attributes:
        tensors: every tensor that both name alike, in the order in which ``a`` computes them.
        first: the first of them beyond the tolerance; None where all agree.
        tolerance: limit of the relative error, a fraction.
        feeds: how many feeds were compared.
        only_a: tensors of ``a`` that ``b`` has none of that name for.
    """

    tensors: tuple[TensorDifference, ...]
    first: TensorDifference | None
    tolerance: float
    feeds: int
    only_a: int

    def to_json(self) -> dict[str, Any]:
        return {
            "tensors": [t.to_json() for t in self.tensors],
            "first": self.first.to_json() if self.first else None,
            "tolerance": self.tolerance,
            "feeds": self.feeds,
            "only_a": self.only_a,
        }


@dataclass
class _Sums:
    """What is kept of one tensor between feeds."""

    error: float = 0.0
    peak: float = 0.0
    noise: float = 0.0
    signal: float = 0.0
    problem: str = ""

    def add(self, a: Array, b: Array) -> None:
        if a.shape != b.shape:
            self.problem = self.problem or f"shape {a.shape} against {b.shape}"
            return
        if a.dtype.kind in "OUS" or b.dtype.kind in "OUS":
            self.problem = self.problem or ("" if np.array_equal(a, b) else "texts differ")
            return
        x, y = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(x) & np.isfinite(y)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        if not (finite | same).all():
            self.problem = self.problem or "NaN or infinity on one side only"
        x, y = x[finite], y[finite]
        if x.size:
            difference = np.abs(x - y)
            self.error = max(self.error, float(difference.max()))
            self.peak = max(self.peak, float(np.abs(x).max()))
            self.noise += float(np.sum(difference**2))
            self.signal += float(np.sum(x**2))

    def result(self, name: str, op_type: str, is_output: bool, module: str = "") -> TensorDifference:
        relative = 0.0 if self.error == 0 else (self.error / self.peak if self.peak else None)
        sqnr = 10 * math.log10(self.signal / self.noise) if self.noise > 0 and self.signal > 0 else None
        return TensorDifference(
            name=name,
            op_type=op_type,
            is_output=is_output,
            max_abs_error=None if self.problem else self.error,
            relative_error=None if self.problem else relative,
            sqnr_db=None if self.problem else sqnr,
            problem=self.problem,
            module=module,
        )


@dataclass
class _Probe:
    """One of the two models, with its own outputs replaced by whichever tensors are asked for."""

    path: Path
    model: Any = field(init=False)
    made_by: dict[str, str] = field(init=False)
    modules: dict[str, str] = field(init=False)
    outputs: list[str] = field(init=False)
    #: Tensor -> its dequantized value, where it is quantized: that is what its consumers see. (The quantizer drops
    #: a ReLU whose clipping QuantizeLinear does anyway; the tensor before it then still holds negative values.)
    seen_as: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        onnx = require("onnx", extra="ort", purpose="comparing ONNX files")
        graph_only = load_graph(self.path)
        external_files(self.path, graph_only)
        self.model = onnx.load(str(self.path))
        self.made_by = {
            o: n.op_type
            for n in self.model.graph.node
            for o in n.output
            if o and "Sequence" not in n.op_type and not n.op_type.startswith("Optional")
        }
        self.modules = {o: module_of(n) for n in self.model.graph.node for o in n.output if o}
        self.outputs = [o.name for o in self.model.graph.output]
        quantized = {n.output[0]: n.input[0] for n in self.model.graph.node if n.op_type == "QuantizeLinear"}
        self.seen_as = {}
        for node in self.model.graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in quantized:
                self.seen_as.setdefault(quantized[node.input[0]], node.output[0])

    def seen(self, names: Sequence[str]) -> list[str]:
        return [self.seen_as.get(name, name) for name in names]

    def open(self, names: Sequence[str], folder: Path) -> Any:
        """A session that returns ``names`` as their consumers see them; unoptimised: nothing is fused away."""
        onnx = require("onnx", extra="ort", purpose="comparing ONNX files")
        # A copy, because save_model empties the tensors that it moves to external data.
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        typed = {o.name: o for o in self.model.graph.output}
        del model.graph.output[:]
        # Without a type: ONNX Runtime infers it.
        model.graph.output.extend(typed.get(t) or onnx.ValueInfoProto(name=t) for t in self.seen(names))
        file = folder / "probe.onnx"
        (folder / "probe.data").unlink(missing_ok=True)
        large = model.ByteSize() > EXTERNAL_BYTES
        try:
            onnx.save_model(model, str(file), save_as_external_data=large, location="probe.data")
        except OSError as e:
            raise storage_error(e, file) from e
        return OnnxRuntime().open(file, SessionOptions(threads=1, settings={"graph_level": "disable"}))


def _groups(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), TENSORS_PER_PASS):
        yield names[start : start + TENSORS_PER_PASS]


def _run_both(
    left: _Probe, right: _Probe, names: Sequence[str], batches: Sequence[Mapping[str, Array]]
) -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
    with tempfile.TemporaryDirectory(prefix="edgekd-compare-") as folder:
        ours, theirs = Path(folder) / "a", Path(folder) / "b"
        ours.mkdir()
        theirs.mkdir()
        one, other = left.open(names, ours), right.open(names, theirs)
        for feeds in batches:
            made = one.run(feeds), other.run(feeds)
            yield (
                {n: made[0][t] for n, t in zip(names, left.seen(names), strict=True)},
                {n: made[1][t] for n, t in zip(names, right.seen(names), strict=True)},
            )


def first_deviation(a: Path, b: Path, feeds: Iterable[Mapping[str, Array]], *, tolerance: float) -> Deviation:
    """Compare every tensor that two ONNX files name alike, on the same feeds, in topological order.

    Both run unoptimised on the CPU in one thread. Memory holds ``TENSORS_PER_PASS`` tensors of each at a time.

    Args:
        a: the reference.
        b: what was made of it, e.g. its quantized twin.
        feeds: feeds that both take; kept in memory, a few are enough.
        tolerance: limit of max |a - b| / max |a| per tensor, a fraction >= 0.

    Raises:
        ModelError: a file that cannot be read or run, or files without a common tensor; DataError: no feeds, or
        feeds that do not fit.
    """
    if not tolerance >= 0:
        raise DataError(f"tolerance {tolerance} is not a fraction >= 0", "for example 0.01")
    batches = list(feeds)
    if not batches:
        raise DataError("there are no feeds to compare on", "give at least one")
    left, right = _Probe(a), _Probe(b)
    own = list(left.made_by)
    shared = [name for name in own if name in right.made_by]
    if not shared:
        raise ModelError(
            f"{a} and {b} have no tensor of the same name", "compare a file with one that was made from it"
        )
    sums = {name: _Sums() for name in shared}
    for group in _groups(shared):
        for want, have in _run_both(left, right, group, batches):
            for name in group:
                sums[name].add(want[name], have[name])
    tensors = tuple(
        sums[n].result(n, left.made_by[n], n in left.outputs, left.modules[n] or right.modules[n])
        for n in shared
    )
    return Deviation(
        tensors=tensors,
        first=next((t for t in tensors if t.deviates(tolerance)), None),
        tolerance=tolerance,
        feeds=len(batches),
        only_a=len(own) - len(shared),
    )
