"""``edgekd gate`` on spoken digits (Free Spoken Digit Dataset): teacher on mel spectrograms, student on cepstra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures_nets import edgekd, fit, gate, write_model
from torch import nn

from edgekd.tasks.keywords import prepare_recording

pytest.importorskip("scipy.signal")

pytestmark = pytest.mark.data
RATE = 8000
UNHEARD = "george"
#: Nearest neighbour on spectrograms, on the official split; a network has to come near it.
NEIGHBOUR = 0.963
TEACHER = {
    "duration_s": 0.6, "features": "log-mel", "n_mels": 32, "n_fft": 256, "hop": 128, "layout": "NCFT",
    "mean": -7.0, "std": 4.0,
}  # fmt: skip
#: At half the rate, with fewer numbers.
STUDENT = {
    "sample_rate": 4000, "duration_s": 0.5, "features": "mfcc", "n_mels": 20, "n_mfcc": 12, "n_fft": 128, "hop": 100,
    "std": 8.0, "layout": "NFT",
}  # fmt: skip


def digits(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as data:
        return {k: data[k] for k in data.files}


def features(data: dict[str, np.ndarray], rows: np.ndarray, keys: dict[str, Any]) -> np.ndarray:
    cut = data["offsets"]
    return np.stack([prepare_recording(data["audio"][cut[i] : cut[i + 1]], RATE, keys) for i in rows])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    path = data_root / "audio" / "fsdd_train.npz"
    if not path.exists():
        pytest.skip(f"no {path}")
    data = digits(path)
    folder = tmp_path_factory.mktemp("digits")
    # Takes held out: the last ten of 45 of each speaker and digit; learned from 15 of the others.
    test = np.flatnonzero(data["take"] >= 40)
    train = np.flatnonzero((data["take"] >= 5) & (data["take"] < 20))
    cut = data["offsets"]
    parts = [data["audio"][cut[i] : cut[i + 1]] for i in test]
    np.savez(
        folder / "test.npz",
        audio=np.concatenate(parts),
        audio_offsets=np.cumsum([0, *map(len, parts)]),
        sample_rate=np.full(len(test), RATE),
        label=data["labels"][test],
        slice_speaker=data["speakers"][data["speaker"][test]],
    )
    target = data["labels"][train].astype(np.int64)
    loss = nn.functional.cross_entropy
    torch.manual_seed(0)
    x = features(data, train, TEACHER)
    teacher = nn.Sequential(
        nn.Conv2d(1, 16, 5, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.Flatten(),
        nn.LazyLinear(10),
    )  # fmt: skip
    teacher(torch.from_numpy(x[:2]))
    fit(teacher, x, target, loss=loss, steps=150, batch=128)
    write_model(teacher, folder / "teacher", x.shape[1:], outputs=["logits"], prepare=TEACHER)
    # The student has never heard one of the six speakers.
    heard = train[data["speakers"][data["speaker"][train]] != UNHEARD]
    target = data["labels"][heard].astype(np.int64)
    z = features(data, heard, STUDENT)
    student = nn.Sequential(nn.Flatten(), nn.Linear(z[0].size, 64), nn.ReLU(), nn.Linear(64, 10))
    fit(student, z, target, loss=loss, steps=300, batch=128)
    write_model(student, folder / "student", z.shape[1:], outputs=["logits"], prepare=STUDENT)
    return folder


COMMON = ("--teacher", "teacher", "--student", "student", "--data", "test.npz", "--task", "keyword-spotting")


def test_a_speaker_whom_the_student_never_heard_is_rejected(place: Path) -> None:
    (place / "policy.yaml").write_text(
        "gates:\n  accuracy: {max_drop: 0.2}\n  slices: {names: [speaker], max_drop: 0.2}\n"
    )
    found = gate(place, *COMMON, "--policy", "policy.yaml", "--out", "slices", code=1)
    decisions = {g.get("slice") or g["gate"]: g["decision"] for g in found["gates"]}
    assert decisions.pop(UNHEARD) == "reject", decisions
    assert decisions.pop("accuracy") == "pass", "on the whole it is within its margin"
    assert "reject" not in decisions.values(), decisions
    assert len([d for d in decisions if d.islower() and not d.startswith("slice")]) == 5
    (path,) = (place / "slices").rglob("eval-teacher-test.npz")
    with np.load(path) as rows:
        assert (rows["prediction"] == rows["label"]).mean() > NEIGHBOUR - 0.05


def test_six_speakers_are_too_few_clusters(place: Path) -> None:
    found = gate(place, *COMMON, "--cluster", "speaker", "--out", "clusters", code=3)
    (row,) = found["gates"]
    assert row["decision"] == "inconclusive"
    assert "6 clusters are too few" in row["reason"]


def test_a_rate_that_the_data_does_not_say(place: Path) -> None:
    with np.load(place / "test.npz") as data:
        np.savez(place / "bare.npz", **{k: data[k] for k in data.files if k != "sample_rate"})
    done = edgekd(place, "eval", "student", "--data", "bare.npz", "--task", "keyword-spotting")
    assert done.returncode == 2, done.stderr
    assert "the model wants 4000 Hz and the data does not say its sample rate" in done.stderr
