"""Trainings with weighted losses: layers, projectors, optimisers, text; what is shipped and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_text import made_reviews, make_tokenizer

from edgekd.distill.config import TrainConfig
from edgekd.distill.student import train_model
from edgekd.distill.terms import LossTerm, loss_term
from edgekd.distill.train import TrainingSet, train
from edgekd.errors import ModelError, UsageError
from edgekd.tasks import TaskSpec, build_task

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from edgekd_torch.modules import Seeded  # noqa: E402
from edgekd_torch.zoo import zoo_entry  # noqa: E402

# Nets this small lose more than they gain by threads.
torch.set_num_threads(1)

PAIR = [("features", "features")]
QUICK = TrainConfig(method="losses", epochs=4, batch=32, lr=0.02, seed=1)


@pytest.fixture(scope="module")
def digits() -> TrainingSet:
    data = pytest.importorskip("sklearn.datasets").load_digits()
    images = (data.images[:64, None] / 16).astype(np.float32)
    return TrainingSet(student={"image": images}, labels=data.target[:64], teacher={"image": images})


def run(
    folder: Path, data: TrainingSet, losses: tuple[LossTerm, ...], **changes: Any
) -> tuple[Any, dict[str, list[float]]]:
    student, teacher = (Seeded(1).build(zoo_entry(f"digits-cnn-{r}")) for r in ("student", "teacher"))
    history = train(student, teacher, data, replace(QUICK, losses=losses, **changes), resume=folder)
    return student, history.terms


@pytest.mark.parametrize(
    ("loss", "weight", "pairs", "optimizer"),
    [
        ("logits", 1, [], "adamw"), ("dist", 1, [], "sgd"), ("feature", 5, PAIR, "adamw"), ("attention", 100, PAIR, "sgd"),
        ("relation", 0.1, PAIR, "sgd"),
    ],
)  # fmt: skip
def test_every_loss_comes_down(
    tmp_path: Path,
    digits: TrainingSet,
    loss: str,
    weight: float,
    pairs: list[tuple[str, str]],
    optimizer: str,
) -> None:
    lr = 0.02 if optimizer == "sgd" else 0.005
    terms = (loss_term("labels", weight=0.1), loss_term(loss, weight=weight, pairs=pairs))
    student, history = run(tmp_path, digits, terms, optimizer=optimizer, lr=lr)
    assert set(history) == {"labels", loss}
    assert history[loss][-1] < history[loss][0], history
    assert set(student.state_dict()) == set(Seeded(1).build(zoo_entry("digits-cnn-student")).state_dict()), (
        "no projector is left in the network"
    )
    assert not student._forward_hooks
    assert not student.features._forward_hooks


def test_the_first_step_of_the_history_is_the_loss_of_the_untrained_student(
    tmp_path: Path, digits: TrainingSet
) -> None:
    student, teacher = (Seeded(1).build(zoo_entry(f"digits-cnn-{r}")).train() for r in ("student", "teacher"))
    x = torch.from_numpy(digits.student["image"])
    pooled = student.pool(student.features(x)).mean((2, 3)).detach().numpy().astype(np.float64)
    teacher.eval()
    wanted = teacher.pool(teacher.features(x)).mean((2, 3)).detach().numpy().astype(np.float64)
    far = []
    for v in (pooled, wanted):
        d = np.linalg.norm(v[:, None] - v[None], axis=2)
        far.append(d / d[d > 0].mean())
    apart = np.abs(far[0] - far[1])
    mean = np.where(apart < 1, 0.5 * apart**2, apart - 0.5).mean()
    term = loss_term("relation", distance=1, angle=0, pairs=[("pool", "pool")])
    _, history = run(tmp_path, digits, (loss_term("labels"), term), epochs=1, batch=64)
    assert history["relation"] == [pytest.approx(mean, rel=1e-3)]


def test_a_projector_is_trained(tmp_path: Path, digits: TrainingSet) -> None:
    run(tmp_path, digits, (loss_term("labels"), loss_term("feature", pairs=PAIR)), epochs=2)
    safetensors = pytest.importorskip("safetensors.torch")
    kept = safetensors.load_file(str(tmp_path / "checkpoint.safetensors"))
    assert kept["projectors:0.map.weight"].shape == (96, 12, 1, 1)
    assert float(kept["momentum.projectors:0.map.weight"].abs().sum()) > 0


def test_views_and_layers(tmp_path: Path, digits: TrainingSet) -> None:
    with pytest.raises(UsageError, match="views keep the teacher's logits alone"):
        run(tmp_path, digits, (loss_term("labels"), loss_term("feature", pairs=PAIR)), views=2)


def test_losses_without_their_teacher(tmp_path: Path, digits: TrainingSet) -> None:
    student = Seeded(1).build(zoo_entry("digits-cnn-student"))
    with pytest.raises(UsageError, match="these losses need a teacher, and there is none"):
        train(student, None, digits, replace(QUICK, losses=(loss_term("dist"),)), resume=tmp_path)


def test_unknown_layer_of_the_teacher(tmp_path: Path, digits: TrainingSet) -> None:
    with pytest.raises(UsageError, match="the teacher has no layer 'feature'; did you mean 'features'"):
        terms = (loss_term("labels"), loss_term("feature", pairs=[("features", "feature")]))
        run(tmp_path, digits, terms)


def test_layers_of_other_sizes(tmp_path: Path, digits: TrainingSet) -> None:
    with pytest.raises(
        ModelError, match=r"'pool' \(12, 4, 4\) and the teacher's 'features' \(96, 8, 8\) cannot be"
    ):
        terms = (loss_term("labels"), loss_term("attention", pairs=[("pool", "features")]))
        run(tmp_path, digits, terms)


# Text

NETS = """
import torch
class Reader(torch.nn.Module):
    def __init__(self, width, layers, tokens):
        super().__init__()
        self.table = torch.nn.Embedding(64, width)
        self.place = torch.nn.Parameter(torch.zeros(tokens, width))
        layer = torch.nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.1, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = torch.nn.Linear(width, 2)
        shape = ("int64", ("batch", tokens))
        self.edgekd_inputs = {"input_ids": shape, "attention_mask": shape}
    def forward(self, input_ids, attention_mask):
        x = self.table(input_ids) + self.place
        x = self.encoder(x, src_key_padding_mask=attention_mask == 0)
        seen = attention_mask.unsqueeze(-1).float()
        return {"logits": self.head((x * seen).sum(1) / seen.sum(1))}
def student(): return Reader(16, 1, 16)
def teacher(): return Reader(24, 1, 16)
"""


def test_transformers_of_text_train_and_are_paired(tmp_path: Path) -> None:
    rows = made_reviews(96, seed=0)
    make_tokenizer(
        tmp_path / "tokenizer.json", [text for text, _ in rows], kind="word", size=64, special=True
    )
    lines = ["text\tlabel", *(f"{text}\t{label}" for text, label in rows)]
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "h4_text_nets.py").write_text(NETS, encoding="utf-8")
    task = build_task(TaskSpec(kind="text-classification", data={"train": "train.tsv"}, base=str(tmp_path)))
    prepare = {"tokenizer": str(tmp_path / "tokenizer.json")}

    def make(name: str, config: TrainConfig, teacher: Any = None) -> Any:
        out, resume = tmp_path / f"{name}-out", tmp_path / f"{name}-resume"
        out.mkdir()
        resume.mkdir()
        return train_model(
            factory=f"python:h4_text_nets:{name}", search=tmp_path, init=None, prepare=prepare, name=name,
            task=task, config=config, teacher=teacher, out=out, resume=resume, lineage={},
        )  # fmt: skip

    plain = TrainConfig(epochs=3, batch=16, lr=1e-2, optimizer="adamw", weight_decay=0.01)
    teacher = make("teacher", plain)
    losses = (
        loss_term("labels", weight=0.5), loss_term("logits", weight=0.5),
        loss_term("feature", weight=0.1, pairs=[("encoder.layers.0", "encoder.layers.0")]),
    )  # fmt: skip
    student = make("student", replace(plain, method="losses", losses=losses), teacher)
    history = json.loads((tmp_path / "student-out" / "model.json").read_text())["lineage"]["loss_terms"]
    assert teacher.lineage["losses"][-1] < teacher.lineage["losses"][0]
    assert set(history) == {"labels", "logits", "feature"}
    assert all(v[-1] < v[0] for v in history.values()), history
    assert student.parameters < teacher.parameters
