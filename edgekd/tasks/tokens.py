"""Token classification: words in, one tag per word out (BIO tags of entities, parts of speech)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgekd.data import open_source
from edgekd.data.example import Array, Example
from edgekd.errors import DataError, UsageError
from edgekd.lazy import require
from edgekd.metrics import SUMS
from edgekd.metrics.classification import macro_f1_sums, right_and_all
from edgekd.tasks.classification import Classification, check_finite, chosen_output
from edgekd.tasks.task import ModelIO, Prediction, Scores, split_of
from edgekd.tasks.text import TextFeeder, check_feed, find_columns, is_text
from edgekd.tasks.tokenizer import PREPARE_KEYS

METRICS = ("entity_f1", "token_f1", "token_accuracy")
#: Columns of words that are taken where ``prepare.text`` names none.
WORD_COLUMNS = (("words",), ("tokens",), ("text",), ("sentence",))
#: A word that is not scored (what torch's cross entropy ignores, and with it every tagger's training data).
IGNORED = "-100"
#: The tag of a word that is part of no entity.
OUTSIDE = "O"
_ENTITY_TAG = re.compile(r"O|[BIES](-\S+)?")
_NUMBER = re.compile(r"-?\d+")


def tag_names(prepare: Mapping[str, Any]) -> tuple[str, ...]:
    """The model's tags by id, from ``prepare.tags``: a list, or a mapping of ids (``id2label``); may be empty.

    Raises:
        UsageError: something else, a tag with a space in it, or ids that leave a gap.
    """
    given = prepare.get("tags", ())
    if isinstance(given, Mapping):
        try:
            numbered = {int(k): v for k, v in given.items()}
        except ValueError:
            numbered = {}
        given = [numbered.get(i) for i in range(len(numbered))]
    fits = isinstance(given, (list, tuple)) and all(
        isinstance(t, str) and t and not re.search(r"\s", t) for t in given
    )
    if not fits or ("tags" in prepare and not given):
        raise UsageError(
            f"prepare.tags {str(prepare['tags'])[:60]} is no list of tags",
            'for example ["O", "B-PER", "I-PER"]',
        )
    return tuple(given)


def tag_text(label: Any) -> Any:
    """Tags of one example as text, joined by spaces; what holds no tags stays, to be refused."""
    if isinstance(label, str):
        return " ".join(label.split())
    array = np.asarray(label)
    if array.ndim != 1 or array.dtype.kind not in "iuUO":
        return label
    return " ".join(str(t) for t in array.tolist())


@dataclass(frozen=True)
class TokenClassification:
    """Words in, their tags out.

    A word's tag is that of its first token, found by the tokenizer's own word ids, so that models with different
    tokenizers are compared word by word. A model that takes arrays of the data answers once per position.

    Args:
        data: split -> data reference.
        metric: ``entity_f1`` (whole entities, as conlleval counts them), ``token_f1`` (macro over tags) or
            ``token_accuracy``.
        base: folder of relative references.
    """

    prepare_keys: ClassVar[tuple[str, ...]] = (*PREPARE_KEYS, "tags")
    data: Mapping[str, str]
    metric: str = "entity_f1"
    base: Path | None = None
    kind: str = field(default="token-classification", init=False)
    _feeder: TextFeeder = field(
        default_factory=lambda: TextFeeder(extra_keys=("tags",)), init=False, repr=False, compare=False
    )
    #: The tags of the model that answered last: labels that are numbers are read by them.
    _tags: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise UsageError(
                f"metric '{self.metric}' is not known for {self.kind}", f"choose from {', '.join(METRICS)}"
            )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the report should say of this evaluation."""
        return tuple(self._feeder.notes)

    def examples(self, split: str) -> Iterator[Example]:
        """The rows of a split, their labels as text: tags (or their ids) joined by spaces."""
        for example in open_source(split_of(self.data, split), self.base):
            yield example if example.label is None else replace(example, label=tag_text(example.label))

    def _words(self, example: Example, model: ModelIO) -> list[str] | None:
        """The example's words; None where it holds arrays only."""
        if not any(is_text(a) for a in example.inputs.values()):
            return None
        (column,) = find_columns(example, model, WORD_COLUMNS, most=1)
        return str(column).split() if column.ndim == 0 else [str(w) for w in column.reshape(-1)]

    def prepare(self, example: Example, model: ModelIO) -> dict[str, Array]:
        words = self._words(example, model)
        if words is not None:
            return self._feeder.feeds(example, model, words)
        feeds = Classification(data=self.data).prepare(example, model)
        for spec in model.inputs:
            check_feed(feeds[spec.name], spec, example)
        return feeds

    def decode(self, outputs: Mapping[str, Array], model: ModelIO) -> Prediction:
        """A tag for every position of the model, special tokens and padding included."""
        return Prediction(value=" ".join(self._answers(outputs, model)))

    def decode_for(self, example: Example, outputs: Mapping[str, Array], model: ModelIO) -> Prediction:
        """A tag for every word of the example, that of its first token; ``O`` where the model did not see the word.

        Raises:
            DataError: outputs of another length than the tokens, or unseen words and no tag ``O``.
        """
        tags = self._answers(outputs, model)
        words = self._words(example, model)
        names = self._feeder.encoded(model, example) if words is not None else {}
        if words is None or not names:
            return Prediction(value=" ".join(tags))
        made = self._feeder.encode(model, names, words)
        if len(tags) != len(made.words):
            raise DataError(
                f"the {model.role} answers {len(tags)} positions for {len(made.words)} tokens",
                "choose the output (1, tokens, tags): --output NAME:logits",
            )
        first: dict[int, str] = {}
        for tag, word in zip(tags, made.words, strict=True):
            if word is not None:
                first.setdefault(word, tag)
        unseen = len(words) - len(first)
        if unseen and OUTSIDE not in self._tags:
            raise DataError(
                f"{unseen} of {len(words)} words get no token of the {model.role}, and no tag means 'none'",
                "raise prepare.max_length, or name the tags in prepare.tags",
            )
        return Prediction(value=" ".join(first.get(i, OUTSIDE) for i in range(len(words))))

    def _answers(self, outputs: Mapping[str, Array], model: ModelIO) -> list[str]:
        name, values = chosen_output(outputs, model)
        if values.ndim != 3 or values.shape[0] != 1 or values.shape[2] < 2:
            raise DataError(
                f"the {model.role}'s output '{name}' has shape {tuple(values.shape)} per example; "
                "token-classification compares (1, tokens, tags)",
                "choose another --output",
            )
        check_finite(values, name, model)
        tags = tag_names(model.prepare)
        if tags and len(tags) != values.shape[2]:
            raise DataError(
                f"the {model.role} tells {values.shape[2]} tags apart, its prepare.tags names {len(tags)}",
                "name one tag per class, in the model's order",
            )
        self._tags[:] = tags
        best = values[0].argmax(1).tolist()
        return [tags[i] if tags else str(i) for i in best]

    def score(self, predictions: Sequence[Prediction], labels: Sequence[Any]) -> Array | Scores:
        pairs = [
            self._pair(row, str(p.value).split(), label)
            for row, (p, label) in enumerate(zip(predictions, labels, strict=True))
        ]
        if not any(truth for truth, _ in pairs):
            raise DataError("no word has a label", "all are ignored (-100) or empty: check the labels")
        return self._entities(pairs) if self.metric == "entity_f1" else self._positions(pairs)

    def _pair(self, row: int, said: list[str], label: Any) -> tuple[list[str], list[str]]:
        """Labels and answers of one row, position by position, without the ignored ones.

        Raises:
            DataError: labels that are no tags, of another number, or in another notation than the answers.
        """
        if not isinstance(label, str):
            raise DataError(
                f"row {row} has the label {str(label)[:40]}", "give one tag per word, as text or as a list"
            )
        truth = label.split()
        if len(truth) != len(said):
            raise DataError(
                f"row {row} has {len(truth)} labels for {len(said)} words",
                "give one tag per word (-100: not scored)",
            )
        kept = [(t, s) for t, s in zip(truth, said, strict=True) if t != IGNORED]
        truth, said = [t for t, _ in kept], [s for _, s in kept]
        numbers = all(_NUMBER.fullmatch(t) for t in truth)
        if numbers and self._tags:
            if wrong := [t for t in truth if not 0 <= int(t) < len(self._tags)]:
                raise DataError(
                    f"row {row} has the label {wrong[0]}, the model has {len(self._tags)} tags",
                    "check that data and model use the same tags",
                )
            truth = [self._tags[int(t)] for t in truth]
        elif not numbers and not self._tags:
            raise DataError(
                f"row {row} has the tag '{truth[0]}', and nothing says what the model's classes mean",
                'name them in prepare.tags: ["O", "B-PER", "I-PER"]',
            )
        return truth, said

    def _entities(self, pairs: Sequence[tuple[list[str], list[str]]]) -> Scores:
        """F1 over whole entities, by seqeval; each row's true and false positives and negatives."""
        for row, (truth, said) in enumerate(pairs):
            if wrong := [t for t in (*truth, *said) if not _ENTITY_TAG.fullmatch(t)]:
                raise DataError(
                    f"row {row} has the tag '{wrong[0]}', which is not O, B-TYPE or I-TYPE",
                    "entity_f1 reads BIO tags: name them in prepare.tags, or use token_f1",
                )
        module = require("seqeval.metrics.sequence_labeling", extra="text", purpose="computing entity_f1")
        sums = np.zeros((len(pairs), 3))
        for row, (truth, said) in enumerate(pairs):
            is_, found = set(module.get_entities(truth)), set(module.get_entities(said))
            sums[row] = len(is_ & found), len(found - is_), len(is_ - found)
        if not sums[:, [0, 2]].any():
            raise DataError(
                "no label is of an entity: entity_f1 does not exist here",
                "check the labels, or use token_accuracy",
            )
        value = module.f1_score([t for t, _ in pairs], [s for _, s in pairs], zero_division=0)
        # A row without entities, of which none was found, is right.
        own = np.where(
            sums.any(1), 2 * sums[:, 0] / np.maximum(1, 2 * sums[:, 0] + sums[:, 1] + sums[:, 2]), 1.0
        )
        return Scores(per_example=own, value=float(value), aggregate="f1", statistics={SUMS: sums})

    def _positions(self, pairs: Sequence[tuple[list[str], list[str]]]) -> Scores:
        """Macro F1 over tags, or accuracy, by scikit-learn."""
        metrics = require("sklearn.metrics", extra="data", purpose=f"computing {self.metric}")
        truth = np.asarray([t for row, _ in pairs for t in row])
        said = np.asarray([s for _, row in pairs for s in row])
        groups = np.repeat(np.arange(len(pairs)), [len(t) for t, _ in pairs])
        counts = right_and_all(said, truth, groups, len(pairs))
        own = np.where(counts[:, 1] > 0, counts[:, 0] / np.maximum(1, counts[:, 1]), 1.0)
        if self.metric == "token_accuracy":
            value, aggregate, sums = metrics.accuracy_score(truth, said), "ratio", counts
        else:
            if len(set(truth.tolist())) < 2:
                raise DataError(
                    f"all labels are {truth[0]}: token_f1 does not exist for one tag only", "check the labels"
                )
            value = metrics.f1_score(truth, said, average="macro", zero_division=0)
            aggregate, sums = "macro_f1", macro_f1_sums(said, truth, groups, len(pairs))
        return Scores(per_example=own, value=float(value), aggregate=aggregate, statistics={SUMS: sums})
