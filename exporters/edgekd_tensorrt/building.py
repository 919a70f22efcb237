"""One engine, built in a child process: native code that may hang, crash or leave CUDA unusable."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from edgekd.data.example import Array
from edgekd.errors import ModelError, TargetUnavailableError
from edgekd.files import sha256_file, write_bytes
from edgekd.quantize.hardware import DeviceFacts, refuse_precision
from edgekd.spec import TensorSpec
from edgekd_tensorrt import configure
from edgekd_tensorrt.cuda import Cuda, Device, environment
from edgekd_tensorrt.inspector import parse_inspection
from edgekd_tensorrt.library import Log, Version, load, logger, make
from edgekd_tensorrt.options import BuildOptions
from edgekd_tensorrt.plan import read_header
from edgekd_tensorrt.timing_cache import TimingCache, find_cache

Reply = tuple[dict[str, Any], list[Array]]
#: TensorRT's own words for a tactic that was not timed yet (kERROR_ON_TIMING_CACHE_MISS).
_MISS = "timing cache"


def describe_machine(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """What an engine belongs to: TensorRT's version, the GPU and its driver.

    Raises:
        MissingDependencyError, TargetUnavailableError: as :func:`build_engine`.
    """
    _, version = load("building an engine")
    return {"tensorrt": str(version), "device": Cuda().device().to_json()}, []


def build_engine(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """Build ``args["plan"]`` from ``args["onnx"]``; the reply is the record of TENSORRT's build.

    Args:
        args: ``onnx``, ``dtype`` (of the graph), ``plan``, ``inspector`` (paths), ``options`` (of :class:`BuildOptions`), ``profiles``,
            ``values``, ``inputs``, ``outputs``, ``cache_root``, ``keep_cache`` and ``before`` (bytes of the timing
            cache that an earlier build of the same engine started from, as an array; empty for the first).

    Raises:
        ModelError: what the parser or the builder refused; TargetUnavailableError: no TensorRT, GPU or
            usable cache, or a GPU without the graph's precision.
    """
    trt, version = load("building an engine")
    options = BuildOptions(**args["options"])
    device = Cuda().device()
    major, _, minor = device.sm.partition(".")
    refuse_precision(
        args.get("dtype", "float32"), DeviceFacts(name=device.name, capability=(int(major), int(minor or 0)))
    )
    cache = find_cache(options, Path(args["cache_root"]), version, device)
    if arrays and cache.source == "kept":
        cache = TimingCache(source="kept", path=cache.path, before=arrays[0].tobytes())
    log = Log()
    log_object = logger(trt, log)
    started = time.monotonic()
    builder = make("builder", trt.Builder, log_object)
    network = configure.make_network(trt, version, builder)
    parsed = configure.parse_onnx(trt, network, log_object, args["onnx"], version)
    inputs = [TensorSpec.from_json(s) for s in args["inputs"]]
    configure.check_boundary(trt, network, inputs, [TensorSpec.from_json(s) for s in args["outputs"]])
    config = builder.create_builder_config()
    configure.apply_options(trt, config, options)
    shape_inputs = configure.add_profiles(builder, network, config, args["profiles"], args["values"])
    if cache.source != "off" and options.optimization_level > 0:
        configure.set_cache(config, cache.before, str(cache.path), version)
    described = configure.describe(trt, version, network, config)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _failed(log, options, version, device)
    data = bytes(plan)
    path = Path(args["plan"])
    write_bytes(path, data)
    after = _learned(config, cache, options)
    if args["keep_cache"] and after:
        cache.keep(after)
    text = _inspect(trt, log, log_object, data, options)
    inspection = parse_inspection(text)
    if args["inspector"]:
        write_bytes(Path(args["inspector"]), text.encode())
    seconds = time.monotonic() - started
    return {
        "plan_sha256": sha256_file(path),
        "plan_bytes": len(data),
        "plan_version": str(read_header(path)),
        "tensorrt": str(version),
        "device": device.to_json(),
        "environment": environment(),
        "builder": described,
        "parser": parsed,
        "shape_inputs": shape_inputs,
        "timing_cache": {
            "source": cache.source,
            "before_sha256": cache.sha256,
            "after_sha256": hashlib.sha256(after).hexdigest() if after else "",
            # TensorRT adds what it had to time; with cache_miss=error it may add nothing.
            "hits_only": bool(after) and after == cache.before,
        },
        "inspector_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "inspection": text,
        "histogram": inspection.histogram(),
        "seconds": round(seconds, 3),
        "log": log.text(),
    }, [_as_array(cache.before)] if cache.source == "kept" else []


def _as_array(data: bytes) -> Array:
    import numpy as np

    return np.frombuffer(data, np.uint8)


def _failed(log: Log, options: BuildOptions, version: Version, device: Device) -> ModelError:
    said = log.trouble() or "the log names no error"
    if log.out_of_memory():
        return ModelError(
            f"TensorRT {version} ran out of memory on {device.name} while building ({said})",
            "lower workspace_mib or the profiles' greatest sizes, or stop what else runs on the GPU",
        )
    if options.cache_miss == "error" and _MISS in said.lower():
        return ModelError(
            f"TensorRT {version} needs a tactic that is not in the timing cache ({said})",
            "build once with cache_miss=build, or pin a cache that has it",
        )
    return ModelError(
        f"TensorRT {version} built no engine on {device.name} ({said})",
        "`edgekd export --format tensorrt --lint` names what the graph may break",
    )


def _learned(config: Any, cache: TimingCache, options: BuildOptions) -> bytes:
    if cache.source == "off" or options.optimization_level == 0:
        return b""
    filled = config.get_timing_cache()
    return bytes(filled.serialize()) if filled is not None else b""


def _inspect(trt: Any, log: Log, log_object: Any, data: bytes, options: BuildOptions) -> str:
    """The inspector's JSON of a plan that was built a moment ago.

    Raises:
        TargetUnavailableError: the library that built it does not load it.
    """
    runtime = make("runtime", trt.Runtime, log_object)
    if options.lean_runtime:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise TargetUnavailableError(
            f"TensorRT does not load the engine that it just built ({log.trouble() or 'no error in its log'})",
            "report it with the log",
        )
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
