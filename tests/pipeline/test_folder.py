"""The run folder in the making: every file once, under a name of its own, and nothing of the user's replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures_run import make_artifact, make_evaluation, make_measurement, make_run

from edgekd.artifact import load_artifact
from edgekd.errors import UsageError
from edgekd.evidence import load_evaluation, load_measurement
from edgekd.model import WEIGHTS_FILE, Model, load_model
from edgekd.pipeline.folder import RunFolder, check_out, slug
from edgekd.spec import TensorSpec


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("student int8", "student-int8"),
        ("a/b\\c", "a-b-c"),
        ("../../etc/passwd", "etc-passwd"),
        ("..", "unnamed"),
        ("", "unnamed"),
        ("größe", "gr-e"),
        ("model.v2", "model.v2"),
    ],
)
def test_a_label_becomes_one_plain_file_name(label: str, name: str) -> None:
    assert slug(label) == name


def test_only_a_run_or_an_empty_folder_may_be_replaced(tmp_path: Path) -> None:
    check_out(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    check_out(tmp_path / "empty")
    make_run(tmp_path / "run")
    check_out(tmp_path / "run")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    (tmp_path / "file").write_text("")
    for mine in ("thesis", "file"):
        with pytest.raises(UsageError, match=f"{mine} holds something that is not a run"):
            check_out(tmp_path / mine)


def test_an_artifact_is_copied_once_per_digest(tmp_path: Path) -> None:
    first = make_artifact(tmp_path / "first", b"same bytes", "float32")
    again = make_artifact(tmp_path / "again", b"same bytes", "float32")
    folder = RunFolder(tmp_path / "run")
    assert folder.add_artifact("teacher", first) == folder.add_artifact("baseline", again) == first.digest
    assert [p.name for p in (tmp_path / "run" / "artifacts").iterdir()] == ["teacher"]
    record = folder.artifacts[first.digest]
    assert (record["name"], record["folder"], record["size_bytes"]) == ("teacher", "artifacts/teacher", 10)
    assert load_artifact(tmp_path / "run" / record["folder"]).digest == first.digest


def test_equal_labels_get_names_of_their_own(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for i, content in enumerate((b"a", b"b", b"c")):
        folder.add_artifact("student", make_artifact(tmp_path / str(i), content, "float32"))
    assert [r["folder"] for r in folder.artifacts.values()] == [
        "artifacts/student",
        "artifacts/student-2",
        "artifacts/student-3",
    ]


def test_an_evaluation_is_written_once_per_name_split_artifact_and_target(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    test, other = make_evaluation(n=20), make_evaluation(n=20, split="select")
    path = folder.add_evaluation(test)
    assert path == "evidence/eval-student-test.json"
    assert folder.add_evaluation(test) == path
    assert folder.add_evaluation(other) == "evidence/eval-student-select.json"
    elsewhere = make_evaluation(n=20, target="cpu:torch")
    assert folder.add_evaluation(elsewhere) == "evidence/eval-student-test-2.json"
    assert load_evaluation(tmp_path / path).ids.tolist() == test.ids.tolist()


def test_a_measurement_is_written_under_its_label(tmp_path: Path) -> None:
    path = RunFolder(tmp_path).add_measurement("select cpu:onnxruntime", make_measurement())
    assert path == "evidence/measure-select-cpu-onnxruntime.json"
    assert len(load_measurement(tmp_path / path).restarts) == 4


def test_a_model_is_copied_without_the_stage_s_own_record(tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    stage.mkdir()
    (stage / WEIGHTS_FILE).write_bytes(b"weights")
    (stage / "stage.json").write_text("{}")
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", 2))
    model = Model(folder=stage, name="net", factory="zoo:net", inputs=(spec,), outputs=(spec,), parameters=3)
    model.save()
    RunFolder(tmp_path / "run").add_model("student", model)
    copied = tmp_path / "run" / "models" / "student"
    assert sorted(p.name for p in copied.iterdir()) == ["model.json", WEIGHTS_FILE]
    assert load_model(copied).as_artifact().digest == model.as_artifact().digest
