from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgekd.artifact import Artifact
from edgekd.errors import DataError, ModelError, TargetUnavailableError, UsageError
from edgekd.target import SessionOptions
from edgekd.testing import check_runtime
from edgekd_onnx import providers
from edgekd_onnx import runtime as module
from edgekd_onnx.runtime import OnnxRuntime


def _save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], opset: int = 17) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(path)
    )
    return path


def _value(name: str, kind: int, shape: list[Any] | None) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def test_conforms(digits_onnx: Artifact, tmp_path: Path) -> None:
    check_runtime(OnnxRuntime(), digits_onnx.path, tmp_path, threads=2)


def test_yunet_gives_its_golden_outputs(data_root: Path, tmp_path: Path) -> None:
    golden = np.load(data_root / "onnx" / "yunet_n_320_320_golden.npz")
    path = data_root / "onnx" / "yunet_n_320_320.onnx"
    check_runtime(OnnxRuntime(), path, tmp_path)
    session = OnnxRuntime().open(path, SessionOptions())
    images = golden["images_uint8_nhwc_bgr"].transpose(0, 3, 1, 2).astype(np.float32)
    for row in range(len(images)):
        feeds = {"input": images[row : row + 1]}
        bound = session.bind(feeds)
        bound()
        made = session.run(feeds)
        assert len(made) == 12
        for name, value in made.items():
            np.testing.assert_allclose(value[0], golden[name][row], rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(bound.outputs()[name], value)


def test_loads_neither_onnx_nor_pydantic(digits_onnx: Artifact) -> None:
    code = (
        "import sys; from pathlib import Path; from edgekd.target import SessionOptions\n"
        "from edgekd_onnx.runtime import OnnxRuntime\n"
        f"OnnxRuntime().open(Path({str(digits_onnx.path)!r}), SessionOptions())\n"
        "print([m for m in ('onnx', 'pydantic', 'yaml', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (SessionOptions(device="cuda"), "CUDAExecutionProvider"),
        (SessionOptions(provider="openvino"), "OpenVINOExecutionProvider"),
        (SessionOptions(provider="CUDAExecutionProvider"), "CUDAExecutionProvider"),
        (SessionOptions(provider="quantum"), "quantum"),
        (SessionOptions(device="npu"), "npu"),
    ],
)
def test_provider_that_is_not_there_is_refused(
    digits_onnx: Artifact, options: SessionOptions, words: str
) -> None:
    if providers.PROVIDERS.get(options.device, {}).get(options.provider or options.device) in (
        onnxruntime.get_available_providers()
    ):
        pytest.skip(f"{words} is on this machine")
    with pytest.raises(TargetUnavailableError, match=words):
        OnnxRuntime().open(digits_onnx.path, options)
    assert OnnxRuntime().unavailable(options.device, options.provider)


def test_another_provider_than_asked_for_is_refused(
    digits_onnx: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ONNX Runtime puts the CPU in where a provider fails to load: pretend that CUDA is listed and fails.
    listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    asked: list[object] = []

    class FailsOver(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, path: str, options: object, *, providers: object, enable_fallback: int) -> None:
            asked.append((providers, enable_fallback))
            super().__init__(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", FailsOver)
    with pytest.raises(TargetUnavailableError, match=r"asked for CUDAExecutionProvider.* on CPUExecution"):
        OnnxRuntime().open(digits_onnx.path, SessionOptions(device="cuda"))
    told = {"device_id": "0", "use_tf32": "0", "enable_cuda_graph": "0"}
    assert asked == [([("CUDAExecutionProvider", told)], 0)]


def test_placement_is_read_back(digits_onnx: Artifact) -> None:
    options = SessionOptions(threads=2, settings={"graph_level": "basic", "arena": False})
    placement = OnnxRuntime().open(digits_onnx.path, options).placement
    assert (placement.device, placement.provider, placement.threads) == ("cpu", "CPUExecutionProvider", 2)
    assert placement.runtime == f"onnxruntime {onnxruntime.__version__}"
    assert placement.detail["graph_level"] == "ORT_ENABLE_BASIC"
    assert placement.detail["arena"] is False


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"graph_level": "max"}, "graph_level"), ({"arena": "yes"}, "arena"), ({"turbo": 1}, "turbo")],
)
def test_unknown_setting_is_refused(digits_onnx: Artifact, settings: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        OnnxRuntime().open(digits_onnx.path, SessionOptions(settings=settings))
    with pytest.raises(UsageError, match="threads"):
        OnnxRuntime().open(digits_onnx.path, SessionOptions(threads=0))


def test_unnamed_and_negative_dimensions_become_symbols(tmp_path: Path) -> None:
    path = _save(
        tmp_path / "m.onnx",
        [helper.make_node("Relu", ["x"], ["y"])],
        [_value("x", TensorProto.FLOAT, ["batch", None, 4])],
        [_value("y", TensorProto.FLOAT, ["batch", None, 4])],
    )
    session = OnnxRuntime().open(path, SessionOptions())
    assert session.inputs[0].shape == ("batch", "x.1", 4)
    assert session.outputs[0].shape == ("batch", "y.1", 4)
    assert module.dimension("x", 0, -1) == "x.0"


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.FLOAT, "float32"),
        (TensorProto.DOUBLE, "float64"),
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.INT64, "int64"),
        (TensorProto.UINT8, "uint8"),
        (TensorProto.BOOL, "bool"),
    ],
)
def test_element_types(tmp_path: Path, kind: int, dtype: str) -> None:
    path = _save(
        tmp_path / "m.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [_value("x", kind, [2])],
        [_value("y", kind, [2])],
    )
    session = OnnxRuntime().open(path, SessionOptions())
    assert session.inputs[0].dtype == dtype
    feeds = {"x": np.ones(2, dtype)}
    assert session.run(feeds)["y"].dtype == dtype
    bound = session.bind(feeds)
    bound()
    assert bound.outputs()["y"].dtype == dtype


def test_outputs_whose_size_depends_on_the_data(tmp_path: Path) -> None:
    path = _save(
        tmp_path / "m.onnx",
        [helper.make_node("NonZero", ["x"], ["y"])],
        [_value("x", TensorProto.FLOAT, ["n"])],
        [_value("y", TensorProto.INT64, [1, None])],
    )
    session = OnnxRuntime().open(path, SessionOptions())
    bound = [session.bind({"x": np.array(v, np.float32)}) for v in ([0, 1, 1], [1, 0, 0], [0, 0, 0])]
    for _ in range(2):
        for call, wanted in zip(bound, ([[1, 2]], [[0]], [[]]), strict=True):
            call()
            assert call.outputs()["y"].tolist() == wanted


def test_scalar_and_strided_inputs(tmp_path: Path) -> None:
    path = _save(
        tmp_path / "m.onnx",
        [helper.make_node("Mul", ["x", "s"], ["y"]), helper.make_node("Shape", ["s"], ["rank"])],
        [_value("x", TensorProto.FLOAT, [2, 3]), _value("s", TensorProto.FLOAT, [])],
        [_value("y", TensorProto.FLOAT, [2, 3]), _value("rank", TensorProto.INT64, [None])],
    )
    session = OnnxRuntime().open(path, SessionOptions(settings={"graph_level": "disable"}))
    x = np.arange(6, dtype=np.float32).reshape(3, 2).T
    feeds = {"x": x, "s": np.array(2, np.float32)}
    bound = session.bind(feeds)
    bound()
    np.testing.assert_array_equal(bound.outputs()["y"], 2 * x)
    assert bound.outputs()["rank"].shape == (0,)
    np.testing.assert_array_equal(session.run(feeds)["y"], 2 * x)


def test_sequences_are_refused(tmp_path: Path) -> None:
    path = _save(
        tmp_path / "m.onnx",
        [helper.make_node("SequenceConstruct", ["x"], ["y"])],
        [_value("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
    )
    with pytest.raises(ModelError, match="only tensors"):
        OnnxRuntime().open(path, SessionOptions())


def test_unknown_opset_and_operator_are_one_line(tmp_path: Path) -> None:
    x, y = _value("x", TensorProto.FLOAT, [2]), _value("y", TensorProto.FLOAT, [2])
    relu = helper.make_node("Relu", ["x"], ["y"])
    odd = helper.make_node("Reluu", ["x"], ["y"])
    for path, words in (
        (_save(tmp_path / "opset.onnx", [relu], [x], [y], opset=999), "999|[Oo]pset"),
        (_save(tmp_path / "op.onnx", [odd], [x], [y]), "Reluu"),
    ):
        with pytest.raises(ModelError, match=words) as caught:
            OnnxRuntime().open(path, SessionOptions())
        assert "\n" not in str(caught.value)


def test_a_failing_run_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = _save(
        tmp_path / "m.onnx",
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [_value("x", TensorProto.FLOAT, ["n"]), _value("shape", TensorProto.INT64, [1])],
        [_value("y", TensorProto.FLOAT, ["m"])],
    )
    session = OnnxRuntime().open(path, SessionOptions())
    feeds = {"x": np.zeros(3, np.float32), "shape": np.array([2])}
    for call in (lambda: session.run(feeds), session.bind(feeds)):
        with pytest.raises(ModelError, match="failed while running") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_closed_session_says_so(digits_onnx: Artifact) -> None:
    session = OnnxRuntime().open(digits_onnx.path, SessionOptions())
    session.close()
    with pytest.raises(ModelError, match="closed"):
        session.run({"image": np.zeros((1, 1, 8, 8), np.float32)})


def test_shared_symbols_that_disagree_are_a_data_error(tmp_path: Path) -> None:
    path = _save(
        tmp_path / "m.onnx",
        [helper.make_node("Add", ["a", "b"], ["y"])],
        [_value("a", TensorProto.FLOAT, ["n"]), _value("b", TensorProto.FLOAT, ["n"])],
        [_value("y", TensorProto.FLOAT, ["n"])],
    )
    session = OnnxRuntime().open(path, SessionOptions())
    with pytest.raises((DataError, ModelError)):
        session.run({"a": np.zeros(2, np.float32), "b": np.zeros(3, np.float32)})


def test_missing_onnxruntime_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "edgekd[ort]" in OnnxRuntime().unavailable("cpu", "")
    monkeypatch.setitem(
        sys.modules, "onnxruntime", SimpleNamespace(get_available_providers=list, __version__="1")
    )
    assert "CPUExecutionProvider" in OnnxRuntime().unavailable("cpu", "")
