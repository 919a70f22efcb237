"""What the lint does with files: weights stay where they are, and whatever a file holds, it is a finding or a ModelError."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fixtures_lint_graphs import FLOAT, Build, conv_net
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import ModelError, UsageError
from edgekd_tensorrt.lint import LintReport, lint_file
from edgekd_tensorrt.lint.loading import opened
from edgekd_tensorrt.lint.wire import slim


def _external(folder: Path) -> Path:
    """A quantized network whose larger tensors lie in ``weights.bin``."""
    path = folder / "model.onnx"
    model = conv_net().model()
    for tensor in model.graph.initializer:  # only raw data can be moved out
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    onnx.save_model(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=64)
    return path


def test_external_weights_are_found_beside_the_model(tmp_path: Path) -> None:
    report = lint_file(_external(tmp_path))
    assert report.findings == (), report.to_text()


def test_a_missing_weights_file_is_told_at_its_reader(tmp_path: Path) -> None:
    path = _external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    report = lint_file(path)
    assert {f.rule for f in report.errors} == {"TRT006"}, report.to_text()
    found = {f.tensor: f.node for f in report.errors}
    assert (found["w1"], found["w1_scale"], found["wf"]) == ("w1_q", "w1_q", "y")
    assert all("missing" in f.message for f in report.errors)


def test_a_weights_file_that_is_cut_off_is_told(tmp_path: Path) -> None:
    path = _external(tmp_path)
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[: len(data) // 2])
    report = lint_file(path)
    assert {f.rule for f in report.errors} == {"TRT006"}, report.to_text()


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname"])
def test_weights_outside_the_folder_are_not_read(location: str, tmp_path: Path) -> None:
    path = _external(tmp_path)
    model = onnx.load(str(path), load_external_data=False)
    for entry in next(t for t in model.graph.initializer if t.name == "w1_scale").external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())
    report = lint_file(path)
    assert [(f.rule, f.tensor) for f in report.errors] == [("TRT006", "w1_scale")], report.to_text()
    assert "outside" in report.errors[0].message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"not onnx at all, whatever its name says", "cannot read"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "cannot read"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
            "Git LFS pointer",
        ),
    ],
)
def test_what_is_no_onnx_is_a_model_error(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=says):
        lint_file(path)


def test_a_missing_file_and_a_folder_are_model_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(ModelError, match="does not exist"):
            lint_file(path)


def test_a_graph_without_outputs_is_a_model_error(tmp_path: Path) -> None:
    g = Build()
    g.input("x", [1])
    g.node("Relu", ["x"], "y")
    with pytest.raises(ModelError, match="no ONNX graph"):
        lint_file(g.save(tmp_path))


@pytest.mark.parametrize("sm", [0, 9, 890])
def test_a_compute_capability_that_cannot_be_is_refused(sm: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"SM {sm}"):
        lint_file(conv_net().save(tmp_path), target_sm=sm)


@pytest.mark.parametrize("version", ["8.6", "12", "eleven", ""])
def test_a_version_that_is_not_known_is_refused(version: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="TensorRT version"):
        lint_file(conv_net().save(tmp_path), tensorrt=version)


def test_weights_stay_in_the_file(tmp_path: Path) -> None:
    path = conv_net().save(tmp_path)
    whole = onnx.load(str(path))
    with opened(path) as loaded:
        left = {t.name: t for t in loaded.model.graph.initializer}
        for tensor in whole.graph.initializer:
            slimmed = left[tensor.name]
            assert (slimmed.dims, slimmed.data_type) == (tensor.dims, tensor.data_type)
            large = tensor.ByteSize() > 4096
            assert slimmed.HasField("raw_data") == (tensor.HasField("raw_data") and not large)
            np.testing.assert_array_equal(loaded.array(slimmed), numpy_helper.to_array(tensor))
        assert loaded.model.ByteSize() < 12_000 < whole.ByteSize()
        assert [n.SerializeToString() for n in loaded.model.graph.node] == [
            n.SerializeToString() for n in whole.graph.node
        ]


def test_large_constants_in_nodes_and_branches_stay_too(tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.arange(4000, dtype=np.float32).reshape(40, 100))
    g = Build()
    g.input("x", [4, 40])
    g.input("c", [], TensorProto.BOOL)
    branches = {}
    for name in ("then", "else"):
        nodes = [
            helper.make_node("Constant", [], [f"{name}_w"], name=f"{name}_constant", value=value),
            helper.make_node("MatMul", ["x", f"{name}_w"], [f"{name}_y"], name=f"{name}_product"),
        ]
        made = [helper.make_tensor_value_info(f"{name}_y", FLOAT, [4, 100])]
        branches[f"{name}_branch"] = helper.make_graph(nodes, name, [], made)
    g.node("If", ["c"], "y", **branches)
    g.output("y", [4, 100])
    path = g.save(tmp_path)
    report = lint_file(path)
    assert report.findings == (), report.to_text()
    with opened(path) as loaded:
        assert loaded.model.ByteSize() < 2000
        inner = next(a.g for a in loaded.model.graph.node[0].attribute if a.name == "then_branch")
        np.testing.assert_array_equal(loaded.array(inner.node[0].attribute[0].t), numpy_helper.to_array(value))  # fmt: skip


def test_shapes_that_make_onnx_abort_are_a_finding(tmp_path: Path) -> None:
    """Its shape inference stops the whole process here; the lint goes on, and so does the next one."""
    g = conv_net()
    g.constants = [c for c in g.constants if c.name != "w1"]
    g.weights("w1", 32, 32, 3)
    path = g.save_unchecked(tmp_path)
    for _ in range(2):
        report = lint_file(path)
        assert [f.rule for f in report.errors] == ["TRT005"], report.to_text()
        assert "crashes" in report.errors[0].message
    assert lint_file(conv_net().save(tmp_path)).findings == ()


def test_a_model_that_is_all_weights_takes_little_memory(tmp_path: Path) -> None:
    """300 MB of weights, written as a hole in the file: mapped pages would not count either way, copies would."""
    rows, columns = 7_500, 10_000
    g = Build()
    g.input("x", [4, rows])
    g.node("MatMul", ["x", "w"], "y")
    g.output("y", [4, columns])
    size = rows * columns * 4

    def field(number: int, length: int) -> bytes:
        return _varint(number << 3 | 2) + _varint(length)

    shape = TensorProto(dims=[rows, columns], data_type=FLOAT, name="w").SerializeToString()
    tensor = shape + field(9, size)
    graph = g.model().graph.SerializeToString() + field(5, len(tensor) + size) + tensor
    head = helper.make_model(g.model().graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    head.ClearField("graph")
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.write(head.SerializeToString() + field(7, len(graph) + size) + graph)
        file.truncate(file.tell() + size)
    code = (
        "import resource, sys; from pathlib import Path; from edgekd_tensorrt.lint import lint_file;"
        "lint_file(Path(sys.argv[2])); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "r = lint_file(Path(sys.argv[1]));"
        "print(len(r.findings), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    small = conv_net().save(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(small)], capture_output=True, text=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    findings, grown_kib = map(int, done.stdout.split())
    assert findings == 0
    assert grown_kib < 60_000  # a fifth of one copy of the weights


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def test_the_walk_refuses_what_is_not_protobuf() -> None:
    for wrong in (b"\x3a\x05ab", b"\x3b", b"\x80", b"\xff" * 12, b"\x3a\xff\xff\x7f"):
        with pytest.raises(ValueError):
            slim(memoryview(wrong), largest=0)
    deep = b""
    for _ in range(60):  # graphs in attributes of nodes in graphs
        deep = b"\x32" + _varint(len(deep)) + deep
        deep = b"\x2a" + _varint(len(deep)) + deep
        deep = b"\x0a" + _varint(len(deep)) + deep
    with pytest.raises(ValueError, match="deeper"):
        slim(memoryview(b"\x3a" + _varint(len(deep)) + deep), largest=0)


_CLEAN = conv_net().model()
_NAMES = sorted({n for node in _CLEAN.graph.node for n in (*node.input, *node.output)})
_OPS = [
    "Relu", "Add", "Conv", "Gemm", "MatMul", "Concat", "Softmax", "Transpose", "Reshape", "QuantizeLinear", "Identity",
    "DequantizeLinear", "MaxPool", "TopK", "Resize", "If", "Loop", "LSTM", "Shape", "NonZero", "Nonsense",
]  # fmt: skip


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    """The clean graph with a few of its parts removed, exchanged or set to something else."""
    model: Any = onnx.ModelProto()
    model.CopyFrom(_CLEAN)
    graph = model.graph
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["drop", "op", "input", "output", "attribute", "tensor", "dims", "opset", "type", "twice"]))  # fmt: skip
        node = graph.node[draw(st.integers(0, len(graph.node) - 1))]
        if kind == "drop" and len(graph.node) > 1:
            graph.node.remove(node)
        elif kind == "op":
            node.op_type = draw(st.sampled_from(_OPS))
        elif kind == "input" and node.input:
            node.input[draw(st.integers(0, len(node.input) - 1))] = draw(st.sampled_from([*_NAMES, ""]))
        elif kind == "output":
            node.output[0] = draw(st.sampled_from([*_NAMES, ""]))
        elif kind == "attribute":
            name = draw(st.sampled_from(["axis", "block_size", "output_dtype", "group", "perm", "dilations", "transB"]))  # fmt: skip
            value = draw(st.one_of(st.integers(-9, 30), st.lists(st.integers(-3, 9), min_size=1, max_size=4)))
            node.attribute.append(helper.make_attribute(name, value))
        elif kind == "twice":
            graph.node.append(node)
        elif kind == "opset":
            model.opset_import[0].version = draw(st.integers(-1, 30))
        elif kind == "type":
            graph.input[0].type.tensor_type.elem_type = draw(st.integers(0, 30))
        else:
            tensor = graph.initializer[draw(st.integers(0, len(graph.initializer) - 1))]
            if kind == "tensor":
                tensor.data_type = draw(st.integers(0, 30))
            else:
                tensor.dims[:] = draw(st.lists(st.integers(-2, 40), max_size=4))
    return bytes(model.SerializeToString())


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=_mutated(), sm=st.sampled_from([None, 75, 90]), version=st.sampled_from(["10", "11", "11.5"]))
def test_whatever_a_graph_holds_it_is_findings_or_a_model_error(
    data: bytes, sm: int | None, version: str, tmp_path: Path
) -> None:
    path = tmp_path / "mutated.onnx"
    path.write_bytes(data)
    try:
        report = lint_file(path, target_sm=sm, tensorrt=version)
    except ModelError:
        return
    assert isinstance(report, LintReport)
    assert report.to_text().endswith("\n")
    assert report.to_json()["counts"]["error"] == len(report.errors)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(0, 2000), at=st.integers(0, 2000), byte=st.binary(min_size=1, max_size=8), keep=st.booleans()
)  # fmt: skip
def test_damaged_bytes_are_findings_or_a_model_error(
    cut: int, at: int, byte: bytes, keep: bool, tmp_path: Path
) -> None:
    data = bytearray(_CLEAN.SerializeToString())
    data[at : at + len(byte)] = byte
    path = tmp_path / "damaged.onnx"
    path.write_bytes(bytes(data if keep else data[: len(data) - cut]))
    try:
        assert isinstance(lint_file(path), LintReport)
    except ModelError as e:
        assert "\n" not in str(e)
