"""A bundle runs: benched, evaluated and judged from the folder and the .tar; changed, it is refused before it is opened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fixtures_bundle import OWN, Pair, make_bundle, make_key, pack
from fixtures_models import classifier, examples

from edgekd.cli import main
from edgekd.errors import PolicyError, UsageError
from edgekd.release.opening import artifact_of, is_bundle, is_trusted, open_bundle
from edgekd.release.trust import Trust


@pytest.fixture(autouse=True)
def _nobody_is_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKD_TRUSTED_KEYS", "")
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_key(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, key: Pair) -> Path:
    """A student that really runs, judged by its accuracy and released signed: bundle, bundle.tar, student.onnx, test.npz."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        classifier(folder / "teacher.onnx", layers=6)
        classifier(folder / "student.onnx", layers=4)
        np.savez(folder / "test.npz", **examples(400))
        (folder / "declared.yaml").write_text(OWN)
        judged = ["--teacher", "teacher.onnx", "--student", "student.onnx", "--data", "test.npz"]
        assert main(["gate", *judged, "--max-accuracy-drop", "0.05", "--out", "run"]) == 0
        assert (
            main(
                ["release", "run", "-o", "bundle", "--provenance", "declared.yaml", "--key", str(key.private)]
            )
            == 0
        )
    return folder


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """Another machine: the bundle, and nothing of where it was made."""
    shutil.copytree(made / "bundle", tmp_path / "bundle")
    for name in ("bundle.tar", "test.npz", "student.onnx"):
        shutil.copyfile(made / name, tmp_path / name)
    return tmp_path


def state(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("form", ["bundle", "bundle.tar"])
def test_a_bundle_is_benched_evaluated_and_judged(home: Path, form: str) -> None:
    before, archive = state(home / "bundle"), (home / "bundle.tar").read_bytes()
    assert main(["bench", form, "--restarts", "1", "--no-resources"]) == 0
    measured = json.loads((home / "measurement.json").read_bytes())
    released = json.loads((home / "bundle/verdict.json").read_bytes())["selected"]
    assert [a["artifact"] for a in measured["arms"].values()] == list(released.values())
    assert main(["eval", form, "--data", "test.npz"]) == 0
    assert main(["gate", form, "--out", "again"]) == 0
    assert (home / "again/verdict.json").read_bytes() == (home / "bundle/verdict.json").read_bytes()
    (home / "strict.yaml").write_text("size: {max_mib: 0.000001}\n")
    assert main(["gate", form, "--policy", "strict.yaml"]) == 1
    (default,) = (home / "runs").iterdir()
    assert not (default / "manifest.json").exists()
    assert main(["gate", str(default), "--policy", "strict.yaml"]) == 1  # it is a run folder like any other
    assert state(home / "bundle") == before
    assert (home / "bundle.tar").read_bytes() == archive


def test_what_was_declared_at_release_is_judged_with_the_bundle(home: Path) -> None:
    assert json.loads((home / "bundle/provenance.json").read_bytes())["given_by"] == "release"
    (home / "terms.yaml").write_text("provenance: {}\n")
    assert main(["gate", "bundle", "--policy", "terms.yaml", "--out", "again"]) == 0
    assert "Declared when the run was released" in (home / "again/report.html").read_text(encoding="utf-8")
    assert main(["gate", "again", "--policy", "terms.yaml"]) == 0  # the run folder has it too


@pytest.mark.parametrize("form", ["bundle", "bundle.tar"])
def test_a_bundle_is_a_baseline_and_a_student(home: Path, form: str) -> None:
    judged = ["--data", "test.npz", "--against", "baseline", "--max-accuracy-drop", "0.05"]
    assert main(["gate", "--student", "student.onnx", "--baseline", form, *judged, "--out", "a"]) == 0
    assert main(["gate", "--student", form, "--baseline", "student.onnx", *judged, "--out", "b"]) == 0


def test_a_changed_bundle_is_refused_before_anything_opens_it(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = next((home / "bundle/artifacts").rglob("*.onnx"))
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    pack(home / "bundle", "student")
    for form in ("bundle", "bundle.tar"):
        for command in (
            ["bench", form, "--restarts", "1"], ["eval", form, "--data", "test.npz"], ["gate", form],
            ["gate", "--student", "student.onnx", "--baseline", form],
        ):  # fmt: skip
            assert main(command) == 5, command
            said = capsys.readouterr().err
            assert "model.onnx was changed" in said or "student.onnx was changed" in said, said
    assert not (home / "cache/bundles").exists()
    assert not list(home.glob("runs/[!.]*"))


def test_the_trusted_folder_holds_for_opening_too(
    home: Path, key: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_key(home, "other")
    trusted = home / "trusted"
    trusted.mkdir()
    monkeypatch.setenv("EDGEKD_TRUSTED_KEYS", str(trusted))
    shutil.copyfile(other.public, trusted / "other.pem")
    for form in ("bundle", "bundle.tar"):
        assert main(["eval", form, "--data", "test.npz"]) == 5
    model = next((home / "bundle/artifacts").rglob("*.onnx"))
    assert not is_trusted(model)
    shutil.copyfile(key.public, trusted / "key.pem")
    for form in ("bundle", "bundle.tar"):
        assert main(["eval", form, "--data", "test.npz"]) == 0
    assert is_trusted(model)
    model.write_bytes(model.read_bytes() + b"x")
    assert not is_trusted(model)


def test_nobody_trusted_makes_nothing_trusted(home: Path) -> None:
    assert not is_trusted(next((home / "bundle/artifacts").rglob("*.onnx")))


def test_the_archive_is_unpacked_once_and_looked_at_again(home: Path) -> None:
    first = open_bundle(home / "bundle.tar")
    assert first.folder.parent == home / "cache/bundles"
    stamp = (first.folder / "manifest.json").stat().st_mtime_ns
    assert open_bundle(home / "bundle.tar").folder == first.folder
    assert (first.folder / "manifest.json").stat().st_mtime_ns == stamp
    assert state(first.folder) == state(home / "bundle")
    (first.folder / "report.md").write_text("something else")
    again = open_bundle(home / "bundle.tar")  # the cache was changed: unpacked again
    assert state(again.folder) == state(home / "bundle")
    assert open_bundle(home / "bundle").folder == home / "bundle"


def test_what_is_a_bundle(home: Path) -> None:
    assert is_bundle(home / "bundle")
    assert is_bundle(home / "bundle.tar")
    assert not is_bundle(home / "student.onnx")
    (home / "folder").mkdir()
    assert not is_bundle(home / "folder")
    (home / "folder/manifest.json").write_text('{"name": "a web app"}')
    assert not is_bundle(home / "folder")
    (home / "bundle/manifest.json").write_text("{")
    assert is_bundle(home / "bundle")
    with pytest.raises(PolicyError, match="not JSON"):
        open_bundle(home / "bundle", trust=Trust())


def test_the_artifact_that_the_target_opens(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", OWN)
    opened = open_bundle(bundle, trust=Trust())
    chosen = artifact_of(opened, formats=("onnx",), target="cpu:onnxruntime")
    assert (chosen.format, chosen.dtype) == ("onnx", "int8")
    assert artifact_of(opened, formats=("openvino",)).digest == chosen.digest  # it is converted from there
    second = opened.folder / "artifacts/other"
    shutil.copytree(chosen.folder, second)
    described = json.loads((second / "artifact.json").read_bytes())
    described.pop("digest")
    described["dtype"] = "float32"
    (second / "artifact.json").write_text(json.dumps(described))
    with pytest.raises(UsageError, match="holds 2 artifacts that would do as the model: other, student-int8"):
        artifact_of(opened, formats=("onnx",), target="cpu:openvino")
    described["format"] = "openvino"
    (second / "artifact.json").write_text(json.dumps(described))
    assert artifact_of(opened, formats=("openvino", "onnx"), target="cpu:openvino").format == "openvino"
    assert artifact_of(opened, formats=("onnx",), target="cuda:onnxruntime").dtype == "int8"


def test_a_sweep_does_not_write_into_a_bundle(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inside = next((home / "bundle/artifacts").iterdir())
    for form in ("bundle", "bundle.tar", str(inside), str(next(inside.glob("*.onnx")))):
        assert main(["bench", form, "--sweep"]) == 2
        assert "is a released bundle; sweep the model before" in capsys.readouterr().err
