"""The GPU part of the doctor: driver, torch's CUDA, and its FP8 and INT8 products against a reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgekd.errors import EdgeKDError, MissingDependencyError, TargetUnavailableError
from edgekd.lazy import require
from edgekd.measure.nvml import find_gpu

Row = dict[str, str]

#: Compute capability from which FP8 products run (NVIDIA Transformer Engine, support matrix).
_FP8_FROM = (8, 9)
_SIZE = 32
#: Greatest |difference| / largest |reference| allowed: one bfloat16 rounding (2^-8) and float32 sums in another order.
_TOLERANCE = 1.0 / 128


def _row(name: str, state: str, evidence: str, fix: str = "") -> Row:
    return {"name": name, "state": state, "evidence": evidence, "fix": fix}


def gpu_rows() -> list[Row]:
    """Driver, torch's CUDA device, and two products; ``not applicable`` where there is no NVIDIA driver."""
    driver = _driver()
    rows = [driver]
    absent = driver["state"] == "not applicable"
    try:
        torch = require("torch", extra="torch", purpose="probing CUDA")
    except MissingDependencyError as e:
        return [*rows, _row("torch CUDA", "not applicable" if absent else "missing", e.what, e.fix)]
    if not torch.cuda.is_available():
        evidence = f"torch {torch.__version__} sees no CUDA device"
        state = "not applicable" if absent else "broken"
        return [*rows, _row("torch CUDA", state, evidence, "" if absent else "install a CUDA build of torch")]
    capability = tuple(torch.cuda.get_device_capability())
    free, whole = torch.cuda.mem_get_info()
    rows.append(
        _row(
            "torch CUDA", "ok",
            f"{torch.cuda.get_device_name()}, SM {capability[0]}.{capability[1]}, CUDA {torch.version.cuda}, "
            f"{free / 2**30:.1f} of {whole / 2**30:.1f} GiB free",
        )
    )  # fmt: skip
    if capability < _FP8_FROM:
        rows.append(
            _row("FP8 products", "not applicable", f"SM {capability[0]}.{capability[1]}, FP8 needs 8.9")
        )
    else:
        rows.append(product_row("FP8 products", fp8_error, torch, "cuda"))
    rows.append(product_row("INT8 products", int8_error, torch, "cuda"))
    return rows


def _driver() -> Row:
    try:
        gpu = find_gpu()
    except TargetUnavailableError as e:
        absent = e.what.startswith("no NVIDIA driver")
        return _row("NVIDIA driver", "not applicable" if absent else "broken", e.what, e.fix)
    except EdgeKDError as e:
        return _row("NVIDIA driver", "missing", e.what, e.fix)
    return _row("NVIDIA driver", "ok", f"NVML reads {gpu.name}")


def product_row(name: str, error: Callable[[Any, str], float], torch: Any, device: str) -> Row:
    """Whether a low-precision product exists here and agrees with its reference."""
    try:
        found = error(torch, device)
    except (RuntimeError, AttributeError, NotImplementedError, TypeError) as e:
        said = " ".join(str(e).split())[:200]
        return _row(name, "broken", f"torch {torch.__version__} failed ({said})", "use another torch version")
    if not found <= _TOLERANCE:
        return _row(name, "broken", f"off by {found:.3g} of the largest value", "use another torch version")
    return _row(name, "ok", f"agrees with float32 to {found:.2g} of the largest value")


def fp8_error(torch: Any, device: str) -> float:
    """``torch._scaled_mm`` on 32 x 32 E4M3 samples against the same values in float32; relative to the largest."""
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(_SIZE, _SIZE, generator=draw).to(torch.float8_e4m3fn)
    b = torch.randn(_SIZE, _SIZE, generator=draw).to(torch.float8_e4m3fn)
    scale = torch.tensor(0.5, device=device)
    # The second operand is column-major: the transpose of a row-major one.
    got = torch._scaled_mm(
        a.to(device), b.to(device).t(), scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16
    )
    want = (a.float() @ b.float().t()) * 0.25
    return _relative(got, want)


def int8_error(torch: Any, device: str) -> float:
    """``torch._int_mm`` on 32 x 32 samples against the same sums in float32, which are exact at this size."""
    draw = torch.Generator().manual_seed(0)
    a = torch.randint(-128, 128, (_SIZE, _SIZE), generator=draw, dtype=torch.int8)
    b = torch.randint(-128, 128, (_SIZE, _SIZE), generator=draw, dtype=torch.int8)
    return _relative(torch._int_mm(a.to(device), b.to(device)), a.float() @ b.float())


def _relative(got: Any, want: Any) -> float:
    return float((got.float().cpu() - want).abs().max() / want.abs().max())
