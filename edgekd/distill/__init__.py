"""Distillation: from a teacher and data to a student :class:`edgekd.model.Model`."""

from edgekd.distill.config import TrainConfig
from edgekd.distill.student import keep_teacher_logits, prepare_training_set, train_model

__all__ = ["TrainConfig", "keep_teacher_logits", "prepare_training_set", "train_model"]
