"""Text from the command line: real sentences and made ones, two tokenizers, two models, one verdict."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fixtures_text import (
    BAD,
    GOOD,
    export_bag,
    export_tagger,
    lookup,
    made_dialogue,
    made_reviews,
    make_tokenizer,
    read_dialogue,
    read_reviews,
    train_bag,
    train_tagger,
    word_table,
)

from edgekd.evidence import load_evaluation
from edgekd_onnx.exporter import OnnxExporter

pytest.importorskip("onnxruntime")
pytest.importorskip("seqeval")

Edgekd = Callable[..., "subprocess.CompletedProcess[str]"]
TAGS = ["O", "B-PER", "I-PER"]


@dataclass(frozen=True)
class Place:
    """A folder with ``teacher/model.onnx``, ``student/model.onnx``, a tokenizer beside each, and test data."""

    folder: Path
    data: str
    rows: int

    def edgekd(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "edgekd", *args], cwd=self.folder, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip

    def gate(self, task: str, out: str, *args: str) -> subprocess.CompletedProcess[str]:
        return self.edgekd(
            "gate", "--teacher", "teacher/model.onnx", "--student", "student/model.onnx", "--task", task,
            "--data", self.data, "--out", out, *args,
        )  # fmt: skip

    def verdict(self, out: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / out / "verdict.json").read_text())
        return found


def one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    lines = [line for line in done.stderr.splitlines() if line.startswith("edgekd: error:")]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in lines[0], lines[0]


MAPPED = ("--map", "student:tokens=input_ids", "--map", "student:seen=attention_mask")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Models that know the telling words; the student's shorter length cuts no text."""
    folder = tmp_path_factory.mktemp("made")
    rows = made_reviews(600, seed=0)
    for name, kind, length, names in (
        ("teacher", "bpe", 32, ("input_ids", "attention_mask")),
        ("student", "word", 16, ("tokens", "seen")),
    ):
        (folder / name).mkdir()
        tokenizer = make_tokenizer(
            folder / name / "tokenizer.json",
            [text for text, _ in rows],
            kind=kind,
            size=400,
            special=kind == "bpe",
        )
        table = word_table(tokenizer, {0: BAD, 1: GOOD}, 2)
        lookup(folder / name / "model.onnx", table, length=length, names=names, pooled=True)
    text = "".join(f"{text}\t{label}\n" for text, label in rows)
    (folder / "dev.tsv").write_text(text)
    return Place(folder, "dev.tsv?columns=sentence,label", len(rows))


def test_made_sentences(made: Place) -> None:
    done = made.gate("text-classification", "equal", *MAPPED)
    assert done.returncode == 0, done.stderr
    (gate,) = made.verdict("equal")["gates"]
    assert (gate["metric"], gate["n"], gate["estimate"]) == ("top1", 600, 0.0)
    evaluation = load_evaluation(made.folder / "equal" / "evidence" / "eval-student-test.json")
    assert evaluation.mean == 1.0
    assert (made.folder / "equal" / "artifacts" / "student" / "tokenizer.json").is_file()


def test_an_edited_tokenizer_is_evaluated_again(made: Place) -> None:
    """Nothing else changed: a cached evaluation would still say that all is well."""
    path = made.folder / "student" / "tokenizer.json"
    whole = path.read_text()
    assert made.gate("text-classification", "before", *MAPPED).returncode == 0
    damaged = json.loads(whole)
    for word in GOOD[:2]:  # their ids now belong to words that nobody says
        damaged["model"]["vocab"][f"un{word}"] = damaged["model"]["vocab"].pop(word)
    path.write_text(json.dumps(damaged))
    done = made.gate("text-classification", "after", *MAPPED)
    path.write_text(whole)
    assert done.returncode == 1, done.stderr
    (gate,) = made.verdict("after")["gates"]
    assert gate["decision"] == "reject"
    assert gate["estimate"] < -0.03


def test_a_tokenizer_of_another_model_is_one_line(made: Place) -> None:
    """Ids beyond the table: ONNX Runtime's words for it name no id that a user could do something with."""
    path = made.folder / "student" / "tokenizer.json"
    whole = path.read_text()
    make_tokenizer(
        path, [f"w{i}" for i in range(999)] * 2 + ["the film is a story"] * 3, kind="word", size=1200
    )
    vocabulary = json.loads(path.read_text())
    vocabulary["model"]["vocab"]["film"] = 1100
    path.write_text(json.dumps(vocabulary))
    done = made.gate("text-classification", "other", *MAPPED)
    path.write_text(whole)
    one_line(done, "student (model.onnx)", "was fed the id ", "its table ends at", "belongs to another model")


def test_what_is_missing_is_one_line(made: Place) -> None:
    done = made.gate("text-classification", "unmapped")
    one_line(done, "input 'tokens' is none of input_ids", "--map student:tokens=input_ids")
    headed = made.edgekd("eval", "teacher/model.onnx", "--task", "text-classification", "--data", "dev.tsv")
    one_line(headed, "no label")
    (made.folder / "bad").mkdir(exist_ok=True)
    (made.folder / "bad" / "model.onnx").write_bytes((made.folder / "teacher" / "model.onnx").read_bytes())
    bare = made.edgekd("eval", "bad/model.onnx", "--task", "text-classification", "--data", made.data)
    one_line(
        bare,
        "model (model.onnx): ",
        "names no tokenizer",
        "put tokenizer.json beside the .onnx",
        "--prepare ROLE:FILE",
    )
    (made.folder / "bad" / "tokenizer.json").write_text("{}")
    broken = made.edgekd("eval", "bad/model.onnx", "--task", "text-classification", "--data", made.data)
    one_line(broken, "tokenizer.json cannot be read (", "Model missing")


@pytest.mark.data
def test_sst2(data_root: Path, tmp_path: Path) -> None:
    """Trained here on SST-2: a BPE teacher of 64 tokens, a word-level student of 32 with a quarter of its width."""
    rows = read_reviews(data_root / "text" / "sst2_train.tsv")
    texts = [text for text, _ in rows]
    for name, kind, size, length, width, epochs, names in (
        ("teacher", "bpe", 6000, 64, 64, 2, ("input_ids", "attention_mask")),
        ("student", "word", 3000, 32, 16, 3, ("tokens", "seen")),
    ):
        (tmp_path / name).mkdir()
        tokenizer = make_tokenizer(tmp_path / name / "tokenizer.json", texts, kind=kind, size=size)
        module = train_bag(rows, tokenizer, length=length, width=width, hidden=width, epochs=epochs)
        export_bag(module, tmp_path / name / "model.onnx", length=length, names=names)
    data = data_root / "text" / "sst2_dev.tsv"
    place = Place(tmp_path, f"{data.resolve()}?columns=sentence,label", 872)
    done = place.gate("text-classification", "sst2", *MAPPED, "--max-accuracy-drop", "0.08")
    assert done.returncode == 0, done.stderr
    (gate,) = place.verdict("sst2")["gates"]
    assert gate["n"] == 872
    evidence = tmp_path / "sst2" / "evidence"
    teacher, student = (load_evaluation(evidence / f"eval-{n}-test.json") for n in ("teacher", "student"))
    assert teacher.mean >= 0.765, "averaged embeddings reach 76.7 % here"
    assert student.mean >= 0.74
    (note,) = student.environment["notes"]
    assert note.endswith("of 872 texts are longer than the 32 tokens that the student takes, and were cut")
    assert note in (tmp_path / "sst2" / "report.md").read_text()
    done = place.gate("text-classification", "f1", *MAPPED, "--metric", "f1", "--max-accuracy-drop", "0.1")
    assert done.returncode == 0, done.stderr
    assert place.verdict("f1")["gates"][0]["metric"] == "f1"


def write_dialogue(path: Path, rows: list[tuple[list[str], list[str]]]) -> None:
    lines = [{"words": words, "label": " ".join(tags)} for words, tags in rows]
    path.write_text("\n".join(map(json.dumps, lines)))


def record(folder: Path, tokenizer: str, **prepare: Any) -> None:
    """An ``artifact.json`` that says how the model's examples are prepared."""
    read = OnnxExporter().read(folder / "model.onnx")
    read.with_prepare({"tokenizer": str((folder / tokenizer).resolve()), **prepare}).save()


def test_made_dialogue(tmp_path: Path) -> None:
    """The student's words do not hold one of the four names: its F1 is lower, and it is rejected."""
    rows = made_dialogue(300, seed=3)
    names = ("Anna", "Brook", "Clare", "Dorn")
    for name, known, kind, length in (("teacher", names, "bpe", 24), ("student", names[:3], "word", 12)):
        (tmp_path / name).mkdir()
        texts = [" ".join(w for w in words if w in known or w not in names) for words, _ in rows]
        tokenizer = make_tokenizer(
            tmp_path / name / "own.json", texts, kind=kind, size=300, special=kind == "bpe"
        )
        table = word_table(tokenizer, {1: known}, 3)
        lookup(tmp_path / name / "model.onnx", table, length=length, names=["tokens"], pooled=False)
        record(tmp_path / name, "own.json", tags=TAGS)
    write_dialogue(tmp_path / "dev.jsonl", rows)
    place = Place(tmp_path, "dev.jsonl", len(rows))
    done = place.gate("token-classification", "made")
    assert done.returncode == 1, done.stderr
    (gate,) = place.verdict("made")["gates"]
    assert (gate["metric"], gate["decision"]) == ("entity_f1", "reject")
    evidence = tmp_path / "made" / "evidence"
    teacher, student = (load_evaluation(evidence / f"eval-{n}-test.json") for n in ("teacher", "student"))
    assert teacher.labels.tolist() == student.labels.tolist()
    assert 0.2 < student.mean < teacher.mean < 1
    # Names of two words are two entities to models that look at one token: half of the rows are right.
    single = [len([t for t in label.split() if t != "O"]) == 1 for label in teacher.labels.tolist()]
    assert (teacher.scores[single] == 1).all()
    assert (teacher.scores[[not s for s in single]] == 0).all()
    assert [len(p.split()) for p in student.predictions.tolist()] == [len(w) for w, _ in rows]


@pytest.mark.data
def test_shakespeare(data_root: Path, tmp_path: Path) -> None:
    """Speakers' names in the play, tagged by models that are trained here."""
    rows = read_dialogue(data_root / "text" / "tinyshakespeare.txt.gz")
    # Every seventh speech is held out: all plays, and so most names, are on both sides.
    train, dev = [r for i, r in enumerate(rows) if i % 7][:3500], rows[: 7 * 400 : 7]
    texts = [" ".join(words) for words, _ in train]
    for name, kind, size, length, width, epochs in (
        ("teacher", "bpe", 2000, 64, 32, 4),
        ("student", "word", 4000, 48, 16, 4),
    ):
        (tmp_path / name).mkdir()
        tokenizer = make_tokenizer(tmp_path / name / "own.json", texts, kind=kind, size=size)
        module = train_tagger(train, tokenizer, TAGS, length=length, width=width, epochs=epochs)
        export_tagger(module, tmp_path / name / "model.onnx", length=length, name="tokens")
        record(tmp_path / name, "own.json", tags=TAGS)
    write_dialogue(tmp_path / "dev.jsonl", dev)
    place = Place(tmp_path, "dev.jsonl", len(dev))
    done = place.gate("token-classification", "play", "--max-accuracy-drop", "0.5")
    assert done.returncode == 0, done.stderr
    found = load_evaluation(tmp_path / "play" / "evidence" / "eval-teacher-test.json")
    assert (found.metric, found.aggregate) == ("entity_f1", "f1")
    assert found.mean > 0.7
