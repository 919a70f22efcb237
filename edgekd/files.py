"""Files that are whole or absent: atomic writes, digests, canonical JSON."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from edgekd.errors import EvidenceError, InputError, StorageError
from edgekd.lfs_pointer import refuse_pointer_file

_CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits.

    Raises:
        InputError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as f:
            while chunk := f.read(_CHUNK):
                digest.update(chunk)
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror}", "check the path and its permissions") from e
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal bytes."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest_of(value: Any) -> str:
    """``sha256:`` + SHA-256 of the canonical JSON of ``value``."""
    return "sha256:" + hashlib.sha256(canonical_json(value)).hexdigest()


def storage_error(error: OSError, path: Path) -> StorageError:
    """The one-line form of a failed write to ``path``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"no space left while writing {path}",
            "free some space (`edgekd cache gc`) or point --out elsewhere",
        )
    if error.errno == errno.EROFS:
        return StorageError(f"{path} is on a read-only file system", "choose another --out")
    return StorageError(
        f"cannot write {path}: {error.strerror or error}", "check the folder and its permissions"
    )


def _fail(error: OSError, path: Path) -> NoReturn:
    raise storage_error(error, path) from error


def fsync_directory(path: Path) -> None:
    """Make a rename in ``path`` durable; a no-op where directories cannot be opened."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old bytes or the new ones, never a part.

    Raises:
        StorageError: the disk is full, read-only or failing. The old file, if any, is intact.
    """
    tmp: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, tmp = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(fd, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        Path(tmp).chmod(0o644)
        Path(tmp).replace(path)
        tmp = None
        fsync_directory(path.parent)
    except OSError as e:
        _fail(e, path)
    finally:
        if tmp is not None:
            with contextlib.suppress(OSError):
                Path(tmp).unlink()


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON (sorted keys, no NaN) atomically."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path, schema: str) -> dict[str, Any]:
    """Read a JSON document and check its ``schema`` key.

    Args:
        path: the file.
        schema: ``edgekd.<kind>/<major>``; unknown fields are left alone, another major is refused.

    Raises:
        EvidenceError: missing, unreadable, a Git LFS pointer, not JSON, or of another kind or version.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as e:
        raise EvidenceError(f"{path} does not exist", f"expected a document of schema {schema}") from e
    except OSError as e:
        raise EvidenceError(f"cannot read {path}: {e.strerror}", "check the path and its permissions") from e
    except (ValueError, RecursionError) as e:
        refuse_pointer_file(path, EvidenceError)
        raise EvidenceError(f"{path} is not JSON ({e})", "the file is damaged: make it again") from e
    found = value.get("schema") if isinstance(value, dict) else None
    if found != schema:
        raise EvidenceError(
            f"{path} has schema {found!r}, expected {schema!r}",
            "use the EdgeKD version that wrote it, or make it again",
        )
    return dict(value)


@contextlib.contextmanager
def building(target: Path) -> Iterator[Path]:
    """A temporary sibling folder that becomes ``target`` when the block ends without an error.

    An existing ``target`` is replaced only then; on an error nothing of the new folder stays. What a killed process
    left of the same ``target`` is removed.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        tmp = Path(
            tempfile.mkdtemp(prefix=f".{target.name}.{os.getpid()}.", suffix=".tmp", dir=target.parent)
        )
    except OSError as e:
        _fail(e, target)
    try:
        tmp.chmod(0o755)
        yield tmp
        try:
            _replace_folder(tmp, target)
        except OSError as e:
            _fail(e, target)
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
            _fail(e, target)
        raise
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def _sweep(target: Path) -> None:
    """Remove temporary siblings of ``target`` whose process is gone."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        pid = left.name.removeprefix(f".{target.name}.").split(".")[0]
        if pid.isdigit() and not _is_alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    if os.name != "posix":
        return True  # signal 0 is not a question elsewhere
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _replace_folder(new: Path, target: Path) -> None:
    """Rename ``new`` to ``target``; what was there goes only once the new one stands, and comes back if it cannot."""
    if not target.exists():
        new.replace(target)
        fsync_directory(target.parent)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    try:
        target.replace(aside / target.name)
        try:
            new.replace(target)
        except OSError:
            (aside / target.name).replace(target)
            raise
        fsync_directory(target.parent)
    finally:
        # Still holding the old folder means that it could not be put back: leave it to be found.
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
