"""Artifact folders: what is written is what is read, and anything else is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekd.artifact import ARTIFACT_FILE, Artifact, FileRecord, load_artifact, record_file
from edgekd.cli.outputs import write_artifact
from edgekd.errors import EvidenceError, InputError, ModelError
from edgekd.spec import TensorSpec

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    folder = tmp_path / "made"
    (folder / "data").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"abc")
    (folder / "data" / "weights.bin").write_bytes(b"weights")
    made = Artifact(
        folder=folder,
        entry="model.onnx",
        format="onnx",
        dtype="int8",
        files=(record_file(folder, "data/weights.bin"), record_file(folder, "model.onnx")),
        inputs=(TensorSpec(name="image", dtype="float32", shape=("N", 1, 8, 8)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=("N", 10)),),
        prepare={"scale": 255},
        output={"name": "logits", "kind": "logits"},
        lineage={"recipe": "r"},
        settings={"threads": 2},
    )
    made.save()
    return made


def edit(folder: Path, **changes: Any) -> None:
    path = folder / ARTIFACT_FILE
    value = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


def test_record_file(artifact: Artifact) -> None:
    assert record_file(artifact.folder, "model.onnx") == FileRecord(
        path="model.onnx", size_bytes=3, sha256=ABC
    )
    with pytest.raises(InputError, match="cannot read"):
        record_file(artifact.folder, "absent")


def test_roundtrip(artifact: Artifact) -> None:
    assert load_artifact(artifact.folder) == artifact
    assert artifact.path.read_bytes() == b"abc"
    assert artifact.size_bytes == 10


def test_digest_names_bytes_not_places(artifact: Artifact, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    moved = artifact.copy_to(copy)
    assert load_artifact(copy) == moved
    assert moved.digest == artifact.digest
    assert (copy / "data" / "weights.bin").read_bytes() == b"weights"
    assert replace(artifact, lineage={}, settings={}).digest == artifact.digest
    assert replace(artifact, format="tflite").digest != artifact.digest
    (copy / "model.onnx").write_bytes(b"abd")
    assert replace(moved, files=(moved.files[0], record_file(copy, "model.onnx"))).digest != artifact.digest


def test_companions_are_copied_where_asked_for_and_there(artifact: Artifact, tmp_path: Path) -> None:
    listed = [{"path": name, "sha256": "0" * 64} for name in ("trace.bin", "gone.bin")]
    kept = replace(artifact, lineage={"companions": listed})
    (artifact.folder / "trace.bin").write_bytes(b"trace")
    for name, asked in (("plain", False), ("whole", True)):
        (tmp_path / name).mkdir()
        moved = kept.copy_to(tmp_path / name, companions=asked)
        assert (moved.folder / "trace.bin").is_file() is asked
        assert load_artifact(moved.folder) == moved and moved.digest == artifact.digest
    write_artifact(kept, tmp_path / "out")
    assert (tmp_path / "out" / "trace.bin").read_bytes() == b"trace"
    outside = replace(artifact, lineage={"companions": [{"path": "../x", "sha256": ""}]})
    with pytest.raises(ModelError, match=r"names the file '\.\./x' outside its folder"):
        outside.copy_to(tmp_path / "whole", companions=True)


def test_copy_takes_an_entry_along_that_does_not_count(artifact: Artifact, tmp_path: Path) -> None:
    """A torch model's entry is model.json; its size is the weights' alone."""
    torch_like = replace(artifact, format="torch", files=artifact.files[:1])
    copy = tmp_path / "copy"
    copy.mkdir()
    torch_like.copy_to(copy)
    assert load_artifact(copy).path.read_bytes() == b"abc"
    assert load_artifact(copy).size_bytes == 7


@pytest.mark.parametrize(
    ("shapes", "batch"),
    [([("N", 3)], None), ([(4, 3)], 4), ([(4, 3), (4,)], 4), ([(4, 3), (2, 3)], None), ([()], None)],
)
def test_fixed_batch(artifact: Artifact, shapes: list[tuple[int | str, ...]], batch: int | None) -> None:
    specs = tuple(TensorSpec(name=f"x{i}", dtype="float32", shape=s) for i, s in enumerate(shapes))
    assert replace(artifact, inputs=specs).fixed_batch == batch


def test_altered_missing_and_truncated_files_are_refused(artifact: Artifact) -> None:
    (artifact.folder / "model.onnx").write_bytes(b"abd")
    with pytest.raises(
        ModelError, match=r"model.onnx was altered: sha256 [0-9a-f]{12}…, recorded ba7816bf8f01…"
    ):
        load_artifact(artifact.folder)
    assert load_artifact(artifact.folder, check=False).format == "onnx"
    (artifact.folder / "model.onnx").write_bytes(b"ab")
    with pytest.raises(ModelError, match="was altered"):
        load_artifact(artifact.folder)
    (artifact.folder / "data" / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"weights.bin is missing"):
        load_artifact(artifact.folder, check=False)


@pytest.mark.parametrize("path", ["../secret", "/etc/hostname", "data/../../secret"])
def test_paths_outside_are_refused(artifact: Artifact, path: str) -> None:
    (artifact.folder.parent / "secret").write_bytes(b"abc")
    record = {"path": path, "size_bytes": 3, "sha256": ABC}
    files = [f.to_json() for f in artifact.files]
    edit(artifact.folder, files=[*files, record])
    with pytest.raises(ModelError, match="outside its folder"):
        load_artifact(artifact.folder)
    edit(artifact.folder, files=files, entry=path)
    with pytest.raises(ModelError, match="outside its folder"):
        load_artifact(artifact.folder, check=False)


def test_an_entry_that_is_not_there_is_refused(artifact: Artifact) -> None:
    edit(artifact.folder, entry="other.onnx")
    with pytest.raises(ModelError, match=r"other.onnx is missing"):
        load_artifact(artifact.folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"entry": None},
        {"files": None},
        {"files": 3},
        {"files": [{"path": "model.onnx"}]},
        {"files": [{"path": "model.onnx", "size_bytes": "many", "sha256": ABC}]},
        {"inputs": 3},
    ],
)
def test_incomplete_index_is_refused(artifact: Artifact, changes: dict[str, Any]) -> None:
    edit(artifact.folder, **changes)
    with pytest.raises(EvidenceError, match=r"is incomplete|is not whole"):
        load_artifact(artifact.folder)


def test_no_index(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="does not exist"):
        load_artifact(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(files=[]), "does not list model.onnx among its files"),
        (lambda v: v["files"].pop(0), "does not list|records the digest"),
        (lambda v: v.update(digest="sha256:" + "0" * 64), "records the digest sha256:000000000000…"),
    ],
)
def test_a_digest_names_the_model_s_own_bytes(artifact: Artifact, change: Any, message: str) -> None:
    """Without its entry a digest would stay the same whatever the model answers."""
    path = artifact.folder / "artifact.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(EvidenceError, match=message):
        load_artifact(artifact.folder)
