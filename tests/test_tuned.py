"""Tuned settings: kept with the artifact, used only where they were found, and never part of its digest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from edgekd.artifact import Artifact, load_artifact
from edgekd.errors import EvidenceError, StorageError
from edgekd.testing import write_fake
from edgekd.tuned import LATENCY, THROUGHPUT, Tuned, find_tuned, keep_tuned, machine_key, read_beside

HERE = {
    "machine": "x86_64",
    "cpu": "Fast 9000",
    "cpu_flags": ["avx2"],
    "cpus": 1,
    "boot_id": "a",
    "kernel": "6.1",
}
TARGET = "cpu:fake"


def record(**changes: Any) -> Tuned:
    values: dict[str, Any] = {
        "objective": LATENCY, "batch": 1, "threads": 1, "settings": {"fast": True}, "machine": machine_key(HERE),
        "evidence": {"collected_at": "2026-01-31T12:00:00Z"},
    }  # fmt: skip
    return Tuned(**{**values, **changes})


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return write_fake(tmp_path)


@pytest.fixture
def bare(tmp_path: Path) -> Artifact:
    made = write_fake(tmp_path)
    (tmp_path / "artifact.json").unlink()
    return made


def find(artifact: Artifact, **changes: Any) -> tuple[Tuned | None, str]:
    asked: dict[str, Any] = {"objective": LATENCY, "batch": 1, "machine": HERE}
    return find_tuned(artifact, TARGET, **{**asked, **changes})


def test_settings_come_back_and_the_digest_stays(artifact: Artifact) -> None:
    path = keep_tuned(artifact, TARGET, record())
    again = load_artifact(artifact.folder)
    assert path == artifact.folder / "artifact.json"
    assert again.digest == artifact.digest
    assert find(again) == (record(), "")
    assert find(artifact) == (None, "")  # never swept
    # A copy, as a run folder and a bundle hold, carries them along.
    (artifact.folder / "copy").mkdir()
    assert find(again.copy_to(artifact.folder / "copy"))[0] == record()
    assert find(load_artifact(artifact.folder / "copy"))[0] == record()


def test_what_else_is_in_the_metadata_stays(artifact: Artifact) -> None:
    path = artifact.folder / "artifact.json"
    before = {**json.loads(path.read_text()), "from_the_future": {"x": 1}}
    path.write_text(json.dumps(before))
    keep_tuned(artifact, TARGET, record())
    after = json.loads(path.read_text())
    assert {k: v for k, v in after.items() if k != "tuned"} == {
        k: v for k, v in before.items() if k != "tuned"
    }


def test_a_bare_file_gets_a_file_beside_it_for_its_bytes_only(bare: Artifact) -> None:
    path = keep_tuned(bare, TARGET, record())
    assert path.name == "model.fake.edgekd.json"
    document = json.loads(path.read_text())
    assert (document["schema"], document["artifact"]) == ("edgekd.tuned/1", bare.digest)
    assert read_beside(bare) == document["tuned"]
    document["artifact"] = "sha256:" + 64 * "0"
    path.write_text(json.dumps(document))
    assert read_beside(bare) == {}
    assert find(bare) == (None, "model.fake.edgekd.json was made for other bytes than model.fake has now")
    # A new sweep replaces what belongs to other bytes.
    keep_tuned(bare, TARGET, record(settings={}))
    assert [r["settings"] for r in read_beside(bare)[TARGET]] == [{}]


def test_an_artifact_json_of_another_model_is_not_written_to(tmp_path: Path) -> None:
    first = write_fake(tmp_path)
    other = tmp_path / "other.fake"
    other.write_bytes((tmp_path / "model.fake").read_bytes() + b" ")
    from dataclasses import replace

    from edgekd.artifact import record_file

    second = replace(first, entry="other.fake", files=(record_file(tmp_path, "other.fake"),))
    before = (tmp_path / "artifact.json").read_bytes()
    assert keep_tuned(second, TARGET, record()).name == "other.fake.edgekd.json"
    assert (tmp_path / "artifact.json").read_bytes() == before


def test_one_record_per_machine_objective_and_batch(artifact: Artifact) -> None:
    elsewhere = machine_key({**HERE, "cpu": "Slow 1"})
    for r in (
        record(settings={"fast": False}), record(), record(batch=8), record(objective=THROUGHPUT, batch=8),
        record(objective=THROUGHPUT, batch=16), record(machine=elsewhere),
    ):  # fmt: skip
        keep_tuned(artifact, TARGET, r)
    kept = load_artifact(artifact.folder)
    assert len(kept.tuned[TARGET]) == 4
    assert find(kept)[0] == record()
    assert find(kept, objective=THROUGHPUT, batch=1)[0] == record(objective=THROUGHPUT, batch=16)


def test_another_machine_is_said_and_another_boot_is_not_another_machine(artifact: Artifact) -> None:
    keep_tuned(artifact, TARGET, record())
    kept = load_artifact(artifact.folder)
    assert find(kept, machine={**HERE, "boot_id": "b", "kernel": "6.2"})[0] == record()
    for changes in (
        {"cpu": "Slow 1"},
        {"cpus": 64},
        {"cpu_flags": ["avx2", "avx512f"]},
        {"machine": "aarch64"},
    ):
        found, why = find(kept, machine={**HERE, **changes})
        assert found is None, changes
        assert why.startswith("its settings were swept on another machine (Fast 9000, 1 CPUs; here ")


def test_another_batch_target_or_objective_is_not_used(artifact: Artifact) -> None:
    keep_tuned(artifact, TARGET, record())
    kept = load_artifact(artifact.folder)
    assert find(kept, batch=8) == (None, "its settings were swept for latency at batch 1")
    assert find(kept, objective=THROUGHPUT)[0] is None
    assert find_tuned(kept, "cuda:fake", objective=LATENCY, batch=1, machine=HERE) == (None, "")


def test_more_threads_than_this_process_may_use_are_not_used(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_tuned(artifact, TARGET, record(threads=2))
    kept = load_artifact(artifact.folder)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    assert find(kept) == (None, "its settings use 2 threads, this process may use 1 CPUs")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    assert find(kept)[0] == record(threads=2)


def test_damage_is_one_line(artifact: Artifact) -> None:
    path = artifact.folder / "artifact.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "tuned": {TARGET: [{"threads": 2}]}}))
    with pytest.raises(EvidenceError, match=r"tuned settings of .* for cpu:fake are damaged"):
        find(load_artifact(artifact.folder))
    for wrong in ({TARGET: 3}, [1], 7):
        path.write_text(json.dumps({**whole, "tuned": wrong}))
        with pytest.raises(EvidenceError, match="is not whole"):
            load_artifact(artifact.folder)


def test_a_damaged_file_beside_is_one_line(bare: Artifact) -> None:
    path = keep_tuned(bare, TARGET, record())
    path.write_text('{"schema": "edgekd.tuned/1", "artifact": "' + bare.digest + '", "tuned": 3}')
    with pytest.raises(EvidenceError, match=r"model\.fake\.edgekd\.json is not whole"):
        read_beside(bare)
    path.write_text("{")
    with pytest.raises(EvidenceError, match="is not JSON"):
        read_beside(bare)


def test_what_cannot_be_written_leaves_the_old_metadata(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (artifact.folder / "artifact.json").read_bytes()

    def full(*args: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgekd.temporary.make_file", full)
    with pytest.raises(StorageError, match="no space left"):
        keep_tuned(artifact, TARGET, record())
    assert (artifact.folder / "artifact.json").read_bytes() == before
