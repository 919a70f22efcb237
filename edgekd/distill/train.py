"""The training loop: any weighted sum of losses, alone or in several processes, with checkpoints that survive a kill."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.distill.augment import check_sizes, draw_view, view_of
from edgekd.distill.checkpoint import Checkpoint, History
from edgekd.distill.config import TrainConfig
from edgekd.distill.features import Taps, answer_of, layer_names, per_term, projections
from edgekd.distill.group import ALONE, Group
from edgekd.distill.losses.objective import objective, term_names
from edgekd.distill.shared_norm import share_batch_norms
from edgekd.distill.teacher_logits import TeacherLogits
from edgekd.distill.terms import check_terms
from edgekd.errors import DataError, ModelError, StorageError, UsageError
from edgekd.files import digest_of
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


def train(
    module: Any,
    teacher: Any | None,
    data: TrainingSet,
    config: TrainConfig,
    *,
    resume: Path,
    kept: TeacherLogits | None = None,
    progress: Progress | None = None,
    group: Group = ALONE,
) -> History:
    """Train ``module`` in place; return the mean loss of each epoch.

    After every epoch a checkpoint is written to ``resume``; a killed training continues there and ends with the
    same weights, bit for bit on the same machine, thread count and number of processes, because every epoch draws its
    own random stream.

    Args:
        module: the student (or a teacher that is fine-tuned), fresh or with its initial weights.
        teacher: frozen module that is learnt from; None for ``labels``.
        data: prepared inputs.
        kept: the teacher's logits for every view, where ``config.views`` asks for them; ``teacher`` is then not asked.
        group: the processes that train together, each with its share of every batch; all call this alike.

    Raises:
        DataError: no data, or labels outside the classes; UsageError: layers that are not there, or losses that need a
        teacher and have none; ModelError: layers that cannot be paired, or the loss is no longer finite.
    """
    torch = require("torch", extra="torch", purpose="training")
    n = len(data.labels)
    if n == 0:
        raise DataError("the training data is empty", "check the recipe's task.data.train")
    _check_losses(teacher, kept, config)
    inputs = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in data.student.items()}
    teacher_inputs = {
        k: inputs[k] if v is data.student.get(k) else torch.from_numpy(np.ascontiguousarray(v))
        for k, v in data.teacher.items()
    }
    labels = torch.from_numpy(np.asarray(data.labels, dtype=np.int64))
    images = [k for k, v in inputs.items() if v.ndim == 4]
    if config.augment and not images:
        raise ModelError(
            "augment needs image inputs (n, channels, height, width)", "remove `augment` from the recipe"
        )
    if config.augment and kept is not None and kept.image:
        check_sizes(kept.image, tuple(inputs[images[0]].shape[2:]))
    own_layers, their_layers = layer_names(config.losses)
    taps = Taps(module, own_layers, "student")
    teacher_taps = Taps(teacher, their_layers, "teacher") if teacher is not None else None
    # The network is wrapped here and unwrapped below: what is trained beside it is never part of it.
    pupil = _wrap(module, taps, teacher, teacher_taps, inputs, teacher_inputs, config)
    optimiser = _optimiser(pupil, config)
    tag = digest_of([config.to_json(), n, sorted(data.student)])
    checkpoint = Checkpoint(resume / "checkpoint.safetensors", tag)
    history = checkpoint.load(module, pupil.projectors, optimiser)
    first = len(history.losses)
    if group.agree(first) != first:
        raise StorageError(
            f"process {group.rank} found a checkpoint of another epoch than the first process",
            "all must share the cache (EDGEKD_CACHE)",
        )
    pupil.to(memory_format=torch.channels_last)
    if teacher is not None:
        teacher.eval().to(memory_format=torch.channels_last)
    undo = share_batch_norms(module, group)
    runner, stepper = group.prepare(pupil, optimiser, [v[:2] for v in inputs.values()])
    half = config.precision == "bfloat16"
    steps = math.ceil(n / config.batch)
    names = term_names(config)
    for epoch in range(first, config.epochs):
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
        # For modules that draw by themselves, such as dropout: each process its own numbers.
        torch.manual_seed(config.seed * 1_000_003 + epoch + 15_485_863 * group.rank)
        order = torch.randperm(n, generator=generator)
        runner.train()
        totals = [0.0] * (1 + len(names))
        # Fixed views do not depend on the order of the rows, drawn ones do.
        view = epoch % config.views if config.views else None
        fixed = view_of(view, n, config) if view is not None and config.augment else None
        for step in range(steps):
            whole = order[step * config.batch : (step + 1) * config.batch]
            share = group.take(len(whole))
            rows = whole[share]
            x = {k: v[rows] for k, v in inputs.items()}
            tx = {k: x[k] if v is inputs.get(k) else v[rows] for k, v in teacher_inputs.items()}
            if config.augment:
                first_image = x[images[0]]
                size = (int(first_image.shape[2]), int(first_image.shape[3]))
                draw = (
                    fixed.of(rows)
                    if fixed is not None
                    else draw_view(len(whole), config, generator).of(share)
                )
                done = {id(v): draw.apply(v, size) for v in [*x.values(), *tx.values()] if v.ndim == 4}
                x = {k: done.get(id(v), v) for k, v in x.items()}
                tx = {k: done.get(id(v), v) for k, v in tx.items()}
            for settings in optimiser.param_groups:
                settings["lr"] = learning_rate(config, epoch * steps + step, config.epochs * steps)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                soft, wanted = None, []
                if kept is not None and view is not None:
                    soft = torch.from_numpy(kept.rows(view, rows.numpy()))
                elif teacher is not None:
                    with torch.no_grad():
                        soft = answer_of(teacher(*tx.values())).float()
                    wanted = [t.float() for t in teacher_taps.take()] if teacher_taps is not None else []
                logits, features = runner(*x.values())
                logits, features = logits.float(), [f.float() for f in features]
            _check_answers(logits, soft, labels[whole])
            loss, values = objective(
                config, logits, soft, labels[rows], per_term(config.losses, features),
                per_term(config.losses, wanted), group,
            )  # fmt: skip
            means = [float(v) for v in group.add(torch.stack(values))]
            if not all(map(math.isfinite, means)):
                raise ModelError(
                    f"the loss became {means[0]} in epoch {epoch + 1}, step {step + 1}",
                    "lower the learning rate (distill.lr)",
                )
            stepper.zero_grad()
            group.backward(loss)
            stepper.step()
            totals = [t + v for t, v in zip(totals, means, strict=True)]
            if progress is not None:
                progress(epoch, config.epochs, step, steps, totals[0] / (step + 1))
        history.losses.append(totals[0] / steps)
        for name, total in zip(names, totals[1:], strict=True):
            history.terms.setdefault(name, []).append(total / steps)
        if group.leads:
            checkpoint.save(module, pupil.projectors, optimiser, history)
    undo()
    for hooked in (taps, teacher_taps):
        if hooked is not None:
            hooked.remove()
    module.eval()
    return history


def _check_losses(teacher: Any | None, kept: TeacherLogits | None, config: TrainConfig) -> None:
    check_terms(config.losses)
    if (config.method == "losses") != bool(config.losses):
        raise UsageError(
            f"method {config.method} and {len(config.losses)} losses", "method losses goes with losses"
        )
    if config.method == "losses" and config.needs_teacher and teacher is None and kept is None:
        raise UsageError("these losses need a teacher, and there is none", "give one, or labels alone")
    if config.needs_features and (kept is not None or config.views):
        raise UsageError(
            "views keep the teacher's logits alone, and a loss asks for its layers in every step",
            "remove distill.views, or the losses feature, attention and relation",
        )


def _wrap(
    module: Any, taps: Taps, teacher: Any, teacher_taps: Taps | None, inputs: Mapping[str, Any],
    teacher_inputs: Mapping[str, Any], config: TrainConfig,
) -> Any:  # fmt: skip
    """The network with the projectors that its losses need, found out by showing both networks two examples."""
    torch = require("torch", extra="torch", purpose="training")
    from edgekd_torch._pupil import Pupil, build_projectors

    needs: dict[int, tuple[int, int, int]] = {}
    if config.needs_features and teacher_taps is not None:
        with torch.no_grad():
            module.eval()(*(v[:2] for v in inputs.values()))
            teacher.eval()(*(v[:2] for v in teacher_inputs.values()))
        needs = projections(config.losses, taps.take(), teacher_taps.take())
    return Pupil(module, taps, build_projectors(needs, config.seed))


def _optimiser(pupil: Any, config: TrainConfig) -> Any:
    torch = require("torch", extra="torch", purpose="training")
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            pupil.parameters(), lr=config.lr, betas=(config.momentum, 0.999), weight_decay=config.weight_decay
        )
    return torch.optim.SGD(
        pupil.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay,
        nesterov=config.momentum > 0,
    )  # fmt: skip


def _check_answers(logits: Any, soft: Any | None, labels: Any) -> None:
    if logits.ndim != 2 or (soft is not None and soft.shape != logits.shape):
        raise ModelError(
            f"the network answers with shape {tuple(logits.shape)}"
            + (f", the teacher with {tuple(soft.shape)}" if soft is not None else ""),
            "training needs (batch, classes), the same for both",
        )
    if int(labels.max()) >= logits.shape[1] or int(labels.min()) < 0:
        raise DataError(
            f"training labels run from {int(labels.min())} to {int(labels.max())}, the network has {logits.shape[1]} classes",
            "check that data and network use the same classes",
        )
