"""The first thing that runs on a board, sent as text over the link. Standard library only; any Python 3 can read it.

It tells what the board has, takes the runner's sources as one zip into a folder of its own, starts it, and removes the
folder whatever happens. The host sends, in this order: this text and a NUL, a line of JSON that names the modules
needed, and a line with the zip's size and sha256, then the zip.
"""

# Older Pythons must get as far as telling their version: no newer syntax, no newer annotations.

import hashlib
import importlib.util
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import IO

#: What a line to the host starts with: a login shell may say something first.
MARK = "EKDBOARD "
PREFIX = "edgekd-board-"
#: A folder without a lock for so long has nobody who would still take it.
STALE_S = 86400


def say(out: int, message: object) -> None:
    """One line to the host; begins on a line of its own."""
    os.write(out, ("\n" + MARK + json.dumps(message) + "\n").encode())


def installed(module: str) -> object:
    """``name version`` of what provides a module, without importing it; None where nothing does."""
    try:
        if importlib.util.find_spec(module) is None:
            return None
    except ModuleNotFoundError:  # the package around it
        return None
    from importlib import metadata

    names = sorted(set(metadata.packages_distributions().get(module.partition(".")[0], [])))
    return ", ".join(f"{n} {metadata.version(n)}" for n in names) or module


def remove_stale(parent: str) -> None:
    """Remove what runners left that could not clean up: power was cut, or the kernel killed them."""
    import fcntl

    for folder in Path(parent).glob(PREFIX + "*"):
        try:
            found = folder.lstat()
            if found.st_uid != os.getuid() or folder.is_symlink():
                continue
            if not (folder / "lock").exists():
                if time.time() - found.st_mtime > STALE_S:
                    shutil.rmtree(str(folder), ignore_errors=True)
                continue
            lock = os.open(str(folder / "lock"), os.O_RDWR)
        except OSError:
            continue  # just now removed by its own runner
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(str(folder), ignore_errors=True)
        except OSError:
            pass  # its runner is alive
        finally:
            os.close(lock)


def take(stream: IO[bytes], size: int, sha256: str, path: str) -> bool:
    """Write ``size`` bytes of the stream to a file; False where they are not those that were announced."""
    digest, left = hashlib.sha256(), size
    with open(path, "wb") as out:
        while left:
            part = stream.read(min(left, 1 << 16))
            if not part:
                return False
            digest.update(part)
            out.write(part)
            left -= len(part)
    return digest.hexdigest() == sha256


def leave(number: int, frame: object) -> None:
    """On SIGTERM and SIGHUP: out through every ``finally``."""
    raise SystemExit(1)


def start(stream: IO[bytes]) -> None:
    """The whole life of a session on the board.

    Args:
        stream: binary stdin without a buffer: what follows the zip is for the runner.
    """
    out = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not end up among the frames
    asked = json.loads(stream.readline().decode() or "null")
    if not asked:
        return
    new_enough = sys.version_info >= (3, 10)
    hello = {
        "python": platform.python_version(),
        "version": list(sys.version_info[:2]),
        "executable": sys.executable,
        "system": os.name,
        "modules": {m: installed(m) for m in asked["modules"]} if new_enough else {},
    }
    say(out, hello)
    zipped = json.loads(stream.readline().decode() or "null")
    if not zipped:
        return
    import fcntl

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, leave)
    parent = asked["folder"] or tempfile.gettempdir()
    remove_stale(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    try:
        lock = os.open(str(folder / "lock"), os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        path, lib, temporary = folder / (zipped["sha256"] + ".zip"), str(folder / "lib"), str(folder / "tmp")
        if not take(stream, zipped["size"], zipped["sha256"], str(path)):
            say(out, {"error": "the runner arrived damaged"})
            return
        with zipfile.ZipFile(str(path)) as archive:
            archive.extractall(lib)
        Path(temporary).mkdir()
        os.environ.update(asked["environ"])
        os.environ["TMPDIR"] = tempfile.tempdir = temporary
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [lib, os.environ.get("PYTHONPATH")]))
        sys.path.insert(0, lib)
        os.chdir(temporary)
        from edgekd.board.runner import serve

        say(out, {"folder": str(folder)})
        serve(str(folder), stream.fileno(), out)
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        shutil.rmtree(str(folder), ignore_errors=True)
