"""How to train: one frozen value, digested into the stage's key."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edgekd.distill.fake_quant import FakeQuantConfig
from edgekd.distill.terms import PAIRED, LossTerm

METHODS = ("labels", "logits", "losses")
OPTIMIZERS = ("sgd", "adamw")
AUGMENTS = ("crop2", "crop4", "flip", "shift1")
PRECISIONS = ("float32", "bfloat16")
#: Fields that the first version did not have, with the value that means what it did.
_ADDED: dict[str, Any] = {"views": 0, "top_k": 0, "losses": [], "optimizer": "sgd", "fake_quant": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Training hyper-parameters.

    Attributes:
        method: ``labels`` (cross-entropy alone), ``logits`` (Hinton et al. 2015, section 2), or ``losses``: the weighted
            sum of ``losses``.
        temperature: of the soft targets, > 0.
        alpha: weight of the soft loss in [0, 1]; the label loss has 1 - alpha.
        epochs, batch: passes over the data; examples per step.
        lr: peak learning rate; linear warm-up over ``warmup`` of the steps, then cosine to 0.
        momentum: of SGD, Nesterov's; with AdamW its first moment's decay (beta 1; beta 2 is 0.999).
        augment: subset of ``crop2``/``crop4`` (random shift with zero padding), ``shift1``, ``flip``.
        precision: ``float32``, or ``bfloat16`` autocast for the forward pass.
        seed: of initial weights, order and augmentation.
        views: 0 draws new augmentations in every epoch and asks the teacher every time; k > 0 draws k views of every
            example once, asks the teacher once for each, keeps its logits on disk, and takes view ``epoch % k``
            (Shen and Xing 2022, "A Fast Knowledge Distillation Framework", section 3).
        top_k: of those logits keep the greatest k of each row and the mass of the others; 0 keeps all.
        losses: the terms of method ``losses``; its teacher's ``temperature`` and ``alpha`` are then theirs.
        optimizer: ``sgd``, or ``adamw`` (Loshchilov and Hutter 2019), which transformers need.
        fake_quant: train with fake quantization, so that static int8 is what was trained; None without.
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
    views: int = 0
    top_k: int = 0
    losses: tuple[LossTerm, ...] = ()
    optimizer: str = "sgd"
    fake_quant: FakeQuantConfig | None = None

    @property
    def needs_teacher(self) -> bool:
        """Whether anything but the labels is learnt from."""
        return self.method == "logits" or any(t.loss != "labels" for t in self.losses)

    @property
    def needs_features(self) -> bool:
        """Whether layers inside the teacher are learnt from, so that it must be run in every step."""
        return any(t.loss in PAIRED for t in self.losses)

    def to_json(self) -> dict[str, Any]:
        """Plain data; what later versions added is left out at its default, so that older trainings keep their key."""
        terms = [t.to_json() for t in self.losses]
        values = {**asdict(self), "augment": list(self.augment), "losses": terms}
        return {k: v for k, v in values.items() if k not in _ADDED or v != _ADDED[k]}
