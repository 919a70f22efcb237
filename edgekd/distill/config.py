"""How to train: one frozen value, digested into the stage's key."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

METHODS = ("labels", "logits")
AUGMENTS = ("crop2", "crop4", "flip", "shift1")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Training hyper-parameters.

    Attributes:
        method: ``labels`` (cross-entropy alone) or ``logits`` (Hinton et al. 2015, section 2).
        temperature: of the soft targets, > 0.
        alpha: weight of the soft loss in [0, 1]; the label loss has 1 - alpha.
        epochs, batch: passes over the data; examples per step.
        lr: peak learning rate of SGD with Nesterov momentum; linear warm-up over ``warmup`` of the steps, then cosine to 0.
        augment: subset of ``crop2``/``crop4`` (random shift with zero padding), ``shift1``, ``flip``.
        precision: ``float32``, or ``bfloat16`` autocast for the forward pass.
        seed: of initial weights, order and augmentation.
    """

    method: str = "labels"
    temperature: float = 4.0
    alpha: float = 0.9
    epochs: int = 20
    batch: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.1
    augment: tuple[str, ...] = ()
    precision: str = "float32"
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "augment": list(self.augment)}
