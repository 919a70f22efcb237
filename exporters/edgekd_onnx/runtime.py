"""ONNX Runtime sessions. Needs numpy and onnxruntime only, so that a board can run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import DataError, MissingDependencyError, ModelError, TargetUnavailableError, UsageError
from edgekd.lazy import require
from edgekd.spec import Dim, TensorSpec
from edgekd.target import Placement, SessionOptions

#: The provider that a device gets when none is asked for, and every provider that it can have.
_PROVIDERS: Mapping[str, Mapping[str, str]] = {
    "cpu": {
        "cpu": "CPUExecutionProvider",
        "dnnl": "DnnlExecutionProvider",
        "xnnpack": "XnnpackExecutionProvider",
        "openvino": "OpenVINOExecutionProvider",
    },
    "cuda": {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"},
}

_GRAPH_LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}

#: ONNX Runtime's type strings (onnxruntime/core/framework/data_types.cc) that are not just ``tensor(<our name>)``.
_ORT_DTYPES = {"float": "float32", "double": "float64"}

#: Above "fatal": what matters arrives as an exception, and the log would put more lines beside our one.
_QUIET = 4


def provider_name(device: str, provider: str) -> str:
    """ONNX Runtime's name of a provider; empty means the device's own.

    >>> provider_name("cpu", "")
    'CPUExecutionProvider'

    Raises:
        TargetUnavailableError: no such device, or a provider that this device cannot have.
    """
    known = _PROVIDERS.get(device)
    if known is None:
        raise TargetUnavailableError(
            f"onnxruntime does not run on device '{device}' here", f"it knows {', '.join(_PROVIDERS)}"
        )
    if provider in known.values():
        return provider
    name = known.get(provider.lower() or device)
    if name is None:
        raise TargetUnavailableError(
            f"onnxruntime has no provider '{provider}' for device '{device}'",
            f"it knows {', '.join(known)}",
        )
    return name


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


def _session_options(ort: Any, options: SessionOptions) -> Any:
    settings = dict(options.settings or {})
    level = settings.pop("graph_level", "all")
    arena = settings.pop("arena", True)
    if level not in _GRAPH_LEVELS:
        raise UsageError(f"graph_level {level!r} is not known", f"choose {', '.join(_GRAPH_LEVELS)}")
    if not isinstance(arena, bool):
        raise UsageError(f"arena {arena!r} is not true or false", "write arena: true or arena: false")
    if settings:
        raise UsageError(
            f"onnxruntime has no setting '{sorted(settings)[0]}'", "it knows graph_level and arena"
        )
    if options.threads < 1:
        raise UsageError(f"threads is {options.threads}", "ask for 1 or more")
    made = ort.SessionOptions()
    made.log_severity_level = _QUIET
    made.intra_op_num_threads = options.threads
    made.inter_op_num_threads = 1
    made.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    made.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _GRAPH_LEVELS[level])
    made.enable_cpu_mem_arena = arena
    if options.threads == 1:
        made.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return made


class BoundCall:
    """Runs one session on inputs bound once; holds inputs and outputs for as long as it lives."""

    __slots__ = ("_errors", "_keep", "_path", "_run", "binding")

    def __init__(self, session: Any, binding: Any, keep: object, path: Path) -> None:
        self._run: Callable[[Any], None] = session.run_with_iobinding
        self.binding = binding
        self._keep = keep
        self._path = path
        self._errors = ort_errors()

    def __call__(self) -> None:
        try:
            self._run(self.binding)
        except self._errors as e:
            raise ModelError(f"{self._path} failed while running ({reason(e)})", "check the model") from e

    def outputs(self) -> dict[str, Array]:
        """Copies of what the last call wrote."""
        names = (o.name for o in self._run.__self__.get_outputs())  # type: ignore[attr-defined]
        return dict(zip(names, self.binding.copy_outputs_to_cpu(), strict=True))


class OnnxSession:
    """An opened ONNX file."""

    def __init__(self, path: Path, session: Any, placement: Placement) -> None:
        self.path = path
        self.inputs = tuple(_spec(i, path) for i in session.get_inputs())
        self.outputs = tuple(_spec(o, path) for o in session.get_outputs())
        self.placement = placement
        self._session = session
        self._errors = ort_errors()
        self._input_errors = ort_errors(only_input=True)

    def _open(self) -> Any:
        if self._session is None:
            raise ModelError(f"the session of {self.path} is closed", "open it again")
        return self._session

    def _check(self, feeds: Mapping[str, Array]) -> None:
        for spec in self.inputs:
            if spec.name not in feeds:
                raise DataError(f"{self.path}: input '{spec.name}' is not fed", f"the model wants {spec}")
            spec.check(feeds[spec.name], where=str(self.path))
        if len(feeds) != len(self.inputs):
            extra = sorted(set(feeds) - {s.name for s in self.inputs})
            raise DataError(
                f"{self.path} has no input '{extra[0]}'",
                f"it has {', '.join(s.name for s in self.inputs)}",
            )

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once.

        Args:
            feeds: input name -> array of exactly the specs' dtypes and fixed sizes.

        Raises:
            DataError: feeds that do not fit; ModelError: the model failed on them.
        """
        session = self._open()
        self._check(feeds)
        try:
            values = session.run(None, dict(feeds))
        except self._input_errors as e:
            raise DataError(f"{self.path} refused its inputs ({reason(e)})", "check the feeds' shapes") from e
        except self._errors as e:
            raise ModelError(f"{self.path} failed while running ({reason(e)})", "check the model") from e
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}

    def bind(self, feeds: Mapping[str, Array]) -> BoundCall:
        """Bind inputs and outputs; the result runs once per call.

        The first call sizes the outputs (they may depend on the data); later calls write into the same memory.

        Raises:
            DataError: feeds that do not fit.
        """
        session = self._open()
        self._check(feeds)
        ort = require("onnxruntime", extra="ort", purpose="running ONNX models")
        device = "cuda" if self.placement.device == "cuda" else "cpu"
        binding = session.io_binding()
        values = []
        try:
            for name, array in feeds.items():
                # np.require, because ascontiguousarray turns a scalar into a vector.
                value = ort.OrtValue.ortvalue_from_numpy(np.require(array, requirements="C"), device, 0)
                values.append(value)
                binding.bind_ortvalue_input(name, value)
            for spec in self.outputs:
                binding.bind_output(spec.name, "cpu")
        except self._errors as e:
            raise DataError(
                f"{self.path}: cannot bind its inputs ({reason(e)})", "check the feeds' dtypes and shapes"
            ) from e
        return BoundCall(session, binding, values, self.path)

    def close(self) -> None:
        """Let go of the model; a second call does nothing."""
        self._session = None


class OnnxRuntime:
    """Opens ``.onnx`` files with ONNX Runtime, on exactly the provider that was asked for."""

    name = "onnxruntime"
    formats: tuple[str, ...] = ("onnx",)

    def unavailable(self, device: str, provider: str) -> str:
        """Why this machine cannot run it, with the fix; empty when it can."""
        try:
            wanted = provider_name(device, provider)
            ort = require("onnxruntime", extra="ort", purpose="running ONNX models")
        except (TargetUnavailableError, MissingDependencyError) as e:
            return str(e)
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
            path: the ``.onnx`` file; external data is looked for beside it.
            options: ``settings`` may hold ``graph_level`` (disable, basic, extended, all) and ``arena`` (bool).

        Raises:
            ModelError: missing, damaged, or with operators or an opset that this build does not have;
            TargetUnavailableError: the provider is not there, or another one was used; UsageError: a setting.
        """
        wanted = provider_name(options.device, options.provider)
        ort = require("onnxruntime", extra="ort", purpose="running ONNX models")
        why = self.unavailable(options.device, options.provider)
        if why:
            what, _, fix = why.partition("; ")
            raise TargetUnavailableError(what, fix)
        if not path.is_file():
            raise ModelError(f"{path} does not exist", "check the path")
        try:
            session = ort.InferenceSession(
                str(path),
                _session_options(ort, options),
                # A list: a tuple was once taken for something else and ran quietly on the CPU.
                providers=[wanted],
                enable_fallback=0,
            )
        except ort_errors() as e:
            raise ModelError(
                f"onnxruntime {ort.__version__} cannot open {path} ({reason(e)})",
                "the file is damaged, or was made for another version: export it again",
            ) from e
        session.disable_fallback()
        found = session.get_providers()[0] if session.get_providers() else "none"
        if found != wanted:
            raise TargetUnavailableError(
                f"asked for {wanted}, onnxruntime opened {path} on {found}",
                "check the provider's libraries (`edgekd doctor`)",
            )
        used = session.get_session_options()
        placement = Placement(
            device=options.device,
            provider=found,
            runtime=f"onnxruntime {ort.__version__}",
            threads=int(used.intra_op_num_threads),
            detail={
                "build": str(ort.get_build_info()),
                "graph_level": used.graph_optimization_level.name,
                "arena": bool(used.enable_cpu_mem_arena),
                "providers": list(session.get_providers()),
            },
        )
        return OnnxSession(path, session, placement)
