"""The operator table: where it comes from, how it is made again, and each kind of restriction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fixtures_lint_graphs import FLOAT, Build
from onnx import TensorProto, defs, helper

from edgekd.errors import DataError
from edgekd_tensorrt.lint import lint_file
from edgekd_tensorrt.lint.operators import TABLE_TYPES, table
from edgekd_tensorrt.lint.regenerate import CHECKS, TABLE, TYPES, build, changes, dump, main, parse_table
from edgekd_tensorrt.lint.restrictions import _DECIDE, ELSEWHERE

_STORED = json.loads(TABLE.read_text(encoding="utf-8"))
_CHECKS = json.loads(CHECKS.read_text(encoding="utf-8"))

#: Written for this test: the form of the original, with words of its own.
_TEXT = """# Operators

TensorRT 12.3 supports operators in the inclusive range of opset 9 to opset 26. More below.

| Operator | Supported | Supported Types | Restrictions |
|----------|-----------|-----------------|--------------|
| Abs      | Y         | FP32, INT64     |
| Bits     | N         |
| Pool     | Y         | FP32, FP16,     | Only  small ones. |
| Turn     | N         |                 | Use something else |
"""
_KEPT = {
    "Pool": {"restriction": "", "checks": []},
    "Turn": {"restriction": "", "checks": []},
}


def _kept() -> dict[str, Any]:
    return {r.op: {"restriction": r.digest, "checks": []} for r in parse_table(_TEXT)[2] if r.op in _KEPT}


def test_the_form_of_the_original_is_read() -> None:
    version, opset, rows = parse_table(_TEXT)
    assert (version, opset) == ("12.3", (9, 26))
    assert [(r.op, r.supported, r.types, r.restriction) for r in rows] == [
        ("Abs", True, ("FP32", "INT64"), ""),
        ("Bits", False, (), ""),
        ("Pool", True, ("FP32", "FP16"), "Only small ones."),
        ("Turn", False, (), "Use something else"),
    ]


def test_a_table_is_made_and_says_what_changed() -> None:
    made = build(_TEXT, commit="abc", before={}, checks=_kept())
    assert made["supported"] == {"Abs": ["FP32", "INT64"], "Pool": ["FP32", "FP16"]}
    assert made["unsupported"] == ["Bits", "Turn"]
    assert (made["source"]["commit"], made["opset"]) == ("abc", [9, 26])
    assert json.loads(dump(made)) == made
    later = {**made, "supported": {"Abs": ["FP32"], "New": ["BOOL"]}}
    assert changes(made, later) == ["+ New: BOOL", "- Pool", "~ Abs: FP32, INT64 -> FP32"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("FP32, INT64", "FP32, INT65", "'INT65'"),
        ("| FP32, INT64     |", "|                 |", "'none'"),
        ("inclusive range", "range", "which opsets"),
        ("| Bits     | N         |\n", "", "3 operators, the stored table 4"),
        ("small ones", "tiny ones", "restriction of Pool"),
        ("| Only  small ones. |", "|", "none now"),
        ("| Bits     | N", "| Abs      | N", "Abs twice"),
        ("| Turn     | N         |                 | Use something else |", "| Other | N |", "Turn, which"),
        ("| Abs      | Y         | FP32, INT64     |", "| Abs | Y | FP32 | Not on Sundays |", "'Not on Sundays'"),
    ],
)  # fmt: skip
def test_what_nobody_has_read_is_refused(old: str, new: str, says: str) -> None:
    assert old in _TEXT
    before = build(_TEXT, commit="abc", before={}, checks=_kept())
    with pytest.raises(DataError, match=says):
        build(_TEXT.replace(old, new), commit="def", before=before, checks=_kept())


def test_the_command_refuses_and_leaves_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, stored = tmp_path / "operators.md", tmp_path / "operators.json"
    source.write_text(_TEXT, encoding="utf-8")
    stored.write_text(TABLE.read_text(encoding="utf-8"), encoding="utf-8")
    assert main([str(source), "--commit", "abc", "--table", str(stored)]) == 2
    assert "error: operators.md has 4 operators" in capsys.readouterr().err
    assert stored.read_text(encoding="utf-8") == TABLE.read_text(encoding="utf-8")
    assert main([str(tmp_path / "none.md"), "--commit", "abc", "--table", str(stored)]) == 4


def test_the_stored_table_is_whole() -> None:
    assert TABLE.read_text(encoding="utf-8") == dump(_STORED)
    assert len(_STORED["supported"]) == 159
    assert len(_STORED["unsupported"]) == 42
    assert _STORED["opset"] == [9, 24]
    assert len(_STORED["source"]["commit"]) == 40
    assert {t for types in _STORED["supported"].values() for t in types} <= set(TYPES)
    assert set(TABLE_TYPES.values()) <= set(TYPES)


def test_every_check_is_decided_somewhere_and_every_decision_is_used() -> None:
    used = {c["check"] for entry in _CHECKS["operators"].values() for c in entry["checks"]}
    assert used == set(_DECIDE) | set(ELSEWHERE)
    assert set(_CHECKS["operators"]) <= set(_STORED["supported"]) | set(_STORED["unsupported"])


def test_checks_name_attributes_that_onnx_has() -> None:
    known = {
        s.name: {a for v in defs.get_all_schemas_with_history() if v.name == s.name for a in v.attributes}
        for s in defs.get_all_schemas()
        if s.name in _CHECKS["operators"]
    }
    for op, entry in _CHECKS["operators"].items():
        for check in entry["checks"]:
            assert check.get("attribute", "") in {*known[op], ""}, f"{op}: {check}"


def test_operators_that_onnx_lacks_are_the_parsers_old_ones() -> None:
    known = {s.name for s in defs.get_all_schemas_with_history()}
    assert set(table().types) - known == {"ImageScaler", "ParametricSoftplus", "ScaledTanh"}


def _graph(op: str, inputs: list[Any], outputs: list[str], opset: int = 19, **attributes: Any) -> Build:
    """One node; inputs are shapes (of FLOAT), ``(shape, type)``, constants as ``[values]`` arrays, or empty."""
    g = Build(opset)
    names = []
    for i, given in enumerate(inputs):
        name = f"i{i}" if given is not None else ""
        if isinstance(given, dict):
            g.constants.append(helper.make_tensor(name, given["type"], given["shape"], given["values"]))
        elif isinstance(given, tuple):
            g.input(name, list(given[0]), given[1])
        elif given is not None:
            g.input(name, given)
        names.append(name)
    g.nodes.append(helper.make_node(op, names, outputs, name="node", **attributes))
    for out in outputs:
        if out:
            g.output(out)
    return g


_INT64, _BOOL = TensorProto.INT64, TensorProto.BOOL


def _ints(*values: int) -> dict[str, Any]:
    return {"type": _INT64, "shape": [len(values)], "values": list(values)}


def _scalar(value: Any, kind: int) -> dict[str, Any]:
    return {"type": kind, "shape": [], "values": [value]}


_LSTM = [[3, 2, 4], [2, 20, 4], [2, 20, 5]]

#: Kind of restriction, a graph that breaks it, and a word of the message.
_BROKEN = [
    ("rank", _graph("GridSample", [[1, 1, 4, 4, 4], [1, 4, 4, 4, 3]], ["y"], 20), "5 dimensions"),
    ("spatial", _graph("AveragePool", [[1, 4, 8]], ["y"], kernel_shape=[2]), "1 spatial"),
    ("attr_eq", _graph("TopK", [[2, 9], _ints(2)], ["y", "i"], sorted=0), "sorted is 0"),
    ("attr_in", _graph("Resize", [[1, 1, 4, 4], None, None, _ints(1, 1, 8, 8)], ["y"], nearest_mode="ceil", mode="cubic"), "'cubic'"),
    ("attr_all", _graph("AveragePool", [[1, 4, 8, 8]], ["y"], kernel_shape=[2, 2], dilations=[2, 1]), "[2, 1]"),
    ("attr_absent", _graph("Attention", [[1, 2, 4, 8]] * 3, ["y"], 23, softcap=2.0), "softcap"),
    ("const_input", _graph("Squeeze", [[1, 4], ([1], _INT64)], ["y"]), "when the engine is built"),
    ("const_input", _graph("ReduceMean", [[1, 4], ([1], _INT64)], ["y"]), "an initializer"),
    ("const_eq", _graph("Dropout", [[1, 4], None, _scalar(True, _BOOL)], ["y"]), "True"),
    ("const_lt", _graph("TopK", [[2, 9000], _ints(4000)], ["y", "i"]), "4000"),
    ("input_absent", _graph("Attention", [[1, 2, 4, 8]] * 3 + [None, [1, 2, 3, 8], [1, 2, 3, 8]], ["y", "k", "v"], 23), "input 4"),
    ("output_absent", _graph("MaxPool", [[1, 4, 8, 8]], ["y", "i"], kernel_shape=[2, 2]), "output 1"),
    ("static_shape", _graph("EyeLike", [["n", 4]], ["y"]), "varies"),
    ("static_axis", _graph("Hardmax", [[4, "n"]], ["y"], axis=-1), "dimension -1"),
    ("input_dtype", _graph("RotaryEmbedding", [[1, 2, 4, 8], [9, 4], [9, 4], ([1, 4], TensorProto.INT32)], ["y"], 23), "INT32"),
    ("pads_symmetric", _graph("DeformConv", [[1, 1, 4, 4], [1, 1, 2, 2], [1, 8, 4, 4]], ["y"], pads=[0, 0, 1, 1]), "[0, 0, 1, 1]"),
    ("bidir_same_activations", _graph("LSTM", _LSTM, ["y"], direction="bidirectional", hidden_size=5, activations=["Sigmoid", "Tanh", "Tanh", "Relu", "Tanh", "Tanh"]), "Relu"),
    ("resize_axes", _graph("Resize", [[1, 1, 4, 4], None, {"type": FLOAT, "shape": [2], "values": [2.0, 2.0]}], ["y"], axes=[2, 3]), "axes [2, 3]"),
    ("real_input", _graph("STFT", [[1, 64, 2], _scalar(4, _INT64), {"type": FLOAT, "shape": [8], "values": [1.0] * 8}, _scalar(8, _INT64)], ["y"]), "complex"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "made", "says"), _BROKEN, ids=[f"{i}-{b[0]}" for i, b in enumerate(_BROKEN)]
)
def test_each_kind_of_restriction_is_found(kind: str, made: Build, says: str, tmp_path: Path) -> None:
    report = lint_file(made.save_unchecked(tmp_path))
    found = [f for f in report.errors if f.rule == "TRT004" and f.node == "node"]
    assert any(says in f.message for f in found), report.to_text()
    assert {f.rule for f in report.errors} <= {"TRT004"}, report.to_text()


_KEPT_RIGHT = [
    _graph("GridSample", [[1, 1, 4, 4], [1, 4, 4, 2]], ["y"], 20),
    _graph("AveragePool", [[1, 4, 8, 8]], ["y"], kernel_shape=[2, 2], dilations=[1, 1]),
    _graph("TopK", [[2, 9], _ints(2)], ["y", "i"]),
    _graph("Resize", [[1, 1, 4, 4], None, None, _ints(1, 1, 8, 8)], ["y"]),
    _graph("Attention", [[1, 2, 4, 8]] * 3, ["y"], 23),
    _graph("Squeeze", [[1, 4], _ints(0)], ["y"]),
    _graph("Dropout", [[1, 4], None, _scalar(False, _BOOL)], ["y"]),
    _graph("MaxPool", [[1, 4, 8, 8]], ["y"], kernel_shape=[2, 2]),
    _graph("EyeLike", [[3, 4]], ["y"]),
    _graph("Hardmax", [[4, 5]], ["y"]),
    _graph("RotaryEmbedding", [[1, 2, 4, 8], [9, 4], [9, 4], ([1, 4], _INT64)], ["y"], 23),
    _graph("DeformConv", [[1, 1, 4, 4], [1, 1, 2, 2], [1, 8, 5, 5]], ["y"], pads=[1, 1, 1, 1]),
    _graph("LSTM", _LSTM, ["y"], direction="bidirectional", hidden_size=5),
    _graph("STFT", [[1, 64, 1], _scalar(4, _INT64), {"type": FLOAT, "shape": [8], "values": [1.0] * 8}, _scalar(8, _INT64)], ["y"]),
]  # fmt: skip


@pytest.mark.parametrize("made", _KEPT_RIGHT, ids=[g.nodes[0].op_type for g in _KEPT_RIGHT])
def test_what_keeps_a_restriction_is_silent(made: Build, tmp_path: Path) -> None:
    report = lint_file(made.save_unchecked(tmp_path))
    assert [f for f in report.findings if f.rule != "TRT061"] == [], report.to_text()


def test_a_shape_that_does_not_vary_is_a_constant_when_the_engine_is_built(tmp_path: Path) -> None:
    g = Build()
    g.input("x", [1, 4])
    g.constants.append(helper.make_tensor("first", _INT64, [1], [0]))
    g.nodes.append(helper.make_node("Shape", ["x"], ["s"], name="s"))
    g.nodes.append(helper.make_node("Gather", ["s", "first"], ["one"], name="one"))
    g.nodes.append(helper.make_node("Sub", ["one", "first"], ["axis"], name="axis"))
    g.nodes.append(helper.make_node("Unsqueeze", ["x", "axis"], ["y"], name="y"))
    g.output("y", [1, 1, 4])
    assert lint_file(g.save_unchecked(tmp_path)).findings == ()
    g.inputs.clear()
    g.input("x", ["n", 4])
    assert "TRT004" in {f.rule for f in lint_file(g.save_unchecked(tmp_path)).errors}
