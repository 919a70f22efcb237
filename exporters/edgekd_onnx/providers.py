"""ONNX Runtime's execution providers: which a device can have, what each is told, and what it really took.

Needs numpy and onnxruntime only. Names of providers and of their options are ONNX Runtime's own (its pages
"Execution Providers"; ``onnxruntime_session_options_config_keys.h`` for session entries).
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.errors import TargetUnavailableError, UsageError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

_OPENVINO = "OpenVINOExecutionProvider"
_COREML = "CoreMLExecutionProvider"
_QNN = "QNNExecutionProvider"

#: Device -> short name -> provider. The one named as its device is taken where none is asked for.
PROVIDERS: Mapping[str, Mapping[str, str]] = {
    "cpu": {
        "cpu": CPU,
        "dnnl": "DnnlExecutionProvider",
        "xnnpack": "XnnpackExecutionProvider",
        "openvino": _OPENVINO,
        "coreml": _COREML,
    },
    "cuda": {"cuda": CUDA, "tensorrt": TENSORRT},
    "gpu": {"openvino": _OPENVINO, "coreml": _COREML, "qnn": _QNN},
    "npu": {"openvino": _OPENVINO, "coreml": _COREML, "qnn": _QNN},
}

#: Settings that only some providers have, and what the others are taken to have.
OWN_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "tf32": (CUDA,),
    "cuda_graph": (CUDA, TENSORRT),
    "engine_cache": (TENSORRT,),
}

#: Operators that only work out sizes, indices and masks: providers leave these to the CPU on purpose, because the
#: answer is needed there (onnxruntime/core/framework/fallback_cpu_capability.cc).
HOST_OPS = frozenset(
    {"Shape", "Size", "Constant", "ConstantOfShape", "Gather", "Squeeze", "Unsqueeze", "Concat", "Slice", "Cast"}
    | {"Range", "Reshape", "Expand", "Identity", "Where", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
    | {"And", "Or", "Not", "Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Floor", "Ceil", "ReduceProd", "Neg"}
)  # fmt: skip


def provider_name(device: str, provider: str) -> str:
    """ONNX Runtime's name of a provider; empty means the device's own.

    >>> provider_name("cpu", "")
    'CPUExecutionProvider'

    Raises:
        TargetUnavailableError: no such device, or a provider that this device cannot have.
    """
    known = PROVIDERS.get(device)
    if known is None:
        raise TargetUnavailableError(
            f"onnxruntime does not run on device '{device}' here", f"it knows {', '.join(PROVIDERS)}"
        )
    if provider in known.values():
        return provider
    name = known.get(provider.lower() or device)
    if name is None:
        what = f"no provider '{provider}' for" if provider else "no provider of its own for"
        raise TargetUnavailableError(
            f"onnxruntime has {what} device '{device}'",
            f"name one: {', '.join(f'{device}:onnxruntime+{k}' for k in known)}",
        )
    return name


def refuse_foreign_settings(provider: str, settings: Mapping[str, Any]) -> None:
    """Refuse a setting of another provider, which would otherwise be taken and do nothing.

    Raises:
        UsageError: names the setting and who has it.
    """
    for name, owners in OWN_SETTINGS.items():
        if settings.get(name) and provider not in owners:
            raise UsageError(
                f"{provider} has no setting '{name}'", f"it belongs to {', '.join(owners)}: remove it"
            )


def provider_options(provider: str, device: str, threads: int, settings: Mapping[str, Any]) -> dict[str, str]:
    """What a provider is told, nothing left to defaults that differ between versions.

    Args:
        settings: every setting with its value (:func:`edgekd_onnx.settings.resolve`).
    """
    flag = {False: "0", True: "1"}
    if provider == CUDA:
        # TF32 keeps 10 of 23 bits of a float32 product, and is on by default from 8.0 GPUs on.
        return {
            "device_id": "0", "use_tf32": flag[settings["tf32"]], "enable_cuda_graph": flag[settings["cuda_graph"]],
        }  # fmt: skip
    if provider == TENSORRT:
        cache = str(settings["engine_cache"])
        return {
            "device_id": "0", "trt_fp16_enable": "0", "trt_int8_enable": "0",
            "trt_cuda_graph_enable": flag[settings["cuda_graph"]],
            "trt_engine_cache_enable": flag[bool(cache)], "trt_timing_cache_enable": flag[bool(cache)],
            **({"trt_engine_cache_path": cache, "trt_timing_cache_path": cache} if cache else {}),
        }  # fmt: skip
    if provider == _OPENVINO:
        # Without a precision, a CPU with AMX would answer in bfloat16.
        precision = {"cpu": "FP32", "gpu": "FP32", "npu": "FP16"}[device]
        threaded = {"num_of_threads": str(threads)} if device == "cpu" else {}
        return {"device_type": device.upper(), "precision": precision, **threaded}
    if provider == "XnnpackExecutionProvider":
        return {"intra_op_num_threads": str(threads)}
    if provider == _COREML:
        units = {"cpu": "CPUOnly", "gpu": "CPUAndGPU", "npu": "CPUAndNeuralEngine"}[device]
        return {"ModelFormat": "MLProgram", "MLComputeUnits": units}
    if provider == _QNN:
        return {"backend_type": {"gpu": "gpu", "npu": "htp"}[device]}
    return {}


def preload_libraries(ort: Any) -> None:
    """Load the CUDA and cuDNN libraries of pip's wheels, which lie where the loader does not look.

    Without this the CUDA provider finds them only where torch was imported before. ``onnxruntime.preload_dlls`` is there
    from 1.21 on, and does nothing in builds without CUDA; before that, the libraries have to be on the loader's path.
    """
    preload = getattr(ort, "preload_dlls", None)
    if preload is not None:
        # It prints what it does not find, which would end up in a verb's JSON.
        with contextlib.redirect_stdout(sys.stderr):
            preload()


def refuse_other_options(session: Any, provider: str, wanted: Mapping[str, str]) -> dict[str, str]:
    """The provider's options as the session has them.

    Raises:
        TargetUnavailableError: an option that it took otherwise than asked.
    """
    found = {str(k): str(v) for k, v in session.get_provider_options().get(provider, {}).items()}
    for name, value in wanted.items():
        # Some providers report nothing back, or only what they keep.
        if name in found and found[name] != value:
            raise TargetUnavailableError(
                f"{provider} has {name} = {found[name]}, {value} was asked for",
                "this build overrides it: use another build",
            )
    return {**wanted, **found}


def count_nodes(session: Any) -> dict[str, Counter[str]] | None:
    """Provider -> operator -> how many nodes it was given; None where the build does not tell (before 1.24).

    Needs ``session.record_ep_graph_assignment_info``.
    """
    ask = getattr(session, "get_provider_graph_assignment_info", None)
    if ask is None:
        return None
    counts: dict[str, Counter[str]] = {}
    for part in ask():
        counts.setdefault(str(part.ep_name), Counter()).update(str(n.op_type) for n in part.get_nodes())
    return counts


def refuse_other_places(
    counts: Mapping[str, Mapping[str, int]], provider: str, allowed: str, path: Path
) -> None:
    """Refuse a session whose work is done elsewhere: listing a provider first does not mean that it runs anything.

    Args:
        allowed: ``any`` node may be elsewhere, nodes that compute ``shapes`` may, or ``none`` may.

    Raises:
        TargetUnavailableError: names the operators and who has them.
    """
    fix = "cpu_nodes=any allows it (then state the share in gates.placement), or leave those operators out"
    if not sum(counts.get(provider, {}).values()):
        where = ", ".join(f"{sum(ops.values())} on {name}" for name, ops in counts.items()) or "none at all"
        raise TargetUnavailableError(
            f"asked for {provider}, but it takes no node of {path} ({where})",
            "the provider has no kernel for these operators or types: choose another target",
        )
    if allowed == "any":
        return
    spared = HOST_OPS if allowed == "shapes" else frozenset()
    for name, ops in counts.items():
        stray = {op: n for op, n in ops.items() if name != provider and op not in spared}
        if stray:
            listed = ", ".join(f"{n} {op}" for op, n in sorted(stray.items()))
            raise TargetUnavailableError(
                f"asked for {provider}, but {name} runs {listed} of {path}",
                fix,
            )
