"""ONNX Runtime sessions. Needs numpy and onnxruntime only, so that a board can run it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.deviation import Probe
from edgekd.errors import DataError, MissingDependencyError, ModelError, TargetUnavailableError
from edgekd.inspect import inspect_file
from edgekd.inspect.limits import STORED
from edgekd.lazy import require
from edgekd.placement import PlacedOp
from edgekd.spec import Dim, TensorSpec, check_feeds
from edgekd.target import Placement, SessionOptions
from edgekd.workload import Profile
from edgekd_onnx.compute_stream import ComputeStream, compute_stream
from edgekd_onnx.emulation import FLOAT8, emulating, holds_float8
from edgekd_onnx.providers import (
    CPU,
    CUDA,
    OWN_SETTINGS,
    TENSORRT,
    count_nodes,
    preload_libraries,
    provider_name,
    provider_options,
    refuse_foreign_settings,
    refuse_other_options,
    refuse_other_places,
)
from edgekd_onnx.settings import own_threads, read_back, resolve, session_options, worth_trying

#: ONNX Runtime's type strings (onnxruntime/core/framework/data_types.cc) that are not just ``tensor(<our name>)``.
_ORT_DTYPES = {"float": "float32", "double": "float64"}


def dimension(tensor: str, axis: int, raw: object) -> Dim:
    """A size as it is, a symbol by its name, and an unnamed or negative size as a symbol of its own."""
    if isinstance(raw, int) and raw >= 0:
        return raw
    return raw if isinstance(raw, str) and raw else f"{tensor}.{axis}"


def _spec(node: Any, path: Path) -> TensorSpec:
    kind, _, rest = str(node.type).partition("(")
    if kind != "tensor":
        raise ModelError(
            f"{path}: '{node.name}' has type {node.type}, only tensors can be compared",
            "export the model without sequences, maps and optionals (sklearn: zipmap=False)",
        )
    element = rest.rstrip(")")
    shape = tuple(dimension(node.name, i, d) for i, d in enumerate(node.shape))
    return TensorSpec(name=node.name, dtype=_ORT_DTYPES.get(element, element), shape=shape)


def reason(error: BaseException) -> str:
    """The first line of an ONNX Runtime message, without its error-code prefix."""
    line = " ".join(str(error).split())
    if line.startswith("[ONNXRuntimeError]"):
        line = line.split(" : ", 3)[-1]
    if line.startswith("Load model from "):
        line = line.partition(" failed:")[2] or line
    line = line.rstrip(".")
    return line if len(line) <= 400 else line[:397] + "…"


#: What Gather says of an index (onnxruntime/core/providers/cpu/tensor/gatherbase.h).
_OUT_OF_TABLE = re.compile(r"idx=(-?\d+) must be within the inclusive range \[-?\d+,(-?\d+)\]")


def input_error(error: BaseException, path: Path) -> DataError:
    """The one line for inputs that ONNX Runtime refused; an id beyond a lookup table is named as such."""
    if found := _OUT_OF_TABLE.search(str(error)):
        return DataError(
            f"{path} was fed the id {found[1]}, its table ends at {found[2]}",
            "the data or the tokenizer belongs to another model",
        )
    return DataError(f"{path} refused its inputs ({reason(error)})", "check the feeds' shapes")


def ort_errors(*, only_input: bool = False) -> tuple[type[BaseException], ...]:
    """The exception types of ONNX Runtime, which share no base class of their own."""
    state = require("onnxruntime.capi.onnxruntime_pybind11_state", extra="ort", purpose="running ONNX models")
    if only_input:
        return (state.InvalidArgument,)
    found = [
        v
        for v in vars(state).values()
        if isinstance(v, type) and issubclass(v, Exception) and v.__module__ == state.__name__
    ]
    return (*found, RuntimeError, ValueError)


#: What ONNX Runtime says where a provider has no kernel for an operator in its types.
_NO_KERNEL = ("NOT_IMPLEMENTED", "Could not find an implementation")

#: The annotation that keeps a call out of CUDA graphs (onnxruntime_run_options_config_keys.h, ``gpu_graph_id``).
_NO_GRAPH = -1


class BoundCall:
    """Runs one session on inputs bound once; holds inputs and outputs for as long as it lives."""

    __slots__ = ("_errors", "_keep", "_options", "_path", "_run", "binding")

    def __init__(self, session: Any, binding: Any, keep: object, path: Path, options: Any = None) -> None:
        self._run: Callable[[Any, Any], None] = session.run_with_iobinding
        self.binding = binding
        self._keep = keep
        self._options = options
        self._path = path
        self._errors = ort_errors()

    def __call__(self) -> None:
        try:
            self._run(self.binding, self._options)
        except self._errors as e:
            raise ModelError(f"{self._path} failed while running ({reason(e)})", "check the model") from e

    def outputs(self) -> dict[str, Array]:
        """Copies of what the last call wrote."""
        names = (o.name for o in self._run.__self__.get_outputs())  # type: ignore[attr-defined]
        return dict(zip(names, self.binding.copy_outputs_to_cpu(), strict=True))


class OnnxSession:
    """An opened ONNX file."""

    def __init__(
        self, path: Path, session: Any, placement: Placement, stream: ComputeStream | None = None
    ) -> None:
        self.path = path
        self._stream = stream
        self.inputs = tuple(_spec(i, path) for i in session.get_inputs())
        self.outputs = tuple(_spec(o, path) for o in session.get_outputs())
        self.placement = placement
        self._session = session
        self._graphs = itertools.count(1) if placement.detail.get("cuda_graph") else None
        self._errors = ort_errors()
        self._input_errors = ort_errors(only_input=True)

    def _open(self) -> Any:
        if self._session is None:
            raise ModelError(f"the session of {self.path} is closed", "open it again")
        return self._session

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once.

        Args:
            feeds: input name -> array of exactly the specs' dtypes and fixed sizes.

        Raises:
            DataError: feeds that do not fit; ModelError: the model failed on them.
        """
        session = self._open()
        check_feeds(self.inputs, feeds, str(self.path))
        try:
            # Such feeds live elsewhere at each call: capturing or replaying a CUDA graph would read stale memory.
            values = session.run(None, dict(feeds), self._graph_options(_NO_GRAPH))
        except self._input_errors as e:
            raise input_error(e, self.path) from e
        except self._errors as e:
            raise ModelError(f"{self.path} failed while running ({reason(e)})", "check the model") from e
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}

    def _graph_options(self, number: int) -> Any:
        """``onnxruntime.RunOptions`` that capture and replay under ``number``; None where graphs are off."""
        if self._graphs is None:
            return None
        ort = require("onnxruntime", extra="ort", purpose="running ONNX models")
        options = ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(number))
        return options

    def bind(self, feeds: Mapping[str, Array]) -> BoundCall:
        """Bind inputs and outputs, both on the session's device; the result runs once per call and waits for it.

        The first call sizes the outputs (they may depend on the data); later calls write into the same memory.

        Raises:
            DataError: feeds that do not fit.
        """
        session = self._open()
        check_feeds(self.inputs, feeds, str(self.path))
        ort = require("onnxruntime", extra="ort", purpose="running ONNX models")
        device = "cuda" if self.placement.device == "cuda" else "cpu"
        # A graph of one binding must not be replayed for another's memory.
        options = self._graph_options(next(self._graphs)) if self._graphs is not None else None
        binding = session.io_binding()
        values = []
        try:
            for name, array in feeds.items():
                # np.require, because ascontiguousarray turns a scalar into a vector.
                value = ort.OrtValue.ortvalue_from_numpy(np.require(array, requirements="C"), device, 0)
                values.append(value)
                binding.bind_ortvalue_input(name, value)
            for spec in self.outputs:
                binding.bind_output(spec.name, device, 0)
        except self._errors as e:
            raise DataError(
                f"{self.path}: cannot bind its inputs ({reason(e)})", "check the feeds' dtypes and shapes"
            ) from e
        if self._stream is not None:
            from edgekd_onnx.streams import StreamCall

            options = options or ort.RunOptions()
            return StreamCall(session, binding, values, self.path, options, stream=self._stream)
        return BoundCall(session, binding, values, self.path, options)

    def end_profiling(self) -> str:
        """Write what the profiler saw and return the file's path; the session must have been opened for it."""
        return str(self._open().end_profiling())

    def close(self) -> None:
        """Let go of the model; a second call does nothing."""
        self._session = None


class OnnxRuntime:
    """Opens ``.onnx`` and ``.ort`` files with ONNX Runtime, on exactly the provider that was asked for."""

    name = "onnxruntime"
    formats: tuple[str, ...] = ("onnx", "ort")

    def unavailable(self, device: str, provider: str) -> str:
        """Why this machine cannot run it, with the fix; empty when it can."""
        try:
            wanted = provider_name(device, provider)
            ort = require("onnxruntime", extra="ort", purpose="running ONNX models")
        except (TargetUnavailableError, MissingDependencyError) as e:
            return str(e)
        present = list(ort.get_available_providers())
        if wanted not in present and wanted in (CUDA, TENSORRT):
            # Newer GPU builds bring CUDA as a plugin, which registers only once its libraries are loaded.
            preload_libraries(ort)
            present = list(ort.get_available_providers())
        if wanted in present:
            return ""
        extra = "ort-gpu" if device == "cuda" else "ort"
        return (
            f"onnxruntime {ort.__version__} has no {wanted} on this machine, only {', '.join(present)}; "
            f"install a build that has it: pip install 'edgekd[{extra}]'"
            + (" (and remove onnxruntime first: both own one folder)" if device == "cuda" else "")
        )

    def open(self, path: Path, options: SessionOptions) -> OnnxSession:
        """Open a model file.

        Args:
            path: the ``.onnx`` or ``.ort`` file; external data is looked for beside it.
            options: ``settings`` as in :data:`edgekd_onnx.settings.DEFAULTS`.

        Raises:
            ModelError: missing, damaged, or with operators or an opset that this build does not have;
            TargetUnavailableError: the provider is not there, or another one or another setting was used;
            UsageError: a setting; PolicyError: external data outside the file's folder.
        """
        return self._open(path, options)

    def sweepable(self, device: str, provider: str, cpus: int) -> dict[str, tuple[Any, ...]]:
        """See :class:`edgekd.measure.sweep.SweepableRuntime`."""
        name = provider_name(device, provider)
        return worth_trying(on_cpu=name == CPU, cpus=cpus, cuda_graph=name == CUDA)

    def reference_settings(self, device: str, provider: str) -> dict[str, Any]:
        """See :class:`edgekd.pipeline.execution.ReferenceRuntime`: operators one by one, none fused or moved."""
        return {"graph_level": "disable"}

    def open_probe(self, path: Path) -> Probe:
        """See :class:`edgekd.deviation.ProbingRuntime`."""
        from edgekd_onnx.probe import OnnxProbe

        return OnnxProbe(path)

    def open_profiling(self, path: Path, options: SessionOptions, prefix: str) -> OnnxSession:
        """As :meth:`open`, with ONNX Runtime's profiler on; its file's name starts with ``prefix``."""
        return self._open(path, options, profile_prefix=prefix)

    def profile(
        self, path: Path, options: SessionOptions, feeds: Mapping[str, Array], *, calls: int, warm_up: int
    ) -> Profile:
        """See :class:`edgekd.workload.ProfilingRuntime`."""
        from edgekd_onnx.profile import profile_file

        return profile_file(self, path, options, feeds, calls=calls, warm_up=warm_up)

    def place(self, path: Path, options: SessionOptions, feeds: Mapping[str, Array]) -> Sequence[PlacedOp]:
        """See :class:`edgekd.placement.PlacingRuntime`; as ONNX Runtime's profiler saw one call after a warm-up."""
        from edgekd_onnx.placing import place_file

        return place_file(self, path, options, feeds)

    def _open(self, path: Path, options: SessionOptions, profile_prefix: str = "") -> OnnxSession:
        wanted = provider_name(options.device, options.provider)
        ort = require("onnxruntime", extra="ort", purpose="running ONNX models")
        why = self.unavailable(options.device, options.provider)
        if why:
            what, _, fix = why.partition("; ")
            raise TargetUnavailableError(what, fix)
        if not path.is_file():
            raise ModelError(f"{path} does not exist", "check the path")
        if path.suffix == ".onnx":
            inspect_file(path, limits=STORED, digest=False)
        on_cpu = wanted == CPU
        low = path.suffix == ".onnx" and holds_float8(path)
        if low:
            options = emulating(options, path)
        asked = resolve(options.settings or {}, options.threads)
        refuse_foreign_settings(wanted, asked)
        told = provider_options(wanted, options.device, options.threads, asked)
        if wanted in (CUDA, TENSORRT):
            preload_libraries(ort)
        stream = compute_stream() if wanted == CUDA else None
        if stream is not None:
            told = {**told, "user_compute_stream": str(stream.number)}
        try:
            made = session_options(ort, options, on_cpu=on_cpu)
            if profile_prefix:
                made.enable_profiling, made.profile_file_prefix = True, profile_prefix
            before = own_threads()
            session = ort.InferenceSession(
                str(path),
                made,
                # A list: a tuple was once taken for something else and ran quietly on the CPU.
                providers=[(wanted, told)] if told else [wanted],
                enable_fallback=0,
            )
        except ort_errors() as e:
            if "fallback to CPU EP has been explicitly disabled" in str(e):
                raise TargetUnavailableError(
                    f"asked for {wanted}, which cannot run every node of {path}",
                    "cpu_nodes=any leaves the rest to the CPU (then state the share in gates.placement)",
                ) from e
            kernel = any(words in str(e) for words in _NO_KERNEL)
            raise ModelError(
                f"onnxruntime {ort.__version__} cannot open {path} ({reason(e)})",
                f"{wanted} has no kernel for that operator in that type: use another precision or runtime"
                if kernel
                else "the file is damaged, or was made for another version: export it again",
            ) from e
        session.disable_fallback()
        found = session.get_providers()[0] if session.get_providers() else "none"
        if found != wanted:
            raise TargetUnavailableError(
                f"asked for {wanted}, onnxruntime opened {path} on {found}",
                "check the provider's libraries (`edgekd doctor`)",
            )
        threads, used = read_back(session, options, before, on_cpu=on_cpu)
        if told:
            used["provider_options"] = refuse_other_options(session, wanted, told)
        if not on_cpu:
            used |= _taken(session, wanted, asked["cpu_nodes"], path)
        used |= {k: asked[k] for k, owners in OWN_SETTINGS.items() if wanted in owners}
        if low and wanted != TENSORRT:
            used["emulated"] = FLOAT8
        placement = Placement(
            device=options.device,
            provider=found,
            runtime=f"onnxruntime {ort.__version__}",
            threads=threads,
            detail={
                "build": str(ort.get_build_info()),
                "providers": list(session.get_providers()),
                **used,
            },
        )
        return OnnxSession(path, session, placement, stream)


def _taken(session: Any, provider: str, allowed: str, path: Path) -> dict[str, Any]:
    """Which provider took how many nodes, for the record; null where this build does not tell."""
    counts = count_nodes(session)
    if counts is None:
        return {"nodes_by_provider": None}
    refuse_other_places(counts, provider, allowed, path)
    return {"nodes_by_provider": {name: sum(ops.values()) for name, ops in sorted(counts.items())}}
