"""Several builds of one model: all are measured, and the worst is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fixtures_builds import built_twice
from fixtures_models import classifier

from edgekd.cli import main
from edgekd.errors import ModelError
from edgekd.files import sha256_file
from edgekd.pipeline.builds import other_builds
from edgekd_onnx.exporter import OnnxExporter


@pytest.mark.parametrize(("layers", "decision"), [(1, "pass"), (12, "reject")])
def test_the_worst_build_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layers: int, decision: str
) -> None:
    monkeypatch.chdir(tmp_path)
    built_twice(tmp_path / "student", layers)
    classifier(tmp_path / "teacher.onnx", layers=4)
    asked = [
        "gate",
        "--teacher",
        "teacher.onnx",
        "--student",
        "student",
        "--max-latency-ratio",
        "1.5",
        "--out",
        "out",
    ]
    assert main(asked) == {"pass": 0, "reject": 1}[decision]
    (gate,) = json.loads((tmp_path / "out/verdict.json").read_text())["gates"]
    assert gate["decision"] == decision
    assert gate["reason"].endswith("the worst of 2 builds")
    assert gate["estimate"] == max(gate["detail"]["builds"])
    # Judged again from the folder alone, and only while the arms are what they are called.
    assert main(["gate", "out"]) == {"pass": 0, "reject": 1}[decision]
    index = json.loads((tmp_path / "out/run.json").read_text())
    index["candidates"][0]["test"]["latency"]["builds"] = ["baseline"]
    (tmp_path / "out/run.json").write_text(json.dumps(index))
    assert main(["gate", "out"]) == 2


def test_an_absolute_limit_is_of_the_worst_build_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    built_twice(tmp_path / "student", 12)
    asked = ["gate", "--student", "student", "--max-latency-ms", "p50:1000", "--out", "out"]
    assert main(asked) == 0
    (gate,) = json.loads((tmp_path / "out/verdict.json").read_text())["gates"]
    assert gate["reason"].endswith("the worst of 2 builds")
    first, second = gate["detail"]["builds"]
    assert gate["estimate"] == max(first, second)
    assert first != second


def test_a_build_brings_what_lies_in_its_folder(tmp_path: Path) -> None:
    made = built_twice(tmp_path / "student", 2)
    for name in ("model.onnx.json", "weights/part.bin"):
        path = made.folder / "builds/2" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    ((_, second),) = other_builds("student", made)
    assert [f.path for f in second.files] == [
        "builds/2/model.onnx", "builds/2/model.onnx.json", "builds/2/weights/part.bin",
    ]  # fmt: skip
    assert all(f.sha256 == sha256_file(made.folder / f.path) for f in second.files)


def test_one_build_is_no_list(tmp_path: Path) -> None:
    made = OnnxExporter().read(classifier(tmp_path / "a.onnx"))
    assert other_builds("student", made) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.update(path="../x.onnx"), "outside its folder"),
        (lambda b: b.update(path="builds/3/model.onnx"), "is missing"),
        (lambda b: b.update(sha256="0" * 64), "was altered"),
    ],
)
def test_a_build_that_is_not_what_it_says(tmp_path: Path, change: object, message: str) -> None:
    made = built_twice(tmp_path / "student", 2)
    change(made.lineage["builds"]["files"][1])  # type: ignore[operator]
    with pytest.raises(ModelError, match=message):
        other_builds("student", made)
