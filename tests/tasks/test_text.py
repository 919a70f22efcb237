"""Text classification: which column, which input, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_text import make_tokenizer

from edgekd.data import Example
from edgekd.errors import DataError, UsageError
from edgekd.spec import TensorSpec
from edgekd.tasks import ModelIO
from edgekd.tasks.text import TextClassification


def io(
    *names: str,
    role: str = "student",
    rename: Mapping[str, str] | None = None,
    shape: tuple[int | str, ...] = ("N", 6),
    dtype: str = "int64",
    **prepare: Any,
) -> ModelIO:
    return ModelIO(
        role=role,
        inputs=tuple(TensorSpec(name=n, dtype=dtype, shape=shape) for n in names),
        outputs=(),
        prepare=prepare,
        rename=rename or {},
    )


def row(**inputs: Any) -> Example:
    return Example(id="7", inputs={n.replace("__", "."): np.asarray(a) for n, a in inputs.items()}, label=0)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(
        make_tokenizer(tmp_path / "t.json", ["a a a a b b b c c d"], kind="word", size=50, special=True)
    )


@pytest.fixture
def task() -> TextClassification:
    return TextClassification(data={})


def test_what_it_is(task: TextClassification) -> None:
    assert (task.kind, task.metric, task.notes) == ("text-classification", "top1", ())
    with pytest.raises(UsageError, match="metric 'bleu' is not known for text-classification"):
        TextClassification(data={}, metric="bleu")


def test_inputs_by_name(task: TextClassification, path: str) -> None:
    model = io("token_type_ids", "attention_mask", "input_ids", tokenizer=path)
    feeds = task.prepare(row(text="a d"), model)
    assert feeds["input_ids"].tolist() == [[2, 4, 7, 3, 0, 0]]
    assert feeds["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0]]
    assert feeds["token_type_ids"].tolist() == [[0] * 6]
    assert {a.dtype.name for a in feeds.values()} == {"int64"}


def test_inputs_of_other_names_types_and_sizes(task: TextClassification, path: str) -> None:
    renamed = io("x", "m", rename={"x": "input_ids", "m": "attention_mask"}, dtype="int32", tokenizer=path)
    feeds = task.prepare(row(text="a"), renamed)
    assert feeds["x"].tolist() == [[2, 4, 3, 0, 0, 0]]
    assert feeds["m"].dtype == np.int32
    single = io("tokens", shape=("N", "T"), tokenizer=path, pad="longest")
    assert task.prepare(row(text="a b"), single)["tokens"].tolist() == [[2, 4, 5, 3]]
    fixed = io("tokens", shape=(4, 5), tokenizer=path)
    assert task.prepare(row(text="a b"), fixed)["tokens"].shape == (1, 5)


def test_roles_are_fed_by_their_own_tokenizers(task: TextClassification, path: str, tmp_path: Path) -> None:
    other = make_tokenizer(tmp_path / "o.json", ["d d d d c c c b b a"], kind="word", size=50)
    teacher = io("input_ids", role="teacher", tokenizer=path)
    student = io("input_ids", shape=("N", 3), tokenizer=str(other))
    assert task.prepare(row(text="a"), teacher)["input_ids"].tolist() == [[2, 4, 3, 0, 0, 0]]
    assert task.prepare(row(text="a"), student)["input_ids"].tolist() == [[7, 0, 0]]
    own = row(teacher__text="a", student__text="d")
    assert task.prepare(own, teacher)["input_ids"].tolist() == [[2, 4, 3, 0, 0, 0]]
    assert task.prepare(own, student)["input_ids"].tolist() == [[4, 0, 0]]


@pytest.mark.parametrize(
    ("inputs", "keys", "expected"),
    [
        ({"sentence": "a"}, {}, [2, 4, 3, 0, 0, 0]),
        ({"anything": "a"}, {}, [2, 4, 3, 0, 0, 0]),
        ({"text": "a", "title": "b"}, {}, [2, 4, 3, 0, 0, 0]),
        ({"text": "a", "title": "b"}, {"text": "title"}, [2, 5, 3, 0, 0, 0]),
        ({"text": "a", "text_pair": "b"}, {}, [2, 4, 3, 5, 3, 0]),
        ({"sentence1": "a", "sentence2": "b"}, {}, [2, 4, 3, 5, 3, 0]),
        ({"q": "a", "p": "b"}, {"text": ["p", "q"]}, [2, 5, 3, 4, 3, 0]),
    ],
)
def test_columns(
    task: TextClassification, path: str, inputs: dict[str, str], keys: dict[str, Any], expected: list[int]
) -> None:
    model = io("input_ids", tokenizer=path, **keys)
    assert task.prepare(row(**inputs), model)["input_ids"].tolist() == [expected]


def test_string_inputs(task: TextClassification) -> None:
    assert task.prepare(row(text="a b"), io("s", shape=("N",), dtype="string"))["s"].tolist() == ["a b"]
    assert task.prepare(row(text="a b"), io("s", shape=("N", 1), dtype="string"))["s"].tolist() == [["a b"]]


def test_ready_arrays(task: TextClassification) -> None:
    feeds = task.prepare(row(input_ids=[1, 2, 3]), io("input_ids", shape=("N", 3), dtype="int32"))
    assert feeds["input_ids"].tolist() == [[1, 2, 3]]
    assert feeds["input_ids"].dtype == np.int32
    both = task.prepare(row(input_ids=[1, 2, 3], note="not fed"), io("input_ids", shape=("N", 3)))
    assert both["input_ids"].tolist() == [[1, 2, 3]]
    with pytest.raises(
        DataError, match="example 7: input 'input_ids' holds the id -1; ids are whole numbers"
    ):
        task.prepare(row(input_ids=[1, -1, 3]), io("input_ids", shape=("N", 3)))


def test_cut_texts_are_counted(task: TextClassification, path: str) -> None:
    model = io("input_ids", tokenizer=path)
    for text in ("a", "a b c d", "a b c d a", "a b"):
        task.prepare(row(text=text), model)
    assert task.notes == ("1 of 4 texts are longer than the 6 tokens that the student takes, and were cut",)


@pytest.mark.parametrize(
    ("inputs", "model", "message"),
    [
        ({"text": "  "}, {}, "example 7: its text is empty; mend or drop the row"),
        ({"text": "a", "text_pair": ""}, {}, "its text is empty"),
        (
            {"a": "x", "b": "y"},
            {},
            r"several text columns and none named text \(columns: a, b\); name a column",
        ),
        (
            {"text": "a"},
            {"text": "sentence"},
            r"no text column sentence \(columns: text\); correct prepare.text",
        ),
        ({"x": 1.0}, {}, r"input 'input_ids' has dtype float64"),
        ({}, {}, r"no text column \(columns: none\)"),
    ],
)
def test_data_that_does_not_fit(
    task: TextClassification, path: str, inputs: dict[str, Any], model: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        task.prepare(row(**inputs), io("input_ids", tokenizer=path, **model))
    assert "\n" not in str(caught.value)


def test_models_that_do_not_fit(task: TextClassification, path: str) -> None:
    text = row(text="a b")
    with pytest.raises(
        UsageError, match=r"wants token ids, and its prepare names no tokenizer; put tokenizer\.json"
    ):
        task.prepare(text, io("input_ids"))
    with pytest.raises(
        UsageError, match="prepare key 'lenght' is not known; choose from tokenizer, max_length"
    ):
        task.prepare(text, io("input_ids", tokenizer=path, lenght=3))
    with pytest.raises(
        DataError, match=r"input 'extra' is none of input_ids, .*--map student:extra=input_ids"
    ):
        task.prepare(text, io("input_ids", "extra", tokenizer=path))
    with pytest.raises(DataError, match=r"no array 'typo' \(columns: text\)"):
        task.prepare(text, io("input_ids", rename={"input_ids": "typo"}, tokenizer=path))
    with pytest.raises(UsageError, match=r"has the shape \('N',\), token ids are \(batch, tokens\)"):
        task.prepare(text, io("input_ids", shape=("N",), tokenizer=path))
    with pytest.raises(UsageError, match=r"prepare\.text 3 names no columns; give one name, or two"):
        task.prepare(text, io("input_ids", tokenizer=path, text=3))
    uneven = io("input_ids", "attention_mask", tokenizer=path)
    specs = (uneven.inputs[0], TensorSpec(name="attention_mask", dtype="int64", shape=("N", 7)))
    with pytest.raises(UsageError, match=r"different numbers of tokens \(\[6, 7\]\)"):
        task.prepare(text, ModelIO(role="student", inputs=specs, outputs=(), prepare=uneven.prepare))


def test_scores_are_those_of_classification(task: TextClassification) -> None:
    made = task.decode({"logits": np.asarray([[0.0, 2.0]], np.float32)}, io("input_ids"))
    assert made.value == 1
    assert np.asarray(task.score([made, made], [1, 0])).tolist() == [1, 0]
