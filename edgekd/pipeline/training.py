"""Stages that end in a :class:`Model`: the teacher, the distilled student, the naive controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact
from edgekd.distill import TrainConfig
from edgekd.distill.fake_quant import QUANTIZERS, FakeQuantConfig
from edgekd.distill.group import ALONE, Group
from edgekd.doors import safe_weights
from edgekd.errors import ModelError, UsageError
from edgekd.files import sha256_file
from edgekd.model import Model, load_model
from edgekd.models import materialise, open_reference
from edgekd.pipeline.launched import store_of
from edgekd.prepare import locate_files, prepare_key
from edgekd.recipe import DistillBlock, Recipe, StudentBlock, TeacherBlock, TrainBlock
from edgekd.stages import StageStore, tool_versions
from edgekd.tasks import TaskSpec, build_task


def train_config(block: TrainBlock, *, seed: int | None = None, method: str | None = None) -> TrainConfig:
    """A recipe's training block as the frozen value that training takes."""
    values = block.model_dump()
    values["augment"] = tuple(values["augment"])
    if isinstance(block, DistillBlock):
        fake = values.pop("fake_quant")
        values["fake_quant"] = FakeQuantConfig(**fake) if fake is not None else None
        if method == "labels":
            for soft in ("temperature", "alpha", "views", "top_k", "losses"):
                values.pop(soft)
        elif block.losses:
            values["losses"] = tuple(b.as_term for b in block.losses)
            values["method"] = "losses"
        else:
            values.pop("losses")
    else:
        values["method"] = "labels"
    if seed is not None:
        values["seed"] = seed
    if method is not None:
        values["method"] = method
    return TrainConfig(**values)


#: Given (name of what is being done, epoch, epochs, step, steps, loss); the loss is None where a teacher is asked.
TrainProgress = Callable[[str, int, int, int, int, float | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchModelRequest:
    """One network to obtain: trained, or only materialised from given weights.

    Attributes:
        factory: ``zoo:NAME`` or ``python:module:function``.
        weights: initial (or final) safetensors; None draws from the seed.
        config: how to train; None leaves the weights as they are.
        teacher: who is learnt from, where ``config.needs_teacher``.
    """

    name: str
    factory: str
    prepare: Mapping[str, Any]
    weights: Path | None
    config: TrainConfig | None
    teacher: Model | None = None


def _teacher_code(teacher: Model) -> dict[str, Any]:
    """What its weights' digest does not tell of a teacher: its code, and preprocessing other than the zoo's own."""
    from edgekd_torch.zoo import ZOO

    if not teacher.factory.startswith("zoo:"):
        return {
            "teacher_code": teacher.lineage.get("factory"),
            "teacher_prepare": prepare_key(teacher.prepare),
        }
    usual = ZOO[teacher.factory.removeprefix("zoo:")].prepare
    return {} if dict(teacher.prepare) == dict(usual) else {"teacher_prepare": prepare_key(teacher.prepare)}


def obtain_model(
    request: TorchModelRequest,
    task: TaskSpec,
    store: StageStore,
    progress: TrainProgress | None,
    group: Group = ALONE,
) -> tuple[Model, bool]:
    """The model of a request, out of the store or made now; and whether it was there already.

    Args:
        store: :func:`edgekd.pipeline.launched.store_of` where ``group`` is of several processes.

    Raises:
        whatever making it raises; nothing half-made stays.
    """
    search = Path(task.base) if task.base else None
    config = request.config
    if config is None:
        return materialise(
            request.factory, name=request.name, prepare=request.prepare, weights=request.weights,
            search=search, store=store,
        )  # fmt: skip
    from edgekd_torch.modules import factory_digest

    if request.weights is not None and not request.weights.is_file():
        raise ModelError(
            f"weights {request.weights} do not exist",
            "check the path (relative paths start at the recipe, else here)",
        )
    if request.weights is not None:
        request = replace(request, weights=safe_weights(request.weights, store))
    soft = request.teacher if config.needs_teacher else None
    key = {
        "factory": factory_digest(request.factory, search),
        "prepare": prepare_key(request.prepare),
        "weights": sha256_file(request.weights) if request.weights else None,
        "training": config.to_json(),
        "teacher": soft.as_artifact().digest if soft else None,
        "data": task.split_digest("train"),
        "tools": tool_versions("torch", *(QUANTIZERS if config.fake_quant else ())),
    }
    if soft is not None:
        key.update(_teacher_code(soft))
    if request.factory.startswith("python:"):
        key["search"] = str(search or "")
    lineage = {k: key[k] for k in ("factory", "weights", "teacher", "data")}
    asked = soft is not None and config.views and not config.needs_features
    kept = _teacher_logits(soft, config, task, store, progress) if soft is not None and asked else None

    def report(epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
        if progress is not None:
            progress(request.name, epoch, epochs, step, steps, loss)

    def build(out: Path, resume: Path) -> None:
        from edgekd.distill import train_model

        train_model(
            factory=request.factory, search=search, init=request.weights, prepare=request.prepare,
            name=request.name, task=build_task(task), config=config, teacher=soft, out=out,
            resume=resume, lineage=lineage, kept=kept, progress=report, group=group,
        )  # fmt: skip

    result = store.run("train", request.name, key, build)
    return load_model(result.folder), result.cached


def _teacher_logits(
    teacher: Model, config: TrainConfig, task: TaskSpec, store: StageStore, progress: TrainProgress | None
) -> Path:
    """The folder of the teacher's logits, asked once for all trainings that take the same views."""
    key = {
        "teacher": teacher.as_artifact().digest,
        "data": task.split_digest("train"),
        "prepare": prepare_key(teacher.prepare),
        **{
            k: v
            for k, v in config.to_json().items()
            if k in ("augment", "seed", "views", "top_k", "precision")
        },
        **_teacher_code(teacher),
        "tools": tool_versions("torch"),
    }

    def build(out: Path, resume: Path) -> None:
        from edgekd.distill import keep_teacher_logits

        def report(done: int, rows: int) -> None:
            if progress is not None:
                progress("teacher logits", 0, 1, done - 1, rows, None)

        keep_teacher_logits(
            teacher=teacher, task=build_task(task), config=config, out=out, resume=resume, progress=report
        )

    return store.run("teacher-logits", "teacher logits", key, build).folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What the training stages left: models (or a given artifact), by role."""

    teacher: Model | Artifact
    student: Model | Artifact
    naive: tuple[Model, ...]


def task_spec(recipe: Recipe, base: Path) -> TaskSpec:
    """The recipe's task as plain data."""
    return TaskSpec(
        kind=recipe.task.kind,
        metric=recipe.task.metric,
        data={str(k): v for k, v in recipe.task.data.items()},
        base=str(base),
        cluster=recipe.task.cluster,
    )


def _is_torch(reference: str) -> bool:
    return reference.startswith(("zoo:", "python:"))


def _as_it_is(block: TeacherBlock | StudentBlock, base: Path, store: StageStore) -> Model | Artifact:
    """A model that was made elsewhere, with the recipe's preprocessing where it gives one."""
    opened = open_reference(block.model, weights=None, base=base, store=store)
    if not block.prepare:
        return opened
    prepare = locate_files(block.prepare, base)
    return replace(opened, prepare=prepare) if isinstance(opened, Model) else opened.with_prepare(prepare)


def make_models(
    recipe: Recipe,
    base: Path,
    store: StageStore,
    progress: TrainProgress | None = None,
    *,
    group: Group = ALONE,
) -> Made:
    """Teacher, student and naive controls: trained, fine-tuned or taken as they are.

    Args:
        group: the processes that train together; all call this, and the first one alone uses the store.

    Raises:
        UsageError, ModelError, DataError: as the stages say.
    """
    task = task_spec(recipe, base)
    store = store_of(group, store)

    def train(request: TorchModelRequest) -> Model:
        return obtain_model(request, task, store, progress, group)[0]

    if _is_torch(recipe.teacher.model):
        teacher: Model | Artifact = train(
            TorchModelRequest(
                name="teacher",
                factory=recipe.teacher.model,
                prepare=locate_files(recipe.teacher.prepare, base),
                weights=base / recipe.teacher.weights if recipe.teacher.weights else None,
                config=train_config(recipe.teacher.train) if recipe.teacher.train else None,
            )
        )
    else:
        teacher = _as_it_is(recipe.teacher, base, store)
    if not _is_torch(recipe.student.model):
        return Made(
            teacher=teacher,
            student=_as_it_is(recipe.student, base, store),
            naive=(),
        )
    distill = recipe.distill
    if distill is not None and not isinstance(teacher, Model):
        raise UsageError(
            f"the teacher {recipe.teacher.model} is not a torch module: its logits cannot be asked during training",
            "name a zoo: or python: teacher, or a model.json folder",
        )
    student = train(
        TorchModelRequest(
            name="distilled student",
            factory=recipe.student.model,
            prepare=locate_files(recipe.student.prepare, base),
            weights=base / recipe.student.weights if recipe.student.weights else None,
            config=train_config(distill) if distill else None,
            teacher=teacher if isinstance(teacher, Model) else None,
        )
    )
    return Made(teacher=teacher, student=student, naive=_naive(recipe, distill, base, train))


def _naive(
    recipe: Recipe,
    distill: DistillBlock | None,
    base: Path,
    train: Callable[[TorchModelRequest], Model],
) -> tuple[Model, ...]:
    """The controls: the student's network and schedule, without the teacher, on seeds of their own."""
    if distill is None:
        return ()
    return tuple(
        train(
            TorchModelRequest(
                name=f"naive student {k + 1}",
                factory=recipe.student.model,
                prepare=locate_files(recipe.student.prepare, base),
                weights=base / recipe.student.weights if recipe.student.weights else None,
                config=train_config(distill, seed=distill.seed + 1 + k, method="labels"),
            )
        )
        for k in range(recipe.student.naive)
    )
