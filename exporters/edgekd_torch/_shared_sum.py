"""A sum over processes that gradients flow through; loaded only when several processes train together."""

# ruff: noqa: TID253
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class SharedSum(torch.autograd.Function):  # type: ignore[misc]
    """Sum over all processes; every process's gradient of it reaches every addend."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total
