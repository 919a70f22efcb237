"""An ONNX file whose inner tensors can be had, for comparing it with another model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.data.example import Array
from edgekd.files import storage_error
from edgekd.lazy import require
from edgekd.target import SessionOptions
from edgekd_onnx.origin import module_of
from edgekd_onnx.reading import external_files
from edgekd_onnx.runtime import OnnxRuntime
from edgekd_onnx.writing import EXTERNAL_BYTES


@dataclass
class OnnxProbe:
    """An ONNX file, with its own outputs replaced by whichever tensors are asked for; see :class:`edgekd.deviation.Probe`."""

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
        external_files(self.path)
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

    def fetch(
        self, names: Sequence[str], batches: Sequence[Mapping[str, Array]]
    ) -> Iterator[Mapping[str, Array]]:
        """See :meth:`edgekd.deviation.Probe.fetch`; on the CPU, in one thread."""
        with tempfile.TemporaryDirectory(prefix="edgekd-compare-") as folder:
            session = self.open(names, Path(folder))
            for feeds in batches:
                made = session.run(feeds)
                yield {n: made[t] for n, t in zip(names, self.seen(names), strict=True)}
