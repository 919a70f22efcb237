"""Real networks on real runtimes, slow for reasons that are planted: which is told hangs on what ran, not on the clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fixtures_run import make_measurement
from onnx import TensorProto, helper, numpy_helper

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.errors import EvidenceError
from edgekd.evidence.speedup import Speedup
from edgekd.measure import Setting
from edgekd.pipeline.speedup import (
    Contender,
    arm_of,
    explain_arms,
    explain_speed,
    graph_facts_of,
    is_quantized,
    ratio_between,
    twin_of,
)
from edgekd.pipeline.targets import present_target
from edgekd.quantize.config import QuantConfig
from edgekd.spec import draw_feeds
from edgekd_onnx.exporter import OnnxExporter

SLOWER = (1.4, 1.3, 1.5)


def _write(path: Path, nodes: list[Any], tensors: dict[str, Array], x: list[Any], y: list[Any]) -> Artifact:
    path.parent.mkdir(parents=True, exist_ok=True)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(v, k) for k, v in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return OnnxExporter().read(path)


def _net(folder: Path, *, groups: int = 1, activation: str = "Relu", depth: int = 3) -> Artifact:
    """Convolutions of 16 channels, each with an activation behind it."""
    rng = np.random.default_rng(0)
    nodes, tensors, last = [], {}, "x"
    for i in range(depth):
        tensors[f"w{i}"] = rng.normal(0, 0.2, (16, 16 // groups, 3, 3)).astype(np.float32)
        nodes.append(
            helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], f"conv{i}", group=groups, pads=[1] * 4)
        )
        last = "y" if i == depth - 1 else f"a{i}"
        nodes.append(helper.make_node(activation, [f"c{i}"], [last], f"act{i}"))
    shape = ["n", 16, 24, 24]
    return _write(folder / "model.onnx", nodes, tensors, shape, shape)


def _quantize(source: Artifact, out: Path, **config: Any) -> Artifact:
    out.mkdir(parents=True)
    rng = np.random.default_rng(1)
    feeds = ({"x": rng.normal(size=(1, 16, 24, 24)).astype(np.float32)} for _ in range(4))
    return OnnxExporter().quantize(source, QuantConfig(**config), feeds, out)


def _setting(name: str) -> Setting:
    target = present_target(name)
    return Setting(target=target.target, runtime_paths=target.runtime_paths)


def _explain(twin: Artifact, quantized: Artifact, target: str = "cpu:onnxruntime", **changes: Any) -> Speedup:
    def contender(label: str, artifact: Artifact) -> Contender:
        feeds = draw_feeds(artifact.inputs, seed=0, shapes={}, batch=1)
        return Contender(label=label, artifact=artifact, feeds=feeds, settings=changes.get("settings"))

    ratio = changes.get("ratio", SLOWER)
    return explain_speed(contender("float", twin), contender("quantized", quantized), _setting(target), ratio)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return _net(tmp_path_factory.mktemp("plain"))


def test_symmetric_int8_on_a_cpu(plain: Artifact, tmp_path: Path) -> None:
    found = _explain(plain, _quantize(plain, tmp_path / "s8s8", variant="tensorrt"))
    assert found.reasons[0].kind == "symmetric_on_cpu"
    assert found.answer == "slower"
    assert found.operators is not None
    assert found.operators[1] > found.operators[0]


def test_an_operator_without_an_int8_kernel(tmp_path: Path) -> None:
    source = _net(tmp_path / "f", activation="Softplus")
    found = {r.kind: r for r in _explain(source, _quantize(source, tmp_path / "q")).reasons}
    assert "3 Softplus" in found["float_fallback"].sentence
    assert {n for n in found["float_fallback"].nodes if n.startswith("act")} == {"act0", "act1", "act2"}
    assert "Softplus" in found["qdq_not_fused"].sentence
    shares = [r.time_share or 0 for r in found.values()]
    assert 0 < sum(shares) <= 1


def test_convolutions_are_found_again_in_the_float_model(plain: Artifact, tmp_path: Path) -> None:
    # Fused with what follows and renamed in both models, and still the same ones.
    from edgekd.quantize.executed import Executed
    from edgekd.target import SessionOptions
    from edgekd_onnx.runtime import OnnxRuntime

    made = _quantize(plain, tmp_path / "q")
    feeds = draw_feeds(plain.inputs, seed=0, shapes={}, batch=1)
    before, now = (OnnxRuntime().place(a.path, SessionOptions(), feeds) for a in (plain, made))
    seen = Executed(float_ops=before, ops=now, float_facts=graph_facts_of(plain), facts=graph_facts_of(made))
    assert sorted(p.anchor for p in seen.pairs) == ["conv0", "conv1", "conv2"]


def test_depthwise_convolutions_are_known(tmp_path: Path) -> None:
    source = _net(tmp_path / "f", groups=16)
    assert graph_facts_of(source).depthwise == {"conv0", "conv1", "conv2"}
    made = _quantize(source, tmp_path / "q")
    assert graph_facts_of(made).depthwise == {"conv0", "conv1", "conv2"}
    assert graph_facts_of(made).activations == ("uint8",)
    assert not graph_facts_of(_net(tmp_path / "g", groups=4)).depthwise


def _packed(folder: Path, accuracy_level: int) -> Artifact:
    """Two MatMulNBits of 8 bits (ContribOperators.md): B (N, blocks, block bytes), scales (N * blocks)."""
    rng = np.random.default_rng(0)
    tensors: dict[str, Array] = {}
    for i in range(2):
        tensors[f"b{i}"] = rng.integers(0, 255, (64, 2, 32), dtype=np.uint8)
        tensors[f"s{i}"] = np.full(128, 0.01, np.float32)
    level = {"accuracy_level": accuracy_level} if accuracy_level else {}
    nodes = [
        helper.make_node(
            "MatMulNBits", ["x" if i == 0 else "h", f"b{i}", f"s{i}"], ["h" if i == 0 else "y"], f"mm{i}",
            domain="com.microsoft", K=64, N=64, bits=8, block_size=32, **level,
        )
        for i in range(2)
    ]  # fmt: skip
    made = _write(folder / "model.onnx", nodes, tensors, ["n", 64], ["n", 64])
    return replace(made, dtype="int8")


def test_packed_weights_without_an_accuracy_level(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {f"w{i}": rng.normal(size=(64, 64)).astype(np.float32) for i in range(2)}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"], "mm0"),
        helper.make_node("MatMul", ["h", "w1"], ["y"], "mm1"),
    ]
    source = _write(tmp_path / "f/model.onnx", nodes, tensors, ["n", 64], ["n", 64])
    found = _explain(source, _packed(tmp_path / "q0", 0))
    first = {r.kind: r for r in found.reasons}["accuracy_level_missing"]
    assert "2 of 2 weight-only products (8-bit) have no accuracy_level" in first.sentence
    assert set(first.nodes) == {"mm0", "mm1"}
    kinds = {r.kind for r in _explain(source, _packed(tmp_path / "q4", 4)).reasons}
    assert "weights_not_the_bottleneck" in kinds
    assert not kinds & {"accuracy_level_missing", "float_fallback"}


def test_a_session_that_fuses_nothing(plain: Artifact, tmp_path: Path) -> None:
    found = _explain(plain, _quantize(plain, tmp_path / "q"), settings={"graph_level": "disable"})
    kinds = [r.kind for r in found.reasons]
    assert kinds[0] == "graph_optimizations_off"
    assert "qdq_not_fused" in kinds


def _openvino_net(path: Path, quantized: tuple[bool, ...]) -> Artifact:
    """Convolutions of 32 channels in a row; FakeQuantize before and in the weights of those that are quantized."""
    import openvino
    from openvino import opset13 as ops

    from edgekd_openvino.exporter import OpenVinoExporter

    rng = np.random.default_rng(0)
    x = ops.parameter([1, 32, 24, 24], np.float32, name="x")
    x.output(0).set_names({"x"})
    last = x
    for i, low in enumerate(quantized):
        weights = ops.constant(rng.uniform(-0.2, 0.2, (32, 32, 3, 3)).astype(np.float32))
        if low:
            last = ops.fake_quantize(
                last, *(np.float32(v) for v in (0, 2.55, 0, 2.55)), levels=256, name=f"fq{i}"
            )
            bounds = (np.float32(v) for v in (-0.254, 0.254, -0.254, 0.254))
            weights = ops.fake_quantize(weights, *bounds, levels=255)
        conv = ops.convolution(last, weights, [1, 1], [1, 1], [1, 1], [1, 1], name=f"conv{i}")
        last = ops.relu(conv, name=f"relu{i}")
    last.output(0).set_names({"y"})
    path.parent.mkdir()
    openvino.save_model(openvino.Model([ops.result(last)], [x], "net"), path, compress_to_fp16=False)
    return OpenVinoExporter().read(path)


def test_openvino_with_a_layer_left_in_float(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    source = _openvino_net(tmp_path / "f/model.xml", (False,) * 3)
    quantized = _openvino_net(tmp_path / "q/model.xml", (True, False, True))
    assert is_quantized(quantized)
    assert graph_facts_of(quantized).quantize == 4
    found = _explain(source, quantized, "cpu:openvino")
    left = {r.kind: r for r in found.reasons}.get("float_fallback")
    assert left is not None, [r.sentence for r in found.reasons]
    assert "1 Convolution (conv1" in left.sentence
    assert "compute in float32" in left.sentence


def test_nothing_is_run_of_one_that_is_faster(
    plain: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("it was run")

    made = _quantize(plain, tmp_path / "q")
    monkeypatch.setattr("edgekd.pipeline.speedup.place_artifact", refuse)
    found = _explain(plain, made, ratio=(0.5, 0.4, 0.6))
    assert found.answer == "faster"
    assert found.reasons == ()


def test_what_cannot_be_looked_at_is_told(plain: Artifact, tmp_path: Path) -> None:
    made = _quantize(plain, tmp_path / "q", variant="tensorrt")
    feeds: Callable[[int], dict[str, Array]] = lambda n: {"x": np.zeros((n, 3), np.float32)}  # noqa: E731
    twin, quantized = (Contender(label=a.dtype, artifact=a, feeds=feeds(1)) for a in (plain, made))
    found = explain_speed(twin, quantized, _setting("cpu:onnxruntime"), SLOWER)
    assert found.problem
    assert found.operators is None
    # What the file says is told all the same.
    assert found.reasons


def _artifact(dtype: str, digest: str, source: str = "", format_name: str = "onnx") -> Artifact:
    lineage = {"quantized_from": source} if source else {}
    return Artifact(
        folder=Path(digest), entry=digest, format=format_name, dtype=dtype, files=(), inputs=(), outputs=(),
        lineage=lineage,
    )  # fmt: skip


def test_whose_twin_is_whose() -> None:
    a, half, b = _artifact("float32", "a"), _artifact("float16", "h"), _artifact("float32", "b")
    elsewhere = _artifact("float32", "o", format_name="openvino")
    small = _artifact("int8", "q", source=b.digest)
    known = [("elsewhere", elsewhere), ("half", half), ("a", a), ("b", b)]
    assert twin_of(small, known, same_model=True) == ("b", b)
    assert twin_of(_artifact("int8", "q"), known, same_model=True) == ("a", a)
    assert twin_of(_artifact("int8", "q"), known[:2], same_model=True) == ("half", half)
    assert twin_of(_artifact("int8", "q"), [], same_model=True) is None
    assert twin_of(a, known, same_model=True) is None


def test_a_stranger_is_a_twin_only_with_the_same_products(plain: Artifact, tmp_path: Path) -> None:
    made = replace(_quantize(plain, tmp_path / "q"), lineage={})
    other = _write(
        tmp_path / "o/model.onnx",
        [helper.make_node("Conv", ["x", "w"], ["y"], "another")],
        {"w": np.zeros((16, 16, 1, 1), np.float32)},
        ["n", 16, 24, 24],
        ["n", 16, 24, 24],
    )
    assert twin_of(made, [("other", other)], same_model=False) is None
    assert twin_of(made, [("other", other), ("plain", plain)], same_model=False) == ("plain", plain)


def test_ratios_between_two_arms() -> None:
    measured = make_measurement(ratio=0.5, restarts=6, scatter=0.001)
    value, lower, upper = ratio_between(measured, "candidate", "baseline")
    assert lower < value < upper
    assert value == pytest.approx(0.5, rel=0.02)
    back = ratio_between(measured, "baseline", "candidate")
    assert back[0] == pytest.approx(1 / value)
    assert ratio_between(measured, "candidate", "candidate")[0] == pytest.approx(1)
    with pytest.raises(EvidenceError):
        ratio_between(measured, "candidate_9", "baseline")


def test_arms_of_one_measurement(plain: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.pipeline.speedup._placed", lambda who, setting: ({}, "not looked at"))
    made = _quantize(plain, tmp_path / "q", variant="tensorrt")
    measured = make_measurement(ratio=1.5, baseline=plain.digest, candidate=made.digest)
    assert arm_of(measured, made) == "candidate"

    def feeds(count: int) -> dict[str, Array]:
        return draw_feeds(plain.inputs, seed=0, shapes={}, batch=count)

    found = explain_arms([("f", plain, feeds), ("q", made, feeds)], _setting("cpu:onnxruntime"), measured)
    assert [(s.label, s.twin_label, s.answer) for s in found] == [("q", "f", "slower")]
    assert found[0].problem == "not looked at"
    # Of several sessions one is looked at, with its part.
    arms = {name: {**record, "batch": 6, "sessions": 3} for name, record in measured.arms.items()}
    found = explain_arms(
        [("f", plain, feeds), ("q", made, feeds)], _setting("cpu:onnxruntime"), replace(measured, arms=arms)
    )
    assert found[0].batch == 2
