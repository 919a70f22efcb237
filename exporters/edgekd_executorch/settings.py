"""Options of the exporter, from recipes (plain values) and from ``--option NAME=VALUE`` (text)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekd.errors import UsageError
from edgekd.parity import PARITY_ATOL, PARITY_RTOL, Shapes
from edgekd.tolerance import read_tolerances
from edgekd_executorch.lowering import BACKENDS
from edgekd_executorch.sizes import DEFAULT_MAX_BATCH

#: The exporter's own options.
OPTIONS: Mapping[str, str] = {
    "backend": "xnnpack (default), or portable: ExecuTorch's own kernels",
    "max_batch": f"the greatest batch that memory is planned for (default {DEFAULT_MAX_BATCH}); 1 fixes it",
    "devtools": "yes writes model.etrecord beside the program, for ExecuTorch's Inspector",
    "observer": "of activations when quantizing: minmax (default) or histogram",
}
_COMMON = ("shapes", "feeds", "atol", "rtol", "dtype", "opset")

#: Backends of ExecuTorch that are known by name, and refused by it.
_OTHER_BACKENDS = (
    "aoti", "arm", "cadence", "coreml", "cuda", "ethos-u", "mediatek", "metal", "mlx", "mps", "nxp", "openvino", "qnn",
    "samsung", "vulkan",
)  # fmt: skip
OBSERVERS = ("minmax", "histogram")

#: (atol, rtol) of parity. float16 has 11 significant bits (IEEE 754); sums of them in another order agree to about
#: three digits.
_TOLERANCES = {"float32": (PARITY_ATOL, PARITY_RTOL), "float16": (2e-2, 2e-2)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What was asked for, checked; see :data:`OPTIONS`."""

    backend: str
    dtype: str
    shapes: Shapes
    max_batch: int | None
    atol: float
    rtol: float
    devtools: bool
    observer: str


def read_options(options: Mapping[str, Any]) -> ExportOptions:
    """Check the options of an export.

    Raises:
        UsageError: an unknown one, or a value that is not understood; the message names those that are.
    """
    unknown = [k for k in options if k not in _COMMON and k not in OPTIONS]
    if unknown:
        raise UsageError(
            f"the executorch exporter has no option '{unknown[0]}'",
            f"it knows {', '.join([*_COMMON[:5], *OPTIONS])}",
        )
    if options.get("opset") is not None:
        raise UsageError(f"opset {options['opset']} was asked for, a .pte has none", "leave the opset out")
    backend = str(options.get("backend") or BACKENDS[0]).lower()
    if backend not in BACKENDS:
        known = "is not written by this exporter" if backend in _OTHER_BACKENDS else "is not known"
        raise UsageError(f"backend '{backend}' {known}", f"choose {' or '.join(BACKENDS)}")
    dtype = str(options.get("dtype") or "float32")
    if dtype not in _TOLERANCES:
        raise UsageError(
            f"the executorch exporter does not write {dtype}",
            f"choose {' or '.join(_TOLERANCES)}; int8 is made by quantizing the torch model",
        )
    if dtype == "float16" and backend != "xnnpack":
        raise UsageError(f"float16 was asked for on backend {backend}", "float16 is written for xnnpack only")
    atol, rtol = read_tolerances(options, *_TOLERANCES[dtype])
    return ExportOptions(
        backend=backend,
        dtype=dtype,
        shapes=options.get("shapes") or {},
        max_batch=_max_batch(options.get("max_batch")),
        atol=atol,
        rtol=rtol,
        devtools=_yes("devtools", options.get("devtools")),
        observer=_choice("observer", options.get("observer"), OBSERVERS),
    )


def _max_batch(value: Any) -> int | None:
    if value is None:
        return None
    try:
        number = int(str(value))
    except ValueError:
        number = 0
    if number < 1:
        raise UsageError(f"max_batch is {value!r}", "give a number of 1 or more")
    return number


def _yes(name: str, value: Any) -> bool:
    if isinstance(value, bool) or value is None:
        return bool(value)
    return _choice(name, value, ("no", "yes")) == "yes"


def _choice(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    if value is None:
        return allowed[0]
    if str(value) not in allowed:
        raise UsageError(f"{name} is {value!r}", f"choose {' or '.join(allowed)}")
    return str(value)
