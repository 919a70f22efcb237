"""8-bit matrix products of torch: FP8 (E4M3) through ``_scaled_mm``, INT8 through ``_int_mm``.

Both are private names of torch, so they are wrapped here, once, and tried against a reference before use. Shape rules:
``_scaled_mm`` takes the first operand row by row and the second column by column, with both of its sides multiples of
16; ``_int_mm`` wants multiples of 8, and on CUDA more than 16 rows (checks of aten/src/ATen/native/cuda/Blas.cpp).
Imported only where a session asks for them, so ``torch`` is at the top.
"""

# ruff: noqa: TID253
from __future__ import annotations

from typing import Any

import torch

from edgekd.errors import TargetUnavailableError
from edgekd_torch.low_kinds import Kind

#: Rows that a product on CUDA is padded to with zeros, which changes nothing in the others.
CUDA_ROWS = 32

#: Stands in for the scale of a tensor of zeros.
_LEAST_SCALE = 1e-12


def scale_of(values: Any, kind: Kind, *, by_row: bool) -> Any:
    """Greatest magnitude over the type's: float32, () or (rows, 1).

    Args:
        values: (rows, inner), floating point.
    """
    magnitude = values.abs().amax(dim=1, keepdim=True) if by_row else values.abs().amax()
    return (magnitude.float() / kind.greatest).clamp(min=_LEAST_SCALE)


def quantize(values: Any, scale: Any, kind: Kind) -> Any:
    """``values / scale`` in the 8-bit type: to the nearest, ties to even, beyond the greatest magnitude clamped."""
    scaled = (values.float() / scale).clamp(-kind.greatest, kind.greatest)
    if kind.name == "int8":
        return torch.round(scaled).to(torch.int8)
    return scaled.to(torch.float8_e4m3fn)


def int_mm(rows: Any, columns: Any, *, least_rows: int | None = None) -> Any:
    """Product of int8 (rows, inner) and (inner, outer), int32, exact.

    Args:
        least_rows: rows to pad to with zeros; None takes what the device needs.
    """
    count = int(rows.shape[0])
    least = (CUDA_ROWS if rows.device.type == "cuda" else 0) if least_rows is None else least_rows
    if count < least:
        rows = torch.nn.functional.pad(rows, (0, 0, 0, least - count))
    return torch._int_mm(rows, columns)[:count]


def product(rows: Any, weight: Any, scale: Any, weight_scale: Any, kind: Kind, out_dtype: Any) -> Any:
    """``(rows * scale) @ (weight * weight_scale).T`` of quantized operands.

    Args:
        rows: (rows, inner) of the 8-bit type, of any strides; scale: float32, () or (rows, 1).
        weight: (outer, inner) of the 8-bit type, row by row, so that its transpose lies column by column.
        weight_scale: float32, () or (outer, 1); by row exactly where ``scale`` is.

    Returns:
        (rows, outer) in ``out_dtype``.
    """
    # Channels taken from NCHW lie one image apart, and at batch 1 a reshape keeps it so: no layout of CUDA's products.
    # Flat in between, because a single row counts as contiguous whatever its stride.
    rows = rows.contiguous().view(-1).view(rows.shape)
    columns = weight.t()
    by_row = scale.ndim == 2
    across = weight_scale.t() if by_row else weight_scale
    if kind.name == "int8":
        return (int_mm(rows, columns).float() * (scale * across)).to(out_dtype)
    # On CUDA scales by row go with BF16 results only (aten/src/ATen/native/cuda/Blas.cpp).
    made = torch.bfloat16 if by_row and rows.device.type == "cuda" else out_dtype
    found = torch._scaled_mm(rows, columns, scale_a=scale, scale_b=across.contiguous(), out_dtype=made)
    return found.to(out_dtype)


def probe(kind: Kind, device: str, *, by_row: bool = False) -> None:
    """Try the product once on 32 x 32 random values against float64.

    Raises:
        TargetUnavailableError: this build of torch lacks it, or it computes something else.
    """
    made = torch.Generator().manual_seed(0)
    a, b = (torch.randn(32, 32, generator=made) for _ in range(2))
    scales = [scale_of(v, kind, by_row=by_row) for v in (a, b)]
    q = [quantize(v, s, kind) for v, s in zip((a, b), scales, strict=True)]
    wanted = (q[0].double() * scales[0].double()) @ (q[1].double() * scales[1].double()).t()
    try:
        found = product(
            q[0].to(device), q[1].to(device), scales[0].to(device), scales[1].to(device), kind, torch.float32
        )
    except (RuntimeError, AttributeError, NotImplementedError) as e:
        line = " ".join(str(e).split())[:300]
        raise TargetUnavailableError(
            f"torch {torch.__version__} has no {kind.name} products on {device} ({line})",
            "choose another precision, or another torch",
        ) from e
    error = float((found.cpu().double() - wanted).norm() / wanted.norm())
    # BF16 keeps 8 bits: half a unit in the last place is 2**-9.
    if not error < 4e-3:
        raise TargetUnavailableError(
            f"torch {torch.__version__} computes {kind.name} products on {device} that are off by {error:.2g}",
            "choose another precision, or another torch",
        )
