"""ONNX Runtime's session settings: what is asked for is what runs, and anything else is refused."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import TargetUnavailableError, UsageError
from edgekd.measure.configuration import SweepableRuntime
from edgekd.pipeline.execution import ReferenceRuntime
from edgekd.target import SessionOptions
from edgekd_onnx import settings as module
from edgekd_onnx.runtime import OnnxRuntime


@pytest.fixture(scope="module")
def convolutions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two depthwise convolutions, which ONNX Runtime has blocked kernels for."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((16, 1, 3, 3)).astype(np.float32), f"w{i}")
        for i in (0, 1)
    ]
    nodes = [
        helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], group=16, pads=[1] * 4) for i in (0, 1)
    ]
    shape = ["batch", 16, 14, 14]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("x2", TensorProto.FLOAT, shape)], weights,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("settings") / "convolutions.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def opened(path: Path, threads: int = 1, **settings: Any) -> dict[str, Any]:
    session = OnnxRuntime().open(path, SessionOptions(threads=threads, settings=settings))
    return {"threads": session.placement.threads, **session.placement.detail}


def test_the_defaults_are_onnx_runtime_s_own(convolutions: Path) -> None:
    theirs = onnxruntime.SessionOptions()
    found = opened(convolutions)
    assert found["graph_level"] == theirs.graph_optimization_level.name
    assert found["arena"] is theirs.enable_cpu_mem_arena
    assert found["mem_pattern"] is theirs.enable_mem_pattern
    assert found["execution_mode"] == theirs.execution_mode.name
    assert (found["layout"], found["prepacking"], found["denormals_as_zero"]) == ("auto", True, False)
    assert (found["threads"], found["threads_started"], found["spinning"]) == (1, 0, False)


def test_every_setting_is_read_back(convolutions: Path) -> None:
    found = opened(
        convolutions, threads=4, graph_level="extended", layout="plain", arena=False, mem_pattern=False, prepacking=False,
        denormals_as_zero=True, spinning=False, dynamic_block_base=4, inter_op_threads=3,
    )  # fmt: skip
    assert found["graph_level"] == "ORT_ENABLE_EXTENDED"
    assert (found["arena"], found["mem_pattern"]) == (False, False)
    assert found["session.disable_prepacking"] == "1"
    assert found["session.set_denormal_as_zero"] == "1"
    assert found["session.intra_op.allow_spinning"] == found["session.inter_op.allow_spinning"] == "0"
    assert found["session.dynamic_block_base"] == "4"
    assert found["optimization.disable_specified_optimizers"] == "NchwcTransformer;NhwcTransformer"
    # Four threads in all: the caller, one more inside operators and two between them.
    assert found["execution_mode"] == "ORT_PARALLEL"
    assert (found["intra_op_threads"], found["inter_op_threads"]) == (2, 3)
    assert (found["threads"], found["threads_started"]) == (4, 3)


@pytest.mark.parametrize(("layout", "blocked"), [("auto", True), ("plain", False)])
def test_layout_decides_about_blocked_kernels(
    convolutions: Path, tmp_path: Path, layout: str, blocked: bool
) -> None:
    """The name of a pass that does not exist would be ignored without a word."""
    options = module.session_options(onnxruntime, SessionOptions(settings={"layout": layout}))
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(convolutions), options, providers=["CPUExecutionProvider"])
    domains = {n.domain for n in onnx.load(tmp_path / "optimized.onnx").graph.node}
    if not blocked:
        assert "com.microsoft.nchwc" not in domains
    elif "com.microsoft.nchwc" not in domains:
        pytest.skip("this processor has no blocked kernels")


def test_the_reference_execution_fuses_nothing(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])], "g",
        [value("x", TensorProto.FLOAT, ["n", 1, 4, 4])], [value("y", TensorProto.FLOAT, ["n", 1, 2, 2])],
        [numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")],
    )  # fmt: skip
    path = tmp_path / "fusible.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    ran = {}
    for name, asked in (("as written", OnnxRuntime().reference_settings("cpu", "")), ("default", {})):
        options = SessionOptions(settings=asked)
        session = OnnxRuntime().open_profiling(path, options, str(tmp_path / name))
        session.run({"x": np.zeros((1, 1, 4, 4), np.float32)})
        events = json.loads(Path(session.end_profiling()).read_text())
        ran[name] = [e["args"]["op_name"] for e in events if e["name"].endswith("_kernel_time")]
    assert ran["as written"] == ["Conv", "Relu"]
    assert ran["default"] != ran["as written"]
    assert isinstance(OnnxRuntime(), ReferenceRuntime)


def test_denormals_are_flushed_only_when_asked(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "x"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    )  # fmt: skip
    path = tmp_path / "square.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    code = (
        "import sys, numpy as np; from pathlib import Path; from edgekd.target import SessionOptions\n"
        "from edgekd_onnx.runtime import OnnxRuntime\n"
        f"s = OnnxRuntime().open(Path({str(path)!r}), SessionOptions(settings={{'denormals_as_zero': sys.argv[1] == '1'}}))\n"
        "print(float(s.run({'x': np.full(4, 1e-20, np.float32)})['y'][0]) > 0)"
    )
    import subprocess  # each in a process of its own: the flag outlives the session

    seen = [
        subprocess.run([sys.executable, "-c", code, asked], capture_output=True, text=True, check=True).stdout
        for asked in "01"
    ]
    assert [s.strip() for s in seen] == ["True", "False"]


@pytest.mark.parametrize(
    ("settings", "threads", "message"),
    [
        ({"graph_level": "max"}, 1, "graph_level 'max' is not known; choose disable, basic, extended, layout, all"),
        ({"layout": "nchw"}, 1, "layout 'nchw' is not known; choose auto, plain"),
        ({"arena": "yes"}, 1, "arena 'yes' is not true or false; write arena=true or arena=false"),
        ({"arena": 1}, 1, "arena 1 is not true or false; write arena=true or arena=false"),
        ({"spining": True}, 1, "onnxruntime has no setting 'spining'; did you mean 'spinning'?"),
        ({"turbo": 1}, 1, "onnxruntime has no setting 'turbo'; it knows graph_level, layout, arena, "),
        ({"dynamic_block_base": -1}, 1, "dynamic_block_base -1 is not a whole number from 0 on"),
        ({"inter_op_threads": True}, 2, "inter_op_threads True is not a whole number from 1 on"),
        ({"inter_op_threads": 3}, 2, "inter_op_threads 3 is more than the session's 2 thread(s)"),
        ({}, 0, "threads is 0; ask for 1 or more"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_line(
    convolutions: Path, settings: dict[str, Any], threads: int, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        opened(convolutions, threads=threads, **settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def _session(**used: Any) -> Any:
    """A session that uses what ``used`` says, whatever was asked for."""
    real = module.session_options(onnxruntime, SessionOptions(threads=2), on_cpu=False)
    options = SimpleNamespace(
        graph_optimization_level=real.graph_optimization_level, enable_cpu_mem_arena=True, enable_mem_pattern=True,
        execution_mode=real.execution_mode, intra_op_num_threads=2, inter_op_num_threads=1,
        get_session_config_entry=real.get_session_config_entry,
    )  # fmt: skip
    vars(options).update(used)
    return SimpleNamespace(get_session_options=lambda: options)


@pytest.mark.parametrize(
    ("used", "words"),
    [
        ({"enable_cpu_mem_arena": False}, "arena = False, True was asked for"),
        ({"intra_op_num_threads": 1}, "intra_op_threads = 1, 2 was asked for"),
        ({"get_session_config_entry": lambda key: "0"}, "allow_spinning = 0, 1 was asked for"),
        (
            {"graph_optimization_level": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC},
            "graph_level = ORT_ENABLE_BASIC, ORT_ENABLE_ALL was asked for",
        ),
        ({"execution_mode": onnxruntime.ExecutionMode.ORT_PARALLEL}, "execution_mode = ORT_PARALLEL"),
    ],
)
def test_a_session_that_uses_something_else_is_refused(used: dict[str, Any], words: str) -> None:
    with pytest.raises(TargetUnavailableError, match=words):
        module.read_back(_session(**used), SessionOptions(threads=2), None, on_cpu=True)
    assert module.read_back(_session(), SessionOptions(threads=2), None, on_cpu=True)[0] == 2


def test_fewer_workers_than_asked_for_are_refused_and_unknown_is_none() -> None:
    before = module.own_threads()
    if before is None:
        pytest.skip("this system does not list a process's threads")
    with pytest.raises(
        TargetUnavailableError, match="started 0 threads beside the calling one, 1 were asked"
    ):
        module.read_back(_session(), SessionOptions(threads=2), before, on_cpu=True)
    assert module.read_back(_session(), SessionOptions(threads=2), before, on_cpu=False)[0] == 2
    assert (
        module.read_back(_session(), SessionOptions(threads=2), None, on_cpu=True)[1]["threads_started"]
        is None
    )


def test_what_is_worth_trying_starts_with_the_defaults_and_opens(convolutions: Path) -> None:
    runtime = OnnxRuntime()
    assert isinstance(runtime, SweepableRuntime)
    for cpus in (1, 2, 8):
        space = runtime.sweepable("cpu", "", cpus)
        for name, values in space.items():
            assert len(values) > 1, f"{name} offers no choice"
            assert values[0] == (1 if name == "threads" else module.DEFAULTS[name])
    assert "threads" not in runtime.sweepable("cpu", "", 1)
    assert "spinning" not in runtime.sweepable("cpu", "", 1)
    assert runtime.sweepable("cpu", "", 8)["threads"] == (1, 2, 4, 8)
    assert list(runtime.sweepable("cuda", "cuda", 8)) == ["graph_level", "cuda_graph"]
    for name, values in runtime.sweepable("cpu", "", 4).items():
        if name != "threads":
            opened(convolutions, threads=4, **{name: values[1]})


def test_thread_counts_are_powers_of_two_and_what_the_machine_has() -> None:
    assert module.thread_counts(1) == (1,)
    assert module.thread_counts(2) == (1, 2)
    assert module.thread_counts(6) == (1, 2, 3, 4, 6)
    assert module.thread_counts(64) == (1, 2, 4, 8, 16, 32, 64)


def test_needs_only_numpy_and_onnxruntime() -> None:
    assert not [
        n for n, v in vars(module).items() if isinstance(v, types.ModuleType) and n in ("onnx", "torch")
    ]
