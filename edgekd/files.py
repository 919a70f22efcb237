"""Files that are whole or absent: atomic writes, digests, canonical JSON."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from edgekd import temporary
from edgekd.documents import parse_json, read_plain_file, type_problem
from edgekd.errors import EvidenceError, InputError, StorageError
from edgekd.lfs_pointer import refuse_pointer_file

_CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits.

    Raises:
        InputError: the file cannot be read; StorageError: because the disk fails.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as f:
            while chunk := f.read(_CHUNK):
                digest.update(chunk)
    except OSError as e:
        refuse_failing_disk(e, path)
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


#: What a disk says, not a program: full, over quota, read-only, failing (errno(3)).
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FAILING = (errno.EIO, getattr(errno, "EREMOTEIO", errno.EIO), errno.ENXIO, errno.ESTALE)
_DISK = (*_FULL, *_FAILING, errno.EROFS)


def storage_error(error: OSError, path: Path) -> StorageError:
    """The one-line form of a failed write to ``path``."""
    if error.errno in _FULL:
        return StorageError(
            f"no space left while writing {path}",
            "free some space (`edgekd cache gc`) or point --out elsewhere",
        )
    if error.errno == errno.EROFS:
        return StorageError(f"{path} is on a read-only file system", "choose another --out")
    if error.errno in _FAILING:
        return StorageError(
            f"cannot write {path}: {error.strerror}, the disk is failing",
            "see the kernel's log, or point --out and EDGEKD_CACHE to another disk",
        )
    return StorageError(
        f"cannot write {path}: {error.strerror or error}", "check the folder and its permissions"
    )


def refuse_failing_disk(error: OSError, path: Path) -> None:
    """Say of a failed read that it is the disk's fault and not the file's, where it is.

    Raises:
        StorageError: it is.
    """
    if error.errno in _FAILING:
        raise StorageError(
            f"cannot read {path}: {error.strerror}, the disk is failing",
            "see the kernel's log; run again where the file can be read",
        ) from error


def _fail(error: OSError, path: Path) -> NoReturn:
    raise storage_error(error, path) from error


def disk_cause(error: BaseException | None, folder: Path) -> OSError | None:
    """What a disk said behind an error of any library, writing into ``folder``; None where it said nothing.

    Libraries wrap it, some in words only: safetensors and protobuf quote the system's sentence, NumPy's ``tofile``
    counts bytes.
    """
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EFBIG):
        return error
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _DISK:
            return error
        for number in _DISK:
            if os.strerror(number) in str(error):
                return OSError(number, os.strerror(number))
        if isinstance(error, OSError) and " requested and " in str(error):
            number = errno.ENOSPC if _is_full(folder) else errno.EIO
            return OSError(number, os.strerror(number))
        error = error.__cause__ or error.__context__
    return None


def _is_full(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free < 1 << 20
    return False


def fsync_directory(path: Path) -> None:
    """Make a rename in ``path`` durable; a no-op where directories cannot be opened."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """A file to fill that becomes ``path`` when the block ends without an error: readers see old bytes or new ones.

    What killed processes left of the same file is removed.

    Raises:
        StorageError: the disk is full, read-only or failing. The old file, if any, is intact.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.sweep(path)
        fd, tmp = temporary.make_file(path)
    except OSError as e:
        _fail(e, path)
    done = False
    try:
        with os.fdopen(fd, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
            tmp.chmod(0o644)
            tmp.replace(path)
            done = True
        fsync_directory(path.parent)
    except OSError as e:
        _fail(e, path)
    finally:
        if not done:
            with contextlib.suppress(OSError):
                tmp.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old bytes or the new ones, never a part.

    Raises:
        StorageError: the disk is full, read-only or failing. The old file, if any, is intact.
    """
    with writing(path) as f:
        f.write(data)


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
        EvidenceError: missing, unreadable, a Git LFS pointer, not JSON, or of another kind or version;
        StorageError: the disk fails.
    """
    try:
        value = parse_json(read_plain_file(path, EvidenceError))
    except FileNotFoundError as e:
        raise EvidenceError(f"{path} does not exist", f"expected a document of schema {schema}") from e
    except OSError as e:
        refuse_failing_disk(e, path)
        raise EvidenceError(f"cannot read {path}: {e.strerror}", "check the path and its permissions") from e
    except ValueError as e:
        refuse_pointer_file(path, EvidenceError)
        raise EvidenceError(f"{path} is not JSON ({e})", "the file is damaged: make it again") from e
    found = value.get("schema") if isinstance(value, dict) else None
    if found != schema:
        raise EvidenceError(
            f"{path} has schema {found!r}, expected {schema!r}",
            "use the EdgeKD version that wrote it, or make it again",
        )
    if problem := type_problem(value, schema.removeprefix("edgekd.").partition("/")[0]):
        raise EvidenceError(f"{path} is not whole: {problem}", "the file is damaged: make it again")
    return dict(value)


@contextlib.contextmanager
def building(target: Path) -> Iterator[Path]:
    """A temporary sibling folder that becomes ``target`` when the block ends without an error.

    An existing ``target`` is replaced only then; on an error nothing of the new folder stays. What a killed process
    left of the same ``target`` is removed, or put back where it was all there was.

    Raises:
        StorageError: the disk is full, read-only or failing, also where a library says so in its own way.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _put_back(target)
        temporary.sweep(target)
        held = temporary.folder(target.parent, f".{target.name}")
        tmp = held.__enter__()
    except OSError as e:
        _fail(e, target)
    with contextlib.ExitStack() as stack:
        stack.push(held)
        try:
            tmp.chmod(0o755)
            yield tmp
        except StorageError:
            raise
        except Exception as e:
            if not tmp.is_dir():
                raise StorageError(
                    f"{target.parent} was removed while {target.name} was being written",
                    "run the same command again",
                ) from e
            if (cause := disk_cause(e, tmp)) is not None:
                raise storage_error(cause, target) from e
            raise
        try:
            _replace_folder(tmp, target)
        except OSError as e:
            _fail(e, target)


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # before glibc 2.28, or another C library
        return None


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step (renameat2(2), RENAME_EXCHANGE); False where the system cannot do that.

    Raises:
        OSError: it can, and failed.
    """
    call = _renameat2()
    if call is None:
        return False
    here, flags = -100, 2  # AT_FDCWD (fcntl.h), RENAME_EXCHANGE (linux/fs.h)
    if call(here, os.fsencode(one), here, os.fsencode(other), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _replace_folder(new: Path, target: Path) -> None:
    """Rename ``new`` to ``target``; what was there goes only once the new one stands, and comes back if it cannot."""
    if not target.exists():
        new.replace(target)
        fsync_directory(target.parent)
        return
    if _exchange(new, target):
        fsync_directory(target.parent)
        return  # `new` is now the old folder, which goes with its temporary name

    def holds_the_only_one(aside: Path) -> bool:
        return not target.exists()  # it could not be put back: leave it to be found

    with temporary.folder(
        target.parent, f".{target.name}", temporary.ASIDE, leave=holds_the_only_one
    ) as aside:
        target.replace(aside / target.name)
        try:
            new.replace(target)
        except OSError:
            (aside / target.name).replace(target)
            raise
        fsync_directory(target.parent)


def _put_back(target: Path) -> None:
    """Give ``target`` its name again where a process died between moving it aside and putting the new one there."""
    for left in temporary.left_beside(target, temporary.ASIDE):
        with temporary.claimed(left) as mine:
            if not mine:
                continue
            if (left / target.name).exists() and not target.exists():
                (left / target.name).replace(target)
            shutil.rmtree(left, ignore_errors=True)
