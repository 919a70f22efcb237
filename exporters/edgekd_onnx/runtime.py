"""ONNX Runtime sessions. Needs numpy and onnxruntime only, so that a board can run it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import DataError, MissingDependencyError, ModelError, TargetUnavailableError
from edgekd.lazy import require
from edgekd.spec import Dim, TensorSpec, check_feeds
from edgekd.target import Placement, SessionOptions
from edgekd.workload import Profile
from edgekd_onnx.settings import own_threads, read_back, session_options, worth_trying

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

#: ONNX Runtime's type strings (onnxruntime/core/framework/data_types.cc) that are not just ``tensor(<our name>)``.
_ORT_DTYPES = {"float": "float32", "double": "float64"}


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
            values = session.run(None, dict(feeds))
        except self._input_errors as e:
            raise input_error(e, self.path) from e
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
        check_feeds(self.inputs, feeds, str(self.path))
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

    def end_profiling(self) -> str:
        """Write what the profiler saw and return the file's path; the session must have been opened for it."""
        return str(self._open().end_profiling())

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
            options: ``settings`` as in :data:`edgekd_onnx.settings.DEFAULTS`.

        Raises:
            ModelError: missing, damaged, or with operators or an opset that this build does not have;
            TargetUnavailableError: the provider is not there, or another one or another setting was used;
            UsageError: a setting.
        """
        return self._open(path, options)

    def sweepable(self, device: str, provider: str, cpus: int) -> dict[str, tuple[Any, ...]]:
        """See :class:`edgekd.measure.sweep.SweepableRuntime`."""
        on_cpu = provider_name(device, provider) == _PROVIDERS["cpu"]["cpu"]
        return worth_trying(on_cpu=on_cpu, cpus=cpus)

    def reference_settings(self, device: str, provider: str) -> dict[str, Any]:
        """See :class:`edgekd.pipeline.execution.ReferenceRuntime`: operators one by one, none fused or moved."""
        return {"graph_level": "disable"}

    def open_profiling(self, path: Path, options: SessionOptions, prefix: str) -> OnnxSession:
        """As :meth:`open`, with ONNX Runtime's profiler on; its file's name starts with ``prefix``."""
        return self._open(path, options, profile_prefix=prefix)

    def profile(
        self, path: Path, options: SessionOptions, feeds: Mapping[str, Array], *, calls: int, warm_up: int
    ) -> Profile:
        """See :class:`edgekd.workload.ProfilingRuntime`."""
        from edgekd_onnx.profile import profile_file

        return profile_file(self, path, options, feeds, calls=calls, warm_up=warm_up)

    def _open(self, path: Path, options: SessionOptions, profile_prefix: str = "") -> OnnxSession:
        wanted = provider_name(options.device, options.provider)
        ort = require("onnxruntime", extra="ort", purpose="running ONNX models")
        why = self.unavailable(options.device, options.provider)
        if why:
            what, _, fix = why.partition("; ")
            raise TargetUnavailableError(what, fix)
        if not path.is_file():
            raise ModelError(f"{path} does not exist", "check the path")
        try:
            made = session_options(ort, options)
            if profile_prefix:
                made.enable_profiling, made.profile_file_prefix = True, profile_prefix
            before = own_threads()
            session = ort.InferenceSession(
                str(path),
                made,
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
        threads, used = read_back(session, options, before, on_cpu=found == _PROVIDERS["cpu"]["cpu"])
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
        return OnnxSession(path, session, placement)
