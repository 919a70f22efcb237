from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from edgekd.errors import MissingDependencyError, StorageError
from edgekd.stages import STAGE_FILE, StageStore
from edgekd_litert import environment


@pytest.fixture(autouse=True)
def _nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(environment.PYTHON_VARIABLE, raising=False)


def _installs(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    made: list[Path] = []

    def install(folder: Path, scratch: Path) -> None:
        made.append(folder)
        (folder / "litert_torch").mkdir()
        (folder / "litert_torch" / "__init__.py").write_text("")

    monkeypatch.setattr(environment, "_install", install)
    return made


def test_it_is_made_once_and_found_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = _installs(monkeypatch)
    (first,) = environment.converter_packages()
    assert (first / "litert_torch").is_dir() and (first / STAGE_FILE).is_file()
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert environment.converter_packages() == (first,)
    assert len(installed) == 1
    assert capsys.readouterr().err == ""


def test_other_pins_are_another_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = _installs(monkeypatch)
    (first,) = environment.converter_packages()
    pins = tmp_path / "requirements.txt"
    pins.write_text(environment.REQUIREMENTS.read_text() + "one-more==1.0\n")
    monkeypatch.setattr(environment, "REQUIREMENTS", pins)
    (second,) = environment.converter_packages()
    assert first != second and len(installed) == 2


def test_one_that_was_broken_off_is_not_taken_for_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(folder: Path, scratch: Path) -> None:
        (folder / "half").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(environment, "_install", breaks)
    with pytest.raises(KeyboardInterrupt):
        environment.converter_packages()
    with pytest.raises(MissingDependencyError, match=r"not made yet; run: .* -m edgekd_litert\.environment"):
        environment.converter_packages(make=False)
    (made,) = (_installs(monkeypatch), environment.converter_packages())[1]
    assert not (made / "half").exists()


def test_without_an_index_the_command_to_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip itself, with no index and no folder of wheels."""
    for name, value in (
        ("PIP_NO_INDEX", "1"),
        ("PIP_CONFIG_FILE", "/dev/null"),
        ("PIP_FIND_LINKS", str(tmp_path)),
    ):
        monkeypatch.setenv(name, value)
    pins = tmp_path / "requirements.txt"
    pins.write_text("litert-torch==0.10.0\n")
    monkeypatch.setattr(environment, "REQUIREMENTS", pins)
    with pytest.raises(MissingDependencyError) as e:
        environment.make_environment(StageStore(tmp_path / "cache"))
    assert "litert-torch==0.10.0" in e.value.what and f"run: {environment.command()}" in e.value.fix
    assert "\n" not in str(e.value) and e.value.exit_code == 4
    assert not any((tmp_path / "cache" / "environments").iterdir())


def test_a_full_disk_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Done:
        returncode = 1
        stderr = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"

    monkeypatch.setattr(environment.subprocess, "run", lambda *a, **k: Done())
    with pytest.raises(StorageError, match="no space left while installing litert-torch"):
        environment.make_environment(StageStore(tmp_path / "cache"))


def test_an_interpreter_that_was_named_must_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.PYTHON_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(MissingDependencyError, match="does not run as a Python"):
        environment.converter_packages()
    monkeypatch.setenv(environment.PYTHON_VARIABLE, sys.executable)
    with pytest.raises(MissingDependencyError, match=r"no litert-torch, 0\.10\.\* is needed"):
        environment.converter_packages()
    answers = tmp_path / "python"
    for version, installed, says in (
        ([3, 8], "0.10.0", r"a Python 3\.8; this is"),
        (list(sys.version_info[:2]), "0.9.1", r"litert-torch 0\.9\.1, 0\.10\.\* is needed"),
        (list(sys.version_info[:2]), "0.10.3", ""),
    ):
        answers.write_text(f'#!/bin/sh\necho \'[{version}, "/pure", "/platform", "{installed}"]\'\n')
        answers.chmod(0o755)
        monkeypatch.setenv(environment.PYTHON_VARIABLE, str(answers))
        if says:
            with pytest.raises(MissingDependencyError, match=says):
                environment.converter_packages()
        else:
            assert environment.converter_packages() == (Path("/platform"), Path("/pure"))


def test_this_environment_serves_where_it_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: object())
    for version, whole in (("0.10.0", True), ("0.11.0", False)):
        monkeypatch.setattr(importlib.metadata, "version", lambda name, found=version: found)
        if whole:
            assert environment.converter_packages() == ()
        else:
            with pytest.raises(MissingDependencyError, match=r"litert-torch 0\.11\.0"):
                environment.converter_packages()
