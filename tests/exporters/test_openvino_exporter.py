from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.artifact import Artifact
from edgekd.errors import ModelError, PolicyError, UsageError
from edgekd.model import Model
from edgekd.quantize.config import QuantConfig
from edgekd.target import ConvertingExporter, SessionOptions
from edgekd.testing import check_exporter
from edgekd_onnx.exporter import OnnxExporter
from edgekd_openvino import converting, document
from edgekd_openvino import exporter as module
from edgekd_openvino.document import scan
from edgekd_openvino.exporter import OpenVinoExporter
from edgekd_openvino.library import silence_telemetry
from edgekd_openvino.runtime import OpenVinoRuntime
from edgekd_openvino.writing import count_past, name_layers

silence_telemetry()  # before the first import
pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def digits_ir(digits_onnx: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return OpenVinoExporter().convert(digits_onnx, tmp_path_factory.mktemp("digits-ir"), {})


def _folder(tmp_path: Path, name: str = "out") -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


def _onnx(path: Path, nodes: list[Any], values: dict[str, list[Any]], outputs: list[str]) -> Artifact:
    named = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in values.items()}
    graph = helper.make_graph(
        nodes, "g", [v for n, v in named.items() if n not in outputs], [named[n] for n in outputs]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return OnnxExporter().read(path)


# --- what is written


def test_conforms(digits_model: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    named = replace(digits_model, output={"name": "logits", "kind": "logits"})
    capfd.readouterr()
    artifact = check_exporter(OpenVinoExporter(), named, tmp_path, quantize=QuantConfig(examples=4))
    assert capfd.readouterr() == ("", "")  # no logs, no progress bars
    assert isinstance(OpenVinoExporter(), ConvertingExporter)
    assert [f.path for f in artifact.files] == ["model.bin", "model.xml"]
    assert artifact.dtype == "float32"
    assert artifact.lineage["parity"]["reference"].startswith("torch")
    assert artifact.lineage["parity"]["batches"] == [1, 2, 5]
    assert artifact.lineage["parity"]["max_abs_error"] < 1e-4
    assert [str(s) for s in artifact.inputs] == ["image: float32[batch,1,8,8]"]
    assert [str(s) for s in artifact.outputs] == ["logits: float32[batch,10]"]


def test_converts_onnx(digits_onnx: Artifact, digits_ir: Artifact) -> None:
    assert digits_ir.lineage["source"] == digits_onnx.digest
    assert digits_ir.lineage["parity"]["reference"].startswith("onnxruntime")
    assert digits_ir.lineage["tools"]["openvino"][0].isdigit()
    assert (digits_ir.inputs, digits_ir.outputs) == (digits_onnx.inputs, digits_onnx.outputs)
    assert digits_ir.prepare == digits_onnx.prepare


def test_bytes_do_not_depend_on_the_process(
    digits_onnx: Artifact, digits_ir: Artifact, tmp_path: Path
) -> None:
    # OpenVINO numbers the nodes that it makes, over all models of a process.
    code = (
        "from pathlib import Path\n"
        "from edgekd_onnx.exporter import OnnxExporter\n"
        "from edgekd_openvino.exporter import OpenVinoExporter\n"
        f"source = OnnxExporter().read(Path({str(digits_onnx.path)!r}))\n"
        f"print(OpenVinoExporter().convert(source, Path({str(_folder(tmp_path))!r}), {{}}).digest)"
    )
    home = _folder(tmp_path, "home")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "12345", "HOME": str(home)},
    )  # fmt: skip
    assert done.stdout.split() == [digits_ir.digest]
    assert done.stderr == ""
    assert list(home.glob("intel*")) == []  # no telemetry id


def test_names_that_look_like_openvinos_own_are_told_from_them(tmp_path: Path) -> None:
    import openvino as ov

    path = tmp_path / "m.onnx"
    weights = [
        numpy_helper.from_array(np.ones(s, np.float32), n) for n, s in (("w", (2, 2, 1, 1)), ("b", (2,)))
    ]
    nodes = [
        helper.make_node("Relu", ["x"], ["h"], name="Relu_30000"),
        helper.make_node("Conv", ["h", "w", "b"], ["y"], name="Conv_7"),
    ]
    named = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 2, 4, 4]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", named[:1], named[1:], weights)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    ov.save_model(ov.convert_model(str(path)), str(tmp_path / "plain.xml"))
    assert any(re.fullmatch(r"Reshape_\d+", n) for n in scan(tmp_path / "plain.xml").layers)  # the bias
    source = OnnxExporter().read(path)
    made = [OpenVinoExporter().convert(source, _folder(tmp_path, name), {}) for name in "ab"]
    assert made[0].digest == made[1].digest
    layers = scan(made[0].path).layers
    assert {"Relu_30000", "Conv_7/WithoutBiases"} <= layers
    assert not any(re.fullmatch(r"Reshape_\d+", n) for n in layers)
    assert name_layers('<layer id="1" name="a&amp;b/WithoutBiases" type="Add"', {"a&b"}).count("a&amp;b") == 1


def test_new_nodes_are_numbered_past_those_of_the_model() -> None:
    import openvino as ov

    def number() -> int:
        return int(str(ov.op.Parameter(ov.Type.f32, ov.Shape([])).get_name()).rpartition("_")[2])

    ahead = number() + 3000
    count_past({f"Reshape_{ahead}", f"Reshape_{ahead + 9_999_999}", "weight"})
    assert ahead < number() < ahead + 1_000_000


def test_float16_weights(digits_onnx: Artifact, digits_ir: Artifact, tmp_path: Path) -> None:
    made = OpenVinoExporter().convert(digits_onnx, _folder(tmp_path), {"dtype": "float16"})
    assert made.dtype == OpenVinoExporter().read(made.path).dtype == "float16"
    weights = [a.folder / "model.bin" for a in (made, digits_ir)]
    assert weights[0].stat().st_size < 0.6 * weights[1].stat().st_size
    assert made.lineage["parity"]["relative_to"] == "largest value of each output"
    assert made.inputs[0].dtype == "float32"


def test_outputs_that_share_a_tensor_keep_their_names(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["an input, 0"], ["scope/tensor:0"]),
        helper.make_node("Identity", ["scope/tensor:0"], ["Bild-größe"]),
        helper.make_node("Sigmoid", ["scope/tensor:0"], ['<&">']),
    ]
    names = ("an input, 0", "scope/tensor:0", "Bild-größe", '<&">')
    values: dict[str, list[Any]] = {name: ["größe,1", 3, "w"] for name in names}
    source = _onnx(tmp_path / "m.onnx", nodes, values, ["scope/tensor:0", "Bild-größe", '<&">'])
    options = {"shapes": {"an input, 0": ((1, 3, 2), (1, 3, 4), (2, 3, 9))}}
    made = OpenVinoExporter().convert(source, _folder(tmp_path), options)
    assert (made.inputs, made.outputs) == (source.inputs, source.outputs)
    assert OpenVinoExporter().read(made.path).outputs == source.outputs
    chosen = replace(source, outputs=source.outputs[2:])
    fewer = OpenVinoExporter().convert(chosen, _folder(tmp_path, "fewer"), options)
    assert fewer.outputs == source.outputs[2:]


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "outputs"), [("onnx/yunet_n_320_320.onnx", 12), ("vision/mlperftiny_pretrainedResnet.onnx", 1)]
)
def test_real_networks_convert_unchanged(data_root: Path, tmp_path: Path, name: str, outputs: int) -> None:
    source = OnnxExporter().read(data_root / name)
    made = OpenVinoExporter().convert(source, _folder(tmp_path), {})
    assert made.lineage["parity"]["max_abs_error"] < 1e-5
    assert (made.inputs, made.outputs) == (source.inputs, source.outputs)
    assert len(made.outputs) == outputs
    if outputs == 12:
        golden = np.load(data_root / "onnx" / "yunet_n_320_320_golden.npz")
        image = golden["images_uint8_nhwc_bgr"].transpose(0, 3, 1, 2).astype(np.float32)[:1]
        for output, value in (
            OpenVinoRuntime().open(made.path, SessionOptions()).run({"input": image}).items()
        ):
            np.testing.assert_allclose(value[0], golden[output][0], rtol=1e-4, atol=1e-4)


# --- what is refused


def test_an_operator_that_openvino_does_not_have_is_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["h"], name="fine"),
        helper.make_node("Wavelet", ["h"], ["y"], name="odd one", domain="com.example"),
    ]
    path = tmp_path / "m.onnx"
    _onnx(path, nodes[:1], {"x": [4], "h": [4]}, ["h"])
    source = OnnxExporter().read(path)
    graph = onnx.load(str(path))
    graph.graph.node.append(nodes[1])
    graph.graph.output[0].name = "y"
    onnx.save(graph, str(path))
    out = _folder(tmp_path)
    with pytest.raises(ModelError, match=r"no operator for 'odd one' \(com\.example\.Wavelet\)") as caught:
        OpenVinoExporter().convert(source, out, {})
    assert "\n" not in str(caught.value)
    assert list(out.iterdir()) == []


def test_parity_names_the_output(
    digits_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = converting.convert_onnx

    def shifted(artifact: Artifact) -> Any:
        import openvino as ov

        model, names = real(artifact)
        producer = model.outputs[0].node.input_value(0)
        moved = ov.opset13.add(producer, np.float32(0.25))
        model.outputs[0].node.input(0).replace_source_output(moved.output(0))
        return model, names

    monkeypatch.setattr(module, "convert_onnx", shifted)
    out = _folder(tmp_path)
    for options in ({}, {"dtype": "float16"}):
        with pytest.raises(ModelError, match="output 'logits' differs by"):
            OpenVinoExporter().convert(digits_onnx, out, options)
        assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"colour": "red"}, "no option 'colour'"),
        ({"opset": 18}, "no option 'opset'"),
        ({"dtype": "int8"}, "edgekd quantize"),
        ({"dtype": "bfloat16"}, "not written in bfloat16"),
    ],
)
def test_options_that_do_not_exist(
    digits_onnx: Artifact, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        OpenVinoExporter().convert(digits_onnx, tmp_path, options)


def test_only_onnx_is_converted(digits_ir: Artifact, digits_onnx: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="made of onnx"):
        OpenVinoExporter().convert(digits_ir, tmp_path, {})
    with pytest.raises(UsageError, match="cannot become float32"):
        OpenVinoExporter().convert(replace(digits_onnx, dtype="float16"), tmp_path, {"dtype": "float32"})


# --- reading files from outside


def test_reads_what_another_tool_wrote(digits_onnx: Artifact, tmp_path: Path) -> None:
    import openvino as ov

    ov.save_model(ov.convert_model(str(digits_onnx.path)), str(tmp_path / "other.xml"), compress_to_fp16=True)
    artifact = OpenVinoExporter().read(tmp_path / "other.xml")
    assert (artifact.entry, artifact.dtype, artifact.format) == ("other.xml", "float16", "openvino")
    assert [str(s) for s in artifact.inputs] == ["image: float32[image.0,1,8,8]"]
    assert [f.path for f in artifact.files] == ["other.bin", "other.xml"]
    with pytest.raises(ModelError, match="no output 'nothing'"):
        OpenVinoExporter().read(tmp_path / "other.xml", ["nothing"])


def _copy(artifact: Artifact, folder: Path) -> Path:
    folder.mkdir()
    for name in ("model.xml", "model.bin"):
        shutil.copy(artifact.folder / name, folder)
    return folder / "model.xml"


def test_weights_that_are_not_all_there(digits_ir: Artifact, tmp_path: Path) -> None:
    path = _copy(digits_ir, tmp_path / "cut")
    weights = path.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"model\.bin has \d+ bytes, model\.xml wants \d+"):
        OpenVinoExporter().read(path)
    weights.unlink()
    for act in (OpenVinoExporter().read, lambda p: OpenVinoRuntime().open(p, SessionOptions())):
        with pytest.raises(ModelError, match="which is missing"):
            act(path)


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_weights_that_are_a_link(digits_ir: Artifact, tmp_path: Path, link: str) -> None:
    path = _copy(digits_ir, tmp_path / "linked")
    path.with_suffix(".bin").rename(tmp_path / "outside.bin")
    getattr(path.with_suffix(".bin"), link)(tmp_path / "outside.bin")
    with pytest.raises(PolicyError, match="link"):
        OpenVinoExporter().read(path)


_BOMB = (
    '<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a "x"><!ENTITY b "&a;&a;">]><net name="&b;" version="11"/>'
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_BOMB, "document type"),
        ('<!DOCTYPE net SYSTEM "file:///etc/hostname"><net version="11"/>', "document type"),
        ("<svg/>", "begins with <svg>"),
        ("<net>" + "<a>" * 200, "nests more than"),
        ('<net><data offset="-4" size="8"/></net>', "keeps weights at"),
        ('<net><data offset="0" size="9999999999999999999999"/></net>', "keeps weights at"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "Git LFS pointer"),
        ("<net", "as XML"),
        ('<net version="11"/>', "holds no model"),
        ('<net version="11"><layers><layer id="0" name="x" type="?"/></layers></net>', "cannot read"),
    ],
)
def test_files_that_are_no_ir(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "m.xml"
    path.write_text(text)
    with pytest.raises(ModelError, match=words) as caught:
        OpenVinoExporter().read(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_too_large(digits_ir: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "LARGEST_XML", 100)
    with pytest.raises(ModelError, match="at most 100 are read"):
        OpenVinoExporter().read(digits_ir.path)
    with pytest.raises(ModelError, match=r"not an \.xml"):
        OpenVinoExporter().read(digits_ir.folder / "model.bin")


def test_corrupt_files_never_escape_as_something_else(digits_ir: Artifact, tmp_path: Path) -> None:
    path = _copy(digits_ir, tmp_path / "bad")
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    digits = [i for i, b in enumerate(data) if chr(b).isdigit()]
    for round_ in range(60):
        damaged = bytearray(data)
        for _ in range(3):
            if round_ % 2:  # still XML, but of another graph
                damaged[digits[rng.integers(len(digits))]] = ord("0") + int(rng.integers(10))
            else:
                damaged[rng.integers(len(damaged))] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            OpenVinoExporter().read(path)
        except ModelError as e:
            assert "\n" not in str(e)
