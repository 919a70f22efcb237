"""Models opened in this process: where they really run is read back, and another place is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixtures_models import classifier

from edgekd.errors import DataError, ModelError, TargetUnavailableError, UsageError
from edgekd.pipeline import sessions
from edgekd.pipeline.sessions import OpenModel, open_model
from edgekd.stages import StageStore
from edgekd.target import SessionOptions
from edgekd.testing import FakeRuntime, write_fake


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    return StageStore(tmp_path / "store")


def test_a_model_is_opened_as_asked(tmp_path: Path, store: StageStore) -> None:
    path = classifier(tmp_path / "m.onnx")
    opened = open_model(str(path), settings={"arena": False}, store=store)
    assert (opened.placement.provider, opened.placement.threads) == ("CPUExecutionProvider", 1)
    assert opened.placement.detail["arena"] is False
    feeds = opened.draw_feeds(batch=2)
    assert feeds["x"].shape == (2, 10)
    assert np.array_equal(feeds["x"], opened.draw_feeds(batch=2)["x"])
    call = opened.bind(feeds)
    call()
    assert opened.run(feeds)["logits"].shape == (2, 10)
    opened.close()
    opened.close()
    with pytest.raises(ModelError, match="is closed"):
        opened.run(feeds)


def test_shapes_are_numbers_or_words(tmp_path: Path, store: StageStore) -> None:
    opened = open_model(str(classifier(tmp_path / "m.onnx")), store=store)
    for size in ((4, 10), "4x10"):
        assert opened.draw_feeds(shape={"x": size}, batch=4)["x"].shape == (4, 10)
    with pytest.raises(UsageError, match="names the input 'y', which no model has"):
        opened.draw_feeds(shape={"y": (1, 10)})
    with pytest.raises(DataError, match="has 4 examples, --batch is 1"):
        opened.draw_feeds(shape={"x": (4, 10)})


def test_what_cannot_be_opened_is_said(tmp_path: Path, store: StageStore) -> None:
    path = str(classifier(tmp_path / "m.onnx"))
    with pytest.raises(ModelError, match="does not exist"):
        open_model(str(tmp_path / "none.onnx"), store=store)
    with pytest.raises(UsageError, match="threads were asked for"):
        open_model(path, threads=10_000, store=store)
    with pytest.raises(UsageError, match="no setting 'arna'"):
        open_model(path, settings={"arna": True}, store=store)
    with pytest.raises(UsageError, match="runtime 'nothing'"):
        open_model(path, target="cpu:nothing", store=store)


def test_a_session_elsewhere_than_asked_is_refused_and_closed(
    tmp_path: Path, store: StageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    elsewhere = FakeRuntime().open(write_fake(tmp_path).path, SessionOptions(threads=3))
    monkeypatch.setattr(elsewhere, "close", lambda: closed.append(True), raising=False)
    monkeypatch.setattr(sessions, "open_session", lambda args: (elsewhere, 0))
    with pytest.raises(
        TargetUnavailableError, match="opened on cpu with 3 threads, cpu with 1 was asked for"
    ):
        open_model(str(classifier(tmp_path / "m.onnx")), store=store)
    assert closed == [True]


def test_an_open_model_names_its_tensors(tmp_path: Path) -> None:
    artifact = write_fake(tmp_path)
    opened = OpenModel(artifact, FakeRuntime().open(artifact.path, SessionOptions()))
    assert (opened.inputs, opened.outputs) == (artifact.inputs, artifact.outputs)
