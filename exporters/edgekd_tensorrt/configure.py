"""A builder configuration as asked for, and read back: what TensorRT took otherwise is refused, not recorded.

Enum members are used by name only. Their numbers moved between 10 and 11 (``STRONGLY_TYPED`` was bit 1 and is bit 0,
bit 1 now means something else), so a literal would build another network without an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.errors import ModelError, TargetUnavailableError, UsageError
from edgekd.spec import TensorSpec
from edgekd_tensorrt.library import Version
from edgekd_tensorrt.options import HARDWARE, BuildOptions
from edgekd_tensorrt.plan import Ends

#: Flags that EdgeKD sets or clears; TF32 is on unless it is cleared (NvInfer.h).
FLAGS = (
    "TF32", "REFIT", "REFIT_IDENTICAL", "STRIP_PLAN", "WEIGHT_STREAMING", "VERSION_COMPATIBLE",
    "EXCLUDE_LEAN_RUNTIME", "ERROR_ON_TIMING_CACHE_MISS",
)  # fmt: skip
_MIB = 1 << 20


def make_network(trt: Any, version: Version, builder: Any) -> Any:
    """An empty strongly typed network: types are those of the ONNX graph, never the builder's choice.

    Raises:
        TargetUnavailableError: this library made another one.
    """
    if version.major >= 11:  # always strongly typed; the flag is deprecated and ignored
        network = builder.create_network()
    else:
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        if not network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED):
            raise TargetUnavailableError(f"TensorRT {version} made a network that is not strongly typed", "")
    return network


def parse_onnx(trt: Any, network: Any, log: Any, path: str, version: Version) -> dict[str, Any]:
    """Read an ONNX file into ``network``; by path, so that external weights are found beside it.

    Returns:
        What to record of the parser.

    Raises:
        ModelError: every error of the parser, each with its node.
    """
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse_from_file(path)
    faults = [_fault(parser.get_error(i)) for i in range(parser.num_errors)]
    if not parsed:
        said = "; ".join(faults) or "the parser names no node"
        raise ModelError(
            f"TensorRT {version} cannot read {path.rpartition('/')[2]}: {len(faults)} error(s): {said}",
            "change these nodes; `edgekd export --format tensorrt --lint` names rules and fixes without a GPU",
        )
    return {
        "errors": faults,
        "flags": [n for n, flag in trt.OnnxParserFlag.__members__.items() if parser.get_flag(flag)],
        "plugins": [p.rpartition("/")[2] for p in parser.get_used_vc_plugin_libraries()],
    }


def _fault(fault: Any) -> str:
    name, operator = str(fault.node_name()), str(fault.node_operator())
    where = (
        f"node {int(fault.node())} '{name}' ({operator})" if name or operator else f"node {int(fault.node())}"
    )
    stack = [str(f) for f in fault.local_function_stack()]
    inside = f" in {' > '.join(stack)}" if stack else ""
    return f"{where}{inside}: {' '.join(str(fault.desc()).split())} [{fault.code().name}]"


def apply_options(trt: Any, config: Any, options: BuildOptions) -> None:
    """Set everything but profiles and timing cache.

    Raises:
        TargetUnavailableError: TensorRT took something else.
    """
    pool = trt.MemoryPoolType.WORKSPACE
    config.set_memory_pool_limit(pool, options.workspace_mib * _MIB)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.builder_optimization_level = options.optimization_level
    level = getattr(trt.HardwareCompatibilityLevel, HARDWARE[options.hardware])
    config.hardware_compatibility_level = level
    wanted = options.flags()
    for name in FLAGS:
        flag = getattr(trt.BuilderFlag, name)
        if name in wanted:
            config.set_flag(flag)
        else:
            config.clear_flag(flag)
    if options.max_aux_streams is not None:
        config.max_aux_streams = options.max_aux_streams
    if options.avg_timing_iterations is not None:
        config.avg_timing_iterations = options.avg_timing_iterations
    found = {
        "workspace": int(config.get_memory_pool_limit(pool)) == options.workspace_mib * _MIB,
        "optimization level": int(config.builder_optimization_level) == options.optimization_level,
        "hardware compatibility": config.hardware_compatibility_level == level,
        **{name: bool(config.get_flag(getattr(trt.BuilderFlag, name))) == (name in wanted) for name in FLAGS},
    }
    for what, agrees in found.items():
        if not agrees:
            raise TargetUnavailableError(
                f"TensorRT did not take the {what} that was asked for", "leave it out, or use another version"
            )


def add_profiles(
    builder: Any,
    network: Any,
    config: Any,
    profiles: Sequence[Mapping[str, Ends]],
    values: Sequence[Mapping[str, Ends]],
) -> list[str]:
    """Add every optimisation profile; returns the names of shape tensors among the inputs.

    Raises:
        UsageError: values that are missing or for no shape tensor; ModelError: TensorRT refused a profile.
    """
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    shape_inputs = [str(tensor.name) for tensor in tensors if tensor.is_shape_tensor]
    for i, (sizes, shape_values) in enumerate(zip(profiles, values, strict=True)):
        if set(shape_values) != set(shape_inputs):
            lacking = sorted(set(shape_values) ^ set(shape_inputs))[0]
            raise UsageError(
                f"profile {i}: input '{lacking}' "
                + ("is no shape tensor" if lacking in shape_values else "is a shape tensor without values"),
                "give values=NAME=MIN:OPT:MAX for every shape tensor and for no other input",
            )
        if not sizes and not shape_values:
            continue
        profile = builder.create_optimization_profile()
        for name, (low, opt, high) in sizes.items():
            profile.set_shape(name, tuple(low), tuple(opt), tuple(high))
        for name, (low, opt, high) in shape_values.items():
            profile.set_shape_input(name, list(low), list(opt), list(high))
        if config.add_optimization_profile(profile) < 0:
            raise ModelError(
                f"TensorRT refused profile {i} ({dict(sizes)} {dict(shape_values) or ''})",
                "check the sizes against the model's inputs",
            )
    return shape_inputs


def set_cache(config: Any, before: bytes, where: str, version: Version) -> None:
    """Give the builder its timing cache, before anything is built.

    Raises:
        TargetUnavailableError: of another device or version, or damaged.
    """
    cache = config.create_timing_cache(before)
    if cache is None or not config.set_timing_cache(cache, False):
        raise TargetUnavailableError(
            f"TensorRT {version} refuses the timing cache {where}: made on another GPU or version, or damaged",
            "give one that was made here, or timing_cache=off",
        )


def describe(trt: Any, version: Version, network: Any, config: Any) -> dict[str, Any]:
    """Everything about a build that the builder can tell, flags and enums by name."""
    told: dict[str, Any] = {
        "flags": [n for n, flag in trt.BuilderFlag.__members__.items() if config.get_flag(flag)],
        "network_flags": [
            n for n, flag in trt.NetworkDefinitionCreationFlag.__members__.items() if network.get_flag(flag)
        ],
        "optimization_level": int(config.builder_optimization_level),
        "memory_pools": {
            n: int(config.get_memory_pool_limit(pool)) for n, pool in trt.MemoryPoolType.__members__.items()
        },
        "tactic_sources": [
            n for n, source in trt.TacticSource.__members__.items()
            if int(config.get_tactic_sources()) >> int(source) & 1
        ],
        "preview_features": [
            n for n, feature in trt.PreviewFeature.__members__.items() if config.get_preview_feature(feature)
        ],
        "hardware_compatibility": config.hardware_compatibility_level.name,
        "runtime_platform": config.runtime_platform.name,
        "tiling_level": config.tiling_optimization_level.name,
        "tiling_l2_limit": int(config.l2_limit_for_tiling),
        "max_aux_streams": int(config.max_aux_streams),
        "avg_timing_iterations": int(config.avg_timing_iterations),
        "max_tactics": int(config.max_num_tactics),
        "profiles": int(config.num_optimization_profiles),
        "layers_before_fusion": int(network.num_layers),
    }  # fmt: skip
    if version.major >= 11:
        told["build_route"] = str(config.build_route)
    return told


def check_boundary(
    trt: Any, network: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Refuse a network whose inputs and outputs are not the artifact's.

    Raises:
        ModelError: names the tensor.
    """
    for kind, specs, count, get in (
        ("input", inputs, network.num_inputs, network.get_input),
        ("output", outputs, network.num_outputs, network.get_output),
    ):
        tensors = [get(i) for i in range(count)]
        found = {str(tensor.name): numpy_name(tensor.dtype) for tensor in tensors}
        for spec in specs:
            if found.get(spec.name) != spec.dtype:
                raise ModelError(
                    f"TensorRT reads {kind} {spec} as {found.get(spec.name) or 'nothing'}",
                    "keep float32, float16, int32, int64, int8, uint8 or bool at the model's boundary",
                )
        if kind == "input" and len(found) != len(specs):
            raise ModelError(f"TensorRT reads {len(found)} inputs, the model has {len(specs)}", "report it")


#: Element types that numpy holds without help; others stay inside the engine.
_NUMPY = {
    "FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64", "BOOL": "bool",
    "UINT8": "uint8",
}  # fmt: skip


def numpy_name(dtype: Any) -> str:
    """A ``trt.DataType`` in ONNX spelling; its own name where numpy has no such type."""
    return _NUMPY.get(dtype.name, str(dtype.name))
