"""Which device computes which precision: what a target cannot run is refused before anything runs.

Sources. GPUs, least compute capability: CUDA C++ Programming Guide, table of arithmetic instructions (float16 5.3, TF32 and
bfloat16 8.0); cuBLAS documentation, cublasLtMatmul (FP8: 8.9, which is Ada; Hopper is 9.0); Turing tuning guide (INT8 tensor
cores: 7.5). Processors, names of features: Linux, arch/x86/include/asm/cpufeatures.h and arch/arm64/kernel/cpuinfo.c.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekd.errors import TargetUnavailableError

FLOAT8 = "float8e4m3fn"
_CPUINFO = Path("/proc/cpuinfo")

#: Precision -> least compute capability of a GPU that multiplies in it; every other runs everywhere.
LEAST_CAPABILITY: Mapping[str, tuple[int, int]] = {
    "float16": (5, 3), "tf32": (8, 0), "bfloat16": (8, 0), "int8": (7, 5), FLOAT8: (8, 9),
}  # fmt: skip
#: Precision -> features of a processor that multiplies in it, any of which will do. INT8 runs on every one; int4 is a
#: format of weights. FP8 has none: a CPU can only emulate it.
CPU_FEATURES: Mapping[str, tuple[str, ...]] = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16", "svebf16"),
    "float16": ("avx512_fp16", "amx_fp16", "asimdhp"),
    "tf32": (),
    FLOAT8: (),
}
#: What to use where it is missing: on a GPU, and on a processor.
_INSTEAD = {
    "tf32": ("float32", "float32"),
    "bfloat16": ("float16 or float32", "float32 or int8"),
    "float16": ("float32", "float32, or int8"),
    "int8": ("float16 or float32", "float32"),
    FLOAT8: (
        "int8 or float16",
        "int8; its accuracy alone can be judged on cpu:onnxruntime, which emulates it",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What decides the precisions of a device; None where it is not known, which refuses nothing.

    Attributes:
        name: in messages, e.g. ``NVIDIA T4``.
        capability: compute capability of a GPU; None of anything else.
        features: of a processor, in Linux's spelling.
    """

    name: str
    capability: tuple[int, int] | None = None
    features: frozenset[str] | None = None


def this_cpu(cpuinfo: Path = _CPUINFO) -> DeviceFacts:
    """The processor of this machine; a feature that one core lacks does not count."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux, or hidden by the container: unknown
        return DeviceFacts(name="this CPU")
    fields = [(k.strip(), v.strip()) for k, _, v in (line.partition(":") for line in text.splitlines())]
    name = next((v for k, v in fields if k in ("model name", "Model") and v), "this CPU")
    cores = [set(v.split()) for k, v in fields if k in ("flags", "Features")]
    return DeviceFacts(name=name, features=frozenset(set.intersection(*cores)) if cores else None)


def refuse_precision(precision: str, device: DeviceFacts) -> None:
    """Refuse a precision that a device has no instructions for.

    >>> refuse_precision("float8e4m3fn", DeviceFacts(name="NVIDIA L4", capability=(8, 9)))

    Args:
        precision: ONNX spelling, or ``tf32``.

    Raises:
        TargetUnavailableError: names the device, what the precision takes, and what to use instead.
    """
    on_gpu, on_cpu = _INSTEAD.get(precision, ("float32", "float32"))
    if device.capability is not None:
        least = LEAST_CAPABILITY.get(precision, (0, 0))
        if device.capability < least:
            found = ".".join(map(str, device.capability))
            raise TargetUnavailableError(
                f"{device.name} (compute capability {found}) has no {precision}; that takes {least[0]}.{least[1]}",
                f"use {on_gpu}, or another GPU",
            )
    elif device.features is not None and precision in CPU_FEATURES:
        asked = CPU_FEATURES[precision]
        if not device.features.intersection(asked):
            takes = f"that takes {' or '.join(asked)}" if asked else "no processor has it"
            raise TargetUnavailableError(
                f"{device.name} has no instructions for {precision}; {takes}", f"use {on_cpu}"
            )
