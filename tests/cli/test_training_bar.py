"""The bar of a training: what is done, the loss, the time left; nothing where stderr is no terminal."""

from __future__ import annotations

import sys

import pytest

from edgekd.cli import progress
from edgekd.cli.progress import TrainingBar


def shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tty: bool, *calls: tuple
) -> str:  # type: ignore[type-arg]
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: tty, raising=False)
    bar = TrainingBar()
    for call in calls:
        bar(*call)
    return capsys.readouterr().err


def test_a_training_shows_epoch_loss_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = [("student", e, 2, s, 4, 1.5 - e / 2) for e in range(2) for s in range(4)]
    text = shown(monkeypatch, capsys, True, *calls)
    assert "student" in text
    assert "epoch 1/2  loss 1.500" in text
    assert text.endswith("epoch 2/2  loss 1.000  0 s left\r")


def test_a_teacher_that_is_asked_shows_its_share(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(
        monkeypatch, capsys, True, *[("teacher logits", 0, 1, done - 1, 200, None) for done in (50, 100, 200)]
    )
    assert "teacher logits ████████████············ 50%" in text
    assert "loss" not in text


def test_nothing_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(monkeypatch, capsys, False, ("student", 0, 1, 0, 1, 0.5)) == ""
