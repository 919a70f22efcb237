"""The training loop: its loss, schedule, augmentation, checkpoints and refusals."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.distill.augment import draw_view
from edgekd.distill.config import TrainConfig
from edgekd.distill.losses import distillation_loss
from edgekd.distill.train import TrainingSet, learning_rate, train
from edgekd.errors import DataError, ModelError

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

RNG = np.random.default_rng(0)
N, CLASSES = 48, 4
QUICK = TrainConfig(epochs=1, batch=16, lr=0.05)


class Recorder(torch.nn.Module):
    """A linear classifier of images that keeps what it was given."""

    def __init__(self, features: int, classes: int = CLASSES) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(features, classes)
        self.seen: list[Any] = []
        self.modes: list[bool] = []

    def forward(self, image: Any) -> Any:
        self.seen.append(image.clone())
        self.modes.append(self.training)
        return self.linear(image.flatten(1))


def make_set(n: int = N, labels: np.ndarray | None = None, teacher: bool = False) -> TrainingSet:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, CLASSES, n) if labels is None else labels
    images = rng.standard_normal((n, 1, 6, 6)).astype(np.float32)
    images[np.arange(n), 0, labels % 6, :] += 2
    return TrainingSet(student={"image": images}, labels=labels, teacher={"image": images} if teacher else {})


def run(
    folder: Path, data: TrainingSet, config: TrainConfig = QUICK, **kwargs: Any
) -> tuple[Recorder, list[float]]:
    torch.manual_seed(0)
    student = kwargs.pop("student", None) or Recorder(int(np.prod(data.student["image"].shape[1:])))
    teacher = kwargs.pop("teacher", None)
    return student, train(student, teacher, data, config, resume=folder, **kwargs).losses


# The loss


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def reference_loss(s: np.ndarray, t: np.ndarray, y: np.ndarray, temperature: float, alpha: float) -> float:
    """Hinton et al. 2015, section 2, in float64: the mean over examples of both terms."""
    hard = -log_softmax(s)[np.arange(len(y)), y].mean()
    p, q = log_softmax(t / temperature), log_softmax(s / temperature)
    soft = (np.exp(p) * (p - q)).sum(1).mean()
    return float((1 - alpha) * hard + alpha * temperature**2 * soft)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
def test_loss_is_hintons(temperature: float, alpha: float) -> None:
    s, t = RNG.normal(0, 3, (7, 5)), RNG.normal(0, 3, (7, 5))
    y = RNG.integers(0, 5, 7)
    config = TrainConfig(method="logits", temperature=temperature, alpha=alpha)
    made = distillation_loss(torch.tensor(s), torch.tensor(t), torch.tensor(y), config)
    assert float(made) == pytest.approx(reference_loss(s, t, y, temperature, alpha), rel=1e-9)


def test_loss_without_a_teacher_is_cross_entropy() -> None:
    s, y = RNG.normal(0, 3, (7, 5)), RNG.integers(0, 5, 7)
    made = distillation_loss(torch.tensor(s), None, torch.tensor(y), TrainConfig(alpha=0.9))
    assert float(made) == pytest.approx(-log_softmax(s)[np.arange(7), y].mean(), rel=1e-9)


def test_a_student_that_agrees_with_its_teacher_has_no_soft_loss() -> None:
    s, y = RNG.normal(0, 3, (7, 5)), RNG.integers(0, 5, 7)
    config = TrainConfig(method="logits", alpha=1.0)
    # Logits are defined up to a constant per row.
    made = distillation_loss(torch.tensor(s), torch.tensor(s + 5), torch.tensor(y), config)
    assert float(made) == pytest.approx(0, abs=1e-9)


def test_soft_gradients_keep_their_size_at_high_temperature() -> None:
    """T^2 undoes the 1/T^2 of the soft targets' gradients (Hinton et al. 2015, section 2)."""
    s, t, y = RNG.normal(0, 1, (7, 5)), RNG.normal(0, 1, (7, 5)), RNG.integers(0, 5, 7)
    norms = []
    for temperature in (20.0, 200.0):
        logits = torch.tensor(s, requires_grad=True)
        config = TrainConfig(method="logits", alpha=1.0, temperature=temperature)
        distillation_loss(logits, torch.tensor(t), torch.tensor(y), config).backward()
        norms.append(float(logits.grad.norm()))
    assert norms[0] == pytest.approx(norms[1], rel=0.1)


# The schedule


def test_learning_rate_end_points() -> None:
    config = TrainConfig(lr=0.5, warmup=0.1)
    rates = [learning_rate(config, step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.5 / 11)
    assert rates[9] == pytest.approx(0.5 * 10 / 11)
    assert rates[10] == max(rates) == 0.5
    assert rates[55] == pytest.approx(0.25)
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_learning_rate_is_positive_at_every_step(warmup: float, steps: int) -> None:
    config = TrainConfig(lr=1.0, warmup=warmup)
    assert all(0 < learning_rate(config, step, steps) <= 1 for step in range(steps))


# Augmentation


def test_augmentation_is_shifts_and_mirrors_with_zero_padding() -> None:
    batch = torch.tensor(RNG.standard_normal((64, 2, 5, 6)))
    config = replace(QUICK, augment=("shift1", "flip"))
    made = draw_view(64, config, torch.Generator().manual_seed(0)).apply(batch, (5, 6))
    padded = torch.nn.functional.pad(batch, (1, 1, 1, 1))
    found = set()
    for i in range(len(batch)):
        for dy in range(3):
            for dx in range(3):
                window = padded[i, :, dy : dy + 5, dx : dx + 6]
                found |= {
                    (i, dy, dx, flip)
                    for flip, v in enumerate((window, window.flip(2)))
                    if torch.equal(v, made[i])
                }
    assert sorted(i for i, *_ in found) == list(range(64)), "each is one shift of its own image"
    assert {(dy, dx) for _, dy, dx, _ in found} == {(a, b) for a in range(3) for b in range(3)}
    assert {flip for *_, flip in found} == {0, 1}


@pytest.mark.parametrize(("augment", "pad"), [(("crop2",), 2), (("crop4",), 4), (("flip",), 0)])
def test_greatest_shift(augment: tuple[str, ...], pad: int) -> None:
    batch = torch.zeros(400, 1, 11, 11)
    batch[:, :, 5, 5] = 1
    config = replace(QUICK, augment=augment)
    made = draw_view(400, config, torch.Generator().manual_seed(0)).apply(batch, (11, 11))
    rows, cols = (made.nonzero()[:, d] - 5 for d in (2, 3))
    assert [int(v) for v in (rows.min(), rows.max(), cols.min(), cols.max())] == [-pad, pad, -pad, pad]
    assert (made.sum((1, 2, 3)) == 1).all()


@pytest.mark.parametrize("same", [False, True])
def test_teacher_and_student_see_the_same_draw(tmp_path: Path, same: bool) -> None:
    data = make_set()
    images = data.student["image"]
    data = replace(data, teacher={"image": images if same else np.concatenate([2 * images] * 3, axis=1)})
    teacher = Recorder(36 if same else 108)
    config = replace(QUICK, method="logits", augment=("crop2", "flip"), epochs=2)
    student, _ = run(tmp_path, data, config, teacher=teacher)
    assert len(student.seen) == len(teacher.seen) == 6
    for own, theirs in zip(student.seen, teacher.seen, strict=True):
        for channel in range(theirs.shape[1]):
            torch.testing.assert_close(theirs[:, channel], own[:, 0] * (1 if same else 2), rtol=0, atol=0)
    every = torch.cat(student.seen[:3])
    plain = {tuple(x.ravel().tolist()) for x in images}
    assert sum(tuple(x.flatten().tolist()) in plain for x in every) < N / 2, "most images were changed"
    assert not torch.equal(every.sort(0).values, torch.cat(student.seen[3:]).sort(0).values), (
        "each epoch draws anew"
    )


def test_teacher_is_frozen(tmp_path: Path) -> None:
    teacher = Recorder(36)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    student, _ = run(tmp_path, make_set(teacher=True), replace(QUICK, method="logits"), teacher=teacher)
    assert teacher.modes == [False] * 3
    assert student.modes == [True] * 3
    assert not student.training
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])


# What comes out


def test_every_example_is_seen_once_per_epoch(tmp_path: Path) -> None:
    data = make_set(n=40)
    student, losses = run(tmp_path, data, replace(QUICK, epochs=2))
    assert [len(x) for x in student.seen] == [16, 16, 8] * 2
    for epoch in (student.seen[:3], student.seen[3:]):
        seen = sorted(tuple(x.flatten().tolist()) for x in torch.cat(epoch))
        assert seen == sorted(tuple(x.ravel().tolist()) for x in data.student["image"])
    assert not torch.equal(student.seen[0], student.seen[3]), "in another order"
    assert len(losses) == 2


def test_it_learns_and_reports(tmp_path: Path) -> None:
    calls: list[tuple[int, int, int, int, float]] = []
    _, losses = run(tmp_path, make_set(), replace(QUICK, epochs=6), progress=lambda *a: calls.append(a))
    assert losses[-1] < 0.5 * losses[0]
    assert [c[:4] for c in calls] == [(e, 6, s, 3) for e in range(6) for s in range(3)]
    assert [c[4] for c in calls if c[2] == 2] == pytest.approx(losses)


def test_the_seed_decides(tmp_path: Path) -> None:
    weights = []
    for i, seed in enumerate((3, 3, 4)):
        (tmp_path / str(i)).mkdir()
        student, _ = run(tmp_path / str(i), make_set(), replace(QUICK, seed=seed))
        weights.append(student.linear.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# Checkpoints

_SCRIPT = """
import hashlib, os, signal, sys
from dataclasses import replace
from pathlib import Path
import numpy as np, torch
from edgekd.distill.config import TrainConfig
from edgekd.distill.terms import loss_term
from edgekd.distill.train import TrainingSet, train
from edgekd_torch.modules import Seeded
from edgekd_torch.zoo import zoo_entry
torch.set_num_threads(1)
mode, root, case = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
rng = np.random.default_rng(0)
x = rng.standard_normal((96, 1, 8, 8)).astype(np.float32)
data = TrainingSet(student={"image": x}, labels=rng.integers(0, 10, 96), teacher={"image": x})
config = TrainConfig(method="logits", epochs=3, batch=32, augment=("shift1", "flip"), seed=5)
if case == "bfloat16":
    config = replace(config, precision=case)
if case == "adamw and a projector":
    losses = (loss_term("logits"), loss_term("feature", weight=5, pairs=[("features", "features")]))
    config = replace(config, method="losses", losses=losses, optimizer="adamw", lr=0.01)
teacher = Seeded(1).build(zoo_entry("digits-cnn-teacher"))
def once(folder, progress=None):
    folder.mkdir(exist_ok=True)
    module = Seeded(5).build(zoo_entry("digits-cnn-student"))
    history = train(module, teacher, data, config, resume=folder, progress=progress)
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest(), history.losses, history.terms
seen = []
def note(epoch, epochs, step, steps, loss):
    seen.append(epoch)
    if mode == "killed" and (epoch, step) == (1, 1):
        os.kill(os.getpid(), signal.SIGKILL)
if mode == "killed":
    print(*once(root / "whole"), flush=True)
print(*once(root / "resumed", note), flush=True)
print(sorted(set(seen)))
"""


@pytest.mark.parametrize("case", ["float32", "bfloat16", "adamw and a projector"])
def test_kill_9_after_a_checkpoint_changes_no_bit(tmp_path: Path, case: str) -> None:
    def start(mode: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", _SCRIPT, mode, str(tmp_path), case],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    killed = start("killed")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (whole,) = killed.stdout.splitlines()
    assert [p.name for p in (tmp_path / "resumed").iterdir()] == ["checkpoint.safetensors"]
    resumed = start("resumed")
    assert resumed.returncode == 0, resumed.stderr
    weights_and_losses, epochs = resumed.stdout.splitlines()
    assert epochs == "[1, 2]", "the first epoch was not trained again"
    assert weights_and_losses == whole


def test_a_checkpoint_of_another_training_is_not_used(tmp_path: Path) -> None:
    run(tmp_path, make_set())
    student, _ = run(tmp_path, make_set(), replace(QUICK, lr=0.01))
    assert len(student.seen) == 3
    finished, losses = run(tmp_path, make_set(), replace(QUICK, lr=0.01))
    assert (len(finished.seen), len(losses)) == (0, 1), "nothing is left to do"
    assert torch.equal(finished.linear.weight, student.linear.weight)


def test_tied_weights_are_kept(tmp_path: Path) -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = torch.nn.Linear(36, 36, bias=False), torch.nn.Linear(36, 36, bias=False)
            self.down.weight, self.head = self.up.weight, torch.nn.Linear(36, CLASSES)

        def forward(self, x: Any) -> Any:
            return self.head(self.down(self.up(x.flatten(1)).relu()))

    first, _ = run(tmp_path, make_set(), student=Tied())
    again, _ = run(tmp_path, make_set(), student=Tied())
    assert torch.equal(again.up.weight, first.up.weight), "nothing is left to do"
    assert again.down.weight is again.up.weight


def test_a_damaged_checkpoint_means_starting_over(tmp_path: Path) -> None:
    first, _ = run(tmp_path, make_set())
    path = tmp_path / "checkpoint.safetensors"
    for damaged in (b"", path.read_bytes()[:100], b"\xff" * 500):
        path.write_bytes(damaged)
        again, _ = run(tmp_path, make_set())
        assert torch.equal(again.linear.weight, first.linear.weight)
        assert len(again.seen) == 3


# Refusals


@pytest.mark.parametrize("bad", ["learning rate", "data"])
def test_a_loss_that_is_not_finite_is_refused(tmp_path: Path, bad: str) -> None:
    data = make_set()
    if bad == "data":
        data.student["image"][:] = math.nan
    with pytest.raises(
        ModelError, match=r"the loss became (nan|inf) in epoch \d, step \d; lower the learning rate"
    ):
        run(tmp_path, data, replace(QUICK, epochs=8, lr=1e30 if bad == "learning rate" else 0.1))
    assert not (tmp_path / "checkpoint.safetensors").exists() or bad == "learning rate"


@pytest.mark.parametrize("label", [CLASSES, -1])
def test_labels_out_of_range(tmp_path: Path, label: int) -> None:
    labels = np.zeros(N, np.int64)
    labels[0] = label
    span = f"{min(label, 0)} to {max(label, 0)}"
    with pytest.raises(
        DataError, match=f"training labels run from {span}, the network has {CLASSES} classes"
    ):
        run(tmp_path, make_set(labels=labels), replace(QUICK, batch=N))


def test_no_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the training data is empty"):
        run(tmp_path, make_set(n=0), student=Recorder(36))


def test_a_teacher_of_other_classes(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"answers with shape \(16, 4\), the teacher with \(16, 7\)"):
        run(tmp_path, make_set(teacher=True), replace(QUICK, method="logits"), teacher=Recorder(36, 7))


@pytest.mark.parametrize("classes", [1, CLASSES])
def test_a_network_that_does_not_classify(tmp_path: Path, classes: int) -> None:
    class Dense(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(1, classes, 1)

        def forward(self, image: Any) -> Any:
            return self.conv(image)

    with pytest.raises(ModelError, match=r"training needs \(batch, classes\)"):
        run(tmp_path, make_set(), student=Dense())


def test_augmenting_what_is_no_image(tmp_path: Path) -> None:
    data = make_set()
    flat = TrainingSet(student={"x": data.student["image"].reshape(N, 36)}, labels=data.labels, teacher={})
    with pytest.raises(ModelError, match="augment needs image inputs"):
        run(tmp_path, flat, replace(QUICK, augment=("flip",)), student=Recorder(36))


def test_augmenting_images_of_two_sizes(tmp_path: Path) -> None:
    data = replace(make_set(), teacher={"image": np.zeros((N, 1, 12, 12), np.float32)})
    with pytest.raises(ModelError, match=r"differ in size \(\(12, 12\) and \(6, 6\)\)"):
        run(tmp_path, data, replace(QUICK, method="logits", augment=("flip",)), teacher=Recorder(144))


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    from edgekd.errors import StorageError

    run(tmp_path, make_set())
    before = (tmp_path / "checkpoint.safetensors").read_bytes()

    def fail(fd: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=r"no space left while writing .*checkpoint\.safetensors"):
        run(tmp_path, make_set(), replace(QUICK, lr=0.01))
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
