"""Every rule finds its fault: one tiny graph each, with the fault at a node that is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fixtures_lint_model as model
import fixtures_lint_pairs as pairs
import fixtures_lint_placement as placement
import onnx
import pytest
from fixtures_lint_graphs import INT8, Build
from onnx import helper

from edgekd_tensorrt.lint import RULES, lint_file


@dataclass(frozen=True)
class Planted:
    """A fault: ``node`` is where the finding has to be; empty for a finding about the whole model."""

    rule: str
    build: Callable[[], Any]
    node: str
    severity: str = "error"
    options: Mapping[str, Any] = field(default_factory=dict)
    says: str = ""

    def __str__(self) -> str:
        return f"{self.rule}-{getattr(self.build, '__name__', '')}"


_FITS = {"x": ((1, 4, 8, 8), (2, 4, 8, 8), (4, 4, 8, 8))}

PLANTED = (
    Planted("TRT001", model.old_opset, "", says="opset 8"),
    Planted("TRT001", model.new_opset, "", says="opset 26"),
    Planted("TRT001", model.opset_25, "", options={"tensorrt": "10"}, says="opset 25"),
    Planted("TRT001", model.opset_25, "", "warning"),
    Planted("TRT002", model.unsupported, "y", says="Det is not supported"),
    Planted("TRT002", model.foreign_domain, "y", says="com.example"),
    Planted("TRT002", model.undeclared_plugin, "y", says="not in the parser's table"),
    Planted("TRT002", model.swish_on_10, "y", options={"tensorrt": "10.16"}, says="11.0"),
    Planted("TRT002", model.in_a_branch, "else_node", says="else_branch of If 'y'"),
    Planted("TRT002", model.in_a_function, "draw__1", says="Multinomial"),
    Planted("TRT003", model.int16, "", says="INT16"),
    Planted("TRT003", model.uint8_inside, "small", says="UINT8"),
    Planted("TRT003", model.double, "", "warning"),
    Planted("TRT004", model.wrong_type, "z", says="INT32"),
    Planted("TRT004", model.pool_1d, "y", says="1 spatial"),
    Planted("TRT004", model.dilated_pool, "y", says="dilations"),
    Planted("TRT004", model.cubic_resize, "y", says="cubic"),
    Planted("TRT004", model.large_topk, "top", says="4000"),
    Planted("TRT004", model.computed_axes, "y", says="initializer"),
    Planted("TRT004", model.seed, "y", "warning"),
    Planted("TRT005", model.unchecked, "y", says="slope"),
    Planted("TRT005", model.shapes_contradict, "y", "warning"),
    Planted("TRT010", pairs.zero_point, "x_q", says="zero point is 3"),
    Planted("TRT010", pairs.too_few_zero_points, "w_q", says="1 zero points for 32"),
    Planted("TRT011", pairs.unsigned, "x_q"),
    Planted("TRT011", pairs.no_zero_point, "x_q", says="no output_dtype"),
    Planted("TRT012", pairs.int32_constant, "c_dq", says="INT32"),
    Planted("TRT013", pairs.negative_scale, "x_q", says="-0.5"),
    Planted("TRT013", pairs.infinite_scale, "x_dq", says="inf"),
    Planted("TRT013", pairs.computed_scale, "x_q", "warning"),
    Planted("TRT014", pairs.half_scale, "x_q", says="FLOAT16"),
    Planted("TRT015", pairs.fp8_too_early, "x_q", says="opset 19"),
    Planted("TRT016", pairs.activation_per_channel, "x_q", says="32 scales"),
    Planted("TRT017", pairs.wrong_axis, "w_dq", says="output channels along 1"),
    Planted("TRT017", pairs.wrong_length, "w1_q", says="7 scales"),
    Planted("TRT018", pairs.pair_disagrees, "x_dq", says="scales"),
    Planted("TRT019", pairs.no_axis, "w_q", "warning"),
    Planted("TRT020", pairs.odd_int4, "w_q", says="561 elements"),
    Planted("TRT020", pairs.blocks_do_not_divide, "w_q", says="blocks of 10"),
    Planted("TRT030", placement.read_by_another, "x_q", says="Transpose"),
    Planted("TRT030", placement.quantized_input, "x_dq", says="input of the graph"),
    Planted("TRT030", placement.quantized_output, "x_q", says="output of the graph"),
    Planted("TRT031", placement.weights_only, "y", "warning"),
    Planted("TRT032", placement.two_types, "y"),
    Planted("TRT032", placement.mixed_model, "b_q", "warning"),
    Planted("TRT033", placement.quantized_bias, "conv1"),
    Planted("TRT034", placement.stored_quantized, "w_dq", "warning"),
    Planted("TRT040", placement.inside_fusion, "c_q", "warning"),
    Planted("TRT041", placement.output_quantized, "y_q", "warning"),
    Planted("TRT041", placement.for_nobody, "y_q", "warning", says="Tanh"),
    Planted("TRT042", placement.wrong_branch, "add", "warning", says="between"),
    Planted("TRT042", placement.bare_skip, "add", "warning", says="no Q/DQ"),
    Planted("TRT043", placement.concat_scales, "y", "note"),
    Planted("TRT044", placement.two_pairs, "a_q", "warning"),
    Planted("TRT045", placement.lonely_pool, "y", "note"),
    Planted("TRT045", placement.constant_operand, "y", "note"),
    Planted("TRT046", placement.quantized_softmax, "y", "note"),
    Planted("TRT050", placement.odd_channels, "y", "warning", says="12 input"),
    Planted("TRT050", placement.grouped, "y", "warning", says="grouped"),
    Planted("TRT051", placement.small_fp8, "y", "warning"),
    Planted("TRT052", placement.vector, "y", "warning", says="matrix-vector"),
    Planted("TRT052", placement.narrow, "y", "warning", says="side of 10"),
    Planted("TRT053", placement.long_int8_attention, "scores", "warning", says="640"),
    Planted("TRT053", placement.small_head, "scores", "warning", says="head size is 8"),
    Planted("TRT054", placement.fp8_elsewhere, "x_dq", says="Tanh"),
    Planted("TRT055", placement.fp8_net, "x_q", options={"target_sm": 86}, says="needs SM 89"),
    Planted("TRT055", pairs.int4_net, "w_q", options={"target_sm": 75}, says="INT4"),
    Planted("TRT055", model.bfloat16, "", options={"target_sm": 75}, says="BF16"),
    Planted("TRT060", model.plain_net, "y", "warning", options={"dtype": "float16"}),
    Planted("TRT061", model.dynamic, "", "warning"),
    Planted("TRT061", model.two_inputs, "", options={"shapes": {"a": ((1, 4), (2, 4), (4, 4))}}, says="'b'"),
    Planted("TRT061", model.dynamic, "", options={"shapes": {"x": ((4, 4, 8, 8), (2, 4, 8, 8), (4, 4, 8, 8))}}, says="4:2:4"),
    Planted("TRT061", model.dynamic, "", options={"shapes": {"x": ((1, 3, 8, 8),) * 3}}, says="the model has 4"),
    Planted("TRT061", model.dynamic, "", options={"shapes": {"x": ((1, 4),) * 3}}, says="2 dimensions"),
    Planted(
        "TRT061", model.two_inputs, "", "warning", says="'batch'",
        options={"shapes": {"a": ((1, 4), (2, 4), (4, 4)), "b": ((1, 4), (2, 4), (8, 4))}},
    ),
    Planted("TRT062", model.branch_ranks, "y", says="2 dimensions"),
    Planted("TRT062", model.growing_loop, "loop", says="[4,4]"),
    Planted("TRT062", model.endless_stack, "loop", says="s_out"),
    Planted("TRT063", model.nonzero, "z", "warning"),
    Planted("TRT064", model.dynamic, "", options={"shapes": {**_FITS, "image": ((1,),) * 3}}, says="'image'"),
    Planted("TRT065", model.shape_input, "y", "warning"),
    Planted("TRT070", pairs.outlier, "w_dq", "warning", says="10000"),
)  # fmt: skip


@pytest.mark.parametrize("planted", PLANTED, ids=[f"{i}-{p}" for i, p in enumerate(PLANTED)])
def test_a_planted_fault_is_found_at_its_node(planted: Planted, tmp_path: Path) -> None:
    report = lint_file(planted.build().save(tmp_path), **planted.options)
    told = report.to_text()
    found = [f for f in report.findings if f.rule == planted.rule and f.severity == planted.severity]
    assert planted.node in {f.node for f in found}, told
    assert any(planted.says in f.message for f in found if f.node == planted.node), told
    assert {f.rule for f in report.errors} == ({planted.rule} if planted.severity == "error" else set()), told
    for finding in found:
        assert finding.fix and finding.source and finding.message
        assert (finding.op_type == "") == (finding.node == "")


def test_every_rule_has_a_planted_fault() -> None:
    elsewhere = {"TRT006"}  # test_tensorrt_lint_files.py: its fault is beside the file
    assert {p.rule for p in PLANTED} | elsewhere == set(RULES)
    assert len({p.build for p in PLANTED}) >= 30


def test_rules_are_said_in_one_line_with_a_source_and_a_fix() -> None:
    for name, rule in RULES.items():
        assert rule.id == name
        assert rule.severity in ("error", "warning", "note")
        assert rule.statement.endswith(".") and "\n" not in rule.statement
        assert rule.source and rule.fix


@pytest.mark.parametrize("version", ["10", "11", "10.16", "11.4.1"])
def test_a_declared_plugin_is_no_finding(version: str, tmp_path: Path) -> None:
    path = model.foreign_domain().save(tmp_path)
    assert not lint_file(path, plugins=["FastGelu"], tensorrt=version).errors
    assert not lint_file(path, plugins=["com.example::FastGelu"], tensorrt=version).errors
    assert lint_file(path, plugins=["com.other::FastGelu"], tensorrt=version).errors


def test_later_releases_take_more(tmp_path: Path) -> None:
    path = model.opset_25().save(tmp_path)
    assert not lint_file(path, tensorrt="11.5").findings
    assert [f.severity for f in lint_file(path, tensorrt="11.4").findings] == ["warning"]
    volume = Build(20)
    volume.input("x", [1, 1, 4, 4, 4])
    volume.input("grid", [1, 4, 4, 4, 3])
    volume.node("GridSample", ["x", "grid"], "y")
    volume.output("y")
    path = volume.save(tmp_path)
    assert [f.rule for f in lint_file(path, tensorrt="11").errors] == ["TRT004"]
    assert not lint_file(path, tensorrt="11.4").findings


def test_unnamed_nodes_are_called_by_their_output(tmp_path: Path) -> None:
    g = model.unsupported()
    g.nodes[0].name = ""
    (found,) = lint_file(g.save(tmp_path)).errors
    assert (found.node, found.op_type) == ("y", "Det")


def test_a_transposed_weight_keeps_its_output_channels(tmp_path: Path) -> None:
    g = Build()
    g.input("x", [4, 32])
    g.pair("x", "x")
    g.channel(g.weights("w", 24, 32), "w", 24, axis=0)
    g.node("Transpose", ["w_dq"], "wt", perm=[1, 0])
    g.node("MatMul", ["x_dq", "wt"], "y")
    g.output("y")
    assert not lint_file(g.save(tmp_path)).errors
    for node in g.nodes:
        if node.name in ("w_q", "w_dq"):
            node.attribute[0].i = 1
    g.constants = [c for c in g.constants if c.name not in ("w_scale", "w_zero")]
    g.constant("w_scale", [0.1] * 32)
    g.constant("w_zero", [0] * 32, INT8)
    assert {f.rule for f in lint_file(g.save(tmp_path)).errors} == {"TRT017"}


def test_constants_in_constant_nodes_are_constants(tmp_path: Path) -> None:
    g = pairs.zero_point()
    zero = next(c for c in g.constants if c.name == "x_zero")
    g.constants.remove(zero)
    g.nodes.insert(0, helper.make_node("Constant", [], ["x_zero"], name="zero", value=zero))
    assert {f.rule for f in lint_file(g.save(tmp_path)).errors} == {"TRT010"}


def test_onnx_itself_accepts_the_planted_graphs() -> None:
    """A graph that is wrong in another way than the one planted would prove little."""
    invalid = (model.unchecked, model.undeclared_plugin)
    for build in {p.build for p in PLANTED if p.build not in invalid}:
        onnx.checker.check_model(build().model())
