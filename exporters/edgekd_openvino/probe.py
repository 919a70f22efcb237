"""An OpenVINO model whose inner tensors can be had, for comparing it with another model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.lazy import require
from edgekd.spec import check_feeds
from edgekd_openvino.library import core, errors, reason
from edgekd_openvino.runtime import read_model
from edgekd_openvino.specs import read_specs
from edgekd_openvino.unquantizing import QUANTIZER, is_stored

#: With its low-precision transformations OpenVINO 2026.4 gives wrong inner tensors, and with them wrong results, where
#: the raw output of a quantized operator is asked for beside the model's own.
AS_WRITTEN = {
    "INFERENCE_PRECISION_HINT": "f32",
    "INFERENCE_NUM_THREADS": "1",
    "LP_TRANSFORMS_MODE": "NO",
}


def compile_as_written(model: Any) -> Any:
    """Compile a model that is to show inner tensors as its file says.

    Without those transformations OpenVINO 2026.4 takes a multiplication into the quantizer behind it and answers wrongly
    (7 dB where it has 36). A maximum with the least float between the two, which changes nothing, keeps them apart.

    Raises:
        RuntimeError: as OpenVINO does.
    """
    for op in model.get_ordered_ops():
        if op.get_type_name() == QUANTIZER and not is_stored(op):
            source = op.input_value(0)
            if source.get_node().get_type_name() == "Multiply":
                least = np.full((), np.finfo(np.float32).min, np.float32)
                opset = require("openvino.opset13", extra="openvino", purpose="comparing tensors")
                op.input(0).replace_source_output(opset.maximum(source, opset.constant(least)).output(0))
    return core().compile_model(model, "CPU", AS_WRITTEN)


@dataclass
class OpenVinoProbe:
    """An IR or ONNX file, with whichever tensors are asked for as further outputs; see :class:`edgekd.deviation.Probe`.

    A tensor keeps the names that it had in the ONNX file which the IR was made of, as long as an operator makes it.
    """

    path: Path
    made_by: dict[str, str] = field(init=False)
    modules: dict[str, str] = field(init=False, default_factory=dict)
    outputs: list[str] = field(init=False)

    def __post_init__(self) -> None:
        model = read_model(self.path)
        self.made_by = {
            name: str(op.get_type_name())
            for op in model.get_ordered_ops()
            if op.get_type_name() not in ("Parameter", "Constant", "Result")
            for port in op.outputs()
            for name in sorted(port.get_names())
        }
        self.outputs = [s.name for s in read_specs(model, self.path)[1]]

    def fetch(
        self, names: Sequence[str], batches: Sequence[Mapping[str, Array]]
    ) -> Iterator[Mapping[str, Array]]:
        """See :meth:`edgekd.deviation.Probe.fetch`; on the CPU, in one thread and float32."""
        model = read_model(self.path)
        inputs = read_specs(model, self.path)[0]
        compiled = self._compile(model, names)
        for feeds in batches:
            check_feeds(inputs, feeds, str(self.path))
            try:
                made = compiled(dict(feeds))
                yield {name: made[name].copy() for name in names}
            except errors() as e:
                raise ModelError(f"{self.path} failed while running ({reason(e)})", "check the model") from e

    def _compile(self, model: Any, names: Sequence[str]) -> Any:
        known = {n for port in model.outputs for n in port.get_names()}
        try:
            model.add_outputs([n for n in names if n not in known])
            return compile_as_written(model)
        except errors() as e:
            raise ModelError(
                f"openvino cannot show inner tensors of {self.path} ({reason(e)})", "compare its outputs only"
            ) from e
