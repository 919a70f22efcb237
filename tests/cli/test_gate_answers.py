"""``edgekd gate`` on answers: every reference, relative rules, fidelity, slices, clusters, and what breaks on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fixtures_models import classifier, examples
from onnx import numpy_helper

from edgekd.cli import main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answers")
    classifier(folder / "teacher.onnx")
    classifier(folder / "three.onnx", wrong_classes=(3,), layers=2)
    classifier(folder / "four.onnx", wrong_classes=(4,), layers=2)
    classifier(folder / "naive.onnx", wrong_classes=(3, 4, 5), layers=2)
    data = examples(n=3000)
    rows = np.arange(3000)
    np.savez(
        folder / "test.npz",
        **data,
        slice_site=np.asarray([f"s{i // 7 % 3}" for i in rows]),
        slice_speaker=np.asarray([f"p{i // 60:02}" for i in rows]),
    )
    broken = onnx.load(folder / "teacher.onnx")
    head = next(t for t in broken.graph.initializer if t.name == "head")
    head.CopyFrom(numpy_helper.from_array(np.full((256, 10), np.nan, np.float32), "head"))
    onnx.save(broken, folder / "nan.onnx")
    flat = onnx.load(folder / "teacher.onnx")
    head = next(t for t in flat.graph.initializer if t.name == "head")
    head.CopyFrom(numpy_helper.from_array(np.zeros((256, 10), np.float32), "head"))
    onnx.save(flat, folder / "flat.onnx")
    return folder


@pytest.fixture
def gate(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(place)
    monkeypatch.setenv("EDGEKD_CACHE", str(place / "cache"))

    def call(*args: str, data: str = "test.npz") -> tuple[int, list[dict[str, Any]], str]:
        code = main(["gate", "--data", data, "--out", "run", *args])
        err = capsys.readouterr().err
        return code, json.loads((place / "run" / "verdict.json").read_text())["gates"], err

    return call


def test_against_each_reference(gate: Any) -> None:
    models = ("--student", "three.onnx", "--teacher", "teacher.onnx", "--naive", "naive.onnx")
    models += ("--float32", "four.onnx", "--max-accuracy-drop", "0.02")
    found = {}
    for against in ("teacher", "naive", "float32", "baseline"):
        # Where its answers are not asked for, a baseline is measured: that is another test's.
        more = ("--baseline", "three.onnx") if against == "baseline" else ()
        code, gates, _ = gate(*models, *more, "--against", against)
        answers = [g for g in gates if g["gate"] == "accuracy"]
        assert [g["against"] for g in answers] == [against]
        found[against] = (code, answers[0]["decision"], round(answers[0]["estimate"], 2))
    assert found["teacher"] == (1, "reject", -0.1)
    assert found["naive"][:2] == (0, "pass")
    assert found["float32"][1] in ("pass", "inconclusive")
    assert found["baseline"] == (0, "pass", 0.0)


def test_the_last_release_is_the_reference_where_there_is_no_teacher(gate: Any) -> None:
    code, gates, _ = gate(
        "--student", "three.onnx", "--baseline", "teacher.onnx", "--max-accuracy-drop", "0.02"
    )
    assert (code, [(g["gate"], g["against"]) for g in gates]) == (1, [("accuracy", "baseline")])


def test_a_first_run_has_no_answers_to_compare_with(gate: Any) -> None:
    asked = ("--student", "three.onnx", "--baseline", "none.onnx", "--max-accuracy-drop", "0.02")
    code, gates, _ = gate(*asked, "--first-run", "accept", "--max-size-mib", "9")
    assert (code, {g["gate"]: g["decision"] for g in gates}) == (0, {"accuracy": "not_run", "size": "pass"})


@pytest.mark.parametrize(("ratio", "code"), [("0.85", 0), ("0.95", 1)])
def test_a_share_of_the_teacher(gate: Any, ratio: str, code: int) -> None:
    found, gates, _ = gate(
        "--student", "three.onnx", "--teacher", "teacher.onnx", "--min-accuracy-ratio", ratio
    )
    assert (found, gates[0]["method"]) == (code, "score-ratio")


def test_flips_are_caught_where_accuracy_is_equal(gate: Any) -> None:
    asked = ("--student", "three.onnx", "--float32", "four.onnx", "--max-flips", "0.05")
    code, gates, _ = gate(*asked, "--max-accuracy-drop", "0.05")
    found = {g["gate"]: g for g in gates}
    assert (code, found["accuracy"]["decision"], found["fidelity"]["decision"]) == (1, "pass", "reject")
    assert found["fidelity"]["against"] == "float32"
    assert found["fidelity"]["estimate"] > 0.1


def test_without_its_float32_fidelity_is_to_the_teacher(gate: Any) -> None:
    _, gates, _ = gate("--student", "three.onnx", "--teacher", "teacher.onnx", "--max-flips", "0.5")
    assert [(g["gate"], g["against"], g["decision"]) for g in gates] == [("fidelity", "teacher", "pass")]


def test_a_class_that_is_lost_is_named(gate: Any) -> None:
    asked = ("--student", "three.onnx", "--teacher", "teacher.onnx", "--max-accuracy-drop", "0.15")
    code, gates, _ = gate(*asked, "--slice", "class", "--slice", "site")
    assert code == 1
    rejected = {(g["gate"], g.get("slice")) for g in gates if g["decision"] == "reject"}
    assert ("slice:class", "3") in rejected
    assert not {s for n, s in rejected if n == "slice:class"} - {"3"}
    assert {g["slice"] for g in gates if g["gate"] == "slice:site"} == {"s0", "s1", "s2"}


def test_clusters_are_resampled_whole(gate: Any) -> None:
    asked = ("--student", "three.onnx", "--teacher", "teacher.onnx", "--max-accuracy-drop", "0.15")
    code, gates, _ = gate(*asked, "--cluster", "speaker")
    assert (code, gates[0]["method"], gates[0]["detail"]["clusters"]) == (0, "bca-bootstrap", 50)
    assert "in 50 clusters" in gates[0]["reason"]


def test_an_unknown_cluster_is_an_error_with_the_columns(gate: Any) -> None:
    code, gates, err = gate("--student", "three.onnx", "--teacher", "teacher.onnx", "--cluster", "room")
    assert (code, gates[0]["decision"], gates[0]["error_kind"]) == (2, "error", "input")
    assert "it has site, speaker" in err


@pytest.mark.parametrize(
    ("model", "says"), [("nan.onnx", "NaN or infinite"), ("flat.onnx", "same class scores for all 3,000")]
)
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_broken_model_is_an_error_and_never_a_pass(gate: Any, role: str, model: str, says: str) -> None:
    other = "teacher" if role == "student" else "student"
    code, gates, err = gate(f"--{role}", model, f"--{other}", "three.onnx")
    assert (code, gates[0]["decision"], gates[0]["error_kind"]) == (2, "error", "input")
    assert says in gates[0]["reason"]
    assert err.count("edgekd: error:") == 1


def test_a_metric_that_raises_is_an_error(gate: Any, place: Path) -> None:
    (place / "grumpy.py").write_text(
        "from edgekd.tasks.classification import Classification\n"
        "class Grumpy(Classification):\n"
        "    def score(self, predictions, labels):\n"
        "        raise ValueError('no mood for that')\n"
        "def make(data, base):\n"
        "    return Grumpy(data=data, base=base)\n"
    )
    code, gates, _ = gate(
        "--student", "three.onnx", "--teacher", "teacher.onnx", "--task", "python:grumpy:make"
    )
    assert (code, gates[0]["decision"], gates[0]["error_kind"]) == (2, "error", "input")
    assert "no mood for that" in gates[0]["reason"]


def test_a_model_that_dies_is_an_error_of_the_machine(gate: Any, place: Path) -> None:
    code, gates, _ = gate(
        "--student",
        "three.onnx",
        "--teacher",
        "teacher.onnx",
        "--memory-limit-mib",
        "60",
        data="test.npz#0:2990",
    )
    assert (code, gates[0]["decision"], gates[0]["error_kind"]) == (4, "error", "infrastructure")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--max-flips", "0.1"), "float32"),
        (("--against", "naive"), "--naive"),
        (("--min-accuracy-ratio", "1.2"), "up to 1"),
        (
            ("--teacher", "teacher.onnx", "--max-accuracy-drop", "0.1", "--min-accuracy-ratio", "0.9"),
            "one of them",
        ),
    ],
)
def test_questions_that_cannot_be_asked(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.chdir(place)
    try:
        code = main(["gate", "--student", "three.onnx", "--data", "test.npz", "--out", "never", *options])
    except SystemExit as e:
        code = int(e.code or 0)
    assert code == 2
    assert says in capsys.readouterr().err
    assert not (place / "never").exists()


def test_judged_again_under_other_questions(
    gate: Any, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate("--student", "three.onnx", "--teacher", "teacher.onnx", "--float32", "four.onnx", "--max-flips", "0.5",
         "--max-accuracy-drop", "0.02")  # fmt: skip
    (place / "other.yaml").write_text(
        "accuracy: [{max_drop: 0.15}, {against: float32, min_ratio: 0.9}, {against: naive}]\n"
        "fidelity: {max_flips: 0.01, max_kl_mean: 0.001}\nslices: {names: [class], max_drop: 0.2}\n"
    )
    outs = []
    for name in ("again", "twice"):
        assert main(["gate", "run", "--policy", "other.yaml", "--out", name]) == 1
        outs.append((place / name / "verdict.json").read_bytes())
    assert outs[0] == outs[1]
    found = json.loads(outs[0])["gates"]
    assert [(g["gate"], g["against"], g["decision"]) for g in found[:5]] == [
        ("accuracy", "teacher", "pass"),
        ("accuracy", "float32", "pass"),
        ("accuracy", "naive", "inconclusive"),
        ("fidelity", "float32", "reject"),
        ("fidelity", "float32", "reject"),
    ]
    assert "--naive N" in found[2]["reason"]
    assert {g["gate"] for g in found[5:]} == {"slice:class"}


@pytest.mark.parametrize(
    "option",
    [
        ("--float32", "four.onnx"),
        ("--cluster", "site"),
        ("--metric", "f1"),
        ("--task", "regression"),
        ("--first-run", "accept"),
        ("--remeasure",),
        ("--prepare", "p.yaml"),
        ("--timeout", "3"),
        ("--min-duration", "3"),
        ("--slice", "class"),
    ],
)
def test_a_stored_run_takes_no_option_that_collects(
    gate: Any, option: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    gate("--student", "three.onnx", "--teacher", "teacher.onnx")
    assert main(["gate", "run", *option]) == 2
    assert option[0] in (err := capsys.readouterr().err) or "come from --policy" in err


def test_a_teacher_evaluation_of_another_model_is_refused(
    gate: Any, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate("--student", "three.onnx", "--teacher", "teacher.onnx")  # its folder is the current one
    assert main(["eval", "four.onnx", "--data", "test.npz", "-o", "four.json"]) == 0
    options = ["--teacher-evaluation", "four.json", "--student", "three.onnx", "--data", "test.npz"]
    assert main(["gate", *options, "--teacher", "teacher.onnx", "--out", "never"]) == 2
    assert "another model" in capsys.readouterr().err


def test_a_regression_has_no_usual_margin(
    place: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    models = ["--student", "three.onnx", "--teacher", "teacher.onnx", "--data", "test.npz", "--out", "never"]
    for more in ([], ["--max-accuracy-drop", "2", "--slice", "site"]):
        assert main(["gate", *models, "--task", "regression", *more]) == 2
        assert "no usual margin" in capsys.readouterr().err


def test_prepare_keys_for_a_model_that_comes_without(gate: Any, place: Path) -> None:
    (place / "data.yaml").write_text("size: 4\n")
    code, _, err = gate(
        "--student", "three.onnx", "--teacher", "teacher.onnx", "--task", "image-classification",
        "--prepare", "student:data.yaml",
    )  # fmt: skip
    assert code in (0, 1), err
    (place / "data.yaml").write_text("sise: 4\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        asked = [
            "--student",
            "three.onnx",
            "--teacher",
            "teacher.onnx",
            "--data",
            "test.npz",
            "--out",
            "never",
        ]
        code = main(["gate", *asked, "--task", "image-classification", "--prepare", "student:data.yaml"])
    assert code == 2


def test_prepare_keys_that_nothing_would_read(
    place: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    (place / "keys.yaml").write_text("scale: 255\n")
    models = ["--student", "three.onnx", "--teacher", "teacher.onnx", "--data", "test.npz", "--out", "never"]
    assert main(["gate", *models, "--prepare", "keys.yaml"]) == 2
    assert "feeds arrays as they are" in capsys.readouterr().err
    assert main(["gate", *models, "--task", "image-classification", "--prepare", "studnt:keys.yaml"]) == 2
    assert "studnt:keys.yaml, which is no file" in (err := capsys.readouterr().err)
    assert "teacher, student" in err
