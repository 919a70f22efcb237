"""Content-addressed stages: a second run does only what changed, a killed run resumes.

A stage's folder is named after the digest of its key (inputs, parameters, tool versions). It is built in a work
folder and renamed into place, so it is whole or absent. ``resume`` inside the work folder survives a kill: a stage
that can continue keeps its checkpoints there.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd import temporary
from edgekd.artifact import record_file
from edgekd.documents import is_file_name
from edgekd.errors import EvidenceError, InputError
from edgekd.files import building, digest_of, fsync_directory, read_json, storage_error, write_json
from edgekd.trust import Trust

STAGE_SCHEMA = "edgekd.stage/1"
STAGE_FILE = "stage.json"

#: Raised by one whenever a stage's meaning changes, so that older results are not taken for new ones.
STAGE_VERSION = 1

#: Clocks of one network differ by that much without anything being wrong.
_CLOCK_SLACK_S = 300.0


def default_cache_root(environ: Mapping[str, str]) -> Path:
    """Where stages are kept: ``EDGEKD_CACHE``, else ``XDG_CACHE_HOME/edgekd``, else ``~/.cache/edgekd``."""
    if environ.get("EDGEKD_CACHE"):
        return Path(environ["EDGEKD_CACHE"])
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgekd"


def tool_versions(*packages: str) -> dict[str, str]:
    """Installed versions of ``packages``, for a stage's key; imports nothing."""
    versions = {"stage": str(STAGE_VERSION)}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return versions


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """What a stage left: its folder, its digest, whether it was there already, and the seconds it took."""

    name: str
    folder: Path
    digest: str
    cached: bool
    seconds: float


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock for as long as the block runs; the kernel drops it if the process dies."""
    try:
        import fcntl
    except ImportError:  # Windows: no lock, the rename still keeps results whole
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as e:
        raise storage_error(e, path) from e
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as e:
            raise storage_error(e, path) from e
        yield
    finally:
        os.close(fd)


@dataclass(frozen=True)
class StageStore:
    """The cache of stages.

    Args:
        root: its folder.
        fresh: rebuild every stage once, whatever is there.
        trust: what the user vouches for.
        report: called with ``("start" | "done", name, StageResult | None)``.
    """

    root: Path
    fresh: bool = False
    report: Callable[[str, str, StageResult | None], None] = lambda event, name, result: None
    trust: Trust = field(default_factory=Trust)
    _rebuilt: set[str] = field(default_factory=set)

    def folder(self, kind: str, key: Mapping[str, Any]) -> Path:
        """Where the stage with this key is, or would be."""
        return self.root / kind / digest_of({"kind": kind, **key}).removeprefix("sha256:")

    def run(
        self,
        kind: str,
        name: str,
        key: Mapping[str, Any],
        build: Callable[[Path, Path], None],
        *,
        reuse: bool = True,
    ) -> StageResult:
        """Return the stage's folder, building it first where it is absent or damaged.

        Args:
            kind: the stage's kind, a folder name: ``train``, ``export``, ...
            name: what to call it in progress output.
            key: everything that decides the result; canonical JSON.
            build: ``build(out, resume)`` fills ``out``; ``resume`` outlives a kill.
            reuse: False rebuilds it even where it is whole.

        Raises:
            StorageError: a write failed. Whatever ``build`` raises; the store is then as it was.
        """
        digest = digest_of({"kind": kind, **key})
        final = self.folder(kind, key)
        work = self.root / "work" / f"{kind}-{final.name[:32]}"
        fresh = (self.fresh and digest not in self._rebuilt) or not reuse
        with _lock(_lock_path(self.root, kind, final.name)):
            started = time.monotonic()
            if not fresh and is_whole(final):
                if work.exists():  # killed after the last rename
                    temporary.sweep(final)
                    shutil.rmtree(work, ignore_errors=True)
                result = StageResult(name=name, folder=final, digest=digest, cached=True, seconds=0.0)
                self.report("done", name, result)
                return result
            self.report("start", name, None)
            if fresh:
                shutil.rmtree(work, ignore_errors=True)
            resume = work / "resume"
            try:
                resume.mkdir(parents=True, exist_ok=True)
            except OSError as e:
                raise storage_error(e, work) from e
            with building(final) as out:
                build(out, resume)
                seal(out, kind, key)
            shutil.rmtree(work, ignore_errors=True)
            self._rebuilt.add(digest)
            result = StageResult(
                name=name, folder=final, digest=digest, cached=False, seconds=time.monotonic() - started
            )
        self.report("done", name, result)
        return result


def seal(out: Path, kind: str, key: Mapping[str, Any]) -> None:
    """Write ``stage.json`` into a finished folder: its key, and size and SHA-256 of every file."""
    files = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    write_json(
        out / STAGE_FILE,
        {
            "schema": STAGE_SCHEMA,
            "kind": kind,
            "key": dict(key),
            "files": [record_file(out, f).to_json() for f in files],
            "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    )
    fsync_directory(out)


def is_whole(folder: Path) -> bool:
    """Whether a stage's folder is complete and unaltered."""
    try:
        stage = read_json(folder / STAGE_FILE, STAGE_SCHEMA)
        files = [f["path"] for f in stage["files"]]
        if "key" not in stage or not all(map(is_file_name, files)):
            return False
        return all(record_file(folder, f["path"]).to_json() == f for f in stage["files"])
    except (EvidenceError, InputError, OSError, KeyError, TypeError):
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUse:
    """What ``edgekd cache gc`` found and removed."""

    stages: int
    removed: int
    freed_bytes: int


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _lock_path(root: Path, kind: str, digest: str) -> Path:
    return root / "locks" / f"{kind}-{digest[:32]}"


@contextlib.contextmanager
def _unless_held(lock: Path) -> Iterator[bool]:
    """Whether no process is building under this lock; while the block runs none can start to."""
    try:
        import fcntl

        fd = os.open(lock, os.O_RDWR)
    except (ImportError, FileNotFoundError):
        yield True
        return
    except OSError:
        yield False  # another user's: not ours to remove
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
    finally:
        os.close(fd)


def _is_old(folder: Path, horizon: float, now: float) -> bool:
    """Whether it was made before ``horizon``; both in seconds since 1970.

    One from the future was made under a clock that was wrong; its true age is unknown, so it ages from today.
    """
    made = folder.stat().st_mtime
    if made > now + _CLOCK_SLACK_S:
        with contextlib.suppress(OSError):
            os.utime(folder, (now, now))
        return horizon >= now
    return made < horizon


def collect_garbage(root: Path, *, older_than_days: float) -> CacheUse:
    """Remove stages not made within ``older_than_days``, work folders that no process holds, and leftovers.

    A stage that is being built is left alone however old its folders look: a training writes for hours below them.

    Raises:
        StorageError: a folder cannot be removed.
    """
    kept = removed = freed = 0
    now = time.time()
    horizon = now - older_than_days * 86400
    for kind in sorted(p for p in root.glob("*") if p.is_dir() and p.name not in ("work", "locks")):
        for folder in sorted(kind.iterdir()):
            leftover = folder.name.endswith((temporary.SUFFIX, temporary.ASIDE))
            digest = folder.name.removeprefix(".").partition(".")[0]
            try:
                with _unless_held(_lock_path(root, kind.name, digest)) as free:
                    # An hour for what is no stage: an earlier version may be writing it without a lock.
                    before = max(horizon, now - 3600) if leftover else horizon
                    if not free or not _is_old(folder, before, now):
                        kept += not leftover
                        continue
                    freed += _size(folder)
                    shutil.rmtree(folder)
                    removed += 1
            except FileNotFoundError:
                continue
            except OSError as e:
                raise storage_error(e, folder) from e
    for work in sorted((root / "work").glob("*")) if (root / "work").is_dir() else []:
        with _unless_held(root / "locks" / work.name) as free:
            if free and _is_old(work, horizon, now):
                freed += _size(work)
                shutil.rmtree(work, ignore_errors=True)
                removed += 1
    return CacheUse(stages=kept, removed=removed, freed_bytes=freed)


def stage_key(folder: Path) -> dict[str, Any]:
    """The key that a stage was made from, out of its ``stage.json``."""
    return dict(read_json(folder / STAGE_FILE, STAGE_SCHEMA)["key"])
