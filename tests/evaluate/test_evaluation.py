"""Evaluation in a child: every example once, in order, whatever the batch; and errors that name the example."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.artifact import Artifact
from edgekd.data.example import Example
from edgekd.errors import DataError, EdgeKDError, ModelError, UsageError
from edgekd.evaluate import EvaluationRequest, evaluate, operations
from edgekd.evaluate.operations import batches, run_batch
from edgekd.evidence import Evaluation
from edgekd.models import open_reference
from edgekd.spec import TensorSpec
from edgekd.stages import StageStore
from edgekd.target import parse_target
from edgekd.tasks import ModelIO, TaskSpec

CLASSES = 10
MIX = (np.eye(CLASSES) + 0.01 * np.random.default_rng(1).standard_normal((CLASSES, CLASSES))).astype(
    np.float32
)


def write_model(path: Path, batch: int | str = "batch") -> Path:
    """``logits = x @ MIX`` and ``probs = softmax(logits)``."""
    nodes = [
        helper.make_node("MatMul", ["x", "mix"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probs"], axis=1),
    ]
    tensors = {
        n: helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, CLASSES])
        for n in ("x", "logits", "probs")
    }
    graph = helper.make_graph(
        nodes,
        "mix",
        [tensors["x"]],
        [tensors["logits"], tensors["probs"]],
        [numpy_helper.from_array(MIX, "mix")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def make_rows(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((n, CLASSES)).astype(np.float32),
        "label": rng.integers(0, CLASSES, n),
        "id": np.asarray([f"r{i}" for i in range(n)]),
    }


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Evaluation]:
    """Evaluate rows with the model above, in a child as always."""

    def evaluate_rows(rows: dict[str, np.ndarray], *, fixed: int | None = None, **changes: Any) -> Evaluation:
        opened = open_reference(
            str(write_model(tmp_path / "model.onnx", fixed or "batch")),
            weights=None,
            base=None,
            store=StageStore(tmp_path / "c"),
        )
        assert isinstance(opened, Artifact)
        np.savez(tmp_path / "rows.npz", **rows)
        task = changes.pop("task", None) or TaskSpec(
            data={"test": "rows.npz"}, base=str(tmp_path), metric=changes.pop("metric", "")
        )
        values: dict[str, Any] = {
            "label": "student", "artifact": opened, "target": parse_target("cpu:onnxruntime"),
            "runtime_paths": {"onnx": "edgekd_onnx.runtime:OnnxRuntime"}, "task": task, "split": "test",
            "data_digest": "sha256:" + "d" * 64, "output": {"name": "logits", "kind": "logits"}, "timeout_s": 120.0,
        }  # fmt: skip
        return evaluate(EvaluationRequest(**{**values, **changes}))

    return evaluate_rows


def test_a_model_of_one_batch_size_answers_every_example_once(run: Callable[..., Evaluation]) -> None:
    rows = make_rows(10)  # two batches of four, and two examples padded to four
    found = run(rows, fixed=4)
    assert found.ids.tolist() == rows["id"].tolist()
    np.testing.assert_allclose(found.logits, rows["x"] @ MIX, rtol=1e-5, atol=1e-6)
    assert found.predictions.tolist() == (rows["x"] @ MIX).argmax(1).tolist()
    assert found.scores.tolist() == (found.predictions == rows["label"]).astype(float).tolist()


def test_one_at_a_time_and_sixty_four_at_a_time_agree(run: Callable[..., Evaluation]) -> None:
    rows = make_rows(70)
    one, many = run(rows, batch=1), run(rows, batch=64)
    assert one.ids.tolist() == many.ids.tolist()
    assert one.predictions.tolist() == many.predictions.tolist()
    np.testing.assert_allclose(one.logits, many.logits, rtol=1e-5, atol=1e-6)


def test_of_several_outputs_one_is_chosen(run: Callable[..., Evaluation]) -> None:
    rows = make_rows(5)
    logits = rows["x"] @ MIX
    with pytest.raises(
        DataError, match=r"student has 2 outputs \(logits, probs\); choose one: --output NAME:logits"
    ):
        run(rows, output={})
    probs = run(rows, output={"name": "probs", "kind": "probs"})
    # Probabilities are kept as their logarithms: logits up to a constant per example.
    np.testing.assert_allclose(np.diff(probs.logits, axis=1), np.diff(logits, axis=1), rtol=1e-3, atol=1e-4)
    assert probs.predictions.tolist() == logits.argmax(1).tolist()
    with pytest.raises(DataError, match="which are not probabilities"):
        run(rows, output={"name": "logits", "kind": "probs"})


def test_slices_stay_with_their_rows(run: Callable[..., Evaluation]) -> None:
    rows = {**make_rows(6), "slice_light": np.asarray(["day", "night"] * 3), "slice_size": np.arange(6)}
    found = run(rows)
    assert {k: v.tolist() for k, v in found.slices.items()} == {
        "light": ["day", "night"] * 3,
        "size": ["0", "1", "2", "3", "4", "5"],
    }


def test_top5_counts_the_fifth_and_not_the_sixth(run: Callable[..., Evaluation]) -> None:
    rows = make_rows(12)
    ranks = np.argsort(-(rows["x"] @ MIX), axis=1)
    rows["label"] = np.asarray([ranks[i, 4 if i % 2 == 0 else 5] for i in range(12)])
    found = run(rows, metric="top5")
    assert found.metric == "top5"
    assert found.scores.tolist() == [1.0, 0.0] * 6


def spoilt(name: str) -> dict[str, np.ndarray]:
    rows = make_rows(9)
    if name == "nan":
        rows["x"][7, 3] = np.nan
    elif name == "shape":
        rows["x"] = rows["x"][:, :7]
    elif name == "dtype":
        rows["x"] = rows["x"].astype(np.float64)
    elif name == "no label":
        del rows["label"]
    elif name == "label":
        rows["label"][3] = CLASSES
    elif name == "id":
        rows["id"][5] = "r1"
    elif name == "empty":
        rows = {k: v[:0] for k, v in rows.items()}
    return rows


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("nan", "example r7: the array 'x' holds NaN or infinite values"),
        ("shape", "example r0: input 'x' has shape (1, 7), the model wants (batch,10)"),
        ("dtype", "example r0: input 'x' has dtype float64, the model wants float32"),
        ("no label", "example r0 has no label"),
        ("label", "row 3 has the label 10, the model has 10 classes"),
        ("id", "the id 'r1' is given twice"),
        ("empty", "the data for 'test' is empty"),
    ],
)
def test_wrong_data_is_one_line_that_names_the_example(
    run: Callable[..., Evaluation], what: str, words: str
) -> None:
    with pytest.raises(DataError) as caught:
        run(spoilt(what))
    assert caught.value.what.startswith("student (model.onnx): ")
    assert words in caught.value.what
    assert caught.value.fix
    assert "\n" not in str(caught.value)


TASK = """
import os
from pathlib import Path
import numpy as np
from edgekd.data import Example
from edgekd.tasks import Prediction


class Sign:
    metric = "sign"

    def examples(self, split):
        for i, value in enumerate([0.5, -0.5, 0.25]):
            yield Example(id=f"s{i}", inputs={"x": np.full(10, value, np.float32)}, label=value > 0,
                          slices={"pid": str(os.getpid())})

    def prepare(self, example, model):
        return {"x": example.inputs["x"][None]}

    def decode(self, outputs, model):
        return Prediction(value=int(outputs["logits"].sum() > 0))

    def score(self, predictions, labels):
        return np.array([float(p.value == l) for p, l in zip(predictions, labels)])


def make(data, base):
    return Sign()
"""


def test_a_python_task_runs_in_the_child_only(run: Callable[..., Evaluation], tmp_path: Path) -> None:
    import os

    (tmp_path / "sign_task_of_a_test.py").write_text(TASK)
    task = TaskSpec(kind="python:sign_task_of_a_test:make", data={"test": ""}, base=str(tmp_path))
    found = run(make_rows(1), task=task, search=(tmp_path,))
    assert (found.metric, found.ids.tolist(), found.scores.tolist()) == (
        "sign",
        ["s0", "s1", "s2"],
        [1.0, 1.0, 1.0],
    )
    assert found.logits is None
    (pid,) = set(found.slices["pid"].tolist())
    assert int(pid) != os.getpid()
    assert "sign_task_of_a_test" not in sys.modules


def test_a_format_that_the_target_cannot_open(run: Callable[..., Evaluation]) -> None:
    with pytest.raises(DataError, match=r"cpu:onnxruntime cannot open student \(format onnx\); export it"):
        run(make_rows(1), runtime_paths={"torch": "edgekd_torch.runtime:TorchRuntime"})


def test_a_missing_model_is_said_in_one_line(run: Callable[..., Evaluation], tmp_path: Path) -> None:
    artifact = Artifact(
        folder=tmp_path, entry="gone.onnx", format="onnx", dtype="float32", files=(),
        inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", CLASSES)),), outputs=(),
    )  # fmt: skip
    with pytest.raises(EdgeKDError) as caught:
        run(make_rows(1), artifact=artifact)
    assert "gone.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


class _Summing:
    """A session whose output has lost the batch."""

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"total": feeds["x"].sum(0, keepdims=True)}


def test_an_output_without_a_batch_is_run_one_by_one_or_refused() -> None:
    feeds = [{"x": np.full((1, 3), i, np.float32)} for i in range(4)]
    made = run_batch(_Summing(), feeds, None)  # type: ignore[arg-type]
    assert [m["total"].tolist() for m in made] == [[[i, i, i]] for i in range(4)]
    with pytest.raises(ModelError, match=r"'total' has shape \(1, 3\) for a batch of 4; .*batch 1"):
        run_batch(_Summing(), feeds, 4)  # type: ignore[arg-type]


SCALED = {"layout": "NT"}


@pytest.mark.parametrize(
    ("kind", "rows", "prepare", "words"),
    [
        (
            "time-series",
            {"x": np.ones((2, 8, 2, 2), np.float32)},
            SCALED,
            "example r0: a series of shape (8, 2, 2)",
        ),
        (
            "keyword-spotting",
            {"x": np.ones((2, 8, 2), np.int16)},
            SCALED,
            "example r0: a recording of shape (8, 2)",
        ),
        (
            "keyword-spotting",
            {"x": np.ones(10, np.float32), "x_offsets": [0, 10, 10]},
            SCALED,
            "example r1: the recording is empty; mend or drop it",
        ),
        (
            "regression",
            {"x": np.ones((2, 3), np.float32)},
            {"std": 1},
            "example r0: input 'x' has shape (1, 3)",
        ),
    ],
)
def test_what_cannot_be_prepared_names_its_example_once(
    run: Callable[..., Evaluation], tmp_path: Path, kind: str, rows: dict[str, Any], prepare: Any, words: str
) -> None:
    opened = open_reference(
        str(write_model(tmp_path / "m.onnx")), weights=None, base=None, store=StageStore(tmp_path / "c")
    )
    assert isinstance(opened, Artifact)
    task = TaskSpec(kind=kind, data={"test": "rows.npz"}, base=str(tmp_path))
    with pytest.raises(DataError) as caught:
        run(
            {**rows, "label": np.zeros(2), "id": np.asarray(["r0", "r1"])},
            task=task,
            artifact=replace(opened, prepare=prepare),
        )
    assert str(caught.value).startswith(f"student (m.onnx): {words}")
    assert str(caught.value).count("example r") == 1


def test_a_key_that_does_not_fit_names_its_model(run: Callable[..., Evaluation], tmp_path: Path) -> None:
    opened = open_reference(
        str(write_model(tmp_path / "m.onnx")), weights=None, base=None, store=StageStore(tmp_path / "c")
    )
    assert isinstance(opened, Artifact)
    task = TaskSpec(kind="regression", data={"test": "rows.npz"}, base=str(tmp_path))
    with pytest.raises(UsageError) as caught:
        run(make_rows(2), task=task, artifact=replace(opened, prepare={"std": 0}))
    assert str(caught.value) == "student (m.onnx): prepare.std is 0; expected numbers above 0"
    assert caught.value.exit_code == 2


class _Lengths:
    """A task whose examples differ in length."""

    def examples(self, split: str) -> Iterator[Example]:
        for i, length in enumerate([2, 2, 2, 5, 5, 2]):
            yield Example(id=str(i), inputs={"x": np.zeros(length, np.float32)}, label=0)

    def prepare(self, example: Example, model: ModelIO) -> dict[str, np.ndarray]:
        return {"x": example.inputs["x"][None]}


def test_examples_of_another_shape_start_a_batch() -> None:
    io = ModelIO(role="student", inputs=(), outputs=())
    made = [[e.id for e in examples] for examples, _ in batches(_Lengths(), "test", io, 2)]  # type: ignore[arg-type]
    assert made == [["0", "1"], ["2"], ["3", "4"], ["5"]]


def test_a_session_stays_open_for_the_next_rows_of_the_same_file(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def opening(args: dict[str, Any]) -> tuple[str, int]:
        opened.append(args["digest"])
        return f"session {len(opened)}", 7

    monkeypatch.setattr(operations, "open_session", opening)
    state: dict[str, Any] = {}
    asked: dict[str, Any] = {
        "runtime": "r", "path": "p", "digest": "a", "device": "cpu", "provider": "", "threads": 1, "settings": {},
    }  # fmt: skip
    assert operations.kept_session(state, {**asked, "again": True}) == ("session 1", 7)
    assert operations.kept_session(state, {**asked, "again": True, "rows": "other"}) == ("session 1", 7)
    # Another file at the same path, or other settings, is another session.
    operations.kept_session(state, {**asked, "digest": "b", "again": True})
    operations.kept_session(state, {**asked, "digest": "b", "settings": {"precision": "bf16"}, "again": True})
    assert opened == ["a", "b", "b"]
    # Without `again` nothing is kept.
    alone: dict[str, Any] = {}
    operations.kept_session(alone, asked)
    assert alone == {}
