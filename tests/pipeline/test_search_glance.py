"""Times taken in the children that evaluate: an order, in which what does not open is left out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from fixtures_search_net import WIDTH, small_net

from edgekd.artifact import Artifact
from edgekd.child import ChildProcess
from edgekd.errors import DataError
from edgekd.evaluate import EvaluationRequest, OpenChildren
from edgekd.pipeline.search_glance import glance
from edgekd.target import parse_target
from edgekd.tasks import TaskSpec

FEEDS = {"x": np.zeros((1, WIDTH), np.float32)}


def _request(artifact: Artifact) -> EvaluationRequest:
    return EvaluationRequest(
        label="student", artifact=artifact, target=parse_target("cpu:onnxruntime"),
        runtime_paths={"onnx": "edgekd_onnx.runtime:OnnxRuntime"}, task=TaskSpec(data={}), split="select",
        data_digest="",
    )  # fmt: skip


@pytest.fixture
def net(tmp_path: Path) -> Artifact:
    return small_net(tmp_path / "net")


def test_one_child_times_all_and_lets_go_of_them(net: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    original = ChildProcess.request

    def noted(self: ChildProcess, call: str, *args: object, **more: object) -> object:
        asked.append(call.partition(":")[2])
        return original(self, call, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(ChildProcess, "request", noted)
    with OpenChildren() as children:
        wrong = {"x": np.zeros((1, WIDTH + 1), np.float32)}
        entries = [(_request(net), feeds) for feeds in (FEEDS, wrong, FEEDS)]
        found = glance(entries, children)
        assert found[0] == 1.0
        assert found[1] is None
        assert found[2] is not None and math.isfinite(found[2]) and found[2] > 0
        assert len(children._open) == 1
        assert asked.count("open_one") == 3
        assert asked.count("time_one") == 2 * 7
        assert asked[-1] == "close_all" and asked.count("close_all") == 1
        with pytest.raises(DataError):
            glance(entries[1:2], children)
        # A refusal leaves the child usable.
        assert glance(entries[:1], children) == [1.0]
