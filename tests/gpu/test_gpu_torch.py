"""torch on a GPU: parity with the CPU in every mode and precision, capture, 8-bit products, refusals."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gpu.fixtures_cuda import cuda_torch, gpu_feeds, gpu_net

from edgekd.errors import TargetUnavailableError
from edgekd.measure.device_events import OUT_OF_DEVICE_MEMORY, DeviceCall
from edgekd.model import Model
from edgekd.target import SessionOptions
from edgekd.testing import check_runtime
from edgekd_torch.low_kinds import KINDS
from edgekd_torch.runtime import TorchRuntime, TorchSession

__all__ = ["cuda_torch", "gpu_feeds", "gpu_net"]

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cuda_torch")]

#: Relative error ||out - ref|| / ||ref|| against float32 on the CPU: what each format's bits allow, with room.
TOLERANCE = {
    "float32": 1e-5, "tf32": 5e-3, "float16": 5e-3, "bfloat16": 4e-2, "float8e4m3fn": 0.15, "int8": 0.05,
}  # fmt: skip
MODES = ("eager", "compile", "cuda-graph")


def opened(model: Model, torch: Any, **settings: Any) -> TorchSession:
    if settings.get("precision") == "float8e4m3fn" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip(f"{torch.cuda.get_device_name()} has no FP8: compute capability below 8.9")
    return TorchRuntime().open(model.folder / "model.json", SessionOptions(device="cuda", settings=settings))


def reference(model: Model, feeds: dict[str, Any]) -> Any:
    return TorchRuntime().open(model.folder / "model.json", SessionOptions()).run(feeds)["logits"]


def off(found: Any, wanted: Any) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def test_conforms(gpu_net: Model, tmp_path: Any) -> None:
    check_runtime(TorchRuntime(), gpu_net.folder / "model.json", tmp_path, device="cuda", threads=1)


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("mode", MODES)
def test_parity_with_the_cpu(
    gpu_net: Model, gpu_feeds: dict[str, Any], cuda_torch: Any, mode: str, precision: str
) -> None:
    session = opened(gpu_net, cuda_torch, mode=mode, precision=precision)
    wanted = reference(gpu_net, gpu_feeds)
    found = session.run(gpu_feeds)["logits"]
    assert found.dtype == np.float32
    assert off(found, wanted) < TOLERANCE[precision]
    call = session.bind(gpu_feeds)
    call()
    assert off(call.outputs()["logits"], wanted) < TOLERANCE[precision]
    detail = session.placement.detail
    assert detail["precision"] == precision
    assert detail["tf32_matmul"] is (precision == "tf32")
    if precision in KINDS:
        assert detail["low_precision"]["layers"] == ["pointwise", "hidden"]
        assert detail["low_precision"]["macs_share"] > 0
    if mode == "compile":
        assert detail["compiled"]["graphs"] >= 1
    if mode == "cuda-graph":
        assert detail["graphs_captured"] >= 1


@pytest.mark.parametrize("precision", sorted(KINDS))
@pytest.mark.parametrize("mode", MODES)
def test_8_bit_products_of_one_image(
    gpu_net: Model, gpu_feeds: dict[str, Any], cuda_torch: Any, mode: str, precision: str
) -> None:
    """At batch 1 channels taken from NCHW are a view whose rows do not lie row by row."""
    one = {"x": gpu_feeds["x"][:1]}
    session = opened(gpu_net, cuda_torch, mode=mode, precision=precision)
    assert off(session.run(one)["logits"], reference(gpu_net, one)) < TOLERANCE[precision]


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "float8e4m3fn"])
def test_a_captured_graph_gives_what_eager_gives(
    gpu_net: Model, gpu_feeds: dict[str, Any], cuda_torch: Any, precision: str
) -> None:
    eager = opened(gpu_net, cuda_torch, precision=precision)
    graph = opened(gpu_net, cuda_torch, precision=precision, mode="cuda-graph")
    for seed in range(3):  # other inputs go into the same graph
        feeds = {"x": np.random.default_rng(seed).standard_normal((8, 16, 8, 8)).astype(np.float32)}
        np.testing.assert_allclose(
            graph.run(feeds)["logits"], eager.run(feeds)["logits"], rtol=1e-3, atol=1e-4
        )
    assert graph.placement.detail["graphs_captured"] == 1
    smaller = {"x": gpu_feeds["x"][:3]}
    np.testing.assert_allclose(
        graph.run(smaller)["logits"], eager.run(smaller)["logits"], rtol=1e-3, atol=1e-4
    )
    assert graph.placement.detail["graphs_captured"] == 2


@pytest.mark.parametrize("rows", [1, 16, 17, 33, 256])
def test_integer_products_are_exact_on_the_device(cuda_torch: Any, rows: int) -> None:
    from edgekd_torch._low_precision import int_mm

    rng = np.random.default_rng(rows)
    a = rng.integers(-127, 128, (rows, 64), dtype=np.int8)
    b = rng.integers(-127, 128, (48, 64), dtype=np.int8)
    found = int_mm(cuda_torch.from_numpy(a).cuda(), cuda_torch.from_numpy(b).cuda().t())
    np.testing.assert_array_equal(found.cpu().numpy(), a.astype(np.int64) @ b.astype(np.int64).T)


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("name", sorted(KINDS))
def test_the_probe_passes(cuda_torch: Any, name: str, by_row: bool) -> None:
    from edgekd_torch._low_precision import probe

    if name == "float8e4m3fn" and cuda_torch.cuda.get_device_capability() < (8, 9):
        pytest.skip(f"{cuda_torch.cuda.get_device_name()} has no FP8: compute capability below 8.9")
    probe(KINDS[name], "cuda", by_row=by_row)


def test_scales_by_row_on_the_device(gpu_net: Model, gpu_feeds: dict[str, Any], cuda_torch: Any) -> None:
    wanted = reference(gpu_net, gpu_feeds)
    for precision in KINDS:
        session = opened(gpu_net, cuda_torch, precision=precision, scales="row")
        assert off(session.run(gpu_feeds)["logits"], wanted) < TOLERANCE[precision]


def test_every_call_can_be_enqueued(gpu_net: Model, gpu_feeds: dict[str, Any], cuda_torch: Any) -> None:
    for mode in MODES:
        call = opened(gpu_net, cuda_torch, mode=mode).bind(gpu_feeds)
        assert isinstance(call, DeviceCall)
        assert call.stream != 0, "the default stream waits for all others"


def test_out_of_device_memory_is_one_line(gpu_net: Model, cuda_torch: Any) -> None:
    session = opened(gpu_net, cuda_torch)
    gc.collect()  # what other tests left is no room for this one
    cuda_torch.cuda.empty_cache()
    free, _ = cuda_torch.cuda.mem_get_info()
    # Most of the device is taken away; the input is far larger than what is left, and zeros cost the host nothing.
    held = cuda_torch.empty(max(0, free - (64 << 20)), dtype=cuda_torch.int8, device="cuda")
    rows = (4 << 30) // (16 * 8 * 8 * 4)
    try:
        with pytest.raises(TargetUnavailableError, match=f"^{OUT_OF_DEVICE_MEMORY}: ") as e:
            session.run({"x": np.zeros((rows, 16, 8, 8), np.float32)})
    finally:
        del held
        cuda_torch.cuda.empty_cache()
    assert cuda_torch.cuda.get_device_name() in str(e.value)
    assert "\n" not in str(e.value)


def test_a_module_that_looks_at_values_cannot_be_captured(
    gpu_net: Model, gpu_feeds: dict[str, Any], cuda_torch: Any
) -> None:
    session = opened(gpu_net, cuda_torch, mode="cuda-graph")
    prepared = session._opened()
    plain = prepared.forward
    session._prepared = replace(prepared, forward=lambda x: plain(x) * float(x.sum()))
    with pytest.raises(TargetUnavailableError, match="cannot be captured as a CUDA graph"):
        session.bind(gpu_feeds)
