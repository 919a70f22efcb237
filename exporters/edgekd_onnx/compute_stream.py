"""A CUDA stream of our own for ONNX Runtime to compute on, so that events can be recorded around its work."""

from __future__ import annotations

from dataclasses import dataclass

from edgekd.errors import MissingDependencyError, TargetUnavailableError
from edgekd.measure.device_events import EventSource
from edgekd.measure.gpu_events import event_source


@dataclass(frozen=True, slots=True)
class ComputeStream:
    """A stream by number, and what made it and keeps it.

    Given to the CUDA provider as ``user_compute_stream`` (ONNX Runtime documentation, *CUDA Execution Provider*).
    """

    number: int
    source: EventSource

    def wait(self) -> None:
        """Until everything on it is done."""
        self.source.wait_for_stream(self.number)


def compute_stream() -> ComputeStream | None:
    """A new stream; None where no library makes one (times are then the host's), or there is no GPU to have one."""
    try:
        source = event_source()
        return ComputeStream(source.new_stream(), source)
    except (MissingDependencyError, TargetUnavailableError):
        return None
