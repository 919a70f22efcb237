"""A board for every test here: a real sshd on loopback, and a pretended adb."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fixtures_board import Sshd, running_sshd
from fixtures_models import classifier, examples

from edgekd.artifact import Artifact
from edgekd.board.session import close_boards
from edgekd_onnx.exporter import OnnxExporter


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running
        close_boards()


@pytest.fixture
def board(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Sshd:
    """``ssh/board`` is that sshd, for this process and those that it starts; a session may be open already."""
    for name, value in sshd.environ().items():
        monkeypatch.setenv(name, value)
    return sshd


@pytest.fixture
def fresh(board: Sshd) -> Iterator[Sshd]:
    """The same, without a session before and after the test."""
    close_boards()
    yield board
    close_boards()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``teacher.onnx``, ``student.onnx`` (a third of its work) and ``test.npz``."""
    folder = tmp_path_factory.mktemp("models")
    classifier(folder / "teacher.onnx", layers=9)
    classifier(folder / "student.onnx", layers=3)
    np.savez(folder / "test.npz", **examples(400))
    return folder


@pytest.fixture(scope="session")
def teacher(models: Path) -> Artifact:
    return OnnxExporter().read(models / "teacher.onnx")


@pytest.fixture(scope="session")
def student(models: Path) -> Artifact:
    return OnnxExporter().read(models / "student.onnx")
