"""Per-node times: the reading of ONNX Runtime's events, and a real profile with a planted hot spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import DataError, ModelError
from edgekd.target import SessionOptions
from edgekd.workload import Profile, ProfilingRuntime, midmean
from edgekd_onnx.profile import read_events
from edgekd_onnx.runtime import OnnxRuntime


def _run(ts: int, dur: int) -> dict[str, Any]:
    return {"cat": "Session", "ph": "X", "name": "model_run", "ts": ts, "dur": dur, "tid": 1, "args": {}}


def _kernel(name: str, op: str, ts: int, dur: int, shape: Any = None, **more: Any) -> dict[str, Any]:
    args = {"op_name": op, "provider": "CPUExecutionProvider", "output_type_shape": shape or []}
    return {
        "cat": "Node", "ph": "X", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "tid": 1, "args": args, **more,
    }  # fmt: skip


def _times(profile: Profile) -> dict[str, float]:
    return {n.name: n.ns_per_call for n in profile.nodes}


def test_the_warm_up_is_left_out() -> None:
    events = [
        {"cat": "Session", "ph": "X", "name": "session_initialization", "ts": 0, "dur": 50, "tid": 1},
        _run(100, 90), _kernel("a", "Conv", 101, 80),
        _run(200, 20), _kernel("a", "Conv", 201, 10),
        _run(300, 20), _kernel("a", "Conv", 301, 12),
    ]  # fmt: skip
    found = read_events(events, source="s", warm_up=1)
    assert (found.calls, found.ns_per_call) == (2, 20_000)
    assert _times(found) == {"a": 11_000}
    with pytest.raises(ModelError, match="no call after the warm-up of 3"):
        read_events(events, source="s", warm_up=3)


def test_a_node_with_a_subgraph_has_only_its_own_time() -> None:
    events = [
        _run(0, 100),
        _kernel("loop", "Loop", 10, 60),
        _kernel("inner", "MatMul", 15, 20),
        _kernel("inner", "MatMul", 40, 25),
        _kernel("after", "Relu", 70, 5),
    ]
    assert _times(read_events(events, source="s", warm_up=0)) == {
        "loop": 15_000, "inner": 45_000, "after": 5_000,
    }  # fmt: skip


def test_one_interrupted_call_does_not_move_the_figure() -> None:
    events: list[dict[str, Any]] = []
    for i, dur in enumerate([10, 11, 10, 5_000, 11, 10, 10, 11]):
        events += [_run(i * 10_000, dur + 2), _kernel("a", "Conv", i * 10_000 + 1, dur)]
    found = read_events(events, source="s", warm_up=0)
    assert 10_000 <= _times(found)["a"] <= 11_000
    assert found.ns_per_call < 14_000


def test_shapes_are_written_as_everywhere_else() -> None:
    shape = [{"float": [1, 64, 56, 56]}, {"uint8": [3]}, {"double": []}]
    found = read_events([_run(0, 9), _kernel("a", "Conv", 1, 5, shape)], source="s", warm_up=0)
    assert found.nodes[0].output_shapes == ("float32[1,64,56,56]", "uint8[3]", "float64[]")


def test_a_profile_survives_the_pipe() -> None:
    found = read_events([_run(0, 9), _kernel("a", "Conv", 1, 5, [{"float": [2]}])], source="s", warm_up=0)
    assert Profile.from_json(found.to_json()) == found


def test_the_midmean_is_the_mean_of_the_middle_half() -> None:
    assert midmean([7.0]) == 7.0
    assert midmean([0.0, 4.0, 6.0, 100.0]) == 5.0
    assert midmean(range(101)) == 50.0


@pytest.fixture(scope="module")
def lopsided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A product that takes nearly all the time, and a small one behind it."""
    large, small = np.ones((400, 400), np.float32), np.ones((400, 4), np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "large"], ["h"], name="hot"),
        helper.make_node("Sigmoid", ["h"], ["g"], name="middle"),
        helper.make_node("MatMul", ["g", "small"], ["y"], name="cold"),
    ]
    graph = helper.make_graph(
        nodes,
        "lopsided",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 400])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(large, "large"), numpy_helper.from_array(small, "small")],
    )
    path = tmp_path_factory.mktemp("lopsided") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_a_real_profile_finds_the_hot_spot_and_leaves_nothing_behind(
    lopsided: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runtime = OnnxRuntime()
    assert isinstance(runtime, ProfilingRuntime)
    feeds = {"x": np.ones((300, 400), np.float32)}
    found = runtime.profile(lopsided, SessionOptions(), feeds, calls=12, warm_up=3)
    assert found.calls == 12
    assert found.source.startswith("onnxruntime ")
    assert found.source.endswith(" profiler")
    times = _times(found)
    assert set(times) == {"hot", "middle", "cold"}
    assert times["hot"] > 2 * times["cold"]  # a hundred times the arithmetic
    assert 0 < sum(times.values()) <= 1.05 * found.ns_per_call
    hot = next(n for n in found.nodes if n.name == "hot")
    assert (hot.op, hot.provider, hot.output_shapes) == (
        "MatMul", "CPUExecutionProvider", ("float32[300,400]",),
    )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_profiling_refuses_what_running_refuses(lopsided: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="input 'x' has dtype float64"):
        OnnxRuntime().profile(lopsided, SessionOptions(), {"x": np.ones((3, 400))}, calls=1, warm_up=0)
    with pytest.raises(ModelError, match="does not exist"):
        OnnxRuntime().profile(tmp_path / "no.onnx", SessionOptions(), {}, calls=1, warm_up=0)
