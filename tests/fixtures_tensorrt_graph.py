"""What an engine of the double is made of: an ONNX file, run by ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime


class HostMemory(bytes):
    """Stands for IHostMemory, which has the buffer protocol."""

    @property
    def nbytes(self) -> int:
        return len(self)


def numpy_type(element: int) -> str:
    return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element)))


class Graph:
    """An ONNX file as engines need it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.proto = onnx.load_from_string(data)
        graph = self.proto.graph
        weights = {w.name for w in graph.initializer}
        self.inputs = [i for i in graph.input if i.name not in weights]
        self.outputs = list(graph.output)
        self.shape_inputs = {
            n.input[1] for n in graph.node if n.op_type in ("Reshape", "Expand") and len(n.input) > 1
        } & {i.name for i in self.inputs}
        self.data_dependent = any(n.op_type == "NonZero" for n in graph.node)
        self._session: Any = None

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        if self._session is None:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            self._session = onnxruntime.InferenceSession(
                self.data, options, providers=["CPUExecutionProvider"]
            )
        return list(self._session.run(None, feeds))


def dims(value: Any) -> tuple[int, ...]:
    shape = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else -1 for d in shape)
