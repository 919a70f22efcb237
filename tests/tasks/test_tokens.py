"""Token classification: words, their first tokens, tags, and the three metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_text import make_tokenizer

from edgekd.data import Example
from edgekd.errors import DataError, UsageError
from edgekd.spec import TensorSpec
from edgekd.tasks import ModelIO, Prediction, Scores, check_scores
from edgekd.tasks.tokens import TokenClassification, tag_names, tag_text

TAGS = ["O", "B-PER", "I-PER", "B-LOC"]


def io(
    *, shape: tuple[int | str, ...] = ("N", 8), output: Mapping[str, str] | None = None, **prepare: Any
) -> ModelIO:
    return ModelIO(
        role="student",
        inputs=(TensorSpec(name="input_ids", dtype="int64", shape=shape),),
        outputs=(),
        prepare=prepare,
        output=output or {},
    )


def row(label: Any = None, **inputs: Any) -> Example:
    return Example(id="7", inputs={n: np.asarray(a) for n, a in inputs.items()}, label=label)


def answers(*ids: int, tags: int = 4) -> dict[str, np.ndarray]:
    """Outputs whose greatest value is that of these tags."""
    return {"logits": np.eye(tags, dtype=np.float32)[list(ids)][None]}


@pytest.fixture
def task() -> TokenClassification:
    return TokenClassification(data={})


@pytest.fixture
def path(tmp_path: Path) -> str:
    """[CLS] 2, [SEP] 3, then a, b, c, d."""
    return str(
        make_tokenizer(tmp_path / "t.json", ["a a a a b b b c c d"], kind="word", size=50, special=True)
    )


def test_a_words_tag_is_that_of_its_first_token(task: TokenClassification, path: str) -> None:
    model, example = io(tokenizer=path, tags=TAGS), row(words=["a", "b.c", "d"])
    assert task.prepare(example, model)["input_ids"].tolist() == [[2, 4, 5, 1, 6, 7, 3, 0]]
    # [CLS] a b . c d [SEP] [PAD]
    made = task.decode_for(example, answers(3, 1, 2, 3, 3, 0, 3, 3), model)
    assert made == Prediction(value="B-PER I-PER O")
    assert task.decode(answers(3, 1), model).value == "B-LOC B-PER"


def test_text_is_split_at_spaces(task: TokenClassification, path: str) -> None:
    example = row(text=" a  b\td ")
    assert task.prepare(example, io(tokenizer=path))["input_ids"].tolist() == [[2, 4, 5, 7, 3, 0, 0, 0]]


def test_words_that_were_cut_are_outside_and_counted(task: TokenClassification, path: str) -> None:
    model, example = io(shape=("N", 4), tokenizer=path, tags=TAGS), row(words=["a", "b", "c", "d"])
    task.prepare(example, model)
    assert task.decode_for(example, answers(0, 1, 1, 0), model).value == "B-PER B-PER O O"
    assert task.notes == ("1 of 1 texts are longer than the 4 tokens that the student takes, and were cut",)
    with pytest.raises(DataError, match="2 of 4 words get no token of the student, and no tag means 'none'"):
        task.decode_for(example, answers(0, 1, 1, 0), io(shape=("N", 4), tokenizer=path))


def test_ready_arrays_are_answered_by_position(task: TokenClassification) -> None:
    model, example = io(shape=("N", 3), tags=TAGS), row(input_ids=[1, 2, 3])
    assert task.prepare(example, model)["input_ids"].tolist() == [[1, 2, 3]]
    assert task.decode_for(example, answers(0, 1, 2), model).value == "O B-PER I-PER"


def test_labels_become_text(tmp_path: Path) -> None:
    rows = [
        {"words": ["a", "b"], "label": ["B-PER", "O"]},
        {"words": ["a"], "label": [-100]},
        {"words": ["a", "b"], "label": " B-PER   O "},
    ]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = TokenClassification(data={"test": "d.jsonl"}, base=tmp_path)
    assert [e.label for e in task.examples("test")] == ["B-PER O", "-100", "B-PER O"]
    with pytest.raises(UsageError, match="no data for 'train'"):
        next(task.examples("train"))
    assert tag_text(np.asarray([0, 2, -100])) == "0 2 -100"
    assert tag_text(3) == 3


def test_tag_names() -> None:
    assert tag_names({"tags": TAGS}) == tuple(TAGS)
    assert tag_names({"tags": {"1": "B-PER", "0": "O"}}) == ("O", "B-PER")
    assert tag_names({}) == ()
    for wrong in ("O B-PER", [], ["O", 1], ["O", "B PER"], {"0": "O", "2": "B"}, {"a": "O"}, 3):
        with pytest.raises(UsageError, match=r"prepare\.tags .* is no list of tags"):
            tag_names({"tags": wrong})


def score(
    metric: str, said: Sequence[str], labels: Sequence[Any], tags: Sequence[str] | None = TAGS
) -> Scores:
    pytest.importorskip("seqeval")
    task = TokenClassification(data={}, metric=metric)
    if tags:
        task.decode(answers(0, tags=len(tags)), io(tags=tags))
    scored = task.score([Prediction(value=s) for s in said], labels)
    assert isinstance(scored, Scores)
    return check_scores(scored, len(said))


SAID = ["B-PER I-PER O B-LOC", "B-PER O", "O O", "O B-LOC"]
TRUTH = ["B-PER I-PER O O", "B-PER I-PER", "O O", "B-LOC B-LOC"]


def test_entity_f1_by_hand() -> None:
    """Whole entities only: B-PER alone is not B-PER I-PER. tp 1 + 0 + 0 + 1, fp 1 + 1, fn 0 + 1 + 0 + 1."""
    found = score("entity_f1", SAID, TRUTH)
    assert (found.aggregate, found.statistics["sums"].tolist()) == (
        "f1", [[1, 1, 0], [0, 1, 1], [0, 0, 0], [1, 0, 1]],
    )  # fmt: skip
    assert found.value == pytest.approx(4 / 8)
    assert found.per_example.tolist() == pytest.approx([2 / 3, 0, 1, 2 / 3])


def test_other_metrics_by_hand() -> None:
    accuracy = score("token_accuracy", SAID, TRUTH)
    assert accuracy.value == pytest.approx(7 / 10)
    assert accuracy.statistics["sums"].tolist() == [[3, 4], [1, 2], [2, 2], [1, 2]]
    # O: tp 3 fp 2 fn 1; B-PER: tp 2; I-PER: tp 1 fn 1; B-LOC: tp 1 fp 1 fn 1
    assert score("token_f1", SAID, TRUTH).value == pytest.approx((6 / 9 + 1 + 2 / 3 + 1 / 2) / 4)


@pytest.mark.parametrize("metric", ["entity_f1", "token_f1", "token_accuracy"])
def test_labels_as_numbers_and_ignored_words(metric: str) -> None:
    by_name = score(metric, ["B-PER I-PER O", "O B-LOC"], ["B-PER O -100", "-100 B-LOC"])
    by_id = score(metric, ["B-PER I-PER O", "O B-LOC"], ["1 0 -100", "-100 3"])
    assert by_id.value == by_name.value
    assert by_id.statistics["sums"].tolist() == by_name.statistics["sums"].tolist()


def test_numbers_on_both_sides_need_no_names() -> None:
    assert score("token_accuracy", ["1 0 2"], ["1 2 -100"], tags=None).value == 0.5
    with pytest.raises(DataError, match="row 0 has the tag '1', which is not O, B-TYPE or I-TYPE"):
        score("entity_f1", ["1 0 2"], ["1 2 -100"], tags=None)


@pytest.mark.parametrize(
    ("said", "label", "message"),
    [
        ("O O", "O", "row 0 has 1 labels for 2 words; give one tag per word"),
        ("O O", 1, "row 0 has the label 1; give one tag per word"),
        ("O O", "4 0", "row 0 has the label 4, the model has 4 tags"),
        ("O O", "-100 -100", "no word has a label"),
        ("O O", "O PER", "row 0 has the tag 'PER', which is not O, B-TYPE or I-TYPE"),
        ("O B-PER", "O O", "no label is of an entity"),
    ],
)
def test_labels_that_do_not_fit(said: str, label: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score("entity_f1", [said], [label])


def test_names_on_one_side_only() -> None:
    with pytest.raises(
        DataError, match=r"row 0 has the tag 'O', and nothing says what the model's classes mean; name"
    ):
        score("token_accuracy", ["0 1"], ["O B-PER"], tags=None)
    with pytest.raises(DataError, match="all labels are O: token_f1 does not exist for one tag only"):
        score("token_f1", ["O B-PER"], ["O O"])


@pytest.mark.parametrize(
    ("outputs", "model", "message"),
    [
        (answers(0, 1, 2), {}, "answers 3 positions for 8 tokens; choose the output"),
        ({"a": np.zeros((1, 8)), "b": np.zeros((1, 8))}, {}, r"has 2 outputs \(a, b\); choose one"),
        (
            {"a": np.zeros((1, 8))},
            {},
            r"shape \(1, 8\) per example; token-classification compares \(1, tokens, tags\)",
        ),
        ({"a": np.full((1, 8, 4), np.nan)}, {}, "holds NaN or infinite values"),
        (answers(*[0] * 8, tags=3), {}, r"tells 3 tags apart, its prepare\.tags names 4"),
        (answers(*[0] * 8), {"output": {"name": "z"}}, "has no output 'z'"),
    ],
)
def test_outputs_that_do_not_fit(
    task: TokenClassification, path: str, outputs: dict[str, np.ndarray], model: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        task.decode_for(row(words=["a", "b"]), outputs, io(tokenizer=path, tags=TAGS, **model))


def test_no_words(task: TokenClassification, path: str) -> None:
    for empty in (row(text=" "), row(words=np.asarray([], dtype=str))):
        with pytest.raises(DataError, match="example 7: its text is empty"):
            task.prepare(empty, io(tokenizer=path))
    with pytest.raises(
        UsageError, match="metric 'f1' is not known for token-classification; choose from entity_f1"
    ):
        TokenClassification(data={}, metric="f1")
