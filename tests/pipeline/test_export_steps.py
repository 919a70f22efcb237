"""Exports through the cache: what decides the result is in the key, and each step is given the options it knows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fixtures_models import classifier

from edgekd.artifact import load_artifact
from edgekd.cli import main
from edgekd.pipeline.artifacts import export_to
from edgekd.stages import StageStore


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    classifier(tmp_path / "student.onnx", layers=1)
    return tmp_path


def test_what_is_carried_over_is_not_taken_from_another_model(place: Path) -> None:
    """Two artifacts of the same bytes: one says which output answers, the other does not."""
    assert main(["export", "student.onnx", "--optimize", "ort-basic", "-o", "plain"]) == 0
    shutil.copytree("plain", "told")
    value = json.loads(Path("told/artifact.json").read_text())
    Path("told/artifact.json").write_text(
        json.dumps({**value, "output": {"name": "logits", "kind": "logits"}})
    )
    for folder, output in (("plain", {}), ("told", {"name": "logits", "kind": "logits"})):
        assert main(["export", folder, "--format", "ort", "-o", f"{folder}-ort"]) == 0
        assert load_artifact(Path(f"{folder}-ort")).output == output


def test_a_file_that_an_option_names_counts_by_its_content(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekd_onnx.exporter import OnnxExporter

    made: list[str] = []

    def convert(self: object, artifact: object, out: Path, options: dict[str, str]) -> object:
        made.append(Path(options["pin"]).read_text())
        return real(self, artifact, out, {"optimize": "ort-basic"})

    real = OnnxExporter.convert
    monkeypatch.setattr(OnnxExporter, "FILE_OPTIONS", ("pin",), raising=False)
    monkeypatch.setattr(OnnxExporter, "convert", convert)
    source, store = OnnxExporter().read(place / "student.onnx"), StageStore(place / "stages")
    for text in ("one", "one", "two"):
        (place / "pin").write_text(text)
        export_to(source, "onnx", {"pin": str(place / "pin")}, store, "x")
    assert made == ["one", "two"]


@pytest.mark.parametrize(
    ("asked", "dtype"),
    [
        (["--format", "ort", "--dtype", "float16"], "float16"),
        (["--format", "ort", "--optimize", "ort-basic"], "float32"),
    ],
)
def test_the_step_that_knows_an_option_is_given_it(place: Path, asked: list[str], dtype: str) -> None:
    assert main(["export", "student.onnx", *asked, "-o", "out"]) == 0
    made = load_artifact(Path("out"))
    assert (made.format, made.dtype) == ("ort", dtype)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["export", "student.onnx", "--shape", "x=4x10", "-o", "o"], "student.onnx is onnx already"),
        (["export", "student.onnx", "--option", "atol=1", "-o", "o"], "student.onnx is onnx already"),
        (["export", "student.onnx", "--format", "ort", "--sm", "89", "-o", "o"], "add --lint"),
        (
            ["export", "student.onnx", "--format", "ort", "--option", "feeds=x", "-o", "o"],
            "is not given as text",
        ),
        (["export", "student.onnx", "--format", "openvino", "-o", "s.xml"], "an IR has two files"),
        (
            ["quantize", "student.onnx", "--for", "cpu:nosuch", "--calibration", "c.npz", "-o", "o"],
            "no runtime is called",
        ),
        (["compare", "student.onnx", "other.onnx"], "has 1 outputs (logits), other.onnx has 1 (scores)"),
    ],
)
def test_what_would_do_nothing_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], asked: list[str], said: str
) -> None:
    if asked[0] == "compare":
        import onnx

        proto = onnx.load("student.onnx")
        proto.graph.node.add(op_type="Relu", input=["logits"], output=["more"], name="more")
        proto.graph.output.add().CopyFrom(proto.graph.output[0])
        proto.graph.output[1].name = "more"
        onnx.save(proto, "other.onnx")
        said = "other.onnx has 2 (logits, more)"
    assert main(asked) == 2
    assert said in capsys.readouterr().err
