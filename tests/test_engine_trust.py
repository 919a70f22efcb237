"""TensorRT plans are loaded only where somebody vouches for them."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from edgekd import engine_trust
from edgekd.artifact import Artifact, load_artifact, record_file
from edgekd.engine_trust import built_here, is_built_by, remember_built, require_trusted, trusted_engine
from edgekd.errors import PolicyError, StorageError, UsageError
from edgekd.files import sha256_file
from edgekd.models import open_reference
from edgekd.pipeline import artifacts
from edgekd.stages import StageStore
from edgekd.testing import write_fake
from edgekd.trust import Trust, read_trust_options


@pytest.fixture
def engine(tmp_path: Path) -> Artifact:
    """An artifact that says it is an engine; nothing here loads it."""
    folder = tmp_path / "engine"
    folder.mkdir()
    made = write_fake(folder)
    (folder / "model.plan").write_bytes(b"ftrt" + bytes(60))
    made = replace(made, format="tensorrt", entry="model.plan", files=(record_file(folder, "model.plan"),))
    made.save()
    return load_artifact(folder)


def test_a_plan_of_nobody_is_refused_by_every_name(engine: Artifact, tmp_path: Path) -> None:
    store = StageStore(tmp_path / "cache")
    bare = tmp_path / "bare.engine"
    bare.write_bytes(b"ftrt" + bytes(50))
    for name in (engine.folder, engine.path, engine.folder / "artifact.json", bare):
        with pytest.raises(
            PolicyError, match=r"native code.*\(rule engine-trust\).*--trust-engine [0-9a-f]{64}"
        ):
            open_reference(str(name), weights=None, base=None, store=store)


def test_a_plan_whose_sha256_was_given(engine: Artifact, tmp_path: Path) -> None:
    sha256 = sha256_file(engine.path)
    store = StageStore(tmp_path / "cache", trust=Trust(engines=frozenset({sha256})))
    assert open_reference(str(engine.folder), weights=None, base=None, store=store) == engine
    other = StageStore(tmp_path / "cache", trust=Trust(engines=frozenset({"0" * 64})))
    with pytest.raises(PolicyError, match="engine-trust"):
        open_reference(str(engine.folder), weights=None, base=None, store=other)


def test_what_was_built_here_is_remembered_by_a_key(engine: Artifact, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    sha256 = sha256_file(engine.path)
    assert not built_here(sha256, root)
    remember_built(engine, "sha256:stage", root)
    assert stat.S_IMODE((root / "host.key").stat().st_mode) == 0o600
    assert trusted_engine(engine.path, (), root) == "built on this host"
    require_trusted(engine, (), root)
    assert is_built_by(engine, "sha256:stage", root)
    assert not is_built_by(engine, "sha256:other", root)
    # Carried to another host, the note proves nothing.
    (root / "host.key").unlink()
    assert not built_here(sha256, root)


@pytest.mark.parametrize("what", ["mac", "stage", "moved"])
def test_a_note_that_was_written_by_hand(engine: Artifact, tmp_path: Path, what: str) -> None:
    root = tmp_path / "cache"
    remember_built(engine, "sha256:stage", root)
    sha256 = sha256_file(engine.path)
    note = root / "engines" / sha256 / "built-here"
    stage, mac = note.read_text().split()
    if what == "moved":
        engine.path.write_bytes(b"ftrt" + b"\1" * 60)
        sha256 = sha256_file(engine.path)
        (root / "engines" / sha256).mkdir()
        note = root / "engines" / sha256 / "built-here"
    note.write_text(f"{stage if what != 'stage' else 'sha256:x'}\n{mac if what != 'mac' else '0' * 64}\n")
    assert not built_here(sha256, root)
    assert trusted_engine(engine.path, (), root) == ""


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_a_key_that_others_can_read(engine: Artifact, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    remember_built(engine, "sha256:stage", root)
    (root / "host.key").chmod(0o644)
    with pytest.raises(StorageError, match=r"host\.key can be read by others \(mode 644\)"):
        built_here(sha256_file(engine.path), root)


def test_further_builds_count_too(engine: Artifact, tmp_path: Path) -> None:
    second = engine.folder / "builds" / "2" / "model.plan"
    second.parent.mkdir(parents=True)
    second.write_bytes(b"ftrt" + b"\2" * 60)
    both = replace(engine, lineage={"companions": [{"path": "builds/2/model.plan", "sha256": ""}]})
    with pytest.raises(PolicyError, match=r"builds/2/model\.plan"):
        require_trusted(both, {sha256_file(engine.path)}, tmp_path / "cache")


class Building:
    """Writes an engine of random bytes, as TensorRT's tactics make them differ."""

    format, sources = "tensorrt", ("fake",)

    def __init__(self) -> None:
        self.built = 0

    def convert(self, artifact: Artifact, out: Path, options: object) -> Artifact:
        self.built += 1
        (out / "model.plan").write_bytes(b"ftrt" + os.urandom(60))
        return replace(
            artifact,
            folder=out,
            format="tensorrt",
            entry="model.plan",
            files=(record_file(out, "model.plan"),),
        )


def test_an_engine_in_the_cache_that_was_not_built_here_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    (tmp_path / "m").mkdir()
    source = write_fake(tmp_path / "m")
    exporter = Building()
    monkeypatch.setattr(artifacts, "exporter_for", lambda name: exporter)
    monkeypatch.setattr(artifacts, "ConvertingExporter", Building)
    store = StageStore(tmp_path / "cache")

    def convert() -> Artifact:
        return artifacts._convert(source, "tensorrt", {}, store, "engine")

    first = convert()
    assert sha256_file(convert().path) == sha256_file(first.path)
    assert exporter.built == 1
    open_reference(str(first.folder), weights=None, base=None, store=store)
    shutil.rmtree(tmp_path / "cache" / "engines")
    again = convert()
    assert exporter.built == 2
    assert trusted_engine(again.path, (), store.root) == "built on this host"


def test_trust_on_the_command_line() -> None:
    told = read_trust_options(True, [f"sha256:{'A' * 64}", "b" * 64])
    assert told == Trust(allow_pickle=True, engines=frozenset({"a" * 64, "b" * 64}))
    with pytest.raises(UsageError, match=r"--trust-engine 'abc' is no SHA-256; give 64"):
        read_trust_options(False, ["abc"])
    assert engine_trust.NATIVE_FORMATS == ("tensorrt",)
