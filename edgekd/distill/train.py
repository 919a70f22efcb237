"""The training loop: label loss, or label plus soft-target loss, with checkpoints that survive a kill."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.distill.config import TrainConfig
from edgekd.errors import DataError, ModelError
from edgekd.files import digest_of, write_bytes
from edgekd.lazy import require

#: Called after every step with (epoch from 0, epochs, step, steps, loss).
Progress = Callable[[int, int, int, int, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """Prepared inputs in memory.

    Attributes:
        student: input name -> (n, ...) array for the model that is trained.
        teacher: the same for the teacher; empty without one; the identical arrays where both prepare alike.
        labels: int64 (n,).
    """

    student: Mapping[str, Array]
    labels: Array
    teacher: Mapping[str, Array]


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Linear warm-up, then cosine to zero (Loshchilov and Hutter 2017, eq. 5, one cycle).

    >>> round(learning_rate(TrainConfig(lr=1.0, warmup=0.0), 50, 100), 3)
    0.5
    """
    warm = config.warmup * steps
    if step < warm:
        return config.lr * (step + 1) / (warm + 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, steps - warm)))


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
    soft = functional.kl_div(
        functional.log_softmax(student / t, 1),
        functional.log_softmax(teacher / t, 1),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - config.alpha) * hard + config.alpha * t * t * soft


def _augment(batch: Any, config: TrainConfig, generator: Any) -> Callable[[Any], Any]:
    """Draw one augmentation for a batch; the result applies the same draw to any tensor of that height and width."""
    torch = require("torch", extra="torch", purpose="training")
    n, _, height, width = batch.shape
    pad = next((int(a[-1]) for a in config.augment if a.startswith(("crop", "shift"))), 0)
    flips = torch.rand(n, generator=generator) < 0.5 if "flip" in config.augment else None
    # Drawn even for pad 0, so that a recipe's other draws do not depend on it.
    dy = torch.randint(0, 2 * pad + 1, (n,), generator=generator)
    dx = torch.randint(0, 2 * pad + 1, (n,), generator=generator)

    def apply(x: Any) -> Any:
        if x.shape[2:] != (height, width):
            raise ModelError(
                f"teacher and student inputs differ in size ({tuple(x.shape[2:])} and {(height, width)})",
                "augmentation needs equal sizes: remove `augment`, or give both models one size",
            )
        if pad:
            padded = torch.nn.functional.pad(x, (pad,) * 4)
            rows = (dy[:, None] + torch.arange(height))[:, None, :, None]
            cols = (dx[:, None] + torch.arange(width))[:, None, None, :]
            examples = torch.arange(n)[:, None, None, None]
            channels = torch.arange(x.shape[1])[None, :, None, None]
            x = padded[examples, channels, rows, cols]
        if flips is not None:
            x = torch.where(flips[:, None, None, None], x.flip(3), x)
        return x

    return apply


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """Model, optimiser and history after a whole number of epochs, in one safetensors file."""

    path: Path
    tag: str

    def save(self, module: Any, optimiser: Any, epoch: int, losses: list[float]) -> None:
        safetensors = require("safetensors.torch", extra="torch", purpose="writing checkpoints")
        tensors = {f"model.{k}": v.contiguous() for k, v in module.state_dict().items()}
        for name, parameter in module.named_parameters():
            buffer = optimiser.state.get(parameter, {}).get("momentum_buffer")
            if buffer is not None:
                tensors[f"momentum.{name}"] = buffer.contiguous()
        meta = {"tag": self.tag, "epoch": str(epoch), "losses": json.dumps(losses)}
        write_bytes(self.path, safetensors.save(tensors, metadata=meta))

    def load(self, module: Any, optimiser: Any) -> tuple[int, list[float]]:
        """Epochs done so far and their losses; (0, []) where there is no checkpoint of this very training."""
        if not self.path.is_file():
            return 0, []
        safetensors = require("safetensors", extra="torch", purpose="reading checkpoints")
        try:
            with safetensors.safe_open(str(self.path), framework="pt") as f:
                meta = f.metadata() or {}
                if meta.get("tag") != self.tag:
                    return 0, []
                tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - not a mapping
        except safetensors.SafetensorError:
            return 0, []  # a checkpoint that the disk damaged: start over
        module.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        for name, parameter in module.named_parameters():
            if f"momentum.{name}" in tensors:
                optimiser.state[parameter]["momentum_buffer"] = tensors[f"momentum.{name}"].clone()
        return int(meta["epoch"]), json.loads(meta["losses"])


def train(
    module: Any,
    teacher: Any | None,
    data: TrainingSet,
    config: TrainConfig,
    *,
    resume: Path,
    progress: Progress | None = None,
) -> list[float]:
    """Train ``module`` in place; return the mean loss of each epoch.

    After every epoch a checkpoint is written to ``resume``; a killed training continues there and ends with the
    same weights, bit for bit on the same machine and thread count, because every epoch draws its own random stream.

    Args:
        module: the student (or a teacher that is fine-tuned), fresh or with its initial weights.
        teacher: frozen module whose logits are the soft targets; None for ``labels``.
        data: prepared inputs.

    Raises:
        DataError: no data, or labels outside the classes; ModelError: the loss is no longer finite.
    """
    torch = require("torch", extra="torch", purpose="training")
    n = len(data.labels)
    if n == 0:
        raise DataError("the training data is empty", "check the recipe's task.data.train")
    optimiser = torch.optim.SGD(
        module.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay,
        nesterov=config.momentum > 0,
    )  # fmt: skip
    tag = digest_of([config.to_json(), n, sorted(data.student)])
    checkpoint = _Checkpoint(resume / "checkpoint.safetensors", tag)
    first, losses = checkpoint.load(module, optimiser)
    module.to(memory_format=torch.channels_last)
    if teacher is not None:
        teacher.eval().to(memory_format=torch.channels_last)
    inputs = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in data.student.items()}
    teacher_inputs = {
        k: inputs[k] if v is data.student.get(k) else torch.from_numpy(np.ascontiguousarray(v))
        for k, v in data.teacher.items()
    }
    labels = torch.from_numpy(np.asarray(data.labels, dtype=np.int64))
    half = config.precision == "bfloat16"
    steps = math.ceil(n / config.batch)
    images = [k for k, v in inputs.items() if v.ndim == 4]
    if config.augment and not images:
        raise ModelError(
            "augment needs image inputs (n, channels, height, width)", "remove `augment` from the recipe"
        )
    for epoch in range(first, config.epochs):
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
        torch.manual_seed(
            config.seed * 1_000_003 + epoch
        )  # for modules that draw by themselves, such as dropout
        order = torch.randperm(n, generator=generator)
        module.train()
        total = 0.0
        for step in range(steps):
            rows = order[step * config.batch : (step + 1) * config.batch]
            x = {k: v[rows] for k, v in inputs.items()}
            tx = {k: x[k] if v is inputs.get(k) else v[rows] for k, v in teacher_inputs.items()}
            if config.augment:
                draw = _augment(x[images[0]], config, generator)
                done = {id(v): draw(v) for v in [*x.values(), *tx.values()] if v.ndim == 4}
                x = {k: done.get(id(v), v) for k, v in x.items()}
                tx = {k: done.get(id(v), v) for k, v in tx.items()}
            y = labels[rows]
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(config, epoch * steps + step, config.epochs * steps)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                soft = None
                if teacher is not None:
                    with torch.no_grad():
                        soft = teacher(*tx.values()).float()
                logits = module(*x.values()).float()
            if logits.ndim != 2 or (soft is not None and soft.shape != logits.shape):
                raise ModelError(
                    f"the network answers with shape {tuple(logits.shape)}"
                    + (f", the teacher with {tuple(soft.shape)}" if soft is not None else ""),
                    "training needs (batch, classes), the same for both",
                )
            if int(y.max()) >= logits.shape[1] or int(y.min()) < 0:
                raise DataError(
                    f"training labels run from {int(y.min())} to {int(y.max())}, the network has {logits.shape[1]} classes",
                    "check that data and network use the same classes",
                )
            loss = distillation_loss(logits, soft, y, config)
            if not torch.isfinite(loss):
                raise ModelError(
                    f"the loss became {float(loss.detach())} in epoch {epoch + 1}, step {step + 1}",
                    "lower the learning rate (distill.lr)",
                )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach())
            if progress is not None:
                progress(epoch, config.epochs, step, steps, total / (step + 1))
        losses.append(total / steps)
        checkpoint.save(module, optimiser, epoch + 1, losses)
    module.eval()
    return losses
