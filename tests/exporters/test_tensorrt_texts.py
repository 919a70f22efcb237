"""Parsers of what TensorRT's tools write, on samples made by hand (synthetic: nothing here was measured)."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import onnx
import pytest
from fixtures_tensorrt_text import TIMES, TRTEXEC_10, TRTEXEC_11, inspection
from onnx import TensorProto, helper

from edgekd.errors import EvidenceError, ModelError
from edgekd_tensorrt.inspector import compare_builds, element_type, parse_inspection
from edgekd_tensorrt.library import Version
from edgekd_tensorrt.plan import read_header
from edgekd_tensorrt.trtexec import parse_times, parse_trtexec, version_of_number


def test_trtexec_of_10_includes_copies() -> None:
    run = parse_trtexec(TRTEXEC_10)
    assert run.version == Version(10, 16, 0, 0) and run.passed
    assert run.command == "--onnx=synthetic.onnx --useCudaGraph"
    assert run.settings == {"cuda_graph": True, "copies": True, "spin": False, "separate_profile": False}
    assert run.stated == ("copies", "cuda_graph", "spin")
    assert run.milliseconds["Latency"] == {
        "min": 0.9, "max": 3.0, "mean": 1.1, "median": 1.0, "p90": 1.2, "p95": 1.3, "p99": 2.0,
    }  # fmt: skip
    assert run.milliseconds["GPU Compute Time"]["p99"] == 1.8
    assert run.sums == {"throughput_qps": 1000.5, "host_walltime_s": 3.001, "gpu_compute_s": 2.7}
    assert run.warnings == ("GPU compute time is unstable, with coefficient of variance = 3.1%.",)


def test_trtexec_of_11_means_something_else() -> None:
    run = parse_trtexec(TRTEXEC_11)
    assert run.version[:3] == (11, 4, 0) and not run.passed
    assert run.settings == {"cuda_graph": True, "copies": False, "spin": False, "separate_profile": True}
    assert run.stated == ()


def test_trtexec_without_a_version_or_summary_is_refused() -> None:
    with pytest.raises(EvidenceError, match="no TensorRT version"):
        parse_trtexec(TRTEXEC_10.replace("[TensorRT v101600]", ""))
    with pytest.raises(EvidenceError, match="no performance summary"):
        parse_trtexec(TRTEXEC_10.partition("[I] === Performance")[0])


@pytest.mark.parametrize(
    ("number", "version"), [(8601, (8, 6, 1)), (101600, (10, 16, 0)), (110401, (11, 4, 1))]
)
def test_version_numbers(number: int, version: tuple[int, ...]) -> None:
    assert version_of_number(number)[:3] == version


def test_exported_times() -> None:
    times = parse_times(TIMES)
    assert times.compute == (1.0, 2.5) and times.latency == (1.4, 2.5)
    assert times.copies_in == (0.1, 0.0) and times.copies_out == (0.3, 0.0)
    for broken in ("[]", "{}", "[1", '[{"latencyMs": 1}]', '[{"startComputeMs": 1}]'):
        with pytest.raises(EvidenceError):
            parse_times(broken)


def _proto() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["h"], name="a"), helper.make_node("Relu", ["h"], ["y"], name="b")], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )  # fmt: skip
    return helper.make_model(graph)


@pytest.mark.parametrize("major", [10, 11])
def test_both_layouts_of_the_inspector(major: int) -> None:
    found = parse_inspection(inspection(_proto(), "t0", major))
    assert found.tensors == ("x", "y")
    assert [(x.name, x.kind, x.tactic, x.dtype, x.sources) for x in found.layers] == [
        ("a", "Relu", "relu_t0", "float32", ("a",)), ("b", "Relu", "relu_t0", "float32", ("b",)),
    ]  # fmt: skip
    assert found.histogram()["tactics"] == {"relu_t0": 2}


def test_layers_by_name_only() -> None:
    found = parse_inspection(json.dumps({"Layers": ["conv + relu"], "Bindings": ["x"]}))
    assert found.layers[0].name == "conv + relu" and found.layers[0].dtype == ""
    assert found.histogram()["kinds"] == {"unknown": 1}


@pytest.mark.parametrize("broken", ["", "[]", "{}", '{"Layers": [3]}', '{"Layers": [{"LayerType": "x"}]}'])
def test_an_inspection_that_is_none(broken: str) -> None:
    with pytest.raises(ModelError):
        parse_inspection(broken)


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("Row major linear FP32", "float32"), ("Channel major FP16 format where channel % 8 == 0", "float16"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"), ("Half", "float16"),
        ("N/A due to dynamic shapes", ""), ("BF16", "bfloat16"), ("FP8", "float8e4m3fn"), ("Float", "float32"),
    ],
)  # fmt: skip
def test_element_types(text: str, dtype: str) -> None:
    assert element_type(text) == dtype


def test_builds_that_differ() -> None:
    one, other = (parse_inspection(inspection(_proto(), t, 11)) for t in ("t0", "t1"))
    same = compare_builds(["a", "a"], [one, one])
    assert same["same_bytes"] and same["same_tactics"] and same["same_histogram"] and same["differing"] == []
    differing = compare_builds(["a", "b", "a"], [one, other, one])
    assert not differing["same_bytes"] and differing["same_layers"] and not differing["same_histogram"]
    assert differing["differing"][0] == {"layer": "a", "tactics": ["relu_t0", "relu_t1", "relu_t0"]}
    fewer = parse_inspection(json.dumps({"Layers": ["a"]}))
    assert not compare_builds(["a", "b"], [one, fewer])["same_layers"]


def test_a_plan_header(tmp_path: Path) -> None:
    plan = tmp_path / "x.plan"
    plan.write_bytes(b"ftrt" + struct.pack("<I", 0) + bytes(16) + bytes([11, 4, 0, 106]) + b"code")
    assert str(read_header(plan)) == "11.4.0.106"
    assert plan.read_bytes()[:4] == struct.pack("<I", 0x74727466)
    for broken in (b"", b"ftrt", b"ONNX" + bytes(40), b"ftrt" + struct.pack("<I", 1) + bytes(40)):
        plan.write_bytes(broken)
        with pytest.raises(ModelError, match="is not a TensorRT plan"):
            read_header(plan)
    plan.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(ModelError, match="Git LFS pointer"):
        read_header(plan)
    with pytest.raises(ModelError, match="does not exist"):
        read_header(tmp_path / "none.plan")
