"""OpenVINO's settings: which there are, and what a compiled model really uses. Needs openvino only.

Properties are OpenVINO's own (openvino/runtime/properties.hpp), under names that say what they do.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from edgekd.errors import TargetUnavailableError, UsageError
from edgekd.target import SessionOptions

#: Every setting and its default. ``precision`` is always asked for by name: left alone, OpenVINO computes float32
#: models in bfloat16 wherever the CPU has instructions for it.
DEFAULTS: Mapping[str, Any] = {
    "precision": "f32",
    "hint": "latency",
    "streams": 1,
    "pinning": False,
    "denormals_as_zero": False,
    "partitioner": "static",
}
_CHOICES = {
    "precision": ("f32", "bf16", "f16"),
    "hint": ("latency", "throughput"),
    "partitioner": ("static", "auto"),
}
PERFORMANCE_HINT, PRECISION_HINT = "PERFORMANCE_HINT", "INFERENCE_PRECISION_HINT"
THREADS, STREAMS = "INFERENCE_NUM_THREADS", "NUM_STREAMS"
#: Settings that only the CPU has, and their properties.
_OF_CPU = {
    "pinning": "ENABLE_CPU_PINNING",  # off: the measuring process pins itself
    "denormals_as_zero": "CPU_DENORMALS_OPTIMIZATION",
    "partitioner": "TBB_PARTITIONER",
}


def resolve(settings: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Every setting with its value.

    Args:
        settings: those that differ from :data:`DEFAULTS`.
        threads: of the whole session.

    Raises:
        UsageError: an unknown setting, or a value that it cannot have.
    """
    if threads < 1:
        raise UsageError(f"threads is {threads}", "ask for 1 or more")
    for name, value in settings.items():
        if name not in DEFAULTS:
            close = difflib.get_close_matches(str(name), DEFAULTS, n=1)
            raise UsageError(
                f"openvino has no setting '{name}'",
                f"did you mean '{close[0]}'?" if close else f"it knows {', '.join(DEFAULTS)}",
            )
        if name in _CHOICES:
            if value not in _CHOICES[name]:
                raise UsageError(f"{name} {value!r} is not known", f"choose {', '.join(_CHOICES[name])}")
        elif name == "streams":
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"streams {value!r} is not a whole number from 1 on", "write streams=1")
        elif not isinstance(value, bool):
            raise UsageError(f"{name} {value!r} is not true or false", f"write {name}=true or {name}=false")
    made = {**DEFAULTS, **settings}
    if made["streams"] > threads:
        raise UsageError(
            f"streams {made['streams']} is more than the session's {threads} thread(s)",
            "raise --threads, or lower it",
        )
    return made


def properties(
    options: SessionOptions, device: str, offered: Collection[str], *, profiled: bool = False
) -> dict[str, Any]:
    """What ``compile_model`` is given for ``options``.

    Args:
        device: OpenVINO's name: ``CPU``, ``GPU``, ``NPU``.
        offered: names of the device's properties: versions and platforms differ in those of :data:`_OF_CPU`.
        profiled: also time every operator, which costs time.

    Raises:
        UsageError: as :func:`resolve`, or a setting that this device or build does not have.
    """
    asked = resolve(options.settings or {}, options.threads)
    made: dict[str, Any] = {
        PERFORMANCE_HINT: asked["hint"].upper(),
        PRECISION_HINT: asked["precision"],
        # With "accuracy", nothing is quantized on the way (large MatMuls, the KV cache); a precision asked for by
        # name goes before it.
        "EXECUTION_MODE_HINT": "ACCURACY",
        STREAMS: asked["streams"],
        "CACHE_DIR": "",
    }
    if device == "CPU":
        made[THREADS] = options.threads
        if "ENABLE_HYPER_THREADING" in offered:
            made["ENABLE_HYPER_THREADING"] = True  # else threads are cut to the number of cores
    for name, key in _OF_CPU.items():
        if device == "CPU" and key in offered:
            made[key] = _as_property(asked[name])
        elif asked[name] != DEFAULTS[name]:
            raise UsageError(f"{name} is not a setting of openvino on {device} here", f"leave {name} out")
    if profiled:
        made["PERF_COUNT"] = True
    return made


def _as_property(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def read_back(compiled: Any, options: SessionOptions, device: str) -> tuple[int, dict[str, Any]]:
    """What a compiled model uses: its threads, and the other settings.

    Args:
        compiled: an ``openvino.CompiledModel``.
        device: as in :func:`properties`.

    Raises:
        TargetUnavailableError: another device, precision, or number of threads or streams than was asked for.
    """
    asked = resolve(options.settings or {}, options.threads)
    on = [str(d) for d in compiled.get_property("EXECUTION_DEVICES")]
    if not on or any(d.partition(".")[0] != device.partition(".")[0] for d in on):
        raise TargetUnavailableError(
            f"openvino runs on {', '.join(on) or 'no device'}, {device} was asked for",
            "check `edgekd doctor`",
        )
    wanted: dict[str, Any] = {PRECISION_HINT: asked["precision"], STREAMS: asked["streams"]}
    offered = {str(name) for name in compiled.get_property("SUPPORTED_PROPERTIES")}
    if device == "CPU":
        wanted[THREADS] = options.threads
        wanted |= {key: _as_property(asked[name]) for name, key in _OF_CPU.items() if key in offered}
    found = {name: _plain(compiled.get_property(name)) for name in wanted}
    for name, value in wanted.items():
        if found[name] != value:
            raise TargetUnavailableError(
                f"openvino uses {name} = {found[name]} on {on[0]}, {value} was asked for",
                _fix(name, found[name]),
            )
    others = (PERFORMANCE_HINT, "EXECUTION_MODE_HINT", "DYNAMIC_QUANTIZATION_GROUP_SIZE", "KV_CACHE_PRECISION",
              "ENABLE_HYPER_THREADING", "OPTIMAL_NUMBER_OF_INFER_REQUESTS")  # fmt: skip
    found |= {name: _plain(compiled.get_property(name)) for name in others if name in offered}
    found["EXECUTION_DEVICES"] = on
    return int(found.get(THREADS, options.threads)), found


def _plain(value: Any) -> Any:
    """A property as text, number or boolean: element types and enums have names of their own."""
    if hasattr(value, "get_type_name"):
        return str(value.get_type_name())
    if isinstance(value, (bool, int, float, str)):
        return value
    return str(getattr(value, "name", value))


def _fix(name: str, used: object) -> str:
    if name == PRECISION_HINT:
        return f"this device has no instructions for it: ask for precision={used}"
    if name == THREADS:
        return f"no more CPUs are open to this process: ask for 1 to {used} threads"
    return "this build overrides it: ask for what it uses"


def worth_trying(*, on_cpu: bool, cpus: int) -> dict[str, tuple[Any, ...]]:
    """Values that a sweep tries, the default first; ``precision`` changes answers by more than rounding.

    Streams share the threads between calls that overlap; one call at a time would only get fewer.
    """
    if not on_cpu:
        return {}
    from edgekd_onnx.settings import thread_counts

    found: dict[str, tuple[Any, ...]] = {"threads": thread_counts(cpus)} if cpus > 1 else {}
    found |= {"denormals_as_zero": (False, True), "pinning": (False, True)}
    if cpus > 1:
        found["partitioner"] = ("static", "auto")
    return found
