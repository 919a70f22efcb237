from __future__ import annotations

import hashlib
import os
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
from edgekd.errors import InputError, ModelError, PolicyError, UsageError
from edgekd.model import Model
from edgekd.quantize.config import QuantConfig
from edgekd.target import SessionOptions
from edgekd.testing import check_exporter
from edgekd_onnx import exporter as module
from edgekd_onnx import writing
from edgekd_onnx.exporter import OnnxExporter
from edgekd_onnx.runtime import OnnxRuntime

_FACTORY = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.edgekd_inputs = {"left": ("float32", ("rows", 4)), "right": ("float32", ("rows", "width", 4))}
        self.linear = nn.Linear(4, 4)
    def forward(self, left, right):
        return {"sum": self.linear(left)[:, None] + right, "count": right.shape[1] + torch.zeros_like(left)}

class Stubborn(nn.Module):
    def __init__(self):
        super().__init__()
        self.edgekd_inputs = {"x": ("float32", ("batch", 4))}
        self.norm = nn.BatchNorm1d(4)
    def train(self, mode=True):
        super().train(mode)
        self.norm.training = True
        return self
    def forward(self, x):
        return self.norm(x)

class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.edgekd_inputs = {"x": ("float32", ("batch", 4))}
        self.linear = nn.Linear(4, 4)
    def forward(self, x):
        return self.linear(x) if float(x.sum()) > 0 else x

class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.edgekd_inputs = {"x": ("float32", ("batch", 4))}
        self.linear = nn.Linear(4, 4)
    def forward(self, x):
        return self.linear(x).reshape(2, 4) * 1.5
"""


@pytest.fixture(scope="module")
def factory_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("factories")
    (folder / "export_factories.py").write_text(_FACTORY)
    return folder


def _model(factory_folder: Path, folder: Path, name: str) -> Model:
    from edgekd_torch.modules import Seeded, describe, write_model

    factory = f"python:export_factories:{name}"
    entry = describe(factory, factory_folder)
    folder.mkdir()
    return write_model(
        Seeded(0).build(entry), entry, folder=folder, name=name, factory=factory, search=factory_folder,
        prepare={}, lineage={},
    )  # fmt: skip


def test_conforms(digits_model: Model, tmp_path: Path) -> None:
    named = replace(digits_model, output={"name": "logits", "kind": "logits"})
    artifact = check_exporter(OnnxExporter(), named, tmp_path, quantize=QuantConfig(examples=4))
    assert artifact.lineage["opset"] == 18
    assert artifact.lineage["parity"]["batches"] == [1, 2, 5]
    assert artifact.lineage["parity"]["max_abs_error"] < 1e-4


def test_bytes_do_not_depend_on_the_process(
    digits_model: Model, digits_onnx: Artifact, tmp_path: Path
) -> None:
    code = (
        "from pathlib import Path; from edgekd.model import load_model\n"
        "from edgekd_onnx.exporter import OnnxExporter\n"
        f"print(OnnxExporter().export(load_model(Path({str(digits_model.folder)!r})), Path({str(tmp_path)!r}), {{}}).digest)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "12345"},
    )  # fmt: skip
    assert done.stdout.split() == [digits_onnx.digest]
    assert done.stderr == ""


def test_two_inputs_and_a_second_dynamic_dimension(factory_folder: Path, tmp_path: Path) -> None:
    model = _model(factory_folder, tmp_path / "model", "Two")
    out = tmp_path / "out"
    out.mkdir()
    shapes = {"right": ((1, 2, 4), (1, 3, 4), (8, 9, 4))}
    artifact = OnnxExporter().export(model, out, {"shapes": shapes, "opset": 20})
    assert [str(s) for s in artifact.inputs] == [
        "left: float32[rows,4]",
        "right: float32[rows,width,4]",
    ]
    assert artifact.lineage["opset"] == 20
    session = OnnxRuntime().open(artifact.path, SessionOptions())
    feeds = {"left": np.ones((3, 4), np.float32), "right": np.ones((3, 7, 4), np.float32)}
    made = session.run(feeds)
    assert made["sum"].shape == (3, 7, 4)
    np.testing.assert_array_equal(made["count"], np.full((3, 4), 7, np.float32))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Stubborn", "norm .BatchNorm1d. is in training mode"),
        ("Untraceable", "cannot export"),
        ("Fixed", r"input x: float32\[2,4\], expected"),
    ],
)
def test_models_that_cannot_be_exported(
    factory_folder: Path, tmp_path: Path, name: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model = _model(factory_folder, tmp_path / "model", name)
    out = tmp_path / "out"
    out.mkdir()
    capfd.readouterr()
    with pytest.raises(ModelError, match=words) as caught:
        OnnxExporter().export(model, out, {})
    assert "\n" not in str(caught.value)
    assert list(out.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_parity_names_the_worst_output(
    digits_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module._to_proto

    def wrong_weights(*args: Any) -> Any:
        proto = real(*args)
        bias = next(t for t in proto.graph.initializer if "head.bias" in t.name)
        shifted = numpy_helper.to_array(bias).copy()
        shifted[3] += 0.25
        bias.CopyFrom(numpy_helper.from_array(shifted, bias.name))
        return proto

    monkeypatch.setattr(module, "_to_proto", wrong_weights)
    with pytest.raises(ModelError, match=r"output 'logits' differs by 0\.25"):
        OnnxExporter().export(digits_model, tmp_path, {})
    assert list(tmp_path.iterdir()) == []


def test_parity_also_runs_on_real_feeds(digits_model: Model, tmp_path: Path) -> None:
    feeds = [{"image": np.full((3, 1, 8, 8), v, np.float32)} for v in (0.0, 1.0)]
    artifact = OnnxExporter().export(digits_model, tmp_path, {"feeds": feeds})
    parity = artifact.lineage["parity"]
    assert (parity["feeds"], parity["real"]["examples"]) == (3, 6)
    assert parity["real"]["sqnr_db"]["logits"] > 90 and parity["real"]["agreement"]["logits"] == 1


@pytest.mark.parametrize("options", [{"opset": 7}, {"colour": "red"}])
def test_options_that_do_not_exist(digits_model: Model, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        OnnxExporter().export(digits_model, tmp_path, options)


def test_large_weights_go_to_a_file_of_their_own(
    digits_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "EXTERNAL_BYTES", 1000)
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made.append(OnnxExporter().export(digits_model, tmp_path / name, {}))
    assert [f.path for f in made[0].files] == ["model.onnx", "model.onnx.data"]
    assert made[0].digest == made[1].digest
    assert OnnxExporter().read(made[0].path).digest == made[0].digest


# --- reading files from outside


@pytest.mark.parametrize("cut", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_file_is_one_line(digits_onnx: Artifact, tmp_path: Path, cut: float) -> None:
    data = digits_onnx.path.read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(cut if cut >= 1 else cut * len(data))])
    with pytest.raises(ModelError, match=r"cut\.onnx.*(rule truncated|is empty)") as caught:
        OnnxExporter().read(path)
    assert "\n" not in str(caught.value)


def test_corrupt_file_never_escapes_as_something_else(digits_onnx: Artifact, tmp_path: Path) -> None:
    data = bytearray(digits_onnx.path.read_bytes())
    path = tmp_path / "bad.onnx"
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        for at in rng.integers(0, 600, 4):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            OnnxExporter().read(path)
        except (InputError, PolicyError) as e:
            assert "\n" not in str(e)


def test_missing_folder_and_text_files(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("this is not a model\n" * 30)
    (tmp_path / "folder.onnx").mkdir()
    for name, error in (
        ("text.onnx", ModelError),
        ("folder.onnx", ModelError),
        ("missing.onnx", ModelError),
    ):
        with pytest.raises(error, match=name):
            OnnxExporter().read(tmp_path / name)


def test_yunet_is_read(data_root: Path) -> None:
    artifact = OnnxExporter().read(data_root / "onnx" / "yunet_n_320_320.onnx")
    assert (artifact.dtype, artifact.lineage["opset"], len(artifact.outputs)) == ("float32", 11, 12)
    assert [str(s) for s in artifact.inputs] == ["input: float32[1,3,320,320]"]
    assert artifact.fixed_batch == 1
    chosen = OnnxExporter().read(artifact.path, ["obj_8", "cls_8"])
    assert [s.name for s in chosen.outputs] == ["obj_8", "cls_8"]
    with pytest.raises(ModelError, match="no output 'obj_9'"):
        OnnxExporter().read(artifact.path, ["obj_9"])


def _external(folder: Path, **entries: str) -> Path:
    weights = np.arange(8, dtype=np.float32)
    (folder / "w.bin").write_bytes(weights.tobytes())
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[8], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "w.bin", "offset": "0", "length": "32", **entries}.items():
        tensor.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8])], [tensor],
    )  # fmt: skip
    path = folder / "m.onnx"
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_belongs_to_the_artifact(tmp_path: Path) -> None:
    artifact = OnnxExporter().read(_external(tmp_path))
    assert [f.path for f in artifact.files] == ["m.onnx", "w.bin"]


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "../outside.bin"},
        {"location": "/etc/hostname"},
        {"location": "inner/../../outside.bin"},
        {"location": ""},
        {"location": "link.bin"},
        {"location": "hard.bin"},
        {"location": "linked/w.bin"},
        {"length": "1099511627776"},
        {"offset": "-4"},
        {"offset": "16", "length": "32"},
        {"offset": "four"},
    ],
)
def test_external_data_out_of_reach_is_refused(tmp_path: Path, entries: dict[str, str]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = _external(folder, **entries)
    (tmp_path / "outside.bin").write_bytes(bytes(32))
    (folder / "link.bin").symlink_to(folder / "w.bin")
    os.link(tmp_path / "outside.bin", folder / "hard.bin")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(folder / "w.bin", tmp_path / "elsewhere")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PolicyError) as caught:
        OnnxExporter().read(path)
    assert caught.value.exit_code == 5
    assert "\n" not in str(caught.value)


def test_external_data_that_is_missing(tmp_path: Path) -> None:
    path = _external(tmp_path)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelError, match="missing"):
        OnnxExporter().read(path)


def test_reading_writes_nothing(digits_onnx: Artifact) -> None:
    before = hashlib.sha256(digits_onnx.path.read_bytes()).hexdigest()
    names = sorted(p.name for p in digits_onnx.folder.iterdir())
    OnnxExporter().read(digits_onnx.path)
    assert sorted(p.name for p in digits_onnx.folder.iterdir()) == names
    assert hashlib.sha256(digits_onnx.path.read_bytes()).hexdigest() == before


def test_initializers_listed_as_inputs_are_not_inputs(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones(2, np.float16), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, [2])
    w = helper.make_tensor_value_info("w", TensorProto.FLOAT16, [2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT16, [2])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x, w], [y], [weight])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    artifact = OnnxExporter().read(path)
    assert [s.name for s in artifact.inputs] == ["x"]
    assert artifact.dtype == "float16"
