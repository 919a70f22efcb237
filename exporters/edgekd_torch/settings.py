"""How a torch module is run: settings as a user writes them, the process's flags they need, and their read-back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekd.errors import TargetUnavailableError, UsageError
from edgekd.lazy import require
from edgekd.quantize.hardware import DeviceFacts, refuse_precision

MODES = ("eager", "compile", "cuda-graph")
PRECISIONS = ("float32", "tf32", "float16", "bfloat16", "float8e4m3fn", "int8")
#: Of ``torch.compile``.
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
SCALES = ("tensor", "row")

LOW = ("float8e4m3fn", "int8")
_FLOATS = ("float32", "float16", "bfloat16")

#: What each device takes. A CPU has 8-bit products for comparison, not for speed.
_DEVICE_MODES = {"cpu": ("eager", "compile"), "cuda": MODES}
_DEVICE_PRECISIONS = {"cpu": ("float32", "bfloat16", *LOW), "cuda": PRECISIONS}

_KNOWN = ("mode", "compile_mode", "precision", "rest", "scales", "amax")


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchSettings:
    """Settings of a session.

    Attributes:
        mode: ``eager``, ``compile`` (torch.compile, with ``compile_mode``) or ``cuda-graph`` (eager, captured once).
        precision: what matrix products and convolutions are computed in; ``float32`` never means TF32.
        rest: with an 8-bit precision, the dtype of everything else.
        scales: with an 8-bit precision, one scale per ``tensor``, or one per ``row`` of activations and per output
            channel of weights.
        amax: layer -> greatest magnitude of its input, from calibration; layers that are not in it take the maximum
            of each call. With ``scales: tensor`` only.
    """

    mode: str = "eager"
    compile_mode: str = "default"
    precision: str = "float32"
    rest: str = "float32"
    scales: str = "tensor"
    amax: Mapping[str, float] = field(default_factory=dict)

    @property
    def dtype(self) -> str:
        """The dtype of parameters that are not quantized."""
        if self.precision in LOW:
            return self.rest
        return "float32" if self.precision == "tf32" else self.precision


def read_settings(device: str, given: Mapping[str, Any] | None) -> TorchSettings:
    """Settings of a session on ``device``.

    Raises:
        UsageError: an unknown setting, or a value that this device does not have; the message names those it has.
    """
    given = dict(given or {})
    unknown = sorted(set(given) - set(_KNOWN))
    if unknown:
        raise UsageError(f"torch has no setting '{unknown[0]}'", f"it has {', '.join(_KNOWN)}")
    rest = "bfloat16" if device == "cuda" else "float32"
    made = TorchSettings(**{"rest": rest, **given})
    for name, value, allowed in (
        ("mode", made.mode, _DEVICE_MODES[device]),
        ("precision", made.precision, _DEVICE_PRECISIONS[device]),
        ("compile_mode", made.compile_mode, COMPILE_MODES),
        ("scales", made.scales, SCALES),
        ("rest", made.rest, _FLOATS),
    ):
        if value not in allowed:
            raise UsageError(
                f"torch on {device} has no {name} '{value}'", f"give {name} one of {', '.join(allowed)}"
            )
    amax_fits = isinstance(made.amax, Mapping) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and 0 < v < float("inf")
        for v in made.amax.values()
    )
    if not amax_fits:
        raise UsageError(
            f"amax is {made.amax!r}", "give a mapping from layer to the greatest magnitude of its input"
        )
    if made.amax and made.scales != "tensor":
        raise UsageError("amax holds one scale per layer, scales asks for one per row", "give scales: tensor")
    for name in ("rest", "scales", "amax"):
        if name in given and made.precision not in LOW:
            raise UsageError(
                f"torch's setting '{name}' goes with precision {' or '.join(LOW)}, got {made.precision}",
                "remove it",
            )
    if "compile_mode" in given and made.mode != "compile":
        raise UsageError(
            f"torch's setting 'compile_mode' goes with mode compile, got {made.mode}", "remove it"
        )
    return made


def check_device(settings: TorchSettings, torch: Any) -> dict[str, Any]:
    """Refuse a precision that the GPU does not have; what identifies the GPU.

    Raises:
        TargetUnavailableError: names the GPU, its compute capability and the least one.
    """
    name = str(torch.cuda.get_device_name(0))
    major, minor = torch.cuda.get_device_capability(0)
    refuse_precision(settings.precision, DeviceFacts(name=name, capability=(major, minor)))
    return {
        "device_name": name,
        "capability": f"{major}.{minor}",
        "cuda": str(torch.version.cuda),
        "cudnn": torch.backends.cudnn.version(),
    }


#: Where torch 2.9 and newer keep the arithmetic of float32, below ``torch.backends``. Eager mode multiplies by
#: ``cuda.matmul`` and convolves by ``cudnn.conv``; inductor reads ``cuda.matmul`` and ``cudnn`` (torch 2.13,
#: _inductor/codegen/triton.py and _inductor/kernel/conv.py).
_FLOAT32 = ("cuda.matmul", "cudnn", "cudnn.conv", "cudnn.rnn")


def _set_tf32(torch: Any, wanted: bool) -> dict[str, Any]:
    """Set both of torch's interfaces, and read both back.

    Raises:
        TargetUnavailableError: torch has something else than what was set.
    """
    backends = torch.backends
    # The older interface first: setting it changes the newer one, which then says it in full (`ieee`, never `none`).
    # Inductor reads both, and torch refuses to read the older one where they disagree.
    backends.cuda.matmul.allow_tf32 = wanted
    backends.cudnn.allow_tf32 = wanted
    places = {}
    for name in _FLOAT32:
        place = backends
        for part in name.split("."):
            place = getattr(place, part, None)
        if hasattr(place, "fp32_precision"):
            place.fp32_precision = "tf32" if wanted else "ieee"
            places[name] = place
    try:
        found: dict[str, Any] = {
            "tf32_matmul": bool(backends.cuda.matmul.allow_tf32),
            "tf32_convolution": bool(backends.cudnn.allow_tf32),
            "float32_matmul_precision": str(torch.get_float32_matmul_precision()),
            "fp32_precision": {name: str(place.fp32_precision) for name, place in places.items()},
        }
    except RuntimeError as e:
        raise TargetUnavailableError(
            f"torch's TF32 flags contradict each other ({' '.join(str(e).split())[:200]})", "report it"
        ) from e
    agree = {
        "tf32_matmul": wanted,
        "tf32_convolution": wanted,
        "float32_matmul_precision": "high" if wanted else "highest",
        "fp32_precision": dict.fromkeys(places, "tf32" if wanted else "ieee"),
    }
    if found != agree:
        raise TargetUnavailableError(
            f"asked for TF32 {'on' if wanted else 'off'}, torch's flags are {found}", "report it"
        )
    return found


def apply_flags(settings: TorchSettings, device: str) -> dict[str, Any]:
    """Set the process's flags for a session's precision, and read them back.

    They belong to the process: sessions of several precisions in one process set them anew before each use.

    Raises:
        TargetUnavailableError: the environment or an enclosing autocast overrides them.
    """
    torch = require("torch", extra="torch", purpose="running a torch module")
    if torch.is_autocast_enabled(device):
        raise TargetUnavailableError(
            f"torch.autocast is on for {device}: it would change the precision asked for ({settings.precision})",
            "leave the autocast block",
        )
    if device != "cuda":
        return {}
    wanted = settings.precision == "tf32"
    found = _set_tf32(torch, wanted)
    override = os.environ.get("NVIDIA_TF32_OVERRIDE")
    if override is not None and (override == "0") == wanted and settings.precision in ("tf32", "float32"):
        raise TargetUnavailableError(
            f"asked for precision {settings.precision}, NVIDIA_TF32_OVERRIDE={override} decides otherwise",
            "unset NVIDIA_TF32_OVERRIDE",
        )
    return found
