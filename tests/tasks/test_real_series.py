"""``edgekd gate`` on MNIST-1D (Greydanus 2020): networks that take their series at other lengths and layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures_nets import edgekd, fit, gate, write_model
from torch import nn

pytestmark = pytest.mark.data
#: What a perceptron with two layers of 100 reaches on these files (their README); a convolution must beat it.
PERCEPTRON = 0.659


def convolution(width: int, length: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(1, width, 5, 2, 2), nn.ReLU(), nn.Conv1d(width, width, 3, 2, 1), nn.ReLU(),
        nn.Conv1d(width, width, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(width * length // 8, 10),
    )  # fmt: skip


class TimeFirst(nn.Module):
    """Takes (n, time, 1)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x.transpose(1, 2))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    path = data_root / "timeseries" / "mnist1d.npz"
    if not path.exists():
        pytest.skip(f"no {path}")
    with np.load(path) as data:
        x, y, test, label = (data[k] for k in ("x_train", "y_train", "x_test", "y_test"))
    folder = tmp_path_factory.mktemp("mnist1d")
    np.savez(folder / "test.npz", signal=test, label=label)
    mean, std = float(x.mean()), float(x.std())
    train, target = ((x - mean) / std)[:, None], y.astype(np.int64)
    torch.manual_seed(0)
    teacher = fit(convolution(32, 40), train, target, loss=nn.functional.cross_entropy, steps=400, lr=1e-2)
    # The student sees the series without its first and last four values.
    cut = np.ascontiguousarray(train[:, :, 4:36])
    student = fit(convolution(16, 32), cut, target, loss=nn.functional.cross_entropy, steps=300, lr=1e-2)
    keys = {"mean": mean, "std": std, "layout": "NCT"}
    write_model(teacher, folder / "teacher", (1, 40), outputs=["logits"], prepare=keys)
    keys = {**keys, "length": 32, "align": "centre", "layout": "NTC"}
    write_model(TimeFirst(student), folder / "student", (32, 1), outputs=["logits"], prepare=keys)
    return folder


def test_a_smaller_network_is_judged_against_its_teacher(place: Path) -> None:
    found = gate(
        place, "--teacher", "teacher", "--student", "student", "--data", "test.npz", "--task", "time-series",
        "--max-accuracy-drop", "0.01", "--out", "run", code=1,
    )  # fmt: skip
    (row,) = found["gates"]
    assert (row["gate"], row["metric"], row["method"], row["n"]) == ("accuracy", "top1", "tango", 1000)
    assert row["decision"] == "reject", "half the width, and less to see"
    teacher, student = (accuracy(place / "run", who) for who in ("teacher", "student"))
    assert teacher > PERCEPTRON
    assert row["estimate"] == pytest.approx(student - teacher)


def accuracy(run: Path, who: str) -> float:
    (path,) = run.rglob(f"eval-{who}-test.npz")
    with np.load(path) as rows:
        return float((rows["prediction"] == rows["label"]).mean())


def test_a_wrong_length_is_one_line(place: Path) -> None:
    done = edgekd(place, "eval", "student", "--data", "test.npz", "--task", "classification")
    assert done.returncode == 2
    assert "input 'x' has shape (1, 40), the model wants (n,32,1)" in done.stderr
