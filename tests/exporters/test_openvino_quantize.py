from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.errors import DataError, ModelError, UsageError
from edgekd.quantize import record
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.spool import CalibrationSpool
from edgekd.target import SessionOptions
from edgekd_onnx.exporter import OnnxExporter
from edgekd_openvino import parity, quantizing
from edgekd_openvino.document import Document, scan
from edgekd_openvino.exporter import OpenVinoExporter
from edgekd_openvino.library import silence_telemetry
from edgekd_openvino.reading import guess_dtype
from edgekd_openvino.runtime import OpenVinoRuntime, read_model

silence_telemetry()  # before the first import
pytest.importorskip("nncf")


@pytest.fixture(scope="module")
def digits_ir(digits_onnx: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return OpenVinoExporter().convert(digits_onnx, tmp_path_factory.mktemp("digits-ir"), {})


def _feeds(
    count: int = 8, name: str = "image", shape: tuple[int, ...] = (1, 1, 8, 8)
) -> Iterator[dict[str, Array]]:
    rng = np.random.default_rng(3)
    for _ in range(count):
        yield {name: rng.uniform(0, 1, shape).astype(np.float32)}


def _quantize(source: Artifact, out: Path, config: QuantConfig, feeds: Any = None) -> Artifact:
    out.mkdir()
    return OpenVinoExporter().quantize(source, config, _feeds() if feeds is None else feeds, out)


def test_int8_runs_in_int8_and_answers_alike(digits_ir: Artifact, tmp_path: Path) -> None:
    made = _quantize(digits_ir, tmp_path / "q", QuantConfig())
    assert made.dtype == OpenVinoExporter().read(made.path).dtype == "int8"
    assert made.lineage["sqnr_db"]["logits"] > 15
    assert made.lineage["quantization"]["preset"] == "mixed"
    assert made.lineage["calibration"]["examples"] == 8
    assert (made.folder / "model.bin").stat().st_size < 0.5 * (digits_ir.folder / "model.bin").stat().st_size
    placed = OpenVinoRuntime().place(made.path, SessionOptions(), next(_feeds()))
    assert {p.dtype for p in placed if p.op_type == "Convolution"} <= {"int8", "uint8"}
    assert any(p.op_type == "Convolution" for p in placed)


def test_every_choice_of_the_configuration_changes_the_bytes(digits_ir: Artifact, tmp_path: Path) -> None:
    configs = {
        "cpu": QuantConfig(),
        "tensorrt": QuantConfig(variant="tensorrt"),
        "tensor": QuantConfig(granularity="tensor"),
        "percentile": QuantConfig(calibration="percentile"),
        "mse": QuantConfig(calibration="mse"),
    }
    made = {name: _quantize(digits_ir, tmp_path / name, config).digest for name, config in configs.items()}
    assert len(set(made.values())) == 5


def test_biases_stay_those_of_the_float_model(digits_ir: Artifact, tmp_path: Path) -> None:
    made = _quantize(digits_ir, tmp_path / "q", QuantConfig())
    assert made.lineage["quantization"]["bias_correction"] is False

    def biases(artifact: Artifact) -> list[Array]:
        adds = [op for op in read_model(artifact.path).get_ordered_ops() if op.get_type_name() == "Add"]
        added = [p.get_node() for op in adds for p in op.input_values()]
        return [n.get_data().ravel() for n in added if n.get_type_name() == "Constant"]

    assert biases(digits_ir)
    for one, other in zip(biases(digits_ir), biases(made), strict=True):
        np.testing.assert_array_equal(one, other)


def _convolutions(artifact: Artifact) -> list[str]:
    model = read_model(artifact.path)
    return [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() == "Convolution"]


def test_kept_nodes_stay_float_and_are_known(digits_ir: Artifact, tmp_path: Path) -> None:
    first = _convolutions(digits_ir)[0]
    whole = _quantize(digits_ir, tmp_path / "whole", QuantConfig())
    made = _quantize(digits_ir, tmp_path / "kept", QuantConfig(keep_float=(first,)))
    assert made.lineage["quantized_nodes"] < whole.lineage["quantized_nodes"]
    assert made.lineage["quantization"]["keep_float"] == [first]
    before = next(o for o in read_model(made.path).get_ordered_ops() if o.get_friendly_name() == first)
    kinds = {p.get_source_output().get_node().get_type_name() for p in before.inputs()}
    assert "FakeQuantize" not in kinds
    with pytest.raises(UsageError, match=r"keep_float names '.*x', and .* did you mean"):
        _quantize(digits_ir, tmp_path / "typo", QuantConfig(keep_float=(first + "x",)))


def test_weights_alone_become_integers(digits_ir: Artifact, tmp_path: Path) -> None:
    made = _quantize(digits_ir, tmp_path / "q", QuantConfig(mode="weight-only"))
    assert made.dtype == OpenVinoExporter().read(made.path).dtype == "int8"
    assert "FakeQuantize" not in scan(made.path).types
    assert list(made.lineage["quantization"]["weights"]) == ["i8"]
    assert made.lineage["sqnr_db"]["logits"] > 30
    assert made.lineage["checked_examples"] == 8


@pytest.fixture(scope="module")
def wide_ir(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """One product with a whole number of blocks."""
    folder = tmp_path_factory.mktemp("wide")
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 64]) for n in ("x", "y")]
    weights = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    weights[:32] *= 16  # of each channel one block is large, which leaves the other few of 16 steps
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:1], values[1:],
        [helper.make_tensor("w", TensorProto.FLOAT, (64, 64), weights.tobytes(), raw=True)],
    )  # fmt: skip
    save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx"
    )
    (folder / "ir").mkdir()
    return OpenVinoExporter().convert(OnnxExporter().read(folder / "m.onnx"), folder / "ir", {})


def test_int4_weights_in_blocks_lose_less_than_in_channels(wide_ir: Artifact, tmp_path: Path) -> None:
    found = {}
    for granularity in ("block", "channel"):
        config = QuantConfig(dtype="int4", mode="weight-only", granularity=granularity)
        made = _quantize(wide_ir, tmp_path / granularity, config, _feeds(4, "x", (2, 64)))
        assert made.dtype == OpenVinoExporter().read(made.path).dtype == "int4"
        assert made.lineage["quantization"]["weights"] == {"i4": 1}
        found[granularity] = made.lineage["sqnr_db"]["y"]
    assert found["block"] > 18 > found["channel"] - 1


def _as_ir(nodes: list[Any], tensors: dict[str, Array], folder: Path, width: int, out: int) -> Artifact:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, ["batch", width])], [value("y", TensorProto.FLOAT, ["batch", out])],
        [numpy_helper.from_array(v, k) for k, v in tensors.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, folder / "m.onnx")
    (folder / "ir").mkdir()
    return OpenVinoExporter().convert(OnnxExporter().read(folder / "m.onnx"), folder / "ir", {})


def test_int4_blocks_become_smaller_where_they_do_not_fit(wide_ir: Artifact, tmp_path: Path) -> None:
    sizes, names = (64, 40, 27, 10), ("x", "h", "k", "y")
    rng = np.random.default_rng(0)
    tensors = {
        f"w{i}": rng.standard_normal((a, b)).astype(np.float32)
        for i, (a, b) in enumerate(itertools.pairwise(sizes))
    }
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(3)]
    source = _as_ir(nodes, tensors, tmp_path, 64, 10)
    config = QuantConfig(dtype="int4", mode="weight-only", granularity="block")
    made = _quantize(source, tmp_path / "q", config, _feeds(4, "x", (2, 64)))
    assert made.dtype == OpenVinoExporter().read(made.path).dtype == "int4"
    # 40 is 5 blocks of 8, and 27 no whole number of any.
    assert made.lineage["quantization"]["blocks"] == {"8": 1, "32": 1}
    assert made.lineage["quantization"]["weights"] == {"i4": 2, "i8": 1}
    made = _quantize(wide_ir, tmp_path / "large", replace(config, block_size=256), _feeds(4, "x", (2, 64)))
    assert made.lineage["quantization"]["blocks"] == {"64": 1}


def test_control_flow_is_refused_by_name(tmp_path: Path) -> None:
    outs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("a", "b")]
    branches = [
        helper.make_graph([helper.make_node(op, ["h"], [out.name])], out.name, [], [out])
        for op, out in zip(("Relu", "Abs"), outs, strict=True)
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("ReduceSum", ["h"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["k"], name="branch", then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Tanh", ["k"], ["y"]),
    ]
    tensors = {"w": np.eye(8, 4, dtype=np.float32), "zero": np.zeros((), np.float32)}
    source = _as_ir(nodes, tensors, tmp_path, 8, 4)
    for config in (QuantConfig(), QuantConfig(mode="weight-only")):
        with pytest.raises(ModelError, match="node 'branch' is a If: control flow is not quantized"):
            _quantize(source, tmp_path / config.mode, config, _feeds(4, "x", (2, 8)))


@pytest.mark.parametrize(
    "config",
    [
        QuantConfig(mode="weight-only"),
        QuantConfig(dtype="int4", mode="weight-only", granularity="block"),
    ],
    ids=["int8", "int4"],
)
def test_weights_alone_need_no_data(wide_ir: Artifact, config: QuantConfig, tmp_path: Path) -> None:
    made = _quantize(wide_ir, tmp_path / "q", config, ())
    assert (made.lineage["checked_on"], made.lineage["checked_examples"]) == ("drawn", 64)
    given = _quantize(wide_ir, tmp_path / "given", config, _feeds(4, "x", (2, 64)))
    assert (given.lineage["checked_on"], given.digest) == ("data", made.digest)


def test_a_broken_result_is_not_written(
    digits_ir: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "CHECKED_EXAMPLES", 4)

    class Wrong(OpenVinoRuntime):
        def open(self, path: Path, options: SessionOptions) -> Any:
            session = super().open(path, options)
            if "q" in path.parts:
                session.run = lambda feeds, run=session.run: {
                    k: np.roll(v, 1, 1) for k, v in run(feeds).items()
                }
            return session

    monkeypatch.setattr(quantizing, "OpenVinoRuntime", Wrong)
    with pytest.raises(ModelError, match=r"output 'logits' has .* it is broken"):
        _quantize(digits_ir, tmp_path / "q", QuantConfig())
    assert list((tmp_path / "q").iterdir()) == []


def test_neither_telemetry_nor_the_process_shows(digits_ir: Artifact, tmp_path: Path) -> None:
    out, home = tmp_path / "q", tmp_path / "home"
    expected = _quantize(digits_ir, out, QuantConfig()).digest
    (tmp_path / "again").mkdir()
    home.mkdir()
    np.savez(tmp_path / "feeds.npz", *(f["image"] for f in _feeds()))
    # NNCF sends nothing under pytest anyway: only a process of its own can show it.
    code = (
        "import socket, sys; from pathlib import Path; import numpy as np\n"
        "def refuse(*args, **kwargs): print('NETWORK', file=sys.stderr); raise OSError('no')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "from edgekd.quantize.config import QuantConfig\n"
        "from edgekd_openvino.exporter import OpenVinoExporter\n"
        f"a = OpenVinoExporter().read(Path({str(digits_ir.path)!r}))\n"
        f"f = np.load({str(tmp_path / 'feeds.npz')!r}); feeds = [{{'image': f[k]}} for k in f.files]\n"
        f"print(OpenVinoExporter().quantize(a, QuantConfig(), feeds, Path({str(tmp_path / 'again')!r})).digest)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "HOME": str(home), "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert done.stdout.split() == [expected]
    assert "NETWORK" not in done.stderr
    assert list(home.glob("intel*")) == []


def test_a_quantized_onnx_file_stays_int8(digits_onnx: Artifact, tmp_path: Path) -> None:
    (tmp_path / "qdq").mkdir()
    (tmp_path / "ir").mkdir()
    source = OnnxExporter().quantize(digits_onnx, QuantConfig(), _feeds(), tmp_path / "qdq")
    made = OpenVinoExporter().convert(source, tmp_path / "ir", {"feeds": list(_feeds(4))})
    assert made.dtype == "int8"
    assert made.lineage["parity"]["relative_to"] == "root mean square of each output"
    assert (made.lineage["parity"]["feeds"], made.lineage["parity"]["real"]["examples"]) == (3, 4)
    placed = OpenVinoRuntime().place(made.path, SessionOptions(), next(_feeds()))
    assert {p.dtype for p in placed if p.op_type == "Convolution"} <= {"int8", "uint8"}
    with pytest.raises(UsageError, match="cannot become float16"):
        OpenVinoExporter().convert(source, tmp_path / "ir", {"dtype": "float16"})


def test_a_quantized_file_that_answers_otherwise(
    digits_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = OnnxExporter().quantize(digits_onnx, QuantConfig(), _feeds(), tmp_path)
    monkeypatch.setattr(parity, "INT8_SHARE", 1e-9)
    (tmp_path / "ir").mkdir()
    with pytest.raises(ModelError, match=r"output 'logits' differs .* of its root mean square"):
        OpenVinoExporter().convert(source, tmp_path / "ir", {})
    assert list((tmp_path / "ir").iterdir()) == []


def test_refusals(digits_ir: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="NNCF has no calibration 'entropy'"):
        _quantize(digits_ir, tmp_path / "a", QuantConfig(calibration="entropy"))
    with pytest.raises(UsageError, match="NNCF does not write int8 dynamic here; choose int8 static or"):
        _quantize(digits_ir, tmp_path / "d", QuantConfig(mode="dynamic"))
    with pytest.raises(UsageError, match="accuracy_level 1 was asked for"):
        _quantize(digits_ir, tmp_path / "e", QuantConfig(mode="weight-only", accuracy_level=1))
    with pytest.raises(ModelError, match="only float32 openvino"):
        _quantize(replace(digits_ir, dtype="float16"), tmp_path / "b", QuantConfig())
    with pytest.raises(DataError, match="the calibration data is empty"):
        _quantize(digits_ir, tmp_path / "c", QuantConfig(), [])
    assert not any(list((tmp_path / name).iterdir()) for name in "abc" if (tmp_path / name).is_dir())


def test_nothing_to_quantize(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Erf", ["x"], ["y"])], "g", values[:1], values[1:])
    save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        str(tmp_path / "m.onnx"),
    )
    (tmp_path / "ir").mkdir()
    source = OpenVinoExporter().convert(OnnxExporter().read(tmp_path / "m.onnx"), tmp_path / "ir", {})
    with pytest.raises(ModelError, match="no operator that can be quantized"):
        _quantize(source, tmp_path / "q", QuantConfig(), _feeds(2, "x", (1, 4)))
    assert list((tmp_path / "q").iterdir()) == []


@pytest.mark.parametrize(
    ("weights", "types", "dtype"),
    [
        ({"f32": 400}, {}, "float32"),
        ({"f32": 40, "f16": 200}, {}, "float16"),
        ({"i8": 100, "f32": 80}, {}, "int8"),
        ({"u4": 100, "f16": 20}, {}, "int4"),
        ({"f32": 400, "u8": 4}, {}, "float32"),
        ({"f32": 400}, {"FakeQuantize": 2}, "int8"),
        ({"i64": 8}, {}, "float32"),
    ],
)
def test_dtype_is_that_of_the_weights(weights: dict[str, int], types: dict[str, int], dtype: str) -> None:
    assert guess_dtype(Document(weight_bytes=weights, types=types)) == dtype


@pytest.mark.data
def test_mlperf_resnet_keeps_its_accuracy(data_root: Path, tmp_path: Path) -> None:
    data = np.load(data_root / "vision" / "cifar10_testA_jpegq75.npz")
    order = np.random.default_rng(0).permutation(len(data["labels"]))
    calibration, test = order[:32], order[32:532]
    images = data["images"].transpose(0, 3, 1, 2).astype(np.float32)
    source = OnnxExporter().read(data_root / "vision" / "mlperftiny_pretrainedResnet.onnx")
    name = source.inputs[0].name
    (tmp_path / "ir").mkdir()
    ir = OpenVinoExporter().convert(source, tmp_path / "ir", {})
    made = _quantize(ir, tmp_path / "q", QuantConfig(), ({name: images[i : i + 1]} for i in calibration))
    accuracy = {}
    for artifact in (ir, made):
        session = OpenVinoRuntime().open(artifact.path, SessionOptions())
        answers = [next(iter(session.run({name: images[i : i + 1]}).values())).argmax() for i in test]
        accuracy[artifact.dtype] = float(np.mean(np.array(answers) == data["labels"][test]))
    assert accuracy["float32"] > 0.7  # 76.4 % on all 5,000 images
    assert accuracy["int8"] > accuracy["float32"] - 0.03
    assert sum(scan(made.path).types.values()) > sum(scan(ir.path).types.values())


def _weights_of(artifact: Artifact, name: str) -> Array:
    """The constant that an operator's weights are made of; refuses one that is quantized."""
    op = next(o for o in read_model(artifact.path).get_ordered_ops() if o.get_friendly_name() == name)
    node = op.input_value(1).get_node()
    assert node.get_type_name() == "Constant"
    return np.array(node.get_data())


def test_mixtures_of_one_spool_are_calibrated_once_and_are_what_each_would_be_alone(
    digits_ir: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nncf

    names = _convolutions(digits_ir)
    configs = [QuantConfig(keep_float=kept) for kept in ((names[0],), (), (names[-1],), tuple(names))]
    alone = [_quantize(digits_ir, tmp_path / f"alone{k}", c).digest for k, c in enumerate(configs)]
    calls: list[int] = []
    original = nncf.quantize
    monkeypatch.setattr(nncf, "quantize", lambda *a, **b: (calls.append(1), original(*a, **b))[1])
    (tmp_path / "spool").mkdir()
    spool = CalibrationSpool(folder=tmp_path / "spool", inputs=digits_ir.inputs)
    spool.fill(_feeds(), 8)
    made = [_quantize(digits_ir, tmp_path / f"shared{k}", c, spool) for k, c in enumerate(configs)]
    assert [m.digest for m in made] == alone
    assert len(set(alone)) == 4
    assert len(calls) == 1
    for config, artifact in zip(configs, made, strict=True):
        for name in config.keep_float:
            np.testing.assert_array_equal(_weights_of(artifact, name), _weights_of(digits_ir, name))


def test_what_another_operator_reads_stays_quantized(tmp_path: Path) -> None:
    """Two products of one tensor: leaving one in float takes the quantizer from it alone."""
    rng = np.random.default_rng(0)
    arrays = {k: rng.normal(0, 0.3, (16, 16)).astype(np.float32) for k in ("w0", "w1", "w2")}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], name="before"),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w1"], ["b"], name="left"),
        helper.make_node("MatMul", ["r", "w2"], ["c"], name="right"),
        helper.make_node("Concat", ["b", "c"], ["y"], axis=1, name="both"),
    ]
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", s]) for n, s in (("x", 16), ("y", 32))
    ]
    constants = [numpy_helper.from_array(v, k) for k, v in arrays.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    path = tmp_path / "m.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    (tmp_path / "ir").mkdir()
    source = OpenVinoExporter().convert(OnnxExporter().read(path), tmp_path / "ir", {})
    name = next(
        op.get_friendly_name() for op in read_model(source.path).get_ops() if "left" in op.get_friendly_name()
    )
    feeds = list(_feeds(8, "x", (1, 16)))
    made = _quantize(source, tmp_path / "q", QuantConfig(keep_float=(name,)), feeds)
    read = {
        op.get_friendly_name(): op.input_value(0).get_node().get_type_name()
        for op in read_model(made.path).get_ops()
        if op.get_type_name() == "MatMul"
    }
    assert {k: v == "FakeQuantize" for k, v in read.items()} == {n: n != name for n in read}
    assert len(read) == 3
