"""Bound calls of ONNX Runtime that can be enqueued without waiting for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd.errors import ModelError
from edgekd_onnx.compute_stream import ComputeStream
from edgekd_onnx.runtime import BoundCall, reason


class StreamCall(BoundCall):
    """As :class:`~edgekd_onnx.runtime.BoundCall`: an :class:`edgekd.measure.device_events.DeviceCall`.

    With CUDA graphs ONNX Runtime itself waits for each replay (onnxruntime/core/providers/cuda/cuda_graph.cc), so the
    events of such a call hold a part of the host's time as well.

    Attributes:
        stream: the session's stream, as a number.
    """

    __slots__ = ("_compute", "stream")

    def __init__(
        self, session: Any, binding: Any, keep: object, path: Path, options: Any, *, stream: ComputeStream
    ) -> None:
        # onnxruntime_run_options_config_keys.h, kOrtRunOptionsConfigDisableSynchronizeExecutionProviders.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        super().__init__(session, binding, keep, path, options)
        self._compute = stream
        self.stream = stream.number

    def launch(self) -> None:
        """Enqueue once, and return."""
        try:
            self._run(self.binding, self._options)
        except self._errors as e:
            raise ModelError(f"{self._path} failed while running ({reason(e)})", "check the model") from e

    def __call__(self) -> None:
        self.launch()
        self._compute.wait()
