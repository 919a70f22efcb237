"""Texts as token ids, by the ``tokenizer.json`` that a model's ``prepare`` names (package ``tokenizers``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.documents import read_plain_file
from edgekd.errors import DataError, UsageError
from edgekd.lazy import require
from edgekd.lfs_pointer import refuse_pointer_file

#: Model inputs that an encoded text feeds, by the names that the field gives them.
TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
PREPARE_KEYS = ("tokenizer", "max_length", "pad", "pad_id", "text")
#: Where the keys of a model go that brings none.
BARE = "(of a bare .onnx: --prepare ROLE:FILE)"
#: How tokenizers call the token that fills up a text, where their file sets up no padding of its own.
_PAD_TOKENS = ("[PAD]", "<pad>", "<|pad|>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """One text (or pair) as a model takes it.

    Attributes:
        inputs: each of :data:`TEXT_INPUTS`, int64 (tokens,).
        words: per token the index of the word that it is of; None for special tokens and padding.
        limit: the most tokens that the model takes; None where it takes any number.
        truncated: whether the text was longer.
    """

    inputs: Mapping[str, Array]
    words: tuple[int | None, ...]
    limit: int | None
    truncated: bool


def _whole(prepare: Mapping[str, Any], key: str, least: int) -> int | None:
    value = prepare.get(key)
    if value is not None and (type(value) is not int or value < least):
        raise UsageError(f"prepare.{key} {value!r} is not a whole number from {least} on", f"correct {key}")
    return value


def load_tokenizer(path: Path) -> Any:
    """Read a ``tokenizer.json``.

    Raises:
        DataError: missing, damaged, or of a version that the installed ``tokenizers`` does not read.
    """
    tokenizers = require("tokenizers", extra="text", purpose="tokenizing text")
    try:
        return tokenizers.Tokenizer.from_str(read_plain_file(path, DataError).decode("utf-8"))
    except DataError:
        raise
    except Exception as e:  # the package raises plain Exceptions
        refuse_pointer_file(path)
        reason = " ".join(str(e).split())[:200]
        raise DataError(
            f"the tokenizer {path} cannot be read ({reason})",
            "name a tokenizer.json that tokenizers.Tokenizer.save wrote (a vocabulary alone is none)",
        ) from e


class TextEncoder:
    """A tokenizer set up for one model.

    Args:
        prepare: ``tokenizer`` (a path), ``max_length`` (tokens), ``pad`` (``max_length``, ``longest``, or a number
            that lengths are multiples of) and ``pad_id``.
        length: the number of tokens of a model that takes only one, else None.

    Raises:
        UsageError: keys that contradict each other, the model or the tokenizer; DataError: an unreadable tokenizer.
    """

    def __init__(self, prepare: Mapping[str, Any], length: int | None) -> None:
        self.path = Path(str(prepare["tokenizer"]))
        self._tokenizer = load_tokenizer(self.path)
        cut = self._tokenizer.truncation or {}
        asked = _whole(prepare, "max_length", 1)
        if asked and length and asked > length:
            raise UsageError(
                f"prepare.max_length is {asked}, the model takes {length} tokens",
                f"say {length} or less, or leave it out",
            )
        self.limit: int | None = asked or length or cut.get("max_length")
        self._pad = prepare.get("pad", "max_length")
        self._length = length
        if self._pad not in ("max_length", "longest") and (type(self._pad) is not int or self._pad < 1):
            raise UsageError(
                f"prepare.pad {self._pad!r} is not known", "say max_length, longest, or a number from 1 on"
            )
        if self._pad == "max_length" and self.limit is None:
            raise UsageError(
                "nothing says how many tokens the model takes: neither prepare.max_length, nor the model, nor the "
                "tokenizer",
                f"give prepare.max_length, or prepare.pad: longest {BARE}",
            )
        padding = self._tokenizer.padding or {}
        self._left = padding.get("direction", "right") == "left"
        known = (self._tokenizer.token_to_id(t) for t in _PAD_TOKENS)
        found = next((i for i in known if i is not None), None)
        own = _whole(prepare, "pad_id", 0)
        self._pad_id: int | None = own if own is not None else padding.get("pad_id", found)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if self.limit is not None:
            self._tokenizer.enable_truncation(max_length=self.limit, direction=cut.get("direction", "right"))

    def encode(self, text: str | Sequence[str], pair: str | None = None) -> Encoding:
        """Encode a text, a pair of texts, or a sequence of words.

        Raises:
            UsageError: ``max_length`` leaves no room, or a text must be filled up and nothing says with what;
            DataError: the tokenizer fails, or makes nothing of the text.
        """
        special = self._tokenizer.num_special_tokens_to_add(pair is not None)
        if self.limit is not None and self.limit <= special:
            raise UsageError(
                f"{self.limit} tokens leave no room for text: the tokenizer adds {special} of its own",
                f"raise prepare.max_length above {special}",
            )
        try:
            made = self._tokenizer.encode(text, pair, is_pretokenized=not isinstance(text, str))
        except Exception as e:  # the package raises plain Exceptions
            reason = " ".join(str(e).split())[:200]
            raise DataError(
                f"the tokenizer {self.path} fails on {str(text)[:40]!r} ({reason})",
                "check the text and its tokenizer",
            ) from e
        if all(made.special_tokens_mask):
            raise DataError(
                f"the tokenizer {self.path} makes nothing of {str(text)[:40]!r}", "mend or drop the row"
            )
        fill = self._filled(len(made.ids)) - len(made.ids)
        if fill and self._pad_id is None:
            raise UsageError(
                f"the tokenizer {self.path} names no padding token",
                f"give prepare.pad_id, or prepare.pad: longest {BARE}",
            )
        before, after = (fill, 0) if self._left else (0, fill)
        columns = {
            "input_ids": (made.ids, self._pad_id or 0),
            "attention_mask": (made.attention_mask, 0),
            "token_type_ids": (made.type_ids, 0),
        }
        words = [None] * before + list(made.word_ids) + [None] * after
        return Encoding(
            inputs={
                n: np.pad(np.asarray(v, np.int64), (before, after), constant_values=p)
                for n, (v, p) in columns.items()
            },
            words=tuple(words),
            limit=self.limit,
            truncated=bool(made.overflowing),
        )

    def _filled(self, tokens: int) -> int:
        """The length that so many tokens are filled up to."""
        if self._length is not None:
            return self._length
        if self._pad == "longest":
            return tokens
        if self._pad == "max_length":
            return self.limit or tokens
        multiple = -(-tokens // int(self._pad)) * int(self._pad)
        return multiple if self.limit is None else min(multiple, self.limit)
