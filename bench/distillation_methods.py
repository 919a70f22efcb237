"""What each distillation loss gives a small student on few digits, against labels alone.

The teacher learns from 1,000 digits, the students from the first 200 of them; accuracy on the 697 digits that neither
saw, mean over seeds. Run: ``python bench/distillation_methods.py``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from edgekd.distill.config import TrainConfig
from edgekd.distill.terms import LossTerm, loss_term
from edgekd.distill.train import TrainingSet, train
from edgekd_torch.modules import Seeded
from edgekd_torch.zoo import zoo_entry

TEACHER_ROWS, STUDENT_ROWS = 1000, 200
_LABELS = loss_term("labels", weight=0.1)
_LOGITS = loss_term("logits", weight=0.9)
_PAIR = [("features", "features")]

METHODS: dict[str, tuple[LossTerm, ...]] = {
    "labels": (loss_term("labels"),),
    "logits": (_LABELS, _LOGITS),
    "dist": (loss_term("labels"), loss_term("dist", weight=2)),
    "feature": (loss_term("labels"), loss_term("feature", weight=1, pairs=_PAIR)),
    "attention": (loss_term("labels"), loss_term("attention", weight=1000, pairs=_PAIR)),
    "relation": (loss_term("labels"), loss_term("relation", weight=0.2, pairs=[("pool", "pool")])),
    "logits + dist + feature": (
        _LABELS, _LOGITS, loss_term("dist"), loss_term("feature", weight=1, pairs=_PAIR),
    ),
}  # fmt: skip


def fit(
    name: str, images: np.ndarray, labels: np.ndarray, config: TrainConfig, teacher: torch.nn.Module | None
) -> torch.nn.Module:
    """A zoo network trained on these digits."""
    network: torch.nn.Module = Seeded(config.seed).build(zoo_entry(name))
    data = TrainingSet(
        student={"image": images}, labels=labels, teacher={"image": images} if teacher is not None else {}
    )
    with tempfile.TemporaryDirectory() as folder:
        train(network, teacher, data, config, resume=Path(folder))
    return network


def accuracy(network: torch.nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of right answers."""
    with torch.inference_mode():
        return float(np.mean(network(torch.from_numpy(images)).argmax(1).numpy() == labels))


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    args = parser.parse_args()
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = (digits.images[order, None] / 16).astype(np.float32)
    labels = digits.target[order].astype(np.int64)
    held = slice(TEACHER_ROWS, None)
    config = TrainConfig(epochs=30, batch=100, lr=0.05, augment=("shift1",))
    teacher = fit("digits-cnn-teacher", images[:TEACHER_ROWS], labels[:TEACHER_ROWS], config, None)
    print(f"| loss | accuracy, mean of {args.seeds} | lowest | highest |\n|---|---|---|---|")
    print(f"| teacher | {accuracy(teacher, images[held], labels[held]):.4f} | | |")
    for method in args.methods:
        found = []
        for seed in range(args.seeds):
            config = TrainConfig(
                method="losses", losses=METHODS[method], epochs=args.epochs, batch=50, lr=0.05, augment=("shift1",),
                seed=seed,
            )  # fmt: skip
            few = slice(0, STUDENT_ROWS)
            needs = teacher if config.needs_teacher else None
            student = fit("digits-cnn-student", images[few], labels[few], config, needs)
            found.append(accuracy(student, images[held], labels[held]))
        print(
            f"| {method} | {statistics.mean(found):.4f} | {min(found):.4f} | {max(found):.4f} |", flush=True
        )


if __name__ == "__main__":
    main()
