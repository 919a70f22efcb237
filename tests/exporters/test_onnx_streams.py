"""Calls of ONNX Runtime on a stream of ours: run for real on the CPU, with a stream that only counts its waits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from measure.fake_gpu_runtime import FakeDevice, FakeEvents
from onnx import TensorProto, helper

from edgekd.errors import MissingDependencyError
from edgekd.measure.device_events import DeviceCall
from edgekd.target import SessionOptions
from edgekd_onnx import compute_stream
from edgekd_onnx.compute_stream import ComputeStream
from edgekd_onnx.runtime import OnnxRuntime, OnnxSession


@pytest.fixture
def session(tmp_path: Path) -> OnnxSession:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [x], [y])
    path = tmp_path / "neg.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return OnnxRuntime().open(path, SessionOptions())


def test_a_call_on_a_stream_enqueues_and_waits_on_that_stream(session: OnnxSession) -> None:
    device = FakeDevice()
    session._stream = ComputeStream(5, FakeEvents(device))
    call = session.bind({"x": np.ones((1, 4), np.float32)})
    assert isinstance(call, DeviceCall)
    assert call.stream == 5
    call.launch()
    assert device.log == []
    call()
    assert device.log == ["wait for 5"]
    np.testing.assert_array_equal(call.outputs()["y"], -np.ones((1, 4), np.float32))


def test_on_the_cpu_a_call_has_no_stream(session: OnnxSession) -> None:
    assert not isinstance(session.bind({"x": np.ones((1, 4), np.float32)}), DeviceCall)


def test_without_a_library_that_makes_streams_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MissingDependencyError("no cuda.bindings")

    monkeypatch.setattr(compute_stream, "event_source", missing)
    assert compute_stream.compute_stream() is None
    made = FakeEvents(FakeDevice())
    monkeypatch.setattr(compute_stream, "event_source", lambda: made)
    assert compute_stream.compute_stream() == ComputeStream(5, made)
