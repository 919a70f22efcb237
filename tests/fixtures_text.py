"""Small text models, tokenizers and texts: real ones where the data is, made ones everywhere."""

from __future__ import annotations

import gzip
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

GOOD = ("bright", "moving", "funny", "warm", "clever", "rich")
BAD = ("dull", "clumsy", "flat", "tired", "empty", "silly")
FILLER = ("the", "film", "is", "a", "story", "of", "two", "people", "and", "their", "town")


def made_reviews(n: int, seed: int) -> list[tuple[str, int]]:
    """Sentences of which one or two words tell the label."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        label = int(rng.integers(2))
        words = list(rng.choice(FILLER, rng.integers(4, 10)))
        for _ in range(2):
            words.insert(int(rng.integers(len(words))), str(rng.choice(GOOD if label else BAD)))
        rows.append((" ".join(words), label))
    return rows


def read_reviews(path: Path) -> list[tuple[str, int]]:
    """SST-2: a sentence, a tab, 0 or 1."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return [(text, int(label)) for text, label in rows]


def make_tokenizer(path: Path, texts: Sequence[str], *, kind: str, size: int, special: bool = False) -> Path:
    """Train a ``bpe`` or ``word`` tokenizer on texts; ``special`` adds [CLS] and [SEP]."""
    tokenizers = pytest.importorskip("tokenizers")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    model = tokenizers.models.BPE if kind == "bpe" else tokenizers.models.WordLevel
    trainer = tokenizers.trainers.BpeTrainer if kind == "bpe" else tokenizers.trainers.WordLevelTrainer
    made = tokenizers.Tokenizer(model(unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.train_from_iterator(texts, trainer(vocab_size=size, special_tokens=tokens, show_progress=False))
    if special:
        made.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    made.save(str(path))
    return path


def train_bag(
    rows: Sequence[tuple[str, int]], tokenizer: Path, *, length: int, width: int, hidden: int, epochs: int
) -> Any:
    """Mean of embeddings, then two layers: ``forward(ids, mask) -> logits``."""
    torch = pytest.importorskip("torch")
    made = pytest.importorskip("tokenizers").Tokenizer.from_file(str(tokenizer))
    torch.manual_seed(0)

    class Bag(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(made.get_vocab_size(), width)
            torch.nn.init.normal_(self.table.weight, std=0.1)
            self.head = torch.nn.Sequential(
                torch.nn.Linear(width, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 2)
            )

        def forward(self, ids: Any, mask: Any) -> Any:
            weight = mask.unsqueeze(-1).to(torch.float32)
            return self.head((self.table(ids) * weight).sum(1) / weight.sum(1))

    made.enable_truncation(length)
    made.enable_padding(length=length)
    encoded = made.encode_batch([text for text, _ in rows])
    ids, mask = (torch.tensor([getattr(e, name) for e in encoded]) for name in ("ids", "attention_mask"))
    return _fit(Bag(), (ids, mask), torch.tensor([label for _, label in rows]), epochs)


def _fit(module: Any, inputs: tuple[Any, ...], labels: Any, epochs: int) -> Any:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    optimiser = torch.optim.Adam(module.parameters(), lr=5e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(128):
            made = module(*(i[rows] for i in inputs))
            loss = torch.nn.functional.cross_entropy(made.flatten(0, -2), labels[rows].flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    torch.set_num_threads(threads)
    return module.eval()


def export(module: Any, path: Path, inputs: dict[str, Any], names: Sequence[str]) -> Path:
    """Write ``module`` as ONNX with a batch that varies; ``inputs`` by forward's names, ``names`` for the file."""
    import torch

    path.parent.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, tuple(inputs.values()), str(path), input_names=list(names), output_names=["logits"],
            dynamic_shapes={n: {0: torch.export.Dim("batch")} for n in inputs}, dynamo=True,
            external_data=False, verbose=False,
        )  # fmt: skip
    return path


def export_bag(module: Any, path: Path, *, length: int, names: Sequence[str]) -> Path:
    import torch

    ids = torch.ones(2, length, dtype=torch.int64)
    # Another tensor: one that is given twice is exported as one input.
    return export(module, path, {"ids": ids, "mask": ids.clone()}, names)


def train_tagger(
    rows: Sequence[tuple[list[str], list[str]]],
    tokenizer: Path,
    tags: Sequence[str],
    *,
    length: int,
    width: int,
    epochs: int,
) -> Any:
    """Embeddings and one convolution over three tokens: ``forward(ids) -> logits (batch, tokens, tags)``."""
    torch = pytest.importorskip("torch")
    made = pytest.importorskip("tokenizers").Tokenizer.from_file(str(tokenizer))
    torch.manual_seed(0)

    class Tagger(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(made.get_vocab_size(), width)
            self.window = torch.nn.Conv1d(width, width, 3, padding=1)
            self.head = torch.nn.Linear(width, len(tags))

        def forward(self, ids: Any) -> Any:
            return self.head(torch.relu(self.window(self.table(ids).transpose(1, 2))).transpose(1, 2))

    made.enable_truncation(length)
    made.enable_padding(length=length)
    encoded = made.encode_batch([words for words, _ in rows], is_pretokenized=True)
    # As taggers are trained: a word's first token has its tag, all others are ignored.
    labels = np.full((len(rows), length), -100)
    for row, (made_of, (_, truth)) in enumerate(zip(encoded, rows, strict=True)):
        for position in range(length - 1, -1, -1):
            word = made_of.word_ids[position]
            if word is not None and (position == 0 or made_of.word_ids[position - 1] != word):
                labels[row, position] = tags.index(truth[word])
    ids = torch.tensor([e.ids for e in encoded])
    return _fit(Tagger(), (ids,), torch.from_numpy(labels), epochs)


def export_tagger(module: Any, path: Path, *, length: int, name: str) -> Path:
    import torch

    return export(module, path, {"ids": torch.ones(2, length, dtype=torch.int64)}, [name])


def made_dialogue(n: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """Words and BIO tags: names of one or two words after a title, in front of any sentence."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        name = list(rng.choice(["Anna", "Brook", "Clare", "Dorn"], rng.integers(1, 3)))
        rest = list(rng.choice(FILLER, rng.integers(3, 8)))
        words = [str(w) for w in (*name, *rest)]
        rows.append((words, ["B-PER", *["I-PER"] * (len(name) - 1), *["O"] * len(rest)]))
    return rows


def read_dialogue(path: Path) -> list[tuple[list[str], list[str]]]:
    """Speeches of the play: the speaker (in front of a colon) is the entity, and named again in the text is one too."""
    text = gzip.decompress(path.read_bytes()).decode()
    rows = []
    speeches = re.findall(r"(?:\A|\n\n)([A-Z][^\n:]{2,30}):\n([^\n]+)", text)
    speakers = {w for name, _ in speeches for w in name.split() if len(w) > 3 and w[0].isupper()}
    for name, line in speeches:
        words = [*name.split(), ":", *re.findall(r"[A-Za-z']+|[,.;:!?-]", line)]
        tags, inside = [], False
        for word in words:
            entity = word in speakers
            tags.append(("I-PER" if inside else "B-PER") if entity else "O")
            inside = entity
        rows.append((words, tags))
    return rows


def lookup(path: Path, table: np.ndarray, *, length: int, names: Sequence[str], pooled: bool) -> Path:
    """A row of ``table`` (ids, classes) per token; ``pooled`` sums them over the mask, the second of ``names``."""
    from onnx import TensorProto, helper, numpy_helper, save

    weights = [numpy_helper.from_array(table.astype(np.float32), "table")]
    nodes = [helper.make_node("Gather", ["table", names[0]], ["rows" if pooled else "logits"])]
    if pooled:
        weights.append(numpy_helper.from_array(np.asarray([2]), "last"))
        weights.append(numpy_helper.from_array(np.asarray([1]), "axis"))
        nodes += [
            helper.make_node("Cast", [names[1]], ["weight"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["weight", "last"], ["weights"]),
            helper.make_node("Mul", ["rows", "weights"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "axis"], ["logits"], keepdims=0),
        ]
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", length]) for n in names]
    shape = ["batch", table.shape[1]] if pooled else ["batch", length, table.shape[1]]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "lookup", inputs, outputs, weights)
    path.parent.mkdir(exist_ok=True)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def word_table(tokenizer: Path, classes: dict[int, Sequence[str]], count: int) -> np.ndarray:
    """A table for :func:`lookup`: 1 for the words of each class, and 0.5 for class 0 of every other token."""
    made = pytest.importorskip("tokenizers").Tokenizer.from_file(str(tokenizer))
    table = np.zeros((made.get_vocab_size(), count))
    table[:, 0] = 0.5 if 0 not in classes else 0.0
    for which, words in classes.items():
        for word in words:
            found = made.token_to_id(word)
            if found is not None:
                table[found] = np.eye(count)[which]
    return table
