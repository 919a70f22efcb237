"""Temporary names beside what they will become: held while their process lives, removed after a kill.

Whoever makes one holds a lock on it (flock(2)). The kernel drops the lock with the process, however it ends, so a name
whose lock can be had belongs to nobody: process numbers that come again, other containers and clocks that jump do not
matter. Where the file system has no such locks the process number in the name is asked instead.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from edgekd.errors import StorageError

SUFFIX = ".tmp"
#: What was there before, while the new one comes; see :func:`edgekd.files.building`.
ASIDE = ".old"
#: Of folders in TMPDIR.
SCRATCH = "edgekd-"


def _name(stem: str, suffix: str) -> str:
    return f"{stem}.{os.getpid()}.{secrets.token_hex(4)}{suffix}"


def _try_lock(fd: int) -> bool | None:
    """Whether this open file holds the lock now; None where the file system has none."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _holds(fd: int, path: Path) -> bool:
    """Hold ``path``; False where somebody swept it between its making and the lock."""
    if _try_lock(fd) is False:
        return False
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def make_file(target: Path) -> tuple[int, Path]:
    """An empty file beside ``target``, open for writing and held until its descriptor is closed.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        path = target.with_name(_name(f".{target.name}", SUFFIX))
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        if _holds(fd, path):
            return fd, path
        os.close(fd)


@contextlib.contextmanager
def folder(
    parent: Path, stem: str, suffix: str = SUFFIX, *, leave: Callable[[Path], bool] = lambda path: False
) -> Iterator[Path]:
    """A folder in ``parent``, held for as long as the block runs, and removed then.

    Args:
        leave: asked at the end: whether it holds something that must not be removed.

    Raises:
        OSError: it cannot be made.
    """
    fd: int | None = None
    while True:
        path = parent / _name(stem, suffix)
        path.mkdir(mode=0o700)
        if os.name != "posix":
            break
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            if _holds(fd, path):
                break
            os.close(fd)
    try:
        yield path
    finally:
        if not leave(path):
            shutil.rmtree(path, ignore_errors=True)
        if fd is not None:
            os.close(fd)


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether nobody holds this temporary name any more; for as long as the block runs nobody else can take it."""
    fd: int | None = None
    if os.name == "posix":  # no question that could be asked elsewhere
        with contextlib.suppress(OSError):  # gone, or another user's
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if fd is None:
        yield False
        return
    try:
        locked = _try_lock(fd)
        yield not _is_alive(path) if locked is None else locked
    finally:
        os.close(fd)


def _is_alive(path: Path) -> bool:
    pid = path.name.rpartition(".")[0].rpartition(".")[0].rpartition(".")[2]
    if not pid.isdigit():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def left_beside(target: Path, suffix: str = SUFFIX) -> list[Path]:
    """Temporary names of ``target``, whoever holds them."""
    start = f".{target.name}."
    try:
        with os.scandir(target.parent) as entries:
            found = [e.name for e in entries if e.name.startswith(start) and e.name.endswith(suffix)]
    except OSError:
        return []
    # `.a.b.1.ff.tmp` is of `a.b`, not of `a`: between the name and the ending stand a number and a token.
    return [target.with_name(n) for n in sorted(found) if n[len(start) : -len(suffix)].count(".") <= 1]


def sweep(target: Path) -> None:
    """Remove what killed processes left of ``target``; leftovers are nobody's reason to fail."""
    _remove(left_beside(target))


def sweep_folder(parent: Path) -> None:
    """Remove what killed processes left in ``parent``, of whatever target."""
    _remove(sorted(parent.glob(f".*{SUFFIX}")))


def _remove(paths: list[Path]) -> None:
    for path in paths:
        with claimed(path) as mine:
            if not mine:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()


@contextlib.contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """A folder in TMPDIR for as long as the block runs; those that this user's killed processes left there go first.

    Args:
        purpose: part of its name: ``evaluate``.

    Raises:
        StorageError: TMPDIR cannot be written to.
    """
    try:
        base = Path(tempfile.gettempdir())
        _sweep_scratch(base)
        held = folder(base, f"{SCRATCH}{purpose}")
        made = held.__enter__()
    except OSError as e:
        from edgekd.files import storage_error

        raise StorageError(
            storage_error(e, Path(e.filename or os.environ.get("TMPDIR", "/tmp"))).what,
            "free some space there, or set TMPDIR to a folder that can be written to",
        ) from e
    with contextlib.ExitStack() as stack:
        stack.push(held)
        yield made


@contextlib.contextmanager
def own_tempdir(purpose: str) -> Iterator[None]:
    """Let :mod:`tempfile` work in a folder of this process alone, for as long as the block runs.

    Whatever a library leaves there when this process is killed then goes with the next one's :func:`scratch`. Where
    TMPDIR cannot be written to, everything stays as it is: whoever needs it will say so.
    """
    before = tempfile.tempdir
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(StorageError):
            tempfile.tempdir = str(stack.enter_context(scratch(purpose)))
        try:
            yield
        finally:
            tempfile.tempdir = before


def _sweep_scratch(base: Path) -> None:
    own = os.getuid() if hasattr(os, "getuid") else None
    with os.scandir(base) as entries:
        names = [e.name for e in entries if e.name.startswith(SCRATCH) and e.name.endswith(SUFFIX)]
    for path in map(base.joinpath, names):
        with contextlib.suppress(OSError):
            found = path.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != own:
                continue
            with claimed(path) as mine:
                if mine:
                    shutil.rmtree(path, ignore_errors=True)
