from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekd.artifact import Artifact
from edgekd.errors import DamagedFileError, EdgeKDError, ModelError, PolicyError, UsageError
from edgekd.files import sha256_file
from edgekd.model import Model
from edgekd.models import materialise, open_reference
from edgekd.stages import StageStore, stage_key, tool_versions
from edgekd.testing import write_fake

_FACTORY = """
from torch import nn

class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.edgekd_inputs = {"x": ("float32", ("batch", 4))}
        self.linear = nn.Linear(4, 3)
    def forward(self, x):
        return self.linear(x)
"""


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    return StageStore(root=tmp_path / "cache")


def _open(
    store: StageStore, ref: str, base: Path | None = None, weights: Path | None = None
) -> Artifact | Model:
    return open_reference(ref, weights=weights, base=base, store=store)


def test_zoo_is_materialised_once(store: StageStore) -> None:
    pytest.importorskip("torch")
    first = _open(store, "zoo:digits-cnn-student")
    second = _open(store, "zoo:digits-cnn-student")
    assert isinstance(first, Model)
    assert first == second
    assert first.name == "digits-cnn-student"
    assert first.folder.is_relative_to(store.root)
    # Pinned: another key would throw away what people have already in their caches.
    assert stage_key(first.folder) == {
        "factory": "zoo:digits-cnn-student", "prepare": {}, "weights": None, "training": None,
        "teacher": None, "data": None, "tools": tool_versions("torch"),
    }  # fmt: skip
    assert first.folder.parent.name == "materialise"


def test_zoo_with_weights(store: StageStore, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    made, cached = materialise(
        "zoo:digits-cnn-student", name="m", prepare={"scale": 16}, weights=None, search=None, store=store
    )
    assert not cached
    assert made.prepare == {"scale": 16}
    weights = tmp_path / "mine.safetensors"
    shutil.copy(made.folder / made.weights, weights)
    again = _open(store, "zoo:digits-cnn-student", base=tmp_path, weights=Path("mine.safetensors"))
    assert isinstance(again, Model)
    assert again.lineage["weights"] == sha256_file(weights)
    assert again.as_artifact().digest == made.as_artifact().digest
    with pytest.raises(ModelError, match="do not fit"):
        _open(store, "zoo:digits-cnn-teacher", weights=weights)
    with pytest.raises(ModelError, match="do not exist"):
        _open(store, "zoo:digits-cnn-student", weights=tmp_path / "none.safetensors")


def test_python_factory(store: StageStore, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "reference_factory.py").write_text(_FACTORY)
    model = _open(store, "python:reference_factory:Tiny", base=tmp_path)
    assert isinstance(model, Model)
    assert [str(s) for s in model.outputs] == ["logits: float32[batch,3]"]
    assert (model.name, model.parameters) == ("Tiny", 15)


def test_torch_model_by_every_name(store: StageStore) -> None:
    pytest.importorskip("torch")
    model = _open(store, "zoo:digits-cnn-student")
    for ref in (model.folder, model.folder / "model.json", model.folder / "student.safetensors"):
        assert _open(store, str(ref)) == model


def test_artifact_by_every_name(store: StageStore, tmp_path: Path) -> None:
    artifact = write_fake(tmp_path)
    assert _open(store, str(tmp_path)) == artifact
    assert _open(store, tmp_path.name, base=tmp_path.parent) == artifact
    assert _open(store, str(tmp_path / "artifact.json")) == artifact


def _relu(path: Path) -> Path:
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g",
        [helper.make_tensor_value_info("x", kind, ["batch", 4])],
        [helper.make_tensor_value_info("y", kind, ["batch", 4])],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_onnx_file(store: StageStore, tmp_path: Path) -> None:
    artifact = _open(store, str(_relu(tmp_path / "My Model.ONNX")))
    assert isinstance(artifact, Artifact)
    assert (artifact.entry, artifact.format, dict(artifact.prepare)) == ("My Model.ONNX", "onnx", {})


def test_onnx_file_of_an_artifact_keeps_what_is_known_of_it(store: StageStore, tmp_path: Path) -> None:
    from dataclasses import replace

    path = _relu(tmp_path / "model.onnx")
    plain = _open(store, str(path))
    assert isinstance(plain, Artifact)
    known = replace(plain, prepare={"scale": 255})
    known.save()
    assert _open(store, str(path)) == known
    other = _open(store, str(_relu(tmp_path / "other.onnx")))
    assert isinstance(other, Artifact)
    assert dict(other.prepare) == {}
    path.write_bytes(path.read_bytes() + b"\x00")
    with pytest.raises(ModelError, match="altered"):
        _open(store, str(path))


def _empty_folder(path: Path) -> str:
    (path / "folder").mkdir()
    return "folder"


def _named(name: str) -> Callable[[Path], str]:
    def make(path: Path) -> str:
        (path / name).write_bytes(b"something")
        return name

    return make


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: "missing.onnx", "does not exist"),
        (lambda p: "hub:somebody/model", "unknown scheme 'hub'"),
        (lambda p: "zoo:none", "the zoo has no 'none'"),
        (lambda p: "python:nowhere:factory", "cannot import"),
        (_empty_folder, "neither artifact.json nor model.json"),
        (_named("model.h5"), "unknown ending '.h5'"),
        (_named("model"), "unknown ending ''"),
        (_named("weights.safetensors"), "no model.json beside it"),
    ],
)
def test_references_that_are_refused(
    store: StageStore, tmp_path: Path, make: Callable[[Path], str], words: str
) -> None:
    with pytest.raises(EdgeKDError, match=words) as caught:
        _open(store, make(tmp_path), base=tmp_path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("model.tflite", "content-mismatch"),
        ("model.xml", "malformed"),
        ("model.pte", "content-mismatch"),
        ("model.pt", "pickle"),
        ("model.bin", "pickle"),
        ("model.onnx", "malformed"),
    ],
)
def test_files_that_no_library_opens(store: StageStore, tmp_path: Path, name: str, rule: str) -> None:
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises((PolicyError, DamagedFileError), match=rf"{name}: .*\(rule {rule}\)") as caught:
        _open(store, name, tmp_path)
    assert (caught.value.rule, caught.value.exit_code) == (rule, 5 if rule == "pickle" else 2)
    assert "\n" not in str(caught.value)


def test_weights_beside_a_file_are_refused(store: StageStore, tmp_path: Path) -> None:
    write_fake(tmp_path)
    with pytest.raises(UsageError, match="own weights"):
        _open(store, str(tmp_path), weights=tmp_path / "w.safetensors")


def test_weights_of_another_model_json(store: StageStore, tmp_path: Path) -> None:
    torch_model = pytest.importorskip("safetensors.numpy")
    pytest.importorskip("torch")
    model = _open(store, "zoo:digits-cnn-student")
    assert isinstance(model, Model)
    folder = tmp_path / "copy"
    shutil.copytree(model.folder, folder)
    torch_model.save_file({"a": np.zeros(1)}, str(folder / "other.safetensors"))
    with pytest.raises(ModelError, match=r"belongs to student\.safetensors"):
        _open(store, str(folder / "other.safetensors"))


def test_a_git_lfs_pointer_is_no_onnx_file(store: StageStore, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(ModelError, match=r"m\.onnx is a Git LFS pointer, not the file; run `git lfs pull`"):
        _open(store, "m.onnx", tmp_path)
