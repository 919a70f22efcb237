"""Hints: what a layer of the student makes, projected, is what a layer of the teacher makes."""

from __future__ import annotations

from typing import Any

from edgekd.lazy import require


def feature_loss(student: Any, teacher: Any) -> Any:
    """Mean squared error of two feature tensors of one shape; Romero et al. 2015 (FitNets), eq. 3, as a mean.

    Args:
        student: float features, already projected to the teacher's width; teacher: those to match.
    """
    functional = require("torch.nn.functional", extra="torch", purpose="training")
    return functional.mse_loss(student, teacher)
