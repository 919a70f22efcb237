"""Stages that end in a :class:`Model`: the teacher, the distilled student, the naive controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact
from edgekd.distill import TrainConfig
from edgekd.distill.train import Progress
from edgekd.errors import ModelError, UsageError
from edgekd.files import sha256_file
from edgekd.model import Model, load_model
from edgekd.models import materialise, open_reference
from edgekd.prepare import locate_files, prepare_key
from edgekd.recipe import DistillBlock, Recipe, StudentBlock, TeacherBlock, TrainBlock
from edgekd.stages import StageStore, tool_versions
from edgekd.tasks import TaskSpec, build_task


def train_config(block: TrainBlock, *, seed: int | None = None, method: str | None = None) -> TrainConfig:
    """A recipe's training block as the frozen value that training takes."""
    values = block.model_dump()
    values["augment"] = tuple(values["augment"])
    if isinstance(block, DistillBlock):
        if method == "labels":
            values.pop("temperature"), values.pop("alpha")
    else:
        values["method"] = "labels"
    if seed is not None:
        values["seed"] = seed
    if method is not None:
        values["method"] = method
    return TrainConfig(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchModelRequest:
    """One network to obtain: trained, or only materialised from given weights.

    Attributes:
        factory: ``zoo:NAME`` or ``python:module:function``.
        weights: initial (or final) safetensors; None draws from the seed.
        config: how to train; None leaves the weights as they are.
        teacher: source of soft targets for method ``logits``.
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
    request: TorchModelRequest, task: TaskSpec, store: StageStore, progress: Progress | None
) -> tuple[Model, bool]:
    """The model of a request, out of the store or made now; and whether it was there already.

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
    soft = request.teacher if config.method == "logits" else None
    key = {
        "factory": factory_digest(request.factory, search),
        "prepare": prepare_key(request.prepare),
        "weights": sha256_file(request.weights) if request.weights else None,
        "training": config.to_json(),
        "teacher": soft.as_artifact().digest if soft else None,
        "data": task.split_digest("train"),
        "tools": tool_versions("torch"),
    }
    if soft is not None:
        key.update(_teacher_code(soft))
    if request.factory.startswith("python:"):
        key["search"] = str(search or "")
    lineage = {k: key[k] for k in ("factory", "weights", "teacher", "data")}

    def build(out: Path, resume: Path) -> None:
        from edgekd.distill import train_model

        train_model(
            factory=request.factory, search=search, init=request.weights, prepare=request.prepare,
            name=request.name, task=build_task(task), config=config, teacher=soft, out=out,
            resume=resume, lineage=lineage, progress=progress,
        )  # fmt: skip

    result = store.run("train", request.name, key, build)
    return load_model(result.folder), result.cached


#: Given (name of the training, epoch, epochs, step, steps, loss).
TrainProgress = Callable[[str, int, int, int, int, float], None]


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


def _train(
    request: TorchModelRequest, task: TaskSpec, store: StageStore, progress: TrainProgress | None
) -> Model:
    def report(epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
        if progress is not None:
            progress(request.name, epoch, epochs, step, steps, loss)

    return obtain_model(request, task, store, report)[0]


def _as_it_is(block: TeacherBlock | StudentBlock, base: Path, store: StageStore) -> Model | Artifact:
    """A model that was made elsewhere, with the recipe's preprocessing where it gives one."""
    opened = open_reference(block.model, weights=None, base=base, store=store)
    if not block.prepare:
        return opened
    prepare = locate_files(block.prepare, base)
    return replace(opened, prepare=prepare) if isinstance(opened, Model) else opened.with_prepare(prepare)


def make_models(recipe: Recipe, base: Path, store: StageStore, progress: TrainProgress | None = None) -> Made:
    """Teacher, student and naive controls: trained, fine-tuned or taken as they are.

    Raises:
        UsageError, ModelError, DataError: as the stages say.
    """
    task = task_spec(recipe, base)
    if _is_torch(recipe.teacher.model):
        teacher: Model | Artifact = _train(
            TorchModelRequest(
                name="teacher",
                factory=recipe.teacher.model,
                prepare=locate_files(recipe.teacher.prepare, base),
                weights=base / recipe.teacher.weights if recipe.teacher.weights else None,
                config=train_config(recipe.teacher.train) if recipe.teacher.train else None,
            ),
            task, store, progress,
        )  # fmt: skip
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
    student = _train(
        TorchModelRequest(
            name="distilled student",
            factory=recipe.student.model,
            prepare=locate_files(recipe.student.prepare, base),
            weights=base / recipe.student.weights if recipe.student.weights else None,
            config=train_config(distill) if distill else None,
            teacher=teacher if isinstance(teacher, Model) else None,
        ),
        task, store, progress,
    )  # fmt: skip
    return Made(teacher=teacher, student=student, naive=_naive(recipe, distill, base, task, store, progress))


def _naive(
    recipe: Recipe,
    distill: DistillBlock | None,
    base: Path,
    task: TaskSpec,
    store: StageStore,
    progress: TrainProgress | None,
) -> tuple[Model, ...]:
    """The controls: the student's network and schedule, without the teacher, on seeds of their own."""
    if distill is None:
        return ()
    return tuple(
        _train(
            TorchModelRequest(
                name=f"naive student {k + 1}",
                factory=recipe.student.model,
                prepare=locate_files(recipe.student.prepare, base),
                weights=base / recipe.student.weights if recipe.student.weights else None,
                config=train_config(distill, seed=distill.seed + 1 + k, method="labels"),
            ),
            task, store, progress,
        )
        for k in range(recipe.student.naive)
    )  # fmt: skip
