"""Calibration on dim images misses bright ones, and says by which tensor; equal data says nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.artifact import Artifact
from edgekd.errors import DataError, ModelError, UsageError
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.coverage import LIMITS, coverage_of, measure_coverage
from edgekd.stages import StageStore
from edgekd.tasks import TaskSpec

RANGES = {"dim": (0.0, 1.0), "fine": (-1.0, 1.0)}


def test_the_worst_comes_first_and_is_named() -> None:
    found = coverage_of({"fine": (-0.9, 1.0, 0.0), "dim": (0.0, 3.0, 0.4)}, RANGES, 32)
    assert [t.name for t in found.tensors] == ["dim", "fine"]
    assert found.tensors[0].beyond == 2.0
    assert found.uncovered == found.tensors[:1]
    assert "on 32 other examples 'dim' was calibrated on [0, 1] and holds [0, 3]: 40.00%" in found.sentence
    assert found.to_json()["max_clipped"] == 1e-3


def test_nothing_is_said_within_the_limits() -> None:
    found = coverage_of({"fine": (-1.5, 1.0, 0.0009), "dim": (0.0, 1.0, 0.0)}, RANGES, 8)
    assert (found.uncovered, found.sentence) == ((), "")


def test_one_value_far_beyond_is_told_of_after_min_max_only() -> None:
    seen = {"dim": (0.0, 50.0, 1e-5)}
    assert coverage_of(seen, RANGES, 8).sentence
    assert not coverage_of(seen, RANGES, 8, LIMITS["percentile"]).sentence


def test_methods_that_clip_by_intention_are_allowed_more() -> None:
    seen = {"dim": (0.0, 1.5, 5e-3)}
    assert coverage_of(seen, RANGES, 8).sentence
    assert not coverage_of(seen, RANGES, 8, LIMITS["entropy"]).sentence
    assert not coverage_of(seen, RANGES, 8, LIMITS["mse"]).sentence


def test_an_empty_range_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"'x' is quantized to the range \[1, 1\]"):
        coverage_of({"x": (0.0, 1.0, 0.5)}, {"x": (1.0, 1.0)}, 1)


class Planted:
    """A probe whose tensors are its input, scaled."""

    path = Path("planted.onnx")
    outputs = ()
    modules: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, **factors: float) -> None:
        self.factors = factors
        self.made_by = dict.fromkeys(factors, "Mul")

    def fetch(self, names: Any, batches: Any) -> Any:
        for feeds in batches:
            yield {n: feeds["x"] * self.factors[n] for n in names}


def test_inner_tensors_and_inputs_are_counted() -> None:
    batches = [{"x": np.linspace(0, 1, 50, dtype=np.float32).reshape(5, 10)} for _ in range(4)]
    ranges = {"x": (0.0, 1.0), "inner": (0.0, 1.0), "only in the quantized file": (0.0, 1.0)}
    found = measure_coverage(Planted(inner=2.0), ranges, batches)
    assert [t.name for t in found.tensors] == ["inner", "x"]
    assert found.examples == 20
    assert found.tensors[0].clipped == pytest.approx(0.5)
    assert found.tensors[1].clipped == 0  # its greatest value is the end of the range


def test_what_cannot_be_compared() -> None:
    batches = [{"x": np.ones((1, 2), np.float32)}]
    with pytest.raises(DataError, match="no examples"):
        measure_coverage(Planted(a=1.0), {"a": (0.0, 1.0)}, [])
    with pytest.raises(ModelError, match=r"none of the 1 quantized tensors is in planted\.onnx"):
        measure_coverage(Planted(a=1.0), {"b": (0.0, 1.0)}, batches)
    with pytest.raises(ModelError, match="'a' of the float model holds NaN"):
        measure_coverage(Planted(a=float("nan")), {"a": (0.0, 1.0)}, batches)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Convolution, Relu, product: the quantizer leaves the Relu out."""
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, save

    from edgekd_onnx.exporter import OnnxExporter

    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((4, 1, 3, 3)).astype(np.float32)
    head = rng.standard_normal((4 * 36, 5)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "kernel"], ["conv"], name="conv"),
            helper.make_node("Relu", ["conv"], ["relu"], name="relu"),
            helper.make_node("Flatten", ["relu"], ["flat"], name="flat"),
            helper.make_node("MatMul", ["flat", "head"], ["logits"], name="head"),
        ],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])],
        [
            helper.make_tensor("kernel", TensorProto.FLOAT, kernel.shape, kernel.tobytes(), raw=True),
            helper.make_tensor("head", TensorProto.FLOAT, head.shape, head.tobytes(), raw=True),
        ],
    )
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return OnnxExporter().read(path)


def _images(folder: Path, brightness: float, seed: int) -> str:
    rng = np.random.default_rng(seed)
    path = folder / f"{brightness}-{seed}.npz"
    np.savez(
        path, image=(rng.random((64, 1, 8, 8)) * brightness).astype(np.float32), label=rng.integers(0, 5, 64)
    )
    return str(path)


def _onnx(net: Artifact, out: Path) -> tuple[Artifact, Any]:
    from edgekd_onnx.exporter import OnnxExporter

    return net, OnnxExporter()


def _openvino(net: Artifact, out: Path) -> tuple[Artifact, Any]:
    pytest.importorskip("nncf")
    from edgekd_openvino.exporter import OpenVinoExporter

    (out / "ir").mkdir()
    return OpenVinoExporter().convert(net, out / "ir", {}), OpenVinoExporter()


@pytest.mark.parametrize("opened", [_onnx, _openvino])
def test_dim_calibration_is_found_on_bright_images(
    net: Artifact, tmp_path: Path, opened: Callable[[Artifact, Path], tuple[Artifact, Any]]
) -> None:
    from edgekd.pipeline.coverage import check_coverage, coverage_note

    source, exporter = opened(net, tmp_path)
    dim = np.load(_images(tmp_path, 1, 0))["image"]
    (tmp_path / "q").mkdir()
    made = exporter.quantize(source, QuantConfig(), [{"image": dim}], tmp_path / "q")
    bright = TaskSpec(kind="classification", data={"select": _images(tmp_path, 3, 1)}, base=str(tmp_path))
    store = StageStore(root=tmp_path / "store")
    found = check_coverage(source, made, bright)
    assert found.examples == 32
    assert {"image", "relu"} <= {t.name for t in found.uncovered}
    image = next(t for t in found.tensors if t.name == "image")
    assert image.clipped == pytest.approx(2 / 3, abs=0.05)
    assert image.beyond == pytest.approx(2, abs=0.1)
    assert "Calibration does not cover the data" in coverage_note(source, made, bright, "student int8", store)
    same = TaskSpec(kind="classification", data={"select": _images(tmp_path, 1, 2)}, base=str(tmp_path))
    assert check_coverage(source, made, same).sentence == ""
    assert coverage_note(source, made, same, "student int8", store) == ""
    dark = TaskSpec(kind="classification", data={"select": _images(tmp_path, 1, 3)}, base=str(tmp_path))
    (tmp_path / dark.data["select"]).write_bytes(b"no archive")
    assert "whether its calibration covers the data was not looked at: " in coverage_note(
        source, made, dark, "student int8", store
    )
    with pytest.raises(UsageError, match="the task has no test data"):
        check_coverage(source, made, same, split="test")
    with pytest.raises(UsageError, match="has no calibrated ranges"):
        check_coverage(source, source, same)
