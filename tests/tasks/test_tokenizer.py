"""Encoding: lengths, padding, truncation, words, and tokenizers that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fixtures_text import make_tokenizer

from edgekd.errors import DataError, UsageError
from edgekd.tasks.tokenizer import TextEncoder

pytest.importorskip("tokenizers")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """[PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, then a, b, c, d by frequency."""
    return make_tokenizer(tmp_path / "t.json", ["a a a a b b b c c d"], kind="word", size=50, special=True)


def encoder(path: Path, length: int | None = None, **keys: Any) -> TextEncoder:
    return TextEncoder({"tokenizer": str(path), **keys}, length)


def ids(path: Path, text: str, length: int | None = None, **keys: Any) -> list[int]:
    made: list[int] = encoder(path, length, **keys).encode(text).inputs["input_ids"].tolist()
    return made


def test_by_hand(path: Path) -> None:
    made = encoder(path, max_length=8).encode("a d", "b")
    assert made.inputs["input_ids"].tolist() == [2, 4, 7, 3, 5, 3, 0, 0]
    assert made.inputs["attention_mask"].tolist() == [1] * 6 + [0] * 2
    assert made.inputs["token_type_ids"].tolist() == [0, 0, 0, 0, 1, 1, 0, 0]
    assert {a.dtype.name for a in made.inputs.values()} == {"int64"}
    assert not made.truncated
    assert made.limit == 8


def test_lengths(path: Path) -> None:
    """The recipe's, else the model's own, else the tokenizer file's; filled up to the most, unless told otherwise."""
    assert ids(path, "a b", max_length=6) == [2, 4, 5, 3, 0, 0]
    assert ids(path, "a b", length=5) == [2, 4, 5, 3, 0]
    assert ids(path, "a b c d", length=8, max_length=4) == [2, 4, 5, 3, 0, 0, 0, 0]
    assert ids(path, "a b", pad="longest") == [2, 4, 5, 3]
    assert ids(path, "a b", length=6, pad="longest") == [2, 4, 5, 3, 0, 0]
    assert ids(path, "a b c", pad=4) == [2, 4, 5, 6, 3, 0, 0, 0]
    assert ids(path, "a b c", pad=4, max_length=6) == [2, 4, 5, 6, 3, 0]
    file = json.loads(path.read_text())
    file["truncation"] = {"max_length": 5, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    path.write_text(json.dumps(file))
    assert ids(path, "a b c d") == [2, 4, 5, 6, 3]


def test_truncated_is_said(path: Path) -> None:
    made = encoder(path, max_length=4).encode("a b c d")
    assert made.inputs["input_ids"].tolist() == [2, 4, 5, 3]
    assert made.truncated
    assert not encoder(path, max_length=6).encode("a b c d").truncated


def test_the_files_own_padding(path: Path) -> None:
    file = json.loads(path.read_text())
    file["padding"] = {
        "strategy": {"Fixed": 30}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 1, "pad_type_id": 0,
        "pad_token": "[UNK]",
    }  # fmt: skip
    path.write_text(json.dumps(file))
    made = encoder(path, max_length=6).encode("a b")
    assert made.inputs["input_ids"].tolist() == [1, 1, 2, 4, 5, 3]
    assert made.words == (None, None, None, 0, 1, None)
    assert ids(path, "a b", max_length=5, pad_id=7) == [7, 2, 4, 5, 3]


def test_words(path: Path) -> None:
    made = encoder(path, max_length=8).encode(["a", "b.zz", "d"])
    assert made.inputs["input_ids"].tolist() == [2, 4, 5, 1, 1, 7, 3, 0]
    assert made.words == (None, 0, 1, 1, 1, 2, None, None)


@pytest.mark.parametrize(
    ("keys", "length", "message"),
    [
        ({}, None, r"nothing says how many tokens .*; give prepare\.max_length, or prepare\.pad: longest"),
        ({"max_length": 9}, 8, r"max_length is 9, the model takes 8 tokens"),
        ({"max_length": "8"}, None, "max_length '8' is not a whole number from 1 on"),
        ({"max_length": 0}, None, "max_length 0 is not"),
        ({"max_length": 8, "pad": "short"}, None, "pad 'short' is not known; say max_length, longest"),
        ({"max_length": 8, "pad": 0}, None, "pad 0 is not known"),
        ({"max_length": 8, "pad_id": -1}, None, "pad_id -1 is not a whole number from 0 on"),
        ({"max_length": 2}, None, "2 tokens leave no room for text: the tokenizer adds 2 of its own"),
    ],
)
def test_keys_that_cannot_be(path: Path, keys: dict[str, Any], length: int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ids(path, "a b", length, **keys)


def test_no_padding_token(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    made.save(str(tmp_path / "t.json"))
    assert ids(tmp_path / "t.json", "a", pad="longest") == [0]
    assert ids(tmp_path / "t.json", "a", max_length=2, pad_id=1) == [0, 1]
    with pytest.raises(UsageError, match=r"names no padding token; give prepare\.pad_id"):
        ids(tmp_path / "t.json", "a", max_length=2)


@pytest.mark.parametrize(
    "content", ["", "{}", "[1, 2]", "not json", '{"version": "1.0", "model": {"type": "X"}}']
)
def test_files_that_are_no_tokenizer(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(DataError, match=r"the tokenizer .*t\.json cannot be read \(") as caught:
        encoder(tmp_path / "t.json", max_length=4)
    assert "\n" not in str(caught.value)


def test_truncated_and_missing_files(path: Path, tmp_path: Path) -> None:
    path.write_text(path.read_text()[:-40])
    with pytest.raises(DataError, match="cannot be read"):
        encoder(path, max_length=4)
    with pytest.raises(DataError, match=r"absent\.json cannot be read"):
        encoder(tmp_path / "absent.json", max_length=4)


def test_a_text_of_nothing(path: Path) -> None:
    with pytest.raises(DataError, match=r"makes nothing of ' '; mend or drop the row"):
        ids(path, " ", max_length=4)


def test_a_tokenizer_that_fails(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="[gone]"))
    made.save(str(tmp_path / "t.json"))
    with pytest.raises(DataError, match=r"the tokenizer .*t\.json fails on 'zz' \("):
        ids(tmp_path / "t.json", "zz", max_length=4)


def test_a_git_lfs_pointer_is_no_tokenizer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(DataError, match=r"t\.json is a Git LFS pointer, not the file; run `git lfs pull`"):
        encoder(path, max_length=4)
