"""TensorRT sessions: engines on the GPU that they were built for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edgekd.data.example import Array
from edgekd.errors import (
    InfrastructureError,
    MissingDependencyError,
    ModelError,
    TargetUnavailableError,
    UsageError,
)
from edgekd.placement import PlacedOp
from edgekd.spec import check_feeds
from edgekd.target import Placement, SessionOptions
from edgekd.workload import Profile
from edgekd_tensorrt.cuda import Cuda
from edgekd_tensorrt.engine import Engine, open_engine
from edgekd_tensorrt.execution import Execution
from edgekd_tensorrt.inspector import parse_inspection
from edgekd_tensorrt.library import load
from edgekd_tensorrt.plan import read_header
from edgekd_tensorrt.profiling import profile_engine


class BoundCall:
    """Runs an engine on inputs bound once, through a CUDA graph where capture worked.

    Attributes:
        stream: of its own, never the default one.
        captured: whether a CUDA graph is launched; reason: why not.
    """

    __slots__ = ("_cuda", "_execution", "captured", "reason", "stream")

    def __init__(self, loaded: Engine, feeds: Mapping[str, Array]) -> None:
        self._cuda = loaded.cuda
        execution = Execution(loaded)
        self._execution = execution
        execution.set_inputs(feeds)
        execution.run()  # TensorRT wants one before a capture, and data-dependent sizes are known after it
        if loaded.settings.cuda_graph == "off":
            execution.graph_reason = "cuda_graph=off"
        else:
            execution.capture(required=loaded.settings.cuda_graph == "on")
        self.stream = execution.stream
        self.captured, self.reason = execution.captured, execution.graph_reason

    def launch(self, stream: int | None = None) -> None:
        """Put one run on ``stream`` (its own) without waiting, so that events can be recorded around it."""
        self._execution.launch(self.stream if stream is None else stream)

    def __call__(self) -> None:
        self._execution.launch(self.stream)
        self._cuda.synchronize(self.stream)

    def outputs(self) -> dict[str, Array]:
        """Copies of what the last call wrote."""
        return self._execution.outputs()

    def close(self) -> None:
        self._execution.close()


class TensorRtSession:
    """An opened engine."""

    def __init__(self, loaded: Engine, placement: Placement) -> None:
        self.inputs, self.outputs = loaded.record.inputs, loaded.record.outputs
        self.placement = placement
        self._loaded: Engine | None = loaded
        self._execution: Execution | None = None
        self._bound: list[BoundCall] = []

    def _open(self) -> Engine:
        if self._loaded is None:
            raise ModelError("the TensorRT session is closed", "open it again")
        return self._loaded

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; copies in and out included.

        Raises:
            DataError: feeds that do not fit or that no profile takes; ModelError: the engine failed on them.
        """
        loaded = self._open()
        check_feeds(self.inputs, feeds, str(loaded.path))
        if self._execution is None:
            self._execution = Execution(loaded)
        self._execution.set_inputs(feeds)
        self._execution.run()
        return self._execution.outputs()

    def bind(self, feeds: Mapping[str, Array]) -> BoundCall:
        """Put inputs on the device now and capture a CUDA graph where that works; see ``placement.detail``.

        Raises:
            DataError: as :meth:`run`; TargetUnavailableError: ``cuda_graph=on`` and capture fails.
        """
        loaded = self._open()
        check_feeds(self.inputs, feeds, str(loaded.path))
        bound = BoundCall(loaded, feeds)
        self._bound.append(bound)
        found = {"cuda_graph": bound.captured, "cuda_graph_reason": bound.reason}
        self.placement = replace(self.placement, detail={**self.placement.detail, **found})
        return bound

    def inspect(self, feeds: Mapping[str, Array]) -> str:
        """The inspector's JSON with the shapes that ``feeds`` give."""
        loaded = self._open()
        self.run(feeds)
        inspector = loaded.engine.create_engine_inspector()
        if self._execution is not None:
            inspector.execution_context = self._execution.context
        return str(inspector.get_engine_information(loaded.trt.LayerInformationFormat.JSON))

    @property
    def loaded(self) -> Engine:
        """The engine behind the session."""
        return self._open()

    def close(self) -> None:
        """Let go of engine and memory; a second call does nothing."""
        for bound in self._bound:
            bound.close()
        if self._execution is not None:
            self._execution.close()
        self._bound, self._execution, self._loaded = [], None, None


class TensorRtRuntime:
    """Opens ``.plan`` files that EdgeKD built, with the TensorRT and on the GPU that they were built for."""

    name = "tensorrt"
    formats: tuple[str, ...] = ("tensorrt",)

    def unavailable(self, device: str, provider: str) -> str:
        """Why this machine cannot run it, with the fix; empty when it can."""
        if device != "cuda":
            return f"tensorrt does not run on device '{device}'; use cuda:tensorrt"
        if provider not in ("", "tensorrt"):
            return f"tensorrt has no provider '{provider}'; use cuda:tensorrt"
        try:
            load("running an engine")
            Cuda().count()
        except (MissingDependencyError, TargetUnavailableError, ModelError) as e:
            return str(e)
        return ""

    def open(self, path: Path, options: SessionOptions) -> TensorRtSession:
        """Open a plan.

        Args:
            options: ``settings`` as in :class:`edgekd_tensorrt.engine.Settings`; ``threads`` counts the callers, an
                engine itself uses none.

        Raises:
            ModelError: no plan, or one that no record of EdgeKD's names; TargetUnavailableError: another version or
                GPU, or TensorRT is not here; UsageError: a setting.
        """
        if options.threads < 1:
            raise UsageError(f"threads is {options.threads}", "ask for 1 or more")
        if options.device != "cuda" or options.provider not in ("", "tensorrt"):
            what, _, fix = self.unavailable(options.device, options.provider).partition("; ")
            raise TargetUnavailableError(what, fix)
        read_header(path)  # a file that is no plan is refused for that, with or without TensorRT
        why = self.unavailable(options.device, options.provider)
        if why:
            what, _, fix = why.partition("; ")
            raise TargetUnavailableError(what, fix)
        loaded = open_engine(path, options.settings or {})
        return TensorRtSession(loaded, _placement(loaded, options))

    def place(self, path: Path, options: SessionOptions, feeds: Mapping[str, Array]) -> Sequence[PlacedOp]:
        """See :class:`edgekd.placement.PlacingRuntime`: the engine's layers, with the types that they read."""
        session = self.open(path, options)
        try:
            return parse_inspection(session.inspect(feeds)).placed()
        finally:
            session.close()

    def profile(
        self, path: Path, options: SessionOptions, feeds: Mapping[str, Array], *, calls: int, warm_up: int
    ) -> Profile:
        """See :class:`edgekd.workload.ProfilingRuntime`."""
        session = self.open(path, options)
        try:
            check_feeds(session.inputs, feeds, str(path))
            return profile_engine(session.loaded, feeds, calls=calls, warm_up=warm_up)
        finally:
            session.close()


def _placement(loaded: Engine, options: SessionOptions) -> Placement:
    """What was read back; a device other than the asked one raises on the way here."""
    if loaded.cuda.count() < 1:
        raise InfrastructureError("CUDA lost its device", "start again")
    return Placement(
        device="cuda",
        provider="tensorrt",
        runtime=f"tensorrt {loaded.version}",
        threads=options.threads,
        detail={
            "gpu": loaded.device.to_json(),
            "plan_sha256": loaded.record.plan_sha256,
            "profiles": len(loaded.record.profiles),
            "layers": int(loaded.engine.num_layers),
            "device_memory_bytes": int(loaded.engine.device_memory_size_v2),
            "cuda_graph_asked": loaded.settings.cuda_graph,
        },
    )
