"""From a plan file to an engine: checked against its record, this library and this GPU before its code is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.errors import ModelError, TargetUnavailableError, UsageError
from edgekd.files import sha256_file
from edgekd_tensorrt.configure import numpy_name
from edgekd_tensorrt.cuda import Cuda, Device
from edgekd_tensorrt.library import Log, Version, load, logger, make, parse_version
from edgekd_tensorrt.plan import EngineRecord, read_record

#: Version-compatible plans run on newer runtimes of their major, and across these (11.4 support matrix).
_ACROSS = {8: (10,), 10: (11,)}

GRAPHS = ("auto", "on", "off")
DEFAULTS: Mapping[str, Any] = {"cuda_graph": "auto", "host_code": False, "weight_budget_mib": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Session settings: ``cuda_graph`` (auto, on, off), ``host_code`` (allow a plan's own runtime), and
    ``weight_budget_mib`` (device memory for streamed weights, None for TensorRT's automatic choice)."""

    cuda_graph: str = "auto"
    host_code: bool = False
    weight_budget_mib: int | None = None


def read_settings(given: Mapping[str, Any]) -> Settings:
    """Raises UsageError for an unknown setting or value."""
    for name in given:
        if name not in DEFAULTS:
            raise UsageError(f"tensorrt has no setting '{name}'", f"it knows {', '.join(DEFAULTS)}")
    made = Settings(**given)
    if made.cuda_graph not in GRAPHS:
        raise UsageError(f"cuda_graph {made.cuda_graph!r} is not known", f"choose {', '.join(GRAPHS)}")
    if not isinstance(made.host_code, bool):
        raise UsageError(f"host_code {made.host_code!r} is not true or false", "write host_code=true")
    budget = made.weight_budget_mib
    if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool) or budget < 0):
        raise UsageError(f"weight_budget_mib {budget!r} is not a whole number of MiB", "0 or more")
    return made


def check_version(record: EngineRecord, here: Version, path: Path) -> None:
    """Refuse an engine that this TensorRT cannot run.

    Raises:
        TargetUnavailableError: with both versions.
    """
    made = parse_version(record.tensorrt)
    if made == here:
        return
    newer = here.major == made.major and here >= made
    if record.version_compatible and (newer or here.major in _ACROSS.get(made.major, ())):
        return
    raise TargetUnavailableError(
        f"{path} was built by TensorRT {made}, this is TensorRT {here}",
        "build the engine here, or with version_compatible=true on the oldest version that must run it",
    )


def check_gpu(record: EngineRecord, device: Device, path: Path) -> None:
    """Refuse an engine whose tactics were chosen for another GPU.

    Raises:
        TargetUnavailableError: with both GPUs.
    """
    same = (record.gpu, record.sm) == (device.name, device.sm)
    ampere = record.hardware == "ampere_plus" and int(device.sm.split(".")[0]) >= 8
    capability = record.hardware == "same_compute_capability" and record.sm == device.sm
    if not (same or ampere or capability):
        raise TargetUnavailableError(
            f"{path} was built on {record.gpu} (SM {record.sm}, hardware={record.hardware}), "
            f"this is {device.name} (SM {device.sm})",
            "build the engine here, or with hardware=same_compute_capability or ampere_plus",
        )


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A loaded engine and everything that must outlive it (TensorRT holds no references)."""

    trt: Any
    version: Version
    cuda: Cuda
    device: Device
    record: EngineRecord
    log: Log
    log_object: Any
    runtime: Any
    engine: Any
    path: Path
    settings: Settings

    def tensor_names(self) -> list[str]:
        """Inputs and outputs, in the engine's order."""
        return [str(self.engine.get_tensor_name(i)) for i in range(self.engine.num_io_tensors)]


def open_engine(path: Path, given: Mapping[str, Any]) -> Engine:
    """Load a plan.

    Raises:
        ModelError: no plan, no record, altered, or refused by TensorRT; TargetUnavailableError: another version or
            GPU; UsageError: a setting.
    """
    settings = read_settings(given)
    record = read_record(path)
    trt, version = load("running an engine")
    cuda = Cuda()
    device = cuda.device()
    check_version(record, version, path)
    check_gpu(record, device, path)
    if record.lean_runtime and not settings.host_code:
        raise TargetUnavailableError(
            f"{path} carries a runtime of its own, which is code that would run unasked",
            "allow it with the setting host_code=true, or build with lean_runtime=false",
        )
    log = Log()
    log_object = logger(trt, log)
    runtime = make("runtime", trt.Runtime, log_object)
    if record.lean_runtime:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        if log.out_of_memory():
            raise ModelError(
                f"{device.name} is out of memory loading {path} ({log.trouble()})",
                "stop what else runs there, or build with weight_streaming=true",
            )
        raise ModelError(
            f"TensorRT {version} refuses {path} ({log.trouble() or 'no error in its log'})",
            "build the engine again on this machine",
        )
    loaded = Engine(
        trt=trt, version=version, cuda=cuda, device=device, record=record, log=log, log_object=log_object,
        runtime=runtime, engine=engine, path=path, settings=settings,
    )  # fmt: skip
    if record.refit:
        _refit(loaded)
    if record.weight_streaming:
        _set_budget(loaded)
    _check_boundary(loaded)
    return loaded


def _refit(loaded: Engine) -> None:
    """Put the weights back into a stripped plan; other weights than its own would be undefined behaviour.

    Raises:
        ModelError: the ONNX file is missing or another one, or TensorRT lacks weights afterwards.
    """
    trt, path = loaded.trt, loaded.path
    source = path.with_name(loaded.record.refit)
    if not source.is_file() or sha256_file(source) != loaded.record.source_sha256:
        raise ModelError(
            f"{path} has no weights, and {source.name} beside it is not the file that it was built from",
            "put the ONNX file back, or build the engine again",
        )
    refitter = make("refitter", trt.Refitter, loaded.engine, loaded.log_object)
    parser_refitter = trt.OnnxParserRefitter(refitter, loaded.log_object)
    refitted = parser_refitter.refit_from_file(str(source)) and refitter.refit_cuda_engine()
    missing = [str(name) for name in refitter.get_missing_weights()]
    if not refitted or missing:
        raise ModelError(
            f"TensorRT {loaded.version} cannot put the weights of {source.name} into {path} "
            f"({', '.join(missing) or loaded.log.trouble() or 'no error in its log'})",
            "build the engine again, without strip",
        )


def _set_budget(loaded: Engine) -> None:
    """How much device memory streamed weights may take: before any execution context exists."""
    engine = loaded.engine
    wanted = loaded.settings.weight_budget_mib
    automatic = int(engine.get_weight_streaming_automatic_budget())
    budget = automatic if wanted is None else min(wanted << 20, int(engine.streamable_weights_size))
    engine.weight_streaming_budget_v2 = budget
    if int(engine.weight_streaming_budget_v2) != budget:
        raise TargetUnavailableError(
            f"TensorRT did not take the weight budget of {budget} bytes", "choose another weight_budget_mib"
        )


def _check_boundary(loaded: Engine) -> None:
    """The engine's own tensors must be those of its record.

    Raises:
        ModelError: names the tensor.
    """
    trt, engine, record = loaded.trt, loaded.engine, loaded.record
    found = {}
    for name in loaded.tensor_names():
        mode = "input" if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else "output"
        found[mode, name] = (numpy_name(engine.get_tensor_dtype(name)), tuple(engine.get_tensor_shape(name)))
    for mode, specs in (("input", record.inputs), ("output", record.outputs)):
        for spec in specs:
            dtype, shape = found.get((mode, spec.name), ("nothing", ()))
            fits = len(shape) == len(spec.shape) and all(
                isinstance(d, str) or n in (d, -1) for d, n in zip(spec.shape, shape, strict=True)
            )
            if dtype != spec.dtype or not fits:
                raise ModelError(
                    f"{loaded.path} has {mode} '{spec.name}' as {dtype}{list(shape)}, its record says {spec}",
                    "build the engine again",
                )
