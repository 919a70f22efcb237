"""Each cause is told where it is planted, alone, and none where the model is faster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgekd.placement import PlacedOp
from edgekd.quantize.facts import GraphFacts, WeightOnly
from edgekd.quantize.slowness import Reason, why_not_faster

ORT = "CPUExecutionProvider"
VNNI = {"machine": "x86_64", "cpu_flags": ["avx512_vnni"]}
SLOWER = (1.4, 1.3, 1.5)


def op(name: str, op_type: str, us: float | None, dtype: str = "", **changes: Any) -> PlacedOp:
    time_ns = None if us is None else us * 1000
    return PlacedOp(
        name=name, op_type=op_type, place=changes.pop("place", ORT), dtype=dtype, time_ns=time_ns, **changes
    )


#: Four convolutions and a product, in float: 100 µs each.
FLOAT = [*(op(f"c{i}_nchwc", "Conv", 100, "float32") for i in range(4)), op("fc", "Gemm", 100, "float32")]
#: The same in int8, each in a third of the time, and a float boundary.
GOOD = [
    op("x_QuantizeLinear", "QuantizeLinear", 1),
    *(op(f"c{i}_token_{i}", "QLinearConv", 33, "int8") for i in range(4)),
    op("fc", "QGemm", 33, "int8"),
    op("y_DequantizeLinear", "DequantizeLinear", 1),
]


def why(ops: list[PlacedOp], before: list[PlacedOp] = FLOAT, **given: Any) -> tuple[Reason, ...]:
    return why_not_faster(before, ops, **{"machine": VNNI, "ratio": SLOWER, **given})


def only(found: tuple[Reason, ...]) -> Reason:
    assert [r.kind for r in found] == [found[0].kind], [r.sentence for r in found]
    assert found[0].fix
    return found[0]


def test_nothing_is_told_of_one_that_is_faster() -> None:
    bad = [*GOOD, *(op(f"q{i}", "QuantizeLinear", 100) for i in range(9))]
    facts = GraphFacts(activations=("int8",))
    assert why(bad, facts=facts, ratio=(0.9, 0.85, 0.99)) == ()
    assert why(bad, facts=facts, ratio=(0.9, 0.80, 1.01))
    assert why(bad, facts=facts, ratio=None)


def test_without_a_cause_the_totals_are_told() -> None:
    found = only(why(GOOD))
    assert found.kind == "unexplained"
    assert "7 operators take 167 µs together, the float model's 5 take 500 µs" in found.sentence


def test_a_runtime_that_tells_nothing() -> None:
    assert only(why([], [])).kind == "unexplained"


def test_pairs_that_are_not_fused() -> None:
    extra = [op(f"q{i}", "QuantizeLinear" if i % 2 else "DequantizeLinear", 50) for i in range(4)]
    facts = GraphFacts(
        quantize=20, dequantize=30, activations=("uint8",), beside={f"q{i}": "Softmax" for i in range(4)}
    )
    found = only(why([*GOOD, *extra], facts=facts))
    assert found.kind == "qdq_not_fused"
    assert found.time_share == pytest.approx(202 / 367)
    assert "6 Quantize/Dequantize operators of 50 in the file" in found.sentence
    assert "202 µs, 55 % of the call" in found.sentence
    assert "around 4 Softmax" in found.sentence
    assert set(found.nodes[:4]) == {"q0", "q1", "q2", "q3"}


def test_the_float_boundary_of_a_small_model() -> None:
    found = only(why([replace(o, time_ns=o.time_ns if o.dtype else 20_000.0) for o in GOOD]))
    assert found.kind == "qdq_not_fused"
    assert "2 Quantize/Dequantize operators run as nodes of their own" in found.sentence
    assert "float inputs or outputs" in found.sentence


@pytest.mark.parametrize(
    ("op_type", "place"),
    [("FakeQuantize", "CPU"), ("Convert", "XnnpackBackend"), ("Quantize", "TensorRT"),
     ("quantized_decomposed::quantize_per_tensor.out", "portable")],
)  # fmt: skip
def test_every_runtimes_words_for_quantizing(op_type: str, place: str) -> None:
    extra = [op(f"q{i}", op_type, 50, place=place) for i in range(4)]
    assert only(why([*GOOD, *extra])).kind == "qdq_not_fused"


def test_operators_left_in_float_are_named() -> None:
    before = [*FLOAT, op("act", "Softplus", 60, "float32")]
    found = only(why([*GOOD, op("act", "Softplus", 60, "float32")], before))
    assert found.kind == "float_fallback"
    assert "1 Softplus (act) compute in float32 (60 µs, 26 % of the call)" in found.sentence
    assert found.nodes == ("act",)


def test_float_operators_that_are_slower_than_in_the_float_model() -> None:
    ops = [op(o.name, "FusedConv", 400, "float32") if o.name[0] == "c" else o for o in GOOD]
    found = {r.kind: r for r in why(ops)}["float_fallback"]
    assert "(1,600 µs, 98 % of the call); the float model's own take 400 µs" in found.sentence
    ops = [op(o.name, "FusedConv", 110, "float32") if o.name[0] == "c" else o for o in GOOD]
    assert "own take" not in {r.kind: r for r in why(ops)}["float_fallback"].sentence


def test_operators_left_in_float_by_choice_are_told_so() -> None:
    ops = [*GOOD[:-2], op("fc", "Gemm", 100, "float32"), GOOD[-1]]
    found = only(why(ops, facts=GraphFacts(keep_float=frozenset({"fc"}))))
    assert "1 of them by choice (keep_float)" in found.sentence
    assert "if the accuracy allows" in found.fix


def test_operators_on_another_provider_are_told_where() -> None:
    gpu = [replace(o, place="CUDAExecutionProvider") for o in GOOD]
    before = [*FLOAT, op("nms", "NonMaxSuppression", 50, "float32")]
    found = only(why([*gpu, op("nms", "NonMaxSuppression", 50, "float32")], before))
    assert f"1 of them on {ORT}" in found.sentence


def test_a_model_that_runs_in_float_altogether() -> None:
    found = only(why(list(FLOAT)))
    assert found.kind == "float_fallback"
    assert found.sentence.startswith("no operator computes in low precision: 4 Conv, 1 Gemm")


def test_fusions_that_were_lost() -> None:
    clips = [op(f"clip{i}", "Clip", 30, "float32") for i in range(4)]
    found = only(why([*GOOD, *clips]))
    assert found.kind == "more_ops"
    assert "11 operators run against 5 in float: 4 Clip (" in found.sentence


def test_layout_changes() -> None:
    moves = [op(f"t{i}", "Transpose", 20) for i in range(4)]
    before = [*FLOAT, op("r", "ReorderOutput", 1)]
    found = only(why([*GOOD, *moves], before))
    assert found.kind == "reformat"
    assert "4 operators only change layout or type" in found.sentence
    assert "against 1 in float" in found.sentence
    assert only(why([*GOOD, moves[0]], [*FLOAT, moves[0]])).kind == "unexplained"


def test_symmetric_activations_are_for_tensorrt() -> None:
    facts = GraphFacts(activations=("int8",), quantize=9)
    found = only(why(GOOD, facts=facts))
    assert found.kind == "symmetric_on_cpu"
    assert "u8s8" in found.sentence
    assert (
        only(why(GOOD, facts=facts, machine={"machine": "aarch64", "cpu_flags": ["asimddp"]})).kind
        == "unexplained"
    )
    elsewhere = [replace(o, place="CPU") for o in GOOD]
    assert only(why(elsewhere, facts=facts)).kind == "unexplained"


def test_a_cpu_without_dot_products() -> None:
    found = only(why(GOOD, machine={"machine": "x86_64", "cpu_flags": ["avx2"]}))
    assert found.kind == "no_int8_instructions"
    assert only(why(GOOD, machine={"machine": "x86_64", "cpu_flags": None})).kind == "unexplained"


def test_a_twin_in_sixteen_bits() -> None:
    before = [op(o.name, o.op_type, 40, "bfloat16", place="CPU") for o in FLOAT]
    found = only(why([replace(o, place="CPU") for o in GOOD], before))
    assert found.kind == "twin_precision"
    assert "5 of its products ran in bfloat16" in found.sentence


def test_depthwise_convolutions_and_others_apart() -> None:
    ops = [op(o.name, o.op_type, 120, o.dtype) if o.name[:2] in ("c1", "c3") else o for o in GOOD]
    found = why(ops, facts=GraphFacts(depthwise=frozenset({"c1"})))
    assert [r.kind for r in found] == ["depthwise", "same_kernels"]
    assert "1 of 4 Conv take as long in int8 as in float or longer" in found[0].sentence
    assert "c1 (120 µs against 100 µs)" in found[0].sentence
    assert "c3 (120 µs against 100 µs)" in found[1].sentence
    assert sum(r.time_share or 0 for r in found) == pytest.approx(240 / 341)


def test_operators_are_paired_by_what_they_were_made_of() -> None:
    before = [op("fused group 7", "Conv", 50, "float32", sources=("a", "relu"))]
    facts = GraphFacts(anchors={"relu_out": "a", "a": "a"})
    found = only(why([op("relu_out_nhwc", "QLinearConv", 60, "int8")], before, facts=facts))
    assert found.kind == "same_kernels"
    assert "a (60 µs against 50 µs)" in found.sentence


def test_weights_without_an_accuracy_level() -> None:
    ops = [op("m0", "MatMulNBits", 500, "float32"), op("m1", "MatMulNBits", 500, "float32")]
    before = [op("m0", "MatMul", 100, "float32"), op("m1", "MatMul", 100, "float32")]
    nodes = (WeightOnly(name="m0", bits=8), WeightOnly(name="m1", bits=8, accuracy_level=4))
    found = only(why(ops, before, facts=GraphFacts(weight_only=nodes)))
    assert found.kind == "accuracy_level_missing"
    assert "1 of 2 weight-only products (8-bit) have no accuracy_level" in found.sentence
    assert found.time_share == pytest.approx(0.5)
    found = only(why(ops, before, facts=GraphFacts(weight_only=nodes[1:])))
    assert found.kind == "weights_not_the_bottleneck"
    asked = (WeightOnly(name="m0", bits=4, accuracy_level=1), WeightOnly(name="m1", bits=4, accuracy_level=1))
    found = only(why(ops, before, facts=GraphFacts(weight_only=asked)))
    assert found.kind == "accuracy_level_float32"
    assert (
        "2 of 2 weight-only products (4-bit) have accuracy_level 1: they unpack to float32" in found.sentence
    )


def test_ranges_that_are_measured_in_every_call() -> None:
    found = only(why([*GOOD, op("d", "DynamicQuantizeLinear", 40, "int8")]))
    assert found.kind == "dynamic_ranges"


def test_an_emulated_precision_explains_all() -> None:
    ops = [*FLOAT, *(op(f"q{i}", "QuantizeLinear", 100) for i in range(9))]
    found = only(why(ops, emulated="float8e4m3fn"))
    assert found.kind == "emulated"
    assert "float8e4m3fn is emulated here" in found.sentence


def test_graph_optimisations_that_are_off() -> None:
    found = why(GOOD, facts=GraphFacts(quantize=9), settings={"graph_level": "basic"})
    assert only(found).kind == "graph_optimizations_off"
    assert (
        only(why(GOOD, facts=GraphFacts(quantize=9), settings={"graph_level": "all"})).kind == "unexplained"
    )


def test_a_call_that_is_too_short() -> None:
    short = [op(o.name, o.op_type, 1.2, o.dtype) for o in FLOAT]
    tiny = [op(o.name, o.op_type, 0.9 if o.dtype else 0.01, o.dtype) for o in GOOD]
    found = only(why(tiny, short, batch=1))
    assert found.kind == "overhead_bound"
    assert "at batch 1" in found.sentence


def test_a_runtime_without_times_tells_what_ran() -> None:
    def untimed(ops: list[PlacedOp]) -> list[PlacedOp]:
        return [op(o.name, o.op_type, None, o.dtype, place="TensorRT") for o in ops]

    assert only(why(untimed(GOOD), untimed(FLOAT))).kind == "unexplained"
    extra = [op(f"r{i}", "Reformat", None, place="TensorRT") for i in range(8)]
    left = [op("lrn", "LRN", None, "float32", place="TensorRT")]
    found = why([*untimed(GOOD), *extra, *left], [*untimed(FLOAT), *left])
    assert {r.kind for r in found} == {"float_fallback", "reformat"}
    assert all(r.time_share is None for r in found)
    assert "1 LRN (lrn) compute in float32" in {r.kind: r.sentence for r in found}["float_fallback"]


def test_causes_come_first_and_then_what_takes_most() -> None:
    ops = [
        *GOOD,
        *(op(f"q{i}", "QuantizeLinear", 20) for i in range(4)),
        op("act", "Softplus", 60, "float32"),
        *(op(f"t{i}", "Transpose", 100) for i in range(3)),
    ]
    found = why(ops, [*FLOAT, op("act", "Softplus", 60, "float32")], facts=GraphFacts(activations=("int8",)))
    assert [r.kind for r in found] == ["symmetric_on_cpu", "reformat", "qdq_not_fused", "float_fallback"]
    shares = [r.time_share for r in found[1:]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1
