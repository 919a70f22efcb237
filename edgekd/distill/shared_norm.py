"""Batch normalisation over the whole batch when several processes hold a part of it each.

torch.nn.SyncBatchNorm runs on GPUs alone, and without it each process would normalise with its own few examples:
another training than that of one process, under the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgekd.distill.group import Group
from edgekd.lazy import require


def share_batch_norms(module: Any, group: Group) -> Callable[[], None]:
    """Make the batch norms in ``module`` take mean and variance over all processes' rows; returns what undoes it.

    Ioffe and Szegedy 2015, algorithm 1; running variance unbiased, as torch's.
    """
    batchnorm = require("torch.nn.modules.batchnorm", extra="torch", purpose="training")
    found = [m for m in module.modules() if isinstance(m, batchnorm._BatchNorm)] if group.size > 1 else []
    for norm in found:
        norm.forward = _Shared(norm, group)

    def undo() -> None:
        for norm in found:
            del norm.forward

    return undo


class _Shared:
    """Stands in for one batch norm's ``forward``."""

    def __init__(self, norm: Any, group: Group) -> None:
        self._norm, self._group = norm, group
        self._alone = norm.forward
        self._torch = require("torch", extra="torch", purpose="training")

    def __call__(self, x: Any) -> Any:
        norm, torch = self._norm, self._torch
        if not norm.training:
            return self._alone(x)
        dims = [d for d in range(x.ndim) if d != 1]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        values = x.float()
        # A process that has run out of rows shows one that does not count.
        own = values[: self._group.rows]
        count = self._group.all * (x[0, 0].numel() if x.ndim > 2 else 1)
        mean = self._group.add(own.sum(dims)) / count
        variance = self._group.add((own - mean.view(shape)).pow(2).sum(dims)) / count
        if norm.running_mean is not None:
            with torch.no_grad():
                norm.num_batches_tracked.add_(1)
                rate = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
                norm.running_mean.lerp_(mean.detach(), rate)
                norm.running_var.lerp_(variance.detach() * (count / max(count - 1, 1)), rate)
        made = (values - mean.view(shape)) * torch.rsqrt(variance.view(shape) + norm.eps)
        if norm.affine:
            made = made * norm.weight.view(shape) + norm.bias.view(shape)
        return made.to(x.dtype)
