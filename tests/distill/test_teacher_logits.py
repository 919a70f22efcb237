"""A teacher that is asked once: what is kept, how exact it is, and what a kill costs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.distill.augment import view_of
from edgekd.distill.config import TrainConfig
from edgekd.distill.teacher_logits import collect_teacher_logits, load_teacher_logits
from edgekd.distill.train import TrainingSet, train
from edgekd.errors import EvidenceError, ModelError

torch = pytest.importorskip("torch")

N, CLASSES = 40, 6
CONFIG = TrainConfig(method="logits", epochs=4, batch=16, lr=0.05, augment=("shift1", "flip"), views=2)


class Teacher(torch.nn.Module):
    """Answers in sixteenths, which float16 keeps exactly; counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(36, CLASSES)
        self.asked = 0

    def forward(self, image: Any) -> Any:
        self.asked += 1
        return (self.linear(image.flatten(1)) * 16).round() / 16


def images() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((N, 1, 6, 6)).astype(np.float32)


def teacher() -> Teacher:
    torch.manual_seed(3)
    return Teacher()


def folders(root: Path) -> dict[str, Path]:
    made = {"out": root / "out", "resume": root / "resume"}
    for folder in made.values():
        folder.mkdir(parents=True, exist_ok=True)
    return made


def asked_directly(view: int) -> np.ndarray:
    x = view_of(view, N, CONFIG).apply(torch.from_numpy(images()), (6, 6))
    with torch.no_grad():
        return np.asarray(teacher()(x).numpy())


def test_every_view_is_kept_and_views_differ(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    asked = teacher()
    made = collect_teacher_logits(
        asked, {"image": images()}, CONFIG, **folders(tmp_path), progress=lambda *a: calls.append(a)
    )
    assert asked.asked == 6
    assert calls == [(16, 80), (32, 80), (40, 80), (56, 80), (72, 80), (80, 80)]
    rows = np.asarray([5, 0, 39])
    for view in range(2):
        np.testing.assert_array_equal(made.rows(view, rows), asked_directly(view)[rows])
    assert not np.array_equal(asked_directly(0), asked_directly(1))
    assert load_teacher_logits(tmp_path / "out") == made


def test_a_kill_between_views_asks_only_for_the_rest(tmp_path: Path) -> None:
    def kill(done: int, rows: int) -> None:
        if done > N:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect_teacher_logits(teacher(), {"image": images()}, CONFIG, **folders(tmp_path), progress=kill)
    assert (tmp_path / "resume" / "view0.npy").is_file()
    asked = teacher()
    made = collect_teacher_logits(asked, {"image": images()}, CONFIG, **folders(tmp_path))
    assert asked.asked == 3, "the first view was there"
    for view in range(2):
        np.testing.assert_array_equal(made.rows(view, np.arange(N)), asked_directly(view))


def probabilities(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_keeps_their_probabilities_and_the_mass_of_the_rest(tmp_path: Path, k: int) -> None:
    made = collect_teacher_logits(
        teacher(), {"image": images()}, replace(CONFIG, top_k=k), **folders(tmp_path)
    )
    whole = probabilities(asked_directly(0))
    found = probabilities(made.rows(0, np.arange(N)))
    order = np.argsort(-asked_directly(0), axis=1, kind="stable")
    kept = np.take_along_axis(whole, order[:, :k], axis=1)
    # The log of the rest's mass is kept in float16: 11 bits.
    np.testing.assert_allclose(np.sort(found, axis=1)[:, ::-1][:, :k], kept, rtol=2e-3)
    np.testing.assert_allclose(np.sort(found, axis=1)[:, : CLASSES - k].sum(1), 1 - kept.sum(1), rtol=5e-3)


def test_top_k_of_all_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="top_k is 6, the teacher has 6 classes"):
        collect_teacher_logits(teacher(), {"image": images()}, replace(CONFIG, top_k=6), **folders(tmp_path))


def test_logits_that_are_not_finite(tmp_path: Path) -> None:
    bad = images()
    bad[7] = np.nan
    with pytest.raises(ModelError, match="NaN or infinity, in view 0"):
        collect_teacher_logits(teacher(), {"image": bad}, CONFIG, **folders(tmp_path))


def test_damaged_files(tmp_path: Path) -> None:
    made = collect_teacher_logits(teacher(), {"image": images()}, CONFIG, **folders(tmp_path))
    np.save(tmp_path / "out" / "view0.npy", np.zeros((3, 3), np.float16))
    with pytest.raises(
        EvidenceError,
        match=r"view0.npy has shape \(3, 3\) of float16, expected numbers \(40, 6\); run with --fresh",
    ):
        made.rows(0, np.arange(2))
    (tmp_path / "out" / "view1.npy").unlink()
    with pytest.raises(EvidenceError, match="cannot be read"):
        made.rows(1, np.arange(2))


def test_a_student_of_another_size_is_refused_as_without_views(tmp_path: Path) -> None:
    kept = collect_teacher_logits(teacher(), {"image": images()}, CONFIG, **folders(tmp_path))
    assert kept.image == (6, 6)
    small = {"image": images()[:, :, :4, :4]}
    data = TrainingSet(student=small, labels=np.arange(N) % CLASSES, teacher={})

    def start(config: TrainConfig, name: str) -> None:
        (tmp_path / name).mkdir()
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, CLASSES))
        train(net, None, data, config, resume=tmp_path / name, kept=load_teacher_logits(tmp_path / "out"))

    with pytest.raises(ModelError, match=r"inputs differ in size \(\(6, 6\) and \(4, 4\)\)"):
        start(CONFIG, "augmented")
    start(replace(CONFIG, augment=()), "plain")
    # Logits that were kept before the size was.
    index = tmp_path / "out" / "teacher_logits.json"
    index.write_text(json.dumps({k: v for k, v in json.loads(index.read_text()).items() if k != "image"}))
    assert load_teacher_logits(tmp_path / "out").image is None
    start(CONFIG, "older")


def test_a_teacher_without_images_has_no_size(tmp_path: Path) -> None:
    rows = images().reshape(N, 36)
    kept = collect_teacher_logits(teacher(), {"row": rows}, replace(CONFIG, augment=()), **folders(tmp_path))
    assert kept.image == ()


class Asked:
    """Stands where the kept logits stand, and asks the teacher after all."""

    image = (6, 6)

    def rows(self, view: int, rows: np.ndarray) -> np.ndarray:
        return np.asarray(asked_directly(view)[rows], np.float32)


def test_a_training_is_the_same_as_if_the_teacher_were_asked(tmp_path: Path) -> None:
    kept = collect_teacher_logits(teacher(), {"image": images()}, CONFIG, **folders(tmp_path))
    labels = np.random.default_rng(2).integers(0, CLASSES, N)
    data = TrainingSet(student={"image": images()}, labels=labels, teacher={})
    weights = []
    for i, source in enumerate((kept, Asked())):
        torch.manual_seed(0)
        student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, CLASSES))
        (tmp_path / str(i)).mkdir()
        train(student, None, data, CONFIG, resume=tmp_path / str(i), kept=source)  # type: ignore[arg-type]
        weights.append(student[1].weight.detach().clone())
    assert torch.equal(*weights)


def test_the_naive_control_knows_nothing_of_views() -> None:
    from edgekd.pipeline.training import train_config
    from edgekd.recipe import DistillBlock

    block = DistillBlock(views=4, top_k=2, augment=["flip"], losses=[{"loss": "logits"}])
    control = train_config(block, seed=7, method="labels")
    assert (control.views, control.top_k, control.losses, control.method) == (0, 0, (), "labels")
    assert not control.needs_teacher
    taught = train_config(block)
    assert (taught.views, taught.top_k, taught.method) == (4, 2, "losses")
