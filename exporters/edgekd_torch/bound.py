"""Calls of a torch module on inputs bound once: waited for, enqueued, or replayed as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from edgekd.data.example import Array
from edgekd.errors import EdgeKDError, TargetUnavailableError
from edgekd.lazy import require

#: Calls on the capturing stream before a capture, so that libraries have made their handles and workspaces
#: (torch documentation, *CUDA Graphs*, which makes three).
_BEFORE_CAPTURE = 3


class Owner(Protocol):
    """The session behind a call."""

    def failed(self, error: RuntimeError) -> EdgeKDError:
        """An error of torch, as one line."""
        ...

    def arrays(self, made: Any) -> dict[str, Array]:
        """What the module returned, in host memory."""
        ...


def torch_module() -> Any:
    """torch, or how to get it."""
    return require("torch", extra="torch", purpose="running a torch module")


class BoundModule:
    """Runs a module on tensors that are on its device already; keeps the last outputs."""

    __slots__ = ("_forward", "_mode", "_session", "made", "tensors")

    def __init__(self, session: Owner, forward: Callable[..., Any], tensors: Sequence[Any]) -> None:
        self._session = session
        self._forward = forward
        self.tensors = list(tensors)
        self._mode = torch_module().inference_mode
        self.made: Any = None

    def __call__(self) -> None:
        try:
            with self._mode():
                self.made = self._forward(*self.tensors)
        except RuntimeError as e:
            raise self._session.failed(e) from e

    def outputs(self) -> dict[str, Array]:
        """What the last call made."""
        return self._session.arrays(self.made)


class StreamCall(BoundModule):
    """As :class:`BoundModule`, on a stream of its session's own: :class:`edgekd.measure.device_events.DeviceCall`.

    Attributes:
        stream: the stream's number.
    """

    __slots__ = ("_on", "_stream", "stream")

    def __init__(
        self, session: Owner, forward: Callable[..., Any], tensors: Sequence[Any], stream: Any
    ) -> None:
        super().__init__(session, forward, tensors)
        self._stream = stream
        self._on = torch_module().cuda.stream
        self.stream = int(stream.cuda_stream)

    def launch(self) -> None:
        """Enqueue once, and return; outputs are there after the stream was waited for."""
        try:
            with self._mode(), self._on(self._stream):
                self.made = self._forward(*self.tensors)
        except RuntimeError as e:
            raise self._session.failed(e) from e

    def __call__(self) -> None:
        self.launch()
        try:
            self._stream.synchronize()
        except RuntimeError as e:
            raise self._session.failed(e) from e


class GraphCall(StreamCall):
    """As :class:`StreamCall`, captured once as a CUDA graph and replayed.

    Args:
        pool: memory that the captures of a session share; their replays never overlap.
        where: the model and its device, for messages.

    Raises:
        TargetUnavailableError: the module cannot be captured.
    """

    __slots__ = ("_graph",)

    def __init__(
        self,
        session: Owner,
        forward: Callable[..., Any],
        tensors: Sequence[Any],
        stream: Any,
        *,
        pool: Any,
        where: str,
    ) -> None:
        super().__init__(session, forward, tensors, stream)
        torch = torch_module()
        for _ in range(_BEFORE_CAPTURE):
            super().launch()
        stream.synchronize()
        self.made = None  # what the last of them made lies outside of the graph's memory
        self._graph = torch.cuda.CUDAGraph()
        try:
            with self._mode(), torch.cuda.graph(self._graph, pool=pool, stream=stream):
                self.made = self._forward(*self.tensors)
        except torch.OutOfMemoryError as e:
            raise session.failed(e) from e
        except RuntimeError as e:
            line = " ".join(str(e).split())[:300]
            raise TargetUnavailableError(
                f"{where} cannot be captured as a CUDA graph ({line})", "use mode eager or compile"
            ) from e

    def launch(self) -> None:
        try:
            with self._on(self._stream):
                self._graph.replay()
        except RuntimeError as e:
            raise self._session.failed(e) from e

    def refill(self, tensors: Sequence[Any]) -> None:
        """Copy other inputs of the same shapes into the captured ones."""
        with self._mode(), self._on(self._stream):
            for mine, other in zip(self.tensors, tensors, strict=True):
                mine.copy_(other)
