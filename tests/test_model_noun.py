"""Model folders: model.json and its weights, without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekd.errors import EvidenceError, InputError, ModelError
from edgekd.model import MODEL_FILE, Model, load_model
from edgekd.spec import TensorSpec


@pytest.fixture
def model(tmp_path: Path) -> Model:
    (tmp_path / "student.safetensors").write_bytes(b"weights")
    made = Model(
        folder=tmp_path,
        name="student",
        factory="zoo:digits-cnn-student",
        inputs=(TensorSpec(name="image", dtype="float32", shape=("batch", 1, 8, 8)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", 10)),),
        parameters=12,
        prepare={"scale": 16},
        output={"name": "logits"},
        lineage={"data": "d"},
    )
    made.save()
    return made


def edit(folder: Path, **changes: Any) -> None:
    value = {**json.loads((folder / MODEL_FILE).read_text()), **changes}
    (folder / MODEL_FILE).write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


def test_roundtrip(model: Model) -> None:
    assert load_model(model.folder) == model


def test_as_artifact_counts_the_weights_only(model: Model) -> None:
    artifact = model.as_artifact()
    assert (artifact.format, artifact.entry, artifact.size_bytes) == ("torch", MODEL_FILE, 7)
    assert [f.path for f in artifact.files] == ["student.safetensors"]
    assert artifact.lineage == {"data": "d", "factory": "zoo:digits-cnn-student"}
    assert (artifact.inputs, artifact.prepare) == (model.inputs, model.prepare)


def test_digest_changes_with_the_weights(model: Model) -> None:
    before = model.as_artifact().digest
    (model.folder / "student.safetensors").write_bytes(b"Weights")
    assert model.as_artifact().digest != before


def test_saving_without_weights_is_refused(model: Model) -> None:
    (model.folder / "student.safetensors").unlink()
    with pytest.raises(InputError, match="cannot read"):
        model.save()


def test_altered_or_missing_weights_are_refused(model: Model) -> None:
    (model.folder / "student.safetensors").write_bytes(b"WEIGHTS")
    with pytest.raises(ModelError, match=r"student.safetensors was altered: sha256 [0-9a-f]{12}…, recorded"):
        load_model(model.folder)
    (model.folder / "student.safetensors").unlink()
    with pytest.raises(ModelError, match=r"student.safetensors is missing"):
        load_model(model.folder)


@pytest.mark.parametrize("path", ["../other.safetensors", "/etc/hostname", "sub/w.safetensors"])
def test_weights_outside_are_refused(model: Model, path: str) -> None:
    edit(model.folder, weights=path)
    with pytest.raises(ModelError, match="names weights outside its folder"):
        load_model(model.folder)


@pytest.mark.parametrize("path", ["..", "."])
def test_weights_that_are_a_folder_are_refused(model: Model, path: str) -> None:
    edit(model.folder, weights=path)
    with pytest.raises(ModelError):
        load_model(model.folder)


@pytest.mark.parametrize(
    "changes",
    [{"weights_sha256": None}, {"parameters": "many"}, {"inputs": 3}, {"factory": None}, {"outputs": None}],
)
def test_incomplete_is_refused(model: Model, changes: dict[str, Any]) -> None:
    edit(model.folder, **changes)
    with pytest.raises(EvidenceError, match=r"is incomplete|is not whole"):
        load_model(model.folder)


def test_another_schema_is_refused(model: Model) -> None:
    edit(model.folder, schema="edgekd.model/2")
    with pytest.raises(EvidenceError, match=r"edgekd.model/2"):
        load_model(model.folder)
