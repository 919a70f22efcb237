"""``edgekd gate`` on a real regression: a year of diabetes from ten measurements (Efron et al. 2004, LARS)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures_nets import edgekd, fit, gate, write_model
from torch import nn

datasets = pytest.importorskip("sklearn.datasets")
metrics = pytest.importorskip("sklearn.metrics")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diabetes")
    x, y = datasets.load_diabetes(return_X_y=True, scaled=False)
    rows = np.random.default_rng(0).permutation(len(x))
    x, y = x[rows].astype(np.float32), y[rows].astype(np.float32)
    train, test = slice(0, 242), slice(242, None)
    np.savez(folder / "test.npz", x=x[test], label=y[test], slice_sex=np.where(x[test, 1] > 1, "2", "1"))
    mean, std = x[train].mean(0), x[train].std(0)
    middle, spread = float(y[train].mean()), float(y[train].std())
    keys = {"mean": mean.tolist(), "std": std.tolist(), "label_mean": middle, "label_std": spread}
    scaled, wanted = (x[train] - mean) / std, (y[train, None] - middle) / spread
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 1))
    fit(teacher, scaled, wanted, loss=nn.functional.mse_loss, steps=200)
    student = fit(nn.Linear(10, 1), scaled, wanted, loss=nn.functional.mse_loss, steps=400, lr=1e-2)
    write_model(teacher, folder / "teacher", (10,), outputs=["y"], prepare=keys)
    write_model(student, folder / "student", (10,), outputs=["y"], prepare=keys)
    # The same student, its answers 40 units too high: half as much again of the mean error.
    write_model(
        student, folder / "damaged", (10,), outputs=["y"], prepare={**keys, "label_mean": middle + 40}
    )
    return folder


COMMON = ("--teacher", "teacher", "--data", "test.npz", "--task", "regression")


def test_values_are_scikit_learns(place: Path) -> None:
    done = edgekd(
        place, "eval", "student", "--data", "test.npz", "--task", "regression", "--out", "student.json"
    )
    assert done.returncode == 0, done.stderr
    with np.load(place / "student.npz") as rows:
        said, label = rows["prediction"], rows["label"]
    assert len(label) == 200
    assert f"{metrics.mean_absolute_error(label, said):.2f}" in done.stdout
    # A linear model explains about half the variance.
    assert 0.4 < metrics.r2_score(label, said) < 0.6


def test_a_student_as_good_passes(place: Path) -> None:
    found = gate(place, *COMMON, "--student", "student", "--max-accuracy-drop", "10", "--out", "pass", code=0)
    (row,) = found["gates"]
    assert (row["metric"], row["n"], row["limit"]) == ("mae", 200, -10)
    assert row["interval"][0] > -10


def test_a_student_that_is_off_is_rejected(place: Path) -> None:
    for metric, limit in (("rmse", "5"), ("r2", "0.05")):
        out = f"off-{metric}"
        found = gate(place, *COMMON, "--student", "damaged", "--metric", metric, "--max-accuracy-drop", limit, "--out", out, code=1)  # fmt: skip
        (row,) = found["gates"]
        assert row["decision"] == "reject", row
        assert row["estimate"] < -float(limit), "worse is negative, for errors too"
        with open(place / out / "verdict.json") as f:
            assert json.load(f) == found


def test_answers_that_are_no_numbers(place: Path) -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.log(x[:, :1] - 1e9)

    write_model(Broken(), place / "broken", (10,), outputs=["y"], prepare={})
    done = edgekd(place, "gate", *COMMON, "--student", "broken", "--max-accuracy-drop", "5", "--out", "nan")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "holds NaN or infinite values" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
