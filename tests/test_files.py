"""Files are whole or absent, also where the disk is full."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekd import files, temporary
from edgekd.errors import EvidenceError, InputError, StorageError


def listing(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_sha256_file_reads_past_one_chunk(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes((1 << 20) + 7)
    (tmp_path / "f").write_bytes(data)
    assert files.sha256_file(tmp_path / "f") == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", ["absent", "."])
def test_sha256_of_what_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot read"):
        files.sha256_file(tmp_path / name)


def test_canonical_json() -> None:
    assert (
        files.canonical_json({"b": [1, 2.5, None, True], "a": "é"})
        == '{"a":"é","b":[1,2.5,null,true]}'.encode()
    )
    assert files.digest_of({"a": 1, "b": 2}) == files.digest_of({"b": 2, "a": 1})
    assert files.digest_of({"a": 1}) != files.digest_of({"a": "1"})
    assert files.digest_of([]) == "sha256:" + hashlib.sha256(b"[]").hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_canonical_json_refuses_what_json_does_not_have(value: float) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        files.canonical_json({"x": value})


def test_write_bytes_creates_parents_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "f.bin"
    files.write_bytes(path, b"one")
    files.write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert listing(path.parent) == ["f.bin"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_write_bytes_never_shows_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers see the old bytes until the rename, and all of the new ones are on disk by then."""
    path = tmp_path / "f"
    path.write_bytes(b"old")
    synced: list[bytes] = []
    real_fsync = os.fsync

    def fsync(fd: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            assert path.read_bytes() == b"old"
            synced.append(
                Path(f"/proc/self/fd/{fd}").read_bytes() if Path("/proc/self/fd").is_dir() else b"new!"
            )
        real_fsync(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    files.write_bytes(path, b"new!")
    assert synced == [b"new!"]
    assert path.read_bytes() == b"new!"


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "no space left while writing .*cache gc"),
        (errno.EDQUOT, "no space left"),
        (errno.EROFS, "read-only file system"),
        (errno.EIO, "cannot write"),
    ],
)
def test_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def fail(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=message):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert listing(tmp_path) == ["f"]


def test_write_where_a_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot write"):
        files.write_bytes(tmp_path / "file" / "below", b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        files.write_bytes(tmp_path / "folder", b"x")
    assert listing(tmp_path) == ["file", "folder"]


def test_write_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    files.write_json(path, {"b": 1, "a": "é"})
    assert path.read_text(encoding="utf-8") == '{\n "a": "é",\n "b": 1\n}\n'
    with pytest.raises(ValueError, match="Out of range"):
        files.write_json(path, {"x": float("nan")})
    assert json.loads(path.read_text()) == {"a": "é", "b": 1}


def test_read_json_returns_unknown_fields_too(tmp_path: Path) -> None:
    files.write_json(tmp_path / "f", {"schema": "edgekd.x/1", "later": [1]})
    assert files.read_json(tmp_path / "f", "edgekd.x/1")["later"] == [1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe{}\x00", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "has schema None, expected 'edgekd.x/1'"),
        (b"3", "has schema None"),
        (b"{}", "has schema None"),
        (b'{"schema": "edgekd.x/2"}', "has schema 'edgekd.x/2', expected 'edgekd.x/1'"),
        (b'{"schema": "edgekd.y/1"}', "has schema 'edgekd.y/1'"),
        (b'{"schema": ["edgekd.x/1"]}', "has schema"),
    ],
)
def test_read_json_refuses(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(EvidenceError, match=message):
        files.read_json(tmp_path / "f", "edgekd.x/1")


def test_read_json_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="does not exist"):
        files.read_json(tmp_path / "absent", "edgekd.x/1")
    with pytest.raises(EvidenceError, match="cannot read"):
        files.read_json(tmp_path, "edgekd.x/1")


def test_building_appears_at_the_end_only(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with files.building(target) as root:
        (root / "f").write_text("x")
        assert not target.exists()
        assert root.parent == target.parent, "another file system could not be renamed from"
    assert listing(target) == ["f"]
    assert listing(target.parent) == ["out"]


def test_building_replaces_at_the_end_only(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with files.building(target) as root:
        (root / "new").write_text("new")
        assert listing(target) == ["old"]
    assert listing(target) == ["new"]
    assert listing(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), OSError(errno.ENOENT, "gone")])
def test_building_leaves_nothing_on_an_error(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(type(error)) as caught, files.building(target) as root:
        (root / "half").write_text("x")
        raise error
    assert caught.value is error
    assert (target / "old").read_text() == "old"
    assert listing(tmp_path) == ["out"]


def test_building_says_what_a_full_disk_is(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no space left"), files.building(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "full")
    assert listing(tmp_path) == []


def test_building_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"), files.building(tmp_path / "file" / "out"):
        pytest.fail("must not start")


def test_building_puts_the_old_folder_back_if_the_new_one_cannot_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    real = Path.replace

    def replace(self: Path, to: Path) -> Path:
        if self.name.endswith(".tmp") and to == target:
            raise OSError(errno.ENOSPC, "full")
        return real(self, to)

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)  # a system that cannot swap two names
    with pytest.raises(StorageError, match="no space left"), files.building(target) as root:
        (root / "new").write_text("new")
    assert (target / "old").read_text() == "old"
    assert listing(tmp_path) == ["out"]


_FULL_DISK = """
import json, sys
from pathlib import Path
from edgekd.errors import StorageError
from edgekd.files import building, write_bytes
root = Path(sys.argv[1])
write_bytes(root / "kept", b"old")
(root / "out").mkdir()
(root / "out" / "kept").write_bytes(b"old")
said = []
try:
    write_bytes(root / "kept", b"x" * (1 << 20))
except StorageError as e:
    said.append(str(e))
try:
    with building(root / "out") as new:
        (new / "big").write_bytes(b"x" * (1 << 20))
except StorageError as e:
    said.append(str(e))
left = sorted(str(p.relative_to(root)) for p in root.rglob("*"))
print(json.dumps([said, left, (root / "kept").read_text(), (root / "out/kept").read_text()]))
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """On a file system of 64 KiB, in a mount namespace of its own."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare to mount a small file system")
    script = 'mount -t tmpfs -o size=64k tmpfs "$1" || exit 77; exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path), sys.executable, _FULL_DISK],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"cannot mount a small file system here ({done.stderr.strip()})")
    assert done.returncode == 0, done.stderr
    said, left, kept, kept_inside = json.loads(done.stdout)
    assert len(said) == 2
    assert all("no space left while writing" in s and "cache gc" in s for s in said)
    assert left == ["kept", "out", "out/kept"]
    assert (kept, kept_inside) == ("old", "old")


def test_building_removes_what_a_killed_process_left_and_nothing_of_a_living_one(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    # The second has the number of a process that lives and is another one: numbers come again in containers.
    dead, again = tmp_path / f".out.{ended.pid}.abc.tmp", tmp_path / f".out.{os.getpid()}.abc.tmp"
    for left in (dead, again):
        left.mkdir()
    (tmp_path / f".out.{ended.pid}.def.tmp").write_text("half a file")
    with temporary.folder(tmp_path, ".out") as living, files.building(tmp_path / "out") as made:
        (made / "a").write_text("x")
        assert not dead.exists()
        assert not again.exists()
        assert living.exists()
    assert listing(tmp_path) == ["out"]
    assert (tmp_path / "out" / "a").read_text() == "x"


def test_a_git_lfs_pointer_is_not_json(tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(
        EvidenceError, match=r"e\.json is a Git LFS pointer, not the file; run `git lfs pull`"
    ):
        files.read_json(tmp_path / "e.json", "edgekd.evaluation/1")
