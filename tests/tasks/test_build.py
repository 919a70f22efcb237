"""From a task's description to a task."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekd.errors import DataError, UsageError
from edgekd.tasks import Scores, Task, TaskSpec, build_task, check_scores
from edgekd.tasks.build import check_prepare
from edgekd.tasks.classification import Classification, ImageClassification

MINE = '''
import numpy as np
from edgekd.data import open_source
from edgekd.tasks import Prediction

class Regression:
    """Right within 0.5: four methods and a metric's name, nothing of EdgeKD inherited."""
    metric = "within"

    def __init__(self, data, base):
        self.data, self.base = data, base

    def examples(self, split):
        return iter(open_source(self.data[split], self.base))

    def prepare(self, example, model):
        return {s.name: np.asarray(example.inputs["x"], np.float32)[None] for s in model.inputs}

    def decode(self, outputs, model):
        return Prediction(value=float(next(iter(outputs.values())).ravel()[0]))

    def score(self, predictions, labels):
        return np.asarray([float(abs(p.value - l) < 0.5) for p, l in zip(predictions, labels)])

class NoDecode:
    metric = "m"
    def __init__(self, data, base): ...
    def examples(self, split): ...
    def prepare(self, example, model): ...
    score = None

class NoMetric(Regression):
    metric = None
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], TaskSpec]:
    """A spec of a task in a module of this name, beside its data."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    np.savez(tmp_path / "d.npz", x=np.arange(4.0), label=np.arange(4))

    def make(module: str, name: str) -> TaskSpec:
        (tmp_path / f"{module}.py").write_text(MINE)
        return TaskSpec(kind=f"python:{module}:{name}", data={"test": "d.npz"}, base=str(tmp_path))

    return make


def test_built_in() -> None:
    task = build_task(TaskSpec(kind="image-classification", data={"test": "d.npz"}))
    assert isinstance(task, ImageClassification)
    assert (task.metric, task.kind) == ("top1", "image-classification")
    five = build_task(TaskSpec(metric="top5"))
    assert type(five) is Classification
    assert five.metric == "top5"
    assert isinstance(five, Task)


def test_prepare_keys_are_known_without_a_model(mine: Callable[[str, str], TaskSpec]) -> None:
    for kind in ("image-classification", "time-series", "keyword-spotting", "regression", "detection"):
        check_prepare(TaskSpec(kind=kind), {"mean": 0, "std": 2.5, "layout": "any"})
        with pytest.raises(UsageError, match="prepare key '2' is not known; choose from "):
            check_prepare(TaskSpec(kind=kind), {"meen": 1, 2: 3})  # type: ignore[dict-item]
    check_prepare(TaskSpec(kind="token-classification"), {"tokenizer": "t.json", "tags": ["O"]})
    with pytest.raises(UsageError, match="prepare key 'tags' is not known; choose from tokenizer"):
        check_prepare(TaskSpec(kind="text-classification"), {"tags": ["O"]})
    check_prepare(mine("keyed", "Regression"), {"meen": 1})  # its own business


def test_unknown() -> None:
    with pytest.raises(
        UsageError, match="no task is called 'poetry'; known: classification, detection, image-class"
    ):
        build_task(TaskSpec(kind="poetry"))
    with pytest.raises(UsageError, match="metric 'bleu' is not known"):
        build_task(TaskSpec(metric="bleu"))


def test_python_task(mine: Callable[[str, str], TaskSpec]) -> None:
    spec = mine("tb_mine", "Regression")
    task = build_task(spec)
    assert isinstance(task, Task)
    assert [e.label for e in task.examples("test")] == [0, 1, 2, 3]
    assert task.score([task.decode({"y": np.asarray([[1.2]])}, None)], [1]).tolist() == [1]  # type: ignore[arg-type]
    assert build_task(replace(spec, metric="within")).metric == "within"


def test_python_task_refused(mine: Callable[[str, str], TaskSpec]) -> None:
    with pytest.raises(
        UsageError, match=r"the task python:tb_no:NoDecode lacks decode, score; see docs/tasks.md"
    ):
        build_task(mine("tb_no", "NoDecode"))
    with pytest.raises(UsageError, match=r"lacks metric \(a string\)"):
        build_task(mine("tb_no", "NoMetric"))
    with pytest.raises(UsageError, match="measures 'within', not 'top1'; drop --metric"):
        build_task(replace(mine("tb_no", "Regression"), metric="top1"))


def test_spec_travels_as_json(tmp_path: Path) -> None:
    spec = TaskSpec(kind="classification", metric="top5", data={"test": "d.npz"}, base=str(tmp_path))
    assert TaskSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert spec.search == tmp_path
    assert TaskSpec().search is None


def test_split_digest(mine: Callable[[str, str], TaskSpec], tmp_path: Path) -> None:
    spec = mine("tb_digest", "Regression")
    digest = spec.split_digest("test")
    assert spec.split_digest("test") == digest
    assert replace(spec, metric="within").split_digest("test") == digest, (
        "its own metric, by name or by default"
    )
    topped = replace(spec, kind="classification", metric="top5")
    assert topped.split_digest("test") != replace(topped, metric="top1").split_digest("test")
    assert replace(topped, metric="top1").split_digest("test") == replace(topped, metric="").split_digest(
        "test"
    )
    assert replace(spec, kind="classification").split_digest("test") != digest
    assert replace(spec, data={"test": "d.npz", "select": "d.npz"}).split_digest("test") == digest
    assert replace(spec, data={"test": "d.npz#1:"}).split_digest("test") != digest
    (tmp_path / "tb_digest.py").write_text(MINE + "# edited\n")
    edited = spec.split_digest("test")
    assert edited != digest, "an edited task scores otherwise"
    np.savez(tmp_path / "d.npz", x=np.arange(4.0), label=np.arange(4) + 1)
    assert spec.split_digest("test") != edited
    with pytest.raises(UsageError, match="the task has no data for 'train'; it has test"):
        spec.split_digest("train")


def test_check_scores() -> None:
    found = check_scores([0, 1, 0.5], 3)  # type: ignore[arg-type]
    assert found.per_example.dtype == np.float64
    assert (found.aggregate, found.value, found.unit, found.error) == ("mean", 0.5, "fraction", False)
    assert found.statistics["sums"].tolist() == [[0, 1], [1, 1], [0.5, 1]]


def test_a_value_that_its_statistics_do_not_make_is_refused() -> None:
    sums = np.asarray([[4.0, 1.0], [0.0, 1.0]])
    given = Scores(
        per_example=np.zeros(2), value=2**0.5, aggregate="root_mean", statistics={"sums": sums}, error=True
    )
    assert check_scores(given, 2) is not None
    with pytest.raises(DataError, match=r"statistics make 1\.41421356"):
        check_scores(replace(given, value=1.5), 2)
    with pytest.raises(DataError, match="the metric is nan"):
        check_scores(replace(given, value=float("nan")), 2)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([0, 1], r"shape \(2,\) for 3 examples"),
        ([[0], [1], [1]], r"shape \(3, 1\)"),
        ([0, 1, 1.1], "outside"),
        ([0, -0.1, 1], "outside"),
        ([0, float("nan"), 1], "gave nan for row 1"),
    ],
)
def test_check_scores_refuses(scores: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_scores(np.asarray(scores), 3)
