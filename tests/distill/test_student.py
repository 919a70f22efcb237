"""From a task and a factory to a trained model folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.distill import TrainConfig, prepare_training_set, train_model
from edgekd.errors import DataError, StorageError
from edgekd.model import Model, load_model
from edgekd.spec import TensorSpec
from edgekd.tasks import ModelIO, Task, TaskSpec, build_task

Save = Callable[..., Task]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """A classification task whose training rows are these arrays."""

    def make(**arrays: Any) -> Task:
        np.savez(tmp_path / "d.npz", **{k.replace("__", "."): v for k, v in arrays.items()})
        return build_task(TaskSpec(kind="image-classification", data={"train": "d.npz"}, base=str(tmp_path)))

    return make


def io(role: str = "student", shape: tuple[int | str, ...] = ("N", 3, 2, 2), **prepare: Any) -> ModelIO:
    return ModelIO(
        role=role,
        inputs=(TensorSpec(name="image", dtype="float32", shape=shape),),
        outputs=(),
        prepare=prepare,
    )


IMAGES = np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3)
LABELS = np.asarray([0, 1, 2, 1])


def test_both_share_one_copy_where_they_prepare_alike(save: Save) -> None:
    made = prepare_training_set(
        save(image=IMAGES, label=LABELS), "train", io(scale=2), io("teacher", scale=2)
    )
    np.testing.assert_array_equal(made.student["image"], IMAGES.transpose(0, 3, 1, 2) / np.float32(2))
    assert made.teacher["image"] is made.student["image"]
    assert made.labels.dtype == np.int64
    assert made.labels.tolist() == LABELS.tolist()


def test_each_has_its_own_preparation(save: Save) -> None:
    made = prepare_training_set(
        save(image=IMAGES, label=LABELS), "train", io(scale=2), io("teacher", scale=4)
    )
    np.testing.assert_array_equal(made.teacher["image"] * 2, made.student["image"])


def test_each_has_its_own_arrays(save: Save) -> None:
    task = save(student__image=IMAGES, teacher__image=IMAGES + 1, label=LABELS)
    made = prepare_training_set(task, "train", io(), io("teacher"))
    np.testing.assert_array_equal(made.teacher["image"], made.student["image"] + 1)


def test_without_a_teacher(save: Save) -> None:
    assert prepare_training_set(save(image=IMAGES, label=LABELS), "train", io(), None).teacher == {}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.asarray([0.5, 1, 2, 3]), "training example 0 has the label 0.5; give whole numbers"),
        (np.asarray(["a", "b", "c", "d"]), "has the label 'a'"),
        (None, "has the label None"),
    ],
)
def test_labels_that_are_no_classes(save: Save, labels: np.ndarray | None, message: str) -> None:
    arrays = {"image": IMAGES} | ({} if labels is None else {"label": labels})
    with pytest.raises(DataError, match=message):
        prepare_training_set(save(**arrays), "train", io(), None)


def test_no_rows(save: Save) -> None:
    with pytest.raises(DataError, match="the split 'train' is empty"):
        prepare_training_set(save(image=IMAGES[:0], label=LABELS[:0]), "train", io(), None)


def test_rows_of_several_sizes(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dynamic dimension allows them one by one; a batch does not."""
    task = save(image=IMAGES, label=LABELS)
    sizes = iter([2, 2, 3, 2])
    monkeypatch.setattr(
        type(task), "prepare",
        lambda self, example, model: {"image": np.zeros((1, 3, next(sizes), 2), np.float32)},
    )  # fmt: skip
    with pytest.raises(
        DataError, match=r"training example 2 has the shape \(3, 3, 2\), those before it \(3, 2, 2\)"
    ):
        prepare_training_set(task, "train", io(shape=("N", 3, "h", 2)), None)


def test_weights_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from edgekd_torch.modules import load_weights, save_weights

    module, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    save_weights(module, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert torch.equal(other.weight, module.weight)

    def fail(fd: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=r"no space left while writing .*w\.safetensors"):
        save_weights(torch.nn.Linear(3, 2), tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert torch.equal(other.weight, module.weight), "the earlier weights are intact"


def train(folder: Path, teacher: Model | None = None, **config: Any) -> Model:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    out, resume = folder / "out", folder / "resume"
    for f in (out, resume):
        f.mkdir(parents=True)
    task = build_task(TaskSpec(data={"train": "sklearn:digits#0:200"}))
    return train_model(
        factory="zoo:digits-cnn-student", search=None, init=None, prepare={}, name="student", task=task,
        config=TrainConfig(epochs=2, batch=50, **config), teacher=teacher, out=out, resume=resume, lineage={"a": 1},
    )  # fmt: skip


def test_train_model_leaves_a_model_folder(tmp_path: Path) -> None:
    made = train(tmp_path / "a")
    assert load_model(tmp_path / "a" / "out") == made
    assert sorted(p.name for p in (tmp_path / "a" / "out").iterdir()) == ["model.json", "student.safetensors"]
    assert made.lineage["a"] == 1
    assert made.lineage["training"]["epochs"] == 2
    assert made.lineage["losses"][1] < made.lineage["losses"][0]
    assert made.inputs[0].shape == ("batch", 1, 8, 8)

    taught = train(tmp_path / "b", teacher=made, method="logits")
    assert taught.as_artifact().digest != made.as_artifact().digest
    again = train(tmp_path / "c", teacher=made, method="labels")
    assert again.as_artifact().digest == made.as_artifact().digest, "labels alone need no teacher"
