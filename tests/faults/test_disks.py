"""Disks that are full, fail or cannot be written: one line that says which, nothing half, and the next line is whole."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import shim

from edgekd.errors import InputError, StorageError
from edgekd.files import building, disk_cause, write_bytes, writing
from edgekd.stages import StageStore
from edgekd.temporary import scratch

RunStudy = Callable[..., "subprocess.CompletedProcess[str]"]


def test_faults_of_a_disk(run_study: RunStudy) -> None:
    """A few of each; the whole study is ``bench/faults/disk_study.py``."""
    done = run_study("disk_study.py", "--levels", "2", "--sample", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [r.split("|")[1:-1] for r in done.stdout.splitlines() if r.startswith("| ")][1:]
    tried = {row[0].strip(): (int(row[1]), int(row[2])) for row in rows}
    assert tried["folder of another user"] == (3, 3)
    if shutil.which("gcc"):
        assert tried["EIO at one operation"][1] >= 2
    if os.geteuid() == 0 and "not tried: small" not in done.stdout:
        assert tried["full disk (tmpfs)"][1] >= 1
        assert tried["read-only disk"] == (2, 2)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        ValueError("[Errno 122] Disk quota exceeded"),
    ],
)
def test_a_full_disk_in_the_words_of_a_library(tmp_path: Path, error: Exception) -> None:
    """safetensors, protobuf and others have errors of their own for it."""
    with (
        pytest.raises(StorageError, match=r"no space left while writing .*out; free some"),
        building(tmp_path / "out"),
    ):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_behind_another_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="read-only"), building(tmp_path / "out"):
        try:
            raise OSError(errno.EROFS, "Read-only file system")
        except OSError as e:
            raise RuntimeError("the exporter failed") from e


def test_what_is_no_fault_of_the_disk_stays_what_it_is(tmp_path: Path) -> None:
    assert disk_cause(ValueError("bad row"), tmp_path) is None
    assert disk_cause(InputError("cannot read data.npz: Permission denied"), tmp_path) is None
    with pytest.raises(InputError, match="bad row"), building(tmp_path / "out"):
        raise InputError("bad row")


def test_a_folder_that_is_removed_meanwhile(tmp_path: Path) -> None:
    """``rm -r`` of the cache while a stage is built in it."""

    def build(out: Path, resume: Path) -> None:
        shutil.rmtree(tmp_path / "cache")
        (out / "f").write_text("x")

    store = StageStore(tmp_path / "cache")
    with pytest.raises(StorageError, match=r"was removed while .* was being written; run the same command"):
        store.run("train", "t", {"a": 1}, build)
    whole = store.run("train", "t", {"a": 1}, lambda out, resume: (out / "f").write_text("x"))  # type: ignore[arg-type,return-value]
    assert not whole.cached


_READ = """
import sys
from pathlib import Path
from edgekd.errors import EdgeKDError
from edgekd.evidence import load_evaluation, load_measurement
from edgekd.files import read_json, sha256_file
from edgekd.stages import StageStore
root, kept = Path(sys.argv[1]), Path(sys.argv[2])
for ask in (
    lambda: sha256_file(kept / "f"),
    lambda: read_json(kept / "stage.json", "edgekd.stage/1"),
    lambda: load_evaluation(kept / "stage.json"),
    lambda: load_measurement(kept / "stage.json"),
    lambda: StageStore(root).run("train", "t", {"a": 1}, lambda out, resume: print("built again")),
):
    try:
        ask()
    except EdgeKDError as e:
        print(e.exit_code, e)
"""


def test_reading_from_a_failing_disk_is_no_fault_of_the_file(
    tmp_path: Path, preloaded: dict[str, str]
) -> None:
    """A stage that cannot be read now may be whole: it is neither built again nor called damaged."""
    store = StageStore(tmp_path)
    kept = store.run("train", "t", {"a": 1}, lambda out, resume: (out / "f").write_text("x")).folder  # type: ignore[arg-type,return-value]
    fault = shim.Fault(root=tmp_path, ops="read", at=1, error=errno.EIO, sticky=True)
    done = subprocess.run(
        [sys.executable, "-c", _READ, str(tmp_path), str(kept)],
        env={**preloaded, "EDGEKD_FAULT": fault.environment()},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = done.stdout.splitlines()
    assert len(said) == 5
    for sentence in said:
        assert sentence.startswith(f"4 cannot read {kept}"), sentence
        assert "the disk is failing; " in sentence
    assert store.run("train", "t", {"a": 1}, lambda out, resume: pytest.fail("built again")).cached


def test_a_file_in_the_making_is_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "a.tar"
    write_bytes(target, b"old")
    with pytest.raises(RuntimeError), writing(target) as f:
        f.write(b"half")
        raise RuntimeError
    assert target.read_bytes() == b"old"
    with writing(target) as f:
        f.write(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


def test_no_place_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(StorageError, match=r"cannot write .*absent.*set TMPDIR"), scratch("evaluate"):
        pytest.fail("must not start")


def test_temporary_folders_of_killed_processes_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = (
        "import os, sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from edgekd.temporary import scratch\n"
        "with scratch('evaluate'): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    with scratch("evaluate") as mine, scratch("evaluate") as other:
        assert sorted(tmp_path.iterdir()) == sorted((mine, other))
    assert list(tmp_path.iterdir()) == []
