"""Train one network and leave it as a ``model.json`` folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.distill.config import TrainConfig
from edgekd.distill.fake_quant_training import prepare_fake_quant
from edgekd.distill.group import ALONE, Group
from edgekd.distill.teacher_logits import CollectProgress, collect_teacher_logits, load_teacher_logits
from edgekd.distill.train import Progress, TrainingSet, train
from edgekd.errors import DataError
from edgekd.lazy import require
from edgekd.model import Model, load_model
from edgekd.tasks import ModelIO, Task


def prepare_training_set(task: Task, split: str, student: ModelIO, teacher: ModelIO | None) -> TrainingSet:
    """Prepare every example of ``split`` once, for the student and (where it prepares otherwise) the teacher.

    Raises:
        DataError: no examples, one without a whole-number label, or of another size than those before it.
    """
    same = teacher is not None and (teacher.inputs, teacher.prepare, teacher.rename) == (
        student.inputs, student.prepare, student.rename,
    )  # fmt: skip
    own: dict[str, list[Array]] = {s.name: [] for s in student.inputs}
    theirs: dict[str, list[Array]] = (
        {s.name: [] for s in teacher.inputs} if teacher is not None and not same else {}
    )
    labels: list[int] = []
    for example in task.examples(split):
        if not isinstance(example.label, (int, np.integer)):
            raise DataError(
                f"training example {example.id} has the label {example.label!r}", "give whole numbers from 0"
            )
        if same and any(n.startswith(("teacher.", "student.")) for n in example.inputs):
            same = False
            if labels or teacher is None:
                raise DataError(
                    f"example {example.id} has other arrays than those before it", "give all rows alike"
                )
            theirs = {s.name: [] for s in teacher.inputs}
        _append(own, task.prepare(example, student), example.id)
        if teacher is not None and theirs:
            _append(theirs, task.prepare(example, teacher), example.id)
        labels.append(int(example.label))
    if not labels:
        raise DataError(f"the split '{split}' is empty", "check the recipe's task.data")
    stacked = {k: np.stack(v) for k, v in own.items()}
    teacher_side: Mapping[str, Array] = {}
    if teacher is not None:
        teacher_side = stacked if same else {k: np.stack(v) for k, v in theirs.items()}
    return TrainingSet(student=stacked, labels=np.asarray(labels, np.int64), teacher=teacher_side)


def _append(columns: dict[str, list[Array]], feeds: Mapping[str, Array], row: str) -> None:
    for name, feed in feeds.items():
        column = columns[name]
        if column and column[0].shape != feed.shape[1:]:
            raise DataError(
                f"training example {row} has the shape {feed.shape[1:]}, those before it {column[0].shape}",
                "bring all to one size (prepare.size; texts: prepare.pad: max_length)",
            )
        column.append(feed[0])


def train_model(
    *,
    factory: str,
    search: Path | None,
    init: Path | None,
    prepare: Mapping[str, Any],
    name: str,
    task: Task,
    config: TrainConfig,
    teacher: Model | None,
    out: Path,
    resume: Path,
    lineage: Mapping[str, Any],
    kept: Path | None = None,
    progress: Progress | None = None,
    group: Group = ALONE,
) -> Model:
    """Train a network from ``init`` weights (or from the seed) and write it to ``out``.

    Args:
        factory: ``zoo:NAME`` or ``python:module:function``.
        init: safetensors to start from; None draws them from ``config.seed``.
        teacher: who is learnt from, where ``config.needs_teacher``.
        out: an existing, empty folder.
        resume: a folder that outlives a kill.
        kept: the folder of the teacher's logits (:func:`keep_teacher_logits`), where ``config.views`` asks for them.
        group: the processes that train together (:func:`edgekd.distill.group.join`); the first one writes ``out``.

    Raises:
        UsageError, ModelError, DataError: as the steps inside say.
    """
    require("torch", extra="torch", purpose="training a network")
    from edgekd_torch.modules import Seeded, describe, load_module, load_weights, write_model

    entry = describe(factory, search)
    module = Seeded(config.seed).build(entry)
    if init is not None:
        load_weights(module, init)
    own_io = ModelIO(
        role="student", inputs=entry.inputs, outputs=entry.outputs, prepare=dict(prepare) or entry.prepare
    )
    soft = teacher if config.needs_teacher and kept is None else None
    teacher_io = (
        ModelIO(role="teacher", inputs=soft.inputs, outputs=soft.outputs, prepare=soft.prepare)
        if soft
        else None
    )
    data = prepare_training_set(task, "train", own_io, teacher_io)
    aware = None
    if config.fake_quant is not None:
        aware = prepare_fake_quant(
            module, config=config, name=name, factory=factory, search=search, rows=len(data.labels), scratch=resume,
        )  # fmt: skip
    history = train(
        aware.module if aware is not None else module, load_module(soft) if soft else None, data, config, resume=resume,
        kept=load_teacher_logits(kept) if kept is not None else None, progress=progress, group=group,
    )  # fmt: skip
    told: dict[str, Any] = {**lineage, "training": config.to_json(), "losses": history.losses}
    if history.terms:
        told["loss_terms"] = history.terms
    if group.size > 1:
        told["processes"] = group.size
    if group.leads:
        model = write_model(
            module,
            entry,
            folder=out,
            name=name,
            factory=factory,
            search=search,
            prepare=prepare,
            lineage=told,
        )
        if aware is not None:
            aware.finish(model, data.student)
    group.wait()
    written = load_model(out)
    group.wait()  # the first process renames ``out`` next: not under one that still reads it
    return written


def keep_teacher_logits(
    *,
    teacher: Model,
    task: Task,
    config: TrainConfig,
    out: Path,
    resume: Path,
    progress: CollectProgress | None = None,
) -> None:
    """Ask the teacher for every training example in each of ``config.views`` views and leave its logits in ``out``.

    Raises:
        ModelError, DataError: as :func:`prepare_training_set` and :func:`collect_teacher_logits` say.
    """
    from edgekd_torch.modules import load_module

    io = ModelIO(role="teacher", inputs=teacher.inputs, outputs=teacher.outputs, prepare=teacher.prepare)
    data = prepare_training_set(task, "train", io, None)
    collect_teacher_logits(
        load_module(teacher), data.student, config, out=out, resume=resume, progress=progress
    )
