"""Distillation losses, each a pure function of what student and teacher answered.

Well-kept libraries with these losses bring their own training loop or need packages that do not install beside the
others (docs/distillation.md), so the few lines of each are here, tested against a formula written a second time.
"""

from edgekd.distill.losses.attention import attention_loss
from edgekd.distill.losses.dist import dist_loss
from edgekd.distill.losses.feature import feature_loss
from edgekd.distill.losses.relation import relation_loss
from edgekd.distill.losses.soft_targets import distillation_loss, soft_target_loss

__all__ = [
    "attention_loss",
    "dist_loss",
    "distillation_loss",
    "feature_loss",
    "relation_loss",
    "soft_target_loss",
]
