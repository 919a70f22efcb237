"""``edgekd gate`` from the command line: planted faults are rejected, bad input is one line with the right code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from fixtures_models import classifier, examples
from onnx import helper

Edgekd = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gate")
    classifier(folder / "teacher.onnx")
    classifier(folder / "twin.onnx", layers=4)
    classifier(folder / "slow.onnx", layers=10)
    # Class 3 is 5 % of the examples, and the damaged student gets all of it wrong: five points.
    classifier(folder / "damaged.onnx", wrong_classes=(3,))
    np.savez(folder / "test.npz", **examples(rare=3, share=0.05))
    return folder


@pytest.fixture
def edgekd(place: Path) -> Edgekd:
    def call(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "edgekd", *args],
            cwd=place,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return call


def verdict(folder: Path) -> dict:
    return json.loads((folder / "verdict.json").read_text())


def one_line(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    lines = [line for line in done.stderr.splitlines() if line.startswith("edgekd: error:")]
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in lines[0], lines[0]


def test_an_equal_student_passes_accuracy(edgekd: Edgekd, place: Path) -> None:
    done = edgekd(
        "gate", "--teacher", "teacher.onnx", "--student", "twin.onnx", "--data", "test.npz", "--out", "pass"
    )
    assert done.returncode == 0, done.stderr
    found = verdict(place / "pass")
    assert found["schema"] == "edgekd.verdict/1"
    (gate,) = found["gates"]
    assert (gate["gate"], gate["decision"], gate["method"], gate["n"]) == ("accuracy", "pass", "tango", 2000)
    assert gate["estimate"] == 0
    assert gate["limit"] == -0.01


def test_a_planted_five_point_accuracy_loss_is_rejected(edgekd: Edgekd, place: Path) -> None:
    done = edgekd(
        "gate",
        "--teacher",
        "teacher.onnx",
        "--student",
        "damaged.onnx",
        "--data",
        "test.npz",
        "--out",
        "damaged",
    )
    assert done.returncode == 1, done.stderr
    (gate,) = verdict(place / "damaged")["gates"]
    assert gate["decision"] == "reject"
    assert gate["estimate"] == pytest.approx(-0.05)
    assert "at least 4.26 points below the teacher (limit 1.00) on 2,000 examples" in done.stdout


def test_a_planted_twofold_slow_down_is_rejected(edgekd: Edgekd, place: Path) -> None:
    done = edgekd(
        "gate",
        "--baseline",
        "teacher.onnx",
        "--student",
        "slow.onnx",
        "--max-regression",
        "0.02",
        "--out",
        "slow",
    )
    assert done.returncode == 1, done.stderr
    (gate,) = verdict(place / "slow")["gates"]
    assert (gate["gate"], gate["decision"], gate["limit"]) == ("regression", "reject", 1.02)
    assert gate["estimate"] > 1.5
    assert gate["interval"][0] > 1.02


def test_a_faster_student_passes_a_latency_ratio_with_json_on_stdout(edgekd: Edgekd, place: Path) -> None:
    done = edgekd(
        "gate", "--teacher", "slow.onnx", "--student", "teacher.onnx", "--max-latency-ratio", "0.9",
        "--max-size-mib", "2", "--json", "--out", "fast", "--junit", "fast.xml", "--markdown", "fast.md",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == verdict(place / "fast")
    assert {g["gate"]: g["decision"] for g in found["gates"]} == {"latency": "pass", "size": "pass"}
    assert (place / "fast.xml").read_text().startswith("<?xml")
    assert "latency" in (place / "fast.md").read_text()


def test_a_stored_run_is_judged_again_without_running_anything(edgekd: Edgekd, place: Path) -> None:
    edgekd(
        "gate",
        "--teacher",
        "teacher.onnx",
        "--student",
        "damaged.onnx",
        "--data",
        "test.npz",
        "--out",
        "again",
    )
    (place / "lenient.yaml").write_text("gates:\n  accuracy: {max_drop: 0.08}\n")
    before = (place / "again" / "verdict.json").read_bytes()
    done = edgekd("gate", "again", "--policy", "lenient.yaml", "--out", "again-lenient")
    assert done.returncode == 0, done.stderr
    assert (place / "again" / "verdict.json").read_bytes() == before
    same = edgekd("gate", "again")
    assert same.returncode == 1
    assert (place / "again" / "verdict.json").read_bytes() == before


def test_too_few_examples_are_inconclusive_with_the_number_that_would_do(edgekd: Edgekd, place: Path) -> None:
    command = (
        "gate",
        "--teacher",
        "teacher.onnx",
        "--student",
        "twin.onnx",
        "--data",
        "test.npz#0:2000:40",
        "--out",
        "few",
    )
    done = edgekd(*command)
    assert done.returncode == 3, done.stderr
    assert "inconclusive" in done.stdout.lower()
    assert edgekd(*command, "--on-inconclusive", "pass").returncode == 0
    assert edgekd(*command, "--on-inconclusive", "fail").returncode == 1


def test_a_first_run_without_a_baseline_is_recorded_not_passed(edgekd: Edgekd, place: Path) -> None:
    command = ("gate", "--student", "teacher.onnx", "--baseline", "none-yet.onnx", "--max-size-mib", "3")
    one_line(edgekd(*command), 2, "none-yet.onnx", "does not exist")
    done = edgekd(*command, "--first-run", "accept", "--out", "first")
    assert done.returncode == 0, done.stderr
    gates = {g["gate"]: g["decision"] for g in verdict(place / "first")["gates"]}
    assert gates == {"regression": "not_run", "size": "pass"}


def test_an_absent_target_is_inconclusive(edgekd: Edgekd, place: Path) -> None:
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has an NVIDIA driver")
    done = edgekd(
        "gate", "--teacher", "teacher.onnx", "--student", "twin.onnx", "--data", "test.npz",
        "--target", "cuda:onnxruntime+cuda", "--out", "cuda",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert verdict(place / "cuda")["decision"] == "inconclusive"
    assert "CUDAExecutionProvider" in done.stdout


def bad_npz(place: Path, name: str, **arrays: np.ndarray) -> str:
    np.savez(place / name, **arrays)
    return name


def test_nothing_asked_is_wrong_usage(edgekd: Edgekd) -> None:
    one_line(
        edgekd("gate", "--teacher", "teacher.onnx", "--student", "twin.onnx"),
        2,
        "no gate was asked",
        "--data",
    )
    one_line(edgekd("gate"), 2, "nothing to judge")


@pytest.mark.parametrize(
    ("student", "code", "words"),
    [
        ("missing.onnx", 2, ("missing.onnx", "does not exist")),
        ("truncated.onnx", 2, ("truncated.onnx", "(rule ")),
        ("garbage.onnx", 2, ("garbage.onnx", "(rule ")),
        ("empty.onnx", 2, ("empty.onnx",)),
        ("notes.txt", 2, ("notes.txt",)),
    ],
)
def test_a_model_that_cannot_be_read(
    edgekd: Edgekd, place: Path, student: str, code: int, words: tuple[str, ...]
) -> None:
    whole = (place / "teacher.onnx").read_bytes()
    (place / "truncated.onnx").write_bytes(whole[: len(whole) // 2])
    (place / "garbage.onnx").write_bytes(bytes(range(256)) * 20)
    (place / "empty.onnx").write_bytes(b"")
    (place / "notes.txt").write_text("not a model")
    one_line(
        edgekd("gate", "--teacher", "teacher.onnx", "--student", student, "--data", "test.npz", "--out", "never"),
        code, *words,
    )  # fmt: skip
    assert not (place / "never").exists()


GOOD = examples(100)


@pytest.mark.parametrize(
    ("name", "arrays", "words"),
    [
        ("names.npz", {"u": GOOD["x"], "v": GOOD["x"], "label": GOOD["label"]}, ("input 'x'", "u, v")),
        ("shape.npz", {"x": GOOD["x"][:, :5], "label": GOOD["label"]}, ("shape (1, 5)", "(batch,10)")),
        ("dtype.npz", {"x": GOOD["x"].astype(np.float64), "label": GOOD["label"]}, ("float64", "float32")),
        ("range.npz", {"x": GOOD["x"], "label": GOOD["label"] + 5}, ("label", "10 classes")),
        ("nolabel.npz", {"x": GOOD["x"]}, ("no label",)),
        ("nan.npz", {"x": GOOD["x"] * np.nan, "label": GOOD["label"]}, ("NaN",)),
        ("none.npz", {"x": GOOD["x"][:0], "label": GOOD["label"][:0]}, ("empty",)),
        ("twice.npz", {**GOOD, "id": np.zeros(100, np.int64)}, ("id '0'", "twice")),
        ("rows.npz", {"x": GOOD["x"][:7], "label": GOOD["label"]}, ("x: 7", "label: 100")),
    ],
)
def test_data_that_cannot_be_used(
    edgekd: Edgekd, place: Path, name: str, arrays: dict[str, np.ndarray], words: tuple[str, ...]
) -> None:
    data = bad_npz(place, name, **arrays)
    done = edgekd(
        "gate", "--teacher", "teacher.onnx", "--student", "twin.onnx", "--data", data, "--out", "never"
    )
    one_line(done, 2, *words)
    if (place / "never").exists():  # what only the models met is a verdict, too
        found = verdict(place / "never")
        assert found["decision"] == "error"
        assert {(g["gate"], g["error_kind"]) for g in found["gates"]} == {("accuracy", "input")}


def test_missing_and_damaged_data(edgekd: Edgekd, place: Path) -> None:
    models = ("gate", "--teacher", "teacher.onnx", "--student", "twin.onnx")
    one_line(edgekd(*models, "--data", "absent.npz"), 2, "absent.npz", "does not exist")
    (place / "cut.npz").write_bytes((place / "test.npz").read_bytes()[:5000])
    one_line(edgekd(*models, "--data", "cut.npz"), 2, "cut.npz", "(rule truncated)")


def test_predictions_that_cannot_be_compared(edgekd: Edgekd, place: Path) -> None:
    model = onnx.load(place / "teacher.onnx")
    model.graph.node.append(helper.make_node("ReduceSum", ["logits"], ["total"], keepdims=0))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("total", onnx.TensorProto.FLOAT, []))
    onnx.save(model, place / "sum.onnx")
    done = edgekd(
        "gate", "--teacher", "teacher.onnx", "--student", "sum.onnx", "--data", "test.npz", "--out", "never"
    )
    one_line(done, 2, "'total'")
    assert verdict(place / "never")["decision"] == "error"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--target", "cpu:nosuch"), ("runtime 'nosuch'", "onnxruntime")),
        (("--target", "toaster:onnxruntime"), ("device 'toaster'",)),
        (("--target", "cpu"), ("device:runtime",)),
        (("--metric", "bleu"), ("metric 'bleu'", "top1")),
        (("--task", "poetry"), ("task is called 'poetry'",)),
        (("--max-accuracy-drop", "2"), ("is 2", "a fraction", "0.01 for one point")),
        (("--max-latency-ratio", "nan"), ("not finite",)),
        (("--shape", "x=ten"), ("NAME=MIN",)),
        (("--output", "nosuch:logits"), ("no output 'nosuch'",)),
    ],
)
def test_options_that_mean_nothing(edgekd: Edgekd, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    done = edgekd(
        "gate", "--teacher", "teacher.onnx", "--student", "twin.onnx", "--data", "test.npz", *options
    )
    one_line(done, 2, *words)


def test_a_folder_of_yours_is_never_replaced(edgekd: Edgekd, place: Path) -> None:
    mine = place / "mine"
    mine.mkdir(exist_ok=True)
    (mine / "thesis.txt").write_text("years of work")
    done = edgekd("gate", "--student", "teacher.onnx", "--max-size-mib", "3", "--out", "mine")
    one_line(done, 2, "mine", "not a run")
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_a_failed_gate_leaves_the_earlier_run_intact(edgekd: Edgekd, place: Path) -> None:
    assert edgekd("gate", "--student", "teacher.onnx", "--max-size-mib", "3", "--out", "kept").returncode == 0
    before = {p: p.read_bytes() for p in (place / "kept").rglob("*") if p.is_file()}
    one_line(
        edgekd("gate", "--student", "missing.onnx", "--max-size-mib", "3", "--out", "kept"), 2, "missing.onnx"
    )
    assert {p: p.read_bytes() for p in (place / "kept").rglob("*") if p.is_file()} == before
    assert not [p for p in place.iterdir() if p.name.endswith((".tmp", ".old"))]
