"""Files that ``prepare`` names: found where they are written, kept beside the model, part of every digest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures_models import classifier

from edgekd.artifact import Artifact, load_artifact, record_file
from edgekd.errors import ModelError, UsageError
from edgekd.files import sha256_file
from edgekd.model import Model, load_model
from edgekd.models import open_reference
from edgekd.pipeline.training import _as_it_is
from edgekd.prepare import locate_files, prepare_key
from edgekd.recipe import StudentBlock
from edgekd.spec import TensorSpec
from edgekd.stages import StageStore

SPEC = TensorSpec(name="input_ids", dtype="int64", shape=("batch", 8))


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "word.json").write_text("{}")
    return tmp_path / "tokens" / "word.json"


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    (tmp_path / "model").mkdir()
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("y", 1, [1])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Constant", [], ["y"], value_floats=[1.0])], "g", [], [value]
    )
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model" / "m.onnx")
    return Artifact(
        folder=tmp_path / "model", entry="m.onnx", format="onnx", dtype="float32",
        files=(record_file(tmp_path / "model", "m.onnx"),), inputs=(SPEC,), outputs=(),
    )  # fmt: skip


def test_paths_start_at_the_recipe(tokenizer: Path, tmp_path: Path) -> None:
    found = locate_files({"tokenizer": "tokens/word.json", "max_length": 8}, tmp_path)
    assert found == {"tokenizer": str(tokenizer.resolve()), "max_length": 8}
    assert prepare_key(found) == {"tokenizer": f"sha256:{sha256_file(tokenizer)}", "max_length": 8}
    with pytest.raises(UsageError, match=r"prepare.tokenizer .*gone\.json does not exist; check the path"):
        locate_files({"tokenizer": "gone.json"}, tmp_path)
    with pytest.raises(UsageError, match=r"prepare\.tokenizer 3 is not a path"):
        locate_files({"tokenizer": 3}, tmp_path)


def test_a_tokenizer_is_one_of_the_files(artifact: Artifact, tokenizer: Path, tmp_path: Path) -> None:
    """Its bytes count, wherever it is; a copy takes it along and is the same artifact."""
    with_it = artifact.with_prepare({"tokenizer": str(tokenizer.resolve()), "max_length": 8})
    assert [f.path for f in with_it.files] == ["m.onnx", "word.json"]
    assert with_it.digest != artifact.digest
    assert with_it.size_bytes == artifact.size_bytes + 2
    assert with_it.file_path("word.json") == tokenizer.resolve()
    assert with_it.file_path("m.onnx") == artifact.path
    (tmp_path / "copy").mkdir()
    copied = with_it.copy_to(tmp_path / "copy")
    assert (tmp_path / "copy" / "word.json").read_text() == "{}"
    assert '"tokenizer": "word.json"' in (tmp_path / "copy" / "artifact.json").read_text()
    loaded = load_artifact(tmp_path / "copy")
    assert (loaded.digest, loaded.prepare) == (with_it.digest, copied.prepare)
    assert loaded.prepare["tokenizer"] == str((tmp_path / "copy" / "word.json").resolve())
    assert loaded.with_prepare({}).digest == artifact.digest


def test_an_edited_tokenizer_is_another_artifact(artifact: Artifact, tokenizer: Path) -> None:
    prepare = {"tokenizer": str(tokenizer.resolve())}
    before, key = artifact.with_prepare(prepare).digest, prepare_key(prepare)
    tokenizer.write_text('{"model": 1}')
    assert artifact.with_prepare(prepare).digest != before
    assert prepare_key(prepare) != key


def test_an_altered_copy_is_refused(artifact: Artifact, tokenizer: Path) -> None:
    artifact.with_prepare({"tokenizer": str(tokenizer.resolve())}).save()
    (artifact.folder / "word.json").write_text("[]")
    with pytest.raises(ModelError, match=r"word\.json was altered"):
        load_artifact(artifact.folder)


@pytest.mark.parametrize("path", ["../tokens/word.json", "/etc/hostname"])
def test_a_document_names_files_of_its_own_folder_only(
    artifact: Artifact, tokenizer: Path, path: str
) -> None:
    artifact.save()
    document = artifact.folder / "artifact.json"
    document.write_text(
        document.read_text().replace('"prepare": {}', f'"prepare": {{"tokenizer": "{path}"}}')
    )
    with pytest.raises(ModelError, match="outside its folder; copy the tokenizer beside the model"):
        load_artifact(artifact.folder)


def test_a_link_out_of_the_folder_is_refused(artifact: Artifact, tokenizer: Path) -> None:
    artifact.save()
    (artifact.folder / "t.json").symlink_to(tokenizer)
    document = artifact.folder / "artifact.json"
    document.write_text(document.read_text().replace('"prepare": {}', '"prepare": {"tokenizer": "t.json"}'))
    with pytest.raises(ModelError, match="outside its folder"):
        load_artifact(artifact.folder)


def test_torch_models_carry_theirs(tokenizer: Path, tmp_path: Path) -> None:
    folder = tmp_path / "torch"
    folder.mkdir()
    (folder / "student.safetensors").write_bytes(b"w")
    model = Model(
        folder=folder, name="m", factory="zoo:none", inputs=(SPEC,), outputs=(), parameters=1,
        prepare={"tokenizer": str(tokenizer.resolve())},
    )  # fmt: skip
    model.save()
    loaded = load_model(folder)
    assert loaded.prepare == {"tokenizer": str((folder / "word.json").resolve())}
    assert loaded.as_artifact().digest == model.as_artifact().digest
    assert loaded.as_artifact().digest != replace(model, prepare={}).as_artifact().digest


@pytest.fixture
def open_file(tmp_path: Path) -> Callable[[Path], Artifact]:
    def opened(path: Path) -> Artifact:
        found = open_reference(str(path), weights=None, base=None, store=StageStore(tmp_path / "cache"))
        assert isinstance(found, Artifact)
        return found

    return opened


def test_the_tokenizer_beside_a_model_of_token_ids(
    open_file: Callable[[Path], Artifact], tmp_path: Path
) -> None:
    """Export tools leave it there; a model of floats does not take it."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["input_ids"], ["y"])],
        "g",
        [value("input_ids", onnx.TensorProto.INT64, ["n", 8])],
        [value("y", onnx.TensorProto.INT64, ["n", 8])],
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "ids.onnx")
    classifier(tmp_path / "floats.onnx")
    assert open_file(tmp_path / "ids.onnx").prepare == {}
    (tmp_path / "tokenizer.json").write_text("{}")
    found = open_file(tmp_path / "ids.onnx")
    assert found.prepare == {"tokenizer": str((tmp_path / "tokenizer.json").resolve())}
    assert [f.path for f in found.files] == ["ids.onnx", "tokenizer.json"]
    assert open_file(tmp_path / "floats.onnx").prepare == {}


def test_a_recipes_paths_start_at_the_recipe(artifact: Artifact, tokenizer: Path, tmp_path: Path) -> None:
    artifact.save()
    block = StudentBlock(model="model", prepare={"tokenizer": "tokens/word.json", "max_length": 4})
    found = _as_it_is(block, tmp_path, StageStore(tmp_path / "cache"))
    assert found.prepare == {"tokenizer": str(tokenizer.resolve()), "max_length": 4}
    assert isinstance(found, Artifact)
    assert [f.path for f in found.files] == ["m.onnx", "word.json"]
