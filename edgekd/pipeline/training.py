"""Stages that end in a :class:`Model`: the teacher, the distilled student, the naive controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.distill import TrainConfig
from edgekd.distill.train import Progress
from edgekd.errors import ModelError
from edgekd.files import sha256_file
from edgekd.model import Model, load_model
from edgekd.models import materialise
from edgekd.recipe import DistillBlock, TrainBlock
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
            f"weights {request.weights} do not exist", "check the path (relative paths start at the recipe)"
        )
    soft = request.teacher if config.method == "logits" else None
    key = {
        "factory": factory_digest(request.factory, search),
        "prepare": dict(request.prepare),
        "weights": sha256_file(request.weights) if request.weights else None,
        "training": config.to_json(),
        "teacher": soft.as_artifact().digest if soft else None,
        "data": task.split_digest("train"),
        "tools": tool_versions("torch"),
    }
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
