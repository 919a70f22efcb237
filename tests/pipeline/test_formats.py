"""One recipe, several formats: each target is given what it opens, and a file becomes another where that is possible."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from fixtures_models import classifier, examples

from edgekd.cli import main
from edgekd.errors import UsageError
from edgekd.evidence.run import load_run
from edgekd.pipeline.routes import find_route

RECIPE = """
edgekd: 1
name: formats
task:
  data: {calibration: "data.npz#0:100", select: "data.npz#100:300", test: "data.npz#300:600"}
teacher: {model: teacher.onnx}
student: {model: student.onnx}
quantize: [float32, int8]
export: [onnx, openvino, tensorrt]
targets: [cpu:onnxruntime, cpu:openvino, {target: cuda:tensorrt, required: false}]
gates:
  accuracy: {max_drop: 0.2}
  size: {max_mib: 4}
  placement: {min_share: 0.2, precision: PRECISION}
"""


def needs_openvino() -> None:
    if importlib.util.find_spec("openvino") is None:  # importing it would start its telemetry
        pytest.skip("openvino is not installed")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import numpy as np

    monkeypatch.chdir(tmp_path)
    classifier(tmp_path / "teacher.onnx", layers=3)
    classifier(tmp_path / "student.onnx", layers=1)
    np.savez(tmp_path / "data.npz", **examples(600))
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("PRECISION", "float32"))
    return tmp_path


def test_each_target_runs_candidates_in_its_own_format(place: Path) -> None:
    needs_openvino()
    assert main(["run", "recipe.yaml", "--out", "out"]) == 0
    run = load_run(place / "out")
    formats = {t: run.artifacts[d]["format"] for t, d in run.selected.items()}
    assert formats == {"cpu:onnxruntime": "onnx", "cpu:openvino": "openvino"}
    assert {(c.target, run.artifacts[c.artifact]["format"]) for c in run.candidates} == {
        ("cpu:onnxruntime", "onnx"), ("cpu:openvino", "openvino"),
    }  # fmt: skip
    # The teacher has other bytes in the other format, and each candidate says which it was compared with.
    teachers = {c.target: c.references["teacher"] for c in run.candidates}
    assert len(set(teachers.values())) == 2
    assert [a.target for a in run.absent] == ["cuda:tensorrt"]
    assert any("tensorrt: the student was not exported" in n for n in run.notes)
    verdict = json.loads((place / "out/verdict.json").read_text())
    placed = [g for g in verdict["gates"] if g["gate"] == "placement" and g["decision"] == "pass"]
    assert [g["target"] for g in placed] == ["cpu:onnxruntime", "cpu:openvino"]
    # Judged again from the folder alone: the same gates.
    assert main(["gate", "out"]) == 0
    assert json.loads((place / "out/verdict.json").read_text())["gates"] == verdict["gates"]


def test_what_computes_in_another_precision_is_rejected(place: Path) -> None:
    policy = place / "policy.yaml"
    policy.write_text("placement: {min_share: 0.99, precision: int8}\n")
    asked = ["gate", "--student", "student.onnx", "--policy", str(policy), "--out", "out"]
    assert main(asked) == 1
    (gate,) = json.loads((place / "out/verdict.json").read_text())["gates"]
    assert (gate["gate"], gate["decision"], gate["estimate"], gate["limit"]) == (
        "placement",
        "reject",
        0.0,
        0.99,
    )


def test_a_runtime_that_does_not_tell_is_inconclusive(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["gate", "--student", "zoo:digits-cnn-student", "--target", "cpu:torch", "--min-placement", "0.5",
             "--placement-by", "time", "--out", "out"]  # fmt: skip
    assert main(asked) == 3
    assert "gives no time" in capsys.readouterr().out


def test_a_target_that_opens_nothing_of_it_is_refused_before_any_work(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        (place / "recipe.yaml")
        .read_text()
        .replace("export: [onnx, openvino, tensorrt]", "export: [openvino]")
    )
    (place / "recipe.yaml").write_text(text)
    assert main(["run", "recipe.yaml", "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert "target cpu:onnxruntime opens onnx, ort, and `export` names openvino" in said
    assert not (place / "out").exists()


def test_a_file_is_converted_for_the_target(place: Path) -> None:
    needs_openvino()
    assert main(["export", "student.onnx", "--format", "openvino", "-o", "ir"]) == 0
    assert (
        main(["eval", "student.onnx", "--data", "data.npz", "--target", "cpu:openvino", "-o", "a.json"]) == 0
    )
    assert main(["eval", "ir", "--data", "data.npz", "--target", "cpu:openvino", "-o", "b.json"]) == 0
    a, b = (json.loads((place / name).read_text()) for name in ("a.json", "b.json"))
    assert a["mean"] == b["mean"]


@pytest.mark.parametrize(
    ("source", "wanted", "route"),
    [
        ("onnx", "onnx", ()),
        ("onnx", "openvino", ("openvino",)),
        ("huggingface", "openvino", ("onnx", "openvino")),
        ("huggingface", "tensorrt", ("onnx", "tensorrt")),
    ],
)
def test_the_shortest_way(source: str, wanted: str, route: tuple[str, ...]) -> None:
    assert find_route(source, wanted) == route


def test_no_way_is_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="no way from a file in format onnx to executorch; it can become"):
        find_route("onnx", "executorch")
    assert main(["export", "student.onnx", "--format", "litert", "-o", "x.tflite"]) == 2
    assert "there is no way from a file in format onnx to litert" in capsys.readouterr().err


def test_an_optional_target_that_nothing_can_be_made_for_sinks_no_other(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("ai_edge_litert") is None:
        pytest.skip("ai-edge-litert is not installed")
    text = RECIPE.replace("openvino, tensorrt]", "litert]").replace("PRECISION", "float32")
    optional = "targets: [{target: cpu:litert, required: false}, cpu:onnxruntime]"
    lines = [optional if line.startswith("targets:") else line for line in text.splitlines()]
    (place / "recipe.yaml").write_text("\n".join(lines))
    assert main(["run", "recipe.yaml", "--out", "out"]) == 0
    run = load_run(place / "out")
    assert [c.target for c in run.candidates] == ["cpu:onnxruntime"] * 2
    assert [(a.target, a.required) for a in run.absent] == [("cpu:litert", False)]
    assert "failed: there is no way from a file in format onnx to litert" in run.absent[0].reason
    verdict = json.loads((place / "out/verdict.json").read_text())
    assert {g["target"] for g in verdict["gates"] if g["decision"] == "not_run"} == {"cpu:litert"}
    # One that is required ends the run.
    (place / "recipe.yaml").write_text("\n".join(lines).replace("required: false", "required: true"))
    capsys.readouterr()
    assert main(["run", "recipe.yaml", "--out", "again"]) == 2
    assert "there is no way from a file in format onnx to litert" in capsys.readouterr().err
