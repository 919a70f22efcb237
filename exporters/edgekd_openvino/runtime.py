"""OpenVINO sessions. Needs numpy and openvino only, so that a board can run it."""

from __future__ import annotations

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
from edgekd.quantize.hardware import refuse_precision, this_cpu
from edgekd.spec import TensorSpec, check_feeds
from edgekd.target import Placement, SessionOptions
from edgekd.workload import Profile
from edgekd_onnx.emulation import FLOAT8, holds_float8
from edgekd_openvino.document import scan
from edgekd_openvino.library import core, errors, openvino, reason, version
from edgekd_openvino.settings import PRECISION_HINT, properties, read_back, worth_trying
from edgekd_openvino.specs import read_specs

#: OpenVINO's names of devices. AUTO, MULTI and HETERO choose a device themselves, and are never asked for.
_DEVICES = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU"}
_PURPOSE = "running OpenVINO models"
#: Precisions that a processor may not have, by OpenVINO's names.
_PRECISIONS = {"bf16": "bfloat16", "f16": "float16"}
#: Integers that may not fit into the 32 bits that OpenVINO's CPU computes them in.
_WIDE = ("int64", "uint64", "uint32")
_INT32 = np.iinfo(np.int32)
#: Which frontend reads a file: without a name, OpenVINO tries every one that it has on a damaged file.
_FRONTENDS = {".xml": "ir", ".onnx": "onnx"}


def device_name(device: str, provider: str) -> str:
    """OpenVINO's name of a device; ``provider`` may number one of several: ``gpu.1``.

    >>> device_name("cpu", "")
    'CPU'

    Raises:
        TargetUnavailableError: no such device, or a provider that is another.
    """
    known = _DEVICES.get(device)
    if known is None:
        raise TargetUnavailableError(
            f"openvino does not run on device '{device}' here", f"it knows {', '.join(_DEVICES)}"
        )
    wanted = provider.upper() or known
    head, _, number = wanted.partition(".")
    if head != known or (number and not number.isdecimal()):
        raise TargetUnavailableError(
            f"openvino has no provider '{provider}' for device '{device}'", f"write {device}:openvino"
        )
    return wanted


def read_model(path: Path) -> Any:
    """An ``openvino.Model`` of an IR or ONNX file; an IR's XML and weights are checked first.

    Raises:
        ModelError: missing, damaged, of another kind, or with operators that OpenVINO does not have;
        TargetUnavailableError: FP8; PolicyError: weights that are a link, or that an ONNX file keeps outside its folder.
    """
    ov = openvino(_PURPOSE)
    kind = _FRONTENDS.get(path.suffix.lower())
    if kind is None:
        raise ModelError(f"{path} is neither .xml nor .onnx", "openvino opens IR and ONNX files")
    if kind == "ir":
        scan(path)
    elif not path.is_file():
        raise ModelError(f"{path} does not exist", "check the path")
    else:
        inspect_file(path, limits=STORED, digest=False)
        if holds_float8(path):  # 2026.4.1 opens it, and its answers are not those of onnx.reference
            raise TargetUnavailableError(
                f"{path} holds {FLOAT8}, which openvino does not compute as ONNX says",
                "judge its accuracy on cpu:onnxruntime, or quantize to int8",
            )
    frontend = require("openvino.frontend", extra="openvino", purpose=_PURPOSE)
    try:
        reader = frontend.FrontEndManager().load_by_framework(kind)
        model = ov.Model(reader.convert(reader.load(str(path))))
    except errors() as e:
        raise ModelError(
            f"openvino {version(ov)} cannot read {path} ({reason(e)})",
            "the file is damaged, or holds what this version does not have: export it again",
        ) from e
    if not model.outputs:  # an empty file reads as an empty model
        raise ModelError(f"{path} holds no model", "the file is damaged: export or copy it again")
    return model


class BoundCall:
    """Runs one model on inputs set once; holds inputs and outputs for as long as it lives."""

    __slots__ = ("_errors", "_infer", "_keep", "_request", "_session")

    def __init__(self, session: OpenVinoSession, request: Any, keep: object) -> None:
        self._session = session
        self._request = request
        self._infer: Callable[..., object] = request.infer
        self._keep = keep
        self._errors = errors()

    def __call__(self) -> None:
        try:
            self._infer(share_outputs=True)  # shared: outputs stay where they were written
        except self._errors as e:
            raise self._session.failed(e) from e

    def outputs(self) -> dict[str, Array]:
        """Copies of what the last call wrote."""
        return self._session.arrays(self._request)

    def times(self) -> list[Any]:
        """OpenVINO's own record of the last call, by operator; only where the model was opened for it."""
        return list(self._request.get_profiling_info())


class OpenVinoSession:
    """A compiled model."""

    def __init__(
        self,
        path: Path,
        compiled: Any,
        specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
        placement: Placement,
    ) -> None:
        self.path = path
        self.inputs, self.outputs = specs
        self.placement = placement
        self._compiled = compiled
        self._request: Any = None
        self._errors = errors()

    def _open(self) -> Any:
        if self._compiled is None:
            raise ModelError(f"the session of {self.path} is closed", "open it again")
        return self._compiled

    def failed(self, error: BaseException) -> ModelError:
        """An error of OpenVINO on one line."""
        return ModelError(
            f"{self.path} failed while running ({reason(error)})", "check the model and the feeds"
        )

    def arrays(self, request: Any) -> dict[str, Array]:
        """Copies of a request's outputs, by name."""
        return {spec.name: np.array(request.get_output_tensor(i).data) for i, spec in enumerate(self.outputs)}

    def _filled(self, request: Any, feeds: Mapping[str, Array]) -> list[Any]:
        """Set the inputs of a request; returns what has to stay alive with it."""
        check_feeds(self.inputs, feeds, str(self.path))
        ov = openvino(_PURPOSE)
        tensors = []
        try:
            for index, spec in enumerate(self.inputs):
                # A copy where OpenVINO could not share it: not contiguous, or read-only (a memory map).
                array = np.require(feeds[spec.name], requirements=["C", "W"])
                self._refuse_cut(array, spec.name)
                tensors.append(ov.Tensor(array, shared_memory=True))
                request.set_input_tensor(index, tensors[-1])
        except self._errors as e:
            raise DataError(
                f"{self.path} refused its inputs ({reason(e)})", "check the feeds' dtypes and shapes"
            ) from e
        return tensors

    def _refuse_cut(self, array: Array, name: str) -> None:
        """OpenVINO's CPU computes integers in 32 bits, and cuts larger ones without a word."""
        if str(array.dtype) not in _WIDE or array.size == 0 or self.placement.device != "cpu":
            return
        for value in (int(array.min()), int(array.max())):
            if not _INT32.min <= value <= _INT32.max:
                raise DataError(
                    f"{self.path}: input '{name}' holds {value}, openvino computes in 32 bits",
                    "use smaller numbers, or onnxruntime",
                )

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once.

        Args:
            feeds: input name -> array of exactly the specs' dtypes and fixed sizes.

        Raises:
            DataError: feeds that do not fit; ModelError: the model failed on them.
        """
        compiled = self._open()
        if self._request is None:
            self._request = compiled.create_infer_request()
        BoundCall(self, self._request, self._filled(self._request, feeds))()
        return self.arrays(self._request)

    def bind(self, feeds: Mapping[str, Array]) -> BoundCall:
        """Set inputs in a request of its own; the result runs it once per call and waits.

        One call at a time, whatever the streams: with several, a call has its stream's share of the threads.

        Raises:
            DataError: feeds that do not fit.
        """
        request = self._open().create_infer_request()
        # A copy: the caller's array may change, or go.
        copies = {name: np.array(array, order="C") for name, array in feeds.items()}
        return BoundCall(self, request, self._filled(request, copies))

    def executed_model(self) -> Any:
        """The graph as it is executed, an ``openvino.Model`` whose nodes say in what and how long."""
        return self._open().get_runtime_model()

    def close(self) -> None:
        """Let go of the model; a second call does nothing."""
        self._compiled = self._request = None


class OpenVinoRuntime:
    """Opens IR and ONNX files with OpenVINO, on exactly the device and in exactly the precision asked for."""

    name = "openvino"
    formats: tuple[str, ...] = ("openvino", "onnx")

    def unavailable(self, device: str, provider: str) -> str:
        """Why this machine cannot run it, with the fix; empty when it can."""
        try:
            wanted = device_name(device, provider)
            ov = openvino(_PURPOSE)
            present = [str(d) for d in core().available_devices]
        except (TargetUnavailableError, MissingDependencyError) as e:
            return str(e)
        if any(wanted in (d, d.partition(".")[0]) for d in present):
            return ""
        return (
            f"openvino {version(ov)} sees no {wanted} on this machine, only {', '.join(present) or 'nothing'}; "
            f"install the {_DEVICES[device]}'s driver"
        )

    def open(self, path: Path, options: SessionOptions) -> OpenVinoSession:
        """Open a model file.

        Args:
            path: ``.xml`` with its ``.bin`` beside it, or ``.onnx``.
            options: ``settings`` as in :data:`edgekd_openvino.settings.DEFAULTS`.

        Raises:
            ModelError: missing, damaged, or with operators that this device does not have; TargetUnavailableError:
            the device is not there, or another device, precision or number of threads was used; UsageError: a setting.
        """
        return self._open(path, options)

    def open_profiling(self, path: Path, options: SessionOptions) -> OpenVinoSession:
        """As :meth:`open`, with a clock around every operator."""
        return self._open(path, options, profiled=True)

    def open_probe(self, path: Path) -> Probe:
        """See :class:`edgekd.deviation.ProbingRuntime`."""
        from edgekd_openvino.probe import OpenVinoProbe

        return OpenVinoProbe(path)

    def sweepable(self, device: str, provider: str, cpus: int) -> dict[str, tuple[Any, ...]]:
        """See :class:`edgekd.measure.configuration.SweepableRuntime`."""
        return worth_trying(on_cpu=device_name(device, provider) == "CPU", cpus=cpus)

    def lower_precisions(self, device: str, provider: str) -> tuple[dict[str, Any], ...]:
        """See :class:`edgekd.pipeline.search_oracle.LowerPrecisionRuntime`: bfloat16, where there are instructions for it."""
        capabilities = core().get_property(device_name(device, provider), "OPTIMIZATION_CAPABILITIES")
        return ({"precision": "bf16"},) if "BF16" in capabilities else ()

    def reference_settings(self, device: str, provider: str) -> dict[str, Any]:
        """See :class:`edgekd.pipeline.execution.ReferenceRuntime`: OpenVINO always fuses, but float32 stays float32."""
        return {"precision": "f32", "denormals_as_zero": False}

    def place(self, path: Path, options: SessionOptions, feeds: Mapping[str, Array]) -> Sequence[PlacedOp]:
        """See :class:`edgekd.placement.PlacingRuntime`."""
        from edgekd_openvino.executed import place_file

        return place_file(self, path, options, feeds)

    def profile(
        self, path: Path, options: SessionOptions, feeds: Mapping[str, Array], *, calls: int, warm_up: int
    ) -> Profile:
        """See :class:`edgekd.workload.ProfilingRuntime`."""
        from edgekd_openvino.executed import profile_file

        return profile_file(self, path, options, feeds, calls=calls, warm_up=warm_up)

    def _open(self, path: Path, options: SessionOptions, *, profiled: bool = False) -> OpenVinoSession:
        wanted = device_name(options.device, options.provider)
        why = self.unavailable(options.device, options.provider)
        if why:
            what, _, fix = why.partition("; ")
            raise TargetUnavailableError(what, fix)
        ov = openvino(_PURPOSE)
        device = wanted.partition(".")[0]
        offered = {str(name) for name in core().get_property(wanted, "SUPPORTED_PROPERTIES")}
        config = properties(options, device, offered, profiled=profiled)
        if device == "CPU" and (precision := _PRECISIONS.get(config[PRECISION_HINT])):
            refuse_precision(precision, this_cpu())
        model = read_model(path)
        specs = read_specs(model, path)
        try:
            compiled = core().compile_model(model, wanted, config)
        except errors() as e:
            raise ModelError(
                f"openvino {version(ov)} cannot compile {path} for {wanted} ({reason(e)})",
                "try another device or precision, or export the model with fixed shapes",
            ) from e
        threads, used = read_back(compiled, options, device)
        placement = Placement(
            device=options.device,
            provider=used["EXECUTION_DEVICES"][0],
            runtime=f"openvino {version(ov)}",
            threads=threads,
            detail={
                "build": str(ov.__version__),
                "device_name": str(core().get_property(wanted, "FULL_DEVICE_NAME")),
                **used,
            },
        )
        return OpenVinoSession(path, compiled, specs, placement)
