"""ONNX Runtime on a GPU: the provider read back, parity with the CPU, calls that can be enqueued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import TargetUnavailableError
from edgekd.measure.device_events import DeviceCall
from edgekd.target import SessionOptions
from edgekd_onnx.runtime import OnnxRuntime

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def cuda_provider() -> None:
    why = OnnxRuntime().unavailable("cuda", "")
    if why:
        pytest.skip(f"cuda:onnxruntime is missing: {why}")


@pytest.fixture(scope="module")
def gpu_products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four products of 256 x 256."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array((rng.standard_normal((256, 256)) / 16).astype(np.float32), f"w{i}")
        for i in range(4)
    ]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(4)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 256]) for n in ("x0", "x4")]
    graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], weights)
    path = tmp_path_factory.mktemp("gpu-onnx") / "products.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def gpu_rows() -> dict[str, Any]:
    return {"x0": np.random.default_rng(1).standard_normal((16, 256)).astype(np.float32)}


def opened(path: Path, **settings: Any) -> Any:
    """A session; where the CUDA libraries are missing ONNX Runtime tells only now."""
    return OnnxRuntime().open(path, SessionOptions(device="cuda", settings=settings))


def test_the_provider_is_read_back_and_the_answers_are_those_of_the_cpu(
    gpu_products: Path, gpu_rows: dict[str, Any]
) -> None:
    session = opened(gpu_products)
    assert session.placement.provider == "CUDAExecutionProvider"
    assert session.placement.device == "cuda"
    wanted = OnnxRuntime().open(gpu_products, SessionOptions()).run(gpu_rows)["x4"]
    np.testing.assert_allclose(session.run(gpu_rows)["x4"], wanted, rtol=1e-4, atol=1e-4)
    call = session.bind(gpu_rows)
    call()
    np.testing.assert_allclose(call.outputs()["x4"], wanted, rtol=1e-4, atol=1e-4)


def test_every_node_runs_on_the_gpu(gpu_products: Path, gpu_rows: dict[str, Any]) -> None:
    ops = OnnxRuntime().place(gpu_products, SessionOptions(device="cuda"), gpu_rows)
    assert {op.place for op in ops if op.op_type == "MatMul"} == {"CUDAExecutionProvider"}


def test_a_call_can_be_enqueued_on_a_stream_of_ours(gpu_products: Path, gpu_rows: dict[str, Any]) -> None:
    session = opened(gpu_products)
    call = session.bind(gpu_rows)
    if not isinstance(call, DeviceCall):
        pytest.skip("no library makes a stream: pip install cuda-python")
    assert call.stream != 0
    assert session.placement.detail["provider_options"]["user_compute_stream"] == str(call.stream)
    call.launch()
    call()


def test_a_cuda_graph_gives_the_same(gpu_products: Path, gpu_rows: dict[str, Any]) -> None:
    wanted = opened(gpu_products).run(gpu_rows)["x4"]
    call = opened(gpu_products, cuda_graph=True).bind(gpu_rows)
    for _ in range(3):
        call()
    np.testing.assert_allclose(call.outputs()["x4"], wanted, rtol=1e-5, atol=1e-5)


def test_tensorrt_is_never_replaced_by_another_provider(gpu_products: Path) -> None:
    why = OnnxRuntime().unavailable("cuda", "tensorrt")
    if not why:
        pytest.skip("the TensorRT provider is there: nothing to refuse")
    with pytest.raises(TargetUnavailableError, match="TensorrtExecutionProvider"):
        OnnxRuntime().open(gpu_products, SessionOptions(device="cuda", provider="tensorrt"))
