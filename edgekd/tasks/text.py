"""Text in, a class index out; and what all text models have in common: how a row becomes their inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from edgekd.data.example import Array, Example
from edgekd.errors import DataError, UsageError
from edgekd.files import digest_of
from edgekd.spec import TensorSpec
from edgekd.tasks.classification import Classification, as_wanted
from edgekd.tasks.keys import check_keys
from edgekd.tasks.task import ModelIO
from edgekd.tasks.tokenizer import BARE, PREPARE_KEYS, TEXT_INPUTS, Encoding, TextEncoder

#: Columns that are taken where ``prepare.text`` names none, first come.
TEXT_COLUMNS = (
    ("text", "text_pair"), ("sentence1", "sentence2"), ("question1", "question2"), ("premise", "hypothesis"),
    ("question", "sentence"), ("text",), ("sentence",),
)  # fmt: skip

#: A text, a pair of texts, or one sequence of words.
Text = tuple[str, ...] | list[str]


def is_text(array: Array) -> bool:
    """Whether an array of the data holds text."""
    return array.dtype.kind in "UO"


def find_columns(
    example: Example, model: ModelIO, usual: Sequence[tuple[str, ...]], most: int
) -> list[Array]:
    """The text columns that a model is fed: those of ``prepare.text``, else usual ones, else the only one there is.

    Args:
        usual: names of columns, in the order in which they are tried.
        most: how many ``prepare.text`` may name.

    Raises:
        UsageError: ``prepare.text`` that is no name; DataError: no such column, or several to choose from.
    """
    texts = {n: a for n, a in example.inputs.items() if is_text(a)}
    own = {n.removeprefix(f"{model.role}."): a for n, a in texts.items() if n.startswith(f"{model.role}.")}
    plain = {n: a for n, a in texts.items() if not n.startswith(("teacher.", "student."))}
    known = {**plain, **own}
    named = model.prepare.get("text")
    if named is not None:
        names = [named] if isinstance(named, str) else named
        fits = isinstance(names, (list, tuple)) and all(isinstance(n, str) for n in names)
        if not fits or not 1 <= len(names) <= most:
            raise UsageError(
                f"prepare.text {named!r} names no columns", f"give one name{', or two' if most > 1 else ''}"
            )
        tried = [tuple(names)]
    else:
        tried = [*usual, *([tuple(known)] if len(known) == 1 else [])]
    for names in tried:
        if all(n in known for n in names):
            return [known[n] for n in names]
    have = ", ".join(example.inputs) or "none"
    if named is not None:
        raise DataError(
            f"the data has no text column {', '.join(tried[0])} (columns: {have})", "correct prepare.text"
        )
    why = "several text columns and none named text" if known else "no text column"
    raise DataError(
        f"the data has {why} (columns: {have})",
        "name a column text, or say which: prepare.text; a table without a header: FILE?columns=text,label",
    )


@dataclass(slots=True)
class TextFeeder:
    """Makes the inputs of text models; keeps opened tokenizers, and counts the texts that were cut.

    Attributes:
        extra_keys: ``prepare`` keys that the task knows beside :data:`edgekd.tasks.tokenizer.PREPARE_KEYS`.
        cut, seen: texts, by (role, most tokens).
    """

    extra_keys: tuple[str, ...] = ()
    cut: dict[tuple[str, int | None], int] = field(default_factory=dict)
    seen: dict[tuple[str, int | None], int] = field(default_factory=dict)
    _encoders: dict[str, TextEncoder] = field(default_factory=dict)

    @property
    def notes(self) -> Iterator[str]:
        """What the report should say of the texts."""
        for (role, limit), cut in self.cut.items():
            yield (
                f"{cut:,} of {self.seen[role, limit]:,} texts are longer than the {limit} tokens that the {role} "
                "takes, and were cut"
            )

    def encoded(self, model: ModelIO, example: Example) -> dict[str, str]:
        """Model input -> which of the encoder's arrays feeds it; those that the data holds itself are left out.

        Raises:
            DataError: an input that nothing feeds.
        """
        found: dict[str, str] = {}
        whole = [s.name for s in model.inputs if s.dtype in ("int64", "int32")]
        for spec in model.inputs:
            wanted = model.rename.get(spec.name, spec.name)
            if spec.dtype == "string" or _own_array(spec, example, model) is not None:
                continue
            if wanted in TEXT_INPUTS:
                found[spec.name] = wanted
            elif spec.name not in model.rename and whole == [spec.name]:
                found[spec.name] = "input_ids"
            else:
                have = ", ".join(example.inputs) or "none"
                raise DataError(
                    f"the {model.role}'s input '{spec.name}' is none of {', '.join(TEXT_INPUTS)}, and the data has no "
                    f"array '{wanted}' (columns: {have})",
                    f"map it: --map {model.role}:{spec.name}=input_ids",
                )
        return found

    def encode(self, model: ModelIO, names: Mapping[str, str], text: Text) -> Encoding:
        """The text as the model takes it.

        Args:
            names: as :meth:`encoded` gives them; not empty.

        Raises:
            UsageError: no tokenizer, unknown keys, lengths that contradict each other; DataError: see the encoder.
        """
        check_keys(model.prepare, (*PREPARE_KEYS, *self.extra_keys))
        if "tokenizer" not in model.prepare:
            raise UsageError(
                f"the {model.role}'s input '{next(iter(names))}' wants token ids, and its prepare names no tokenizer",
                "put tokenizer.json beside the .onnx file, or name it in prepare.tokenizer " + BARE,
            )
        shapes = {s.name: s.shape for s in model.inputs if s.name in names}
        if wrong := [n for n, shape in shapes.items() if len(shape) != 2]:
            raise UsageError(
                f"the {model.role}'s input '{wrong[0]}' has the shape {shapes[wrong[0]]}, token ids are (batch, tokens)",
                "export the model otherwise, or bring prepared arrays",
            )
        lengths = {shape[1] for shape in shapes.values() if isinstance(shape[1], int)}
        if len(lengths) > 1:
            raise UsageError(
                f"the {model.role}'s inputs want different numbers of tokens ({sorted(lengths)})",
                "export it again",
            )
        length = next((n for n in lengths if isinstance(n, int)), None)
        key = digest_of([dict(model.prepare), length])
        if key not in self._encoders:
            self._encoders[key] = TextEncoder(model.prepare, length)
        encoder = self._encoders[key]
        return encoder.encode(text) if isinstance(text, list) else encoder.encode(*text)

    def feeds(self, example: Example, model: ModelIO, text: Text) -> dict[str, Array]:
        """Every input of the model, with a leading batch dimension of 1.

        Raises:
            UsageError, DataError: as :meth:`encode`; a text that is empty; an input that nothing feeds.
        """
        if not text or not all(part.strip() for part in text):
            raise DataError(f"example {example.id}: its text is empty", "mend or drop the row")
        names = self.encoded(model, example)
        made: Encoding | None = None
        if names:
            try:
                made = self.encode(model, names, text)
            except DataError as e:
                raise DataError(f"example {example.id}: {e.what}", e.fix) from e
            self._count(model, made)
        feeds: dict[str, Array] = {}
        for spec in model.inputs:
            own = _own_array(spec, example, model)
            if made is not None and spec.name in names:
                array = made.inputs[names[spec.name]].astype(spec.dtype)
            elif own is not None:
                array = own
            elif len(spec.shape) > 1:
                array = np.asarray(text)
            else:
                array = np.asarray(" ".join(text) if isinstance(text, list) else text[0])
            batch = np.ascontiguousarray(array)[None] if array.ndim else array.reshape(1)
            check_feed(batch, spec, example)
            feeds[spec.name] = batch
        return feeds

    def _count(self, model: ModelIO, made: Encoding) -> None:
        key = (model.role, made.limit)
        self.seen[key] = self.seen.get(key, 0) + 1
        if made.truncated:
            self.cut[key] = self.cut.get(key, 0) + 1


def _own_array(spec: TensorSpec, example: Example, model: ModelIO) -> Array | None:
    """The array that the data itself holds for an input, where it is none of text."""
    names = (model.rename.get(spec.name, spec.name), f"{model.role}.{spec.name}", spec.name)
    found = (example.inputs[n] for n in names if n in example.inputs)
    return next((as_wanted(a, spec) for a in found if not is_text(a)), None)


def check_feed(batch: Array, spec: TensorSpec, example: Example) -> None:
    """Refuse a feed that the model cannot take, and negative token ids, which look up rows from a table's end.

    Raises:
        DataError: naming the example.
    """
    # A model of one larger batch size is fed several examples; each of them is checked alone.
    one = spec if spec.dynamic_batch else replace(spec, shape=(1, *spec.shape[1:]))
    one.check(batch, where=f"example {example.id}")
    if batch.dtype.kind == "i" and batch.min(initial=0) < 0:
        raise DataError(
            f"example {example.id}: input '{spec.name}' holds the id {batch.min()}",
            "ids are whole numbers from 0",
        )


@dataclass(frozen=True)
class TextClassification(Classification):
    """A text, or a pair of texts, in; a class index out.

    Each model is fed by its own tokenizer (``prepare.tokenizer``), the text itself where its input is a string, or
    arrays that the data holds.
    """

    prepare_keys: ClassVar[tuple[str, ...]] = PREPARE_KEYS
    kind: str = field(default="text-classification", init=False)
    _feeder: TextFeeder = field(default_factory=TextFeeder, init=False, repr=False, compare=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the report should say of this evaluation."""
        return tuple(self._feeder.notes)

    def prepare(self, example: Example, model: ModelIO) -> dict[str, Array]:
        if not any(is_text(a) for a in example.inputs.values()) and example.inputs:
            feeds = super().prepare(example, model)
            for spec in model.inputs:
                check_feed(feeds[spec.name], spec, example)
            return feeds
        columns = find_columns(example, model, TEXT_COLUMNS, most=2)
        texts = tuple(str(c) if c.ndim == 0 else " ".join(map(str, c)) for c in columns)
        return self._feeder.feeds(example, model, texts)
