"""The TensorRT suite for real: skipped, with the doctor's reason, where TensorRT or a GPU is missing.

Everything that tests/exporters/test_tensorrt_*.py shows on a contract double is asked here of engines.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.artifact import Artifact
from edgekd.errors import ModelError
from edgekd.quantize import QuantConfig
from edgekd.spec import draw_feeds
from edgekd.target import SessionOptions
from edgekd.testing import check_runtime
from edgekd_onnx.export_options import TOLERANCES
from edgekd_onnx.exporter import OnnxExporter
from edgekd_tensorrt.exporter import TensorRtExporter
from edgekd_tensorrt.probe import probe
from edgekd_tensorrt.runtime import TensorRtRuntime

pytestmark = pytest.mark.gpu

CUDA = SessionOptions(device="cuda")


@pytest.fixture(scope="module", autouse=True)
def _tensorrt() -> None:
    for row in probe():
        if row["name"] in ("trt-build", "trt-run") and row["state"] != "ok":
            pytest.skip(f"{row['name']} {row['state']}: {row['evidence']} ({row['fix']})")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Two convolutions with a free batch, as ONNX; seeded weights."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((16, 3, 3, 3)) / 5, "w2": rng.standard_normal((16, 16, 3, 3)) / 12,
        "w3": rng.standard_normal((16, 10)) / 4,
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu1"),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"], name="relu2"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], name="pool"),
        helper.make_node("Flatten", ["e"], ["f"], name="flatten"),
        helper.make_node("MatMul", ["f", "w3"], ["logits"], name="head"),
    ]
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(w.astype("float32"), name) for name, w in weights.items()],
    )  # fmt: skip
    path = tmp_path_factory.mktemp("source") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return OnnxExporter().read(path)


@pytest.fixture(scope="module")
def engine(source: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return TensorRtExporter().convert(source, tmp_path_factory.mktemp("engine"), {})


def build(source: Artifact, tmp_path: Path, **options: Any) -> Artifact:
    out = tmp_path / "out"
    out.mkdir()
    return TensorRtExporter().convert(source, out, options)


def test_the_runtime_conforms(engine: Artifact, tmp_path: Path) -> None:
    check_runtime(TensorRtRuntime(), engine.path, tmp_path, device="cuda")


def test_the_record_is_of_this_machine(engine: Artifact) -> None:
    told = engine.lineage["engine"]
    assert told["tensorrt"].startswith(told["plan_version"].rpartition(".")[0])
    assert "TF32" not in told["builder"]["flags"] and told["histogram"]["kinds"]
    assert engine.lineage["parity"]["max_abs_error"] < 0.1
    assert TensorRtExporter().read(engine.path).digest == engine.digest


def test_layers_are_placed_and_timed(engine: Artifact) -> None:
    fed = draw_feeds(engine.inputs, seed=1, shapes={}, batch=2)
    placed = TensorRtRuntime().place(engine.path, CUDA, fed)
    assert placed and any(p.dtype == "float32" for p in placed)
    profile = TensorRtRuntime().profile(engine.path, CUDA, fed, calls=5, warm_up=2)
    assert profile.nodes and all(n.ns_per_call > 0 for n in profile.nodes)


def test_a_graph_answers_as_a_run_does(engine: Artifact) -> None:
    session = TensorRtRuntime().open(engine.path, CUDA)
    fed = draw_feeds(engine.inputs, seed=2, shapes={}, batch=4)
    bound = session.bind(fed)
    bound()
    assert np.array_equal(bound.outputs()["logits"], session.run(fed)["logits"])
    assert bound.captured, bound.reason
    session.close()


def test_a_second_build_hits_the_timing_cache(source: Artifact, engine: Artifact, tmp_path: Path) -> None:
    told = build(source, tmp_path, cache_miss="error").lineage["engine"]["timing_cache"]
    assert told["before_sha256"]


def test_builds_are_compared(source: Artifact, tmp_path: Path) -> None:
    told = build(source, tmp_path, builds=2, timing_cache="off").lineage["builds"]
    assert told["builds"] == 2 and isinstance(told["same_tactics"], bool)


def test_a_stripped_plan_is_smaller_and_answers_alike(source: Artifact, tmp_path: Path) -> None:
    made = build(source, tmp_path, strip=True)
    assert "STRIP_PLAN" in made.lineage["engine"]["builder"]["flags"]


def test_several_profiles(source: Artifact, tmp_path: Path) -> None:
    made = build(source, tmp_path, profiles="x=1x3x32x32;x=2x3x32x32:8x3x32x32:16x3x32x32")
    assert made.lineage["parity"]["batches"] == [1, 2, 8, 16]


def test_a_quantized_graph_runs_in_int8(source: Artifact, tmp_path: Path) -> None:
    folder = tmp_path / "int8"
    folder.mkdir()
    feeds = [draw_feeds(source.inputs, seed=i, shapes={}, batch=8) for i in range(4)]
    quantized = OnnxExporter().quantize(source, QuantConfig(variant="tensorrt"), feeds, folder)
    made = build(quantized, tmp_path)
    assert (made.lineage["parity"]["atol"], made.lineage["parity"]["rtol"]) == TOLERANCES["int8"]
    fed = draw_feeds(made.inputs, seed=1, shapes={}, batch=2)
    assert "int8" in {p.dtype for p in TensorRtRuntime().place(made.path, CUDA, fed)}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_narrower_graph_is_held_to_its_own_tolerance(source: Artifact, tmp_path: Path, dtype: str) -> None:
    folder = tmp_path / dtype
    folder.mkdir()
    narrow = OnnxExporter().convert(source, folder, {"dtype": dtype})
    told = build(narrow, tmp_path).lineage["parity"]
    assert (told["atol"], told["rtol"]) == TOLERANCES[dtype]


def test_an_operator_that_it_lacks_is_named(source: Artifact, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Det", ["x"], ["y"], name="determinant")], "det",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
    )  # fmt: skip
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    with pytest.raises(ModelError, match="determinant"):
        build(OnnxExporter().read(path), tmp_path)
