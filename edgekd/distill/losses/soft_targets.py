"""Soft targets: the teacher's softened class probabilities."""

from __future__ import annotations

from typing import Any

from edgekd.distill.config import TrainConfig
from edgekd.lazy import require


def soft_target_loss(student: Any, teacher: Any, temperature: float) -> Any:
    """KL(softmax(teacher/T) || softmax(student/T)), mean over examples, nats; Hinton et al. 2015, section 2, without T^2.

    Args:
        student, teacher: float (batch, classes) logits.
    """
    functional = require("torch.nn.functional", extra="torch", purpose="training")
    return functional.kl_div(
        functional.log_softmax(student / temperature, 1),
        functional.log_softmax(teacher / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )


def distillation_loss(student: Any, teacher: Any | None, labels: Any, config: TrainConfig) -> Any:
    """(1 - alpha) CE(labels) + alpha T^2 KL(teacher/T || student/T), Hinton et al. 2015, section 2.

    Args:
        student, teacher: float (batch, classes) logits; teacher None gives plain cross-entropy.
        labels: int64 (batch,).
    """
    functional = require("torch.nn.functional", extra="torch", purpose="training")
    hard = functional.cross_entropy(student, labels)
    if teacher is None:
        return hard
    t = config.temperature
    return (1 - config.alpha) * hard + config.alpha * t * t * soft_target_loss(student, teacher, t)
