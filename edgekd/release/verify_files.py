"""The files of a bundle, folder or .tar, found and hashed without extracting anything. Standard library only."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgekd.release.manifest import BLOCK, RECORD, padding, path_problem, tar_header
from edgekd.release.verify_problem import Problem

_CHUNK = 1 << 20
#: Members of a .tar that are looked at; a bundle has dozens.
_MOST_FILES = 10_000
#: No honest manifest, verdict or statement is larger; bounds what is read into memory before any hash is known.
MAX_JSON_BYTES = 64 << 20
#: Less than this is hashed sooner than threads start.
_THREADS_FROM_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file that was found: its size and how to hash or read it."""

    size_bytes: int
    open: Callable[[], BinaryIO]
    offset: int = 0

    def chunks(self) -> Iterator[memoryview]:
        """Its bytes, a view of one buffer at a time; fewer than ``size_bytes`` where it was cut meanwhile."""
        left, buffer = self.size_bytes, memoryview(bytearray(min(_CHUNK, max(self.size_bytes, 1))))
        with self.open() as source:
            source.seek(self.offset)
            while left and (got := source.readinto(buffer[: min(left, len(buffer))])):  # type: ignore[attr-defined]
                yield buffer[:got]
                left -= got

    def sha256(self) -> str:
        """64 hex digits."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def read(self) -> bytes:
        """All of it, at most :data:`MAX_JSON_BYTES`."""
        data = bytearray()
        for chunk in self.chunks():
            data += chunk
            if len(data) >= MAX_JSON_BYTES:
                break
        return bytes(data[:MAX_JSON_BYTES])


def hash_files(files: Mapping[str, FoundFile]) -> dict[str, str]:
    """Path -> sha256, on as many threads as there are CPUs where there is much to read."""
    total = sum(f.size_bytes for f in files.values())
    if total < _THREADS_FROM_BYTES or len(files) < 2:
        return {path: f.sha256() for path, f in files.items()}
    from concurrent.futures import ThreadPoolExecutor

    large_first = sorted(files, key=lambda p: -files[p].size_bytes)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(large_first, pool.map(lambda p: files[p].sha256(), large_first), strict=True))


def walk_folder(folder: Path) -> tuple[dict[str, FoundFile], list[Problem]]:
    """Regular files below a folder; links, specials and empty folders are problems."""
    files: dict[str, FoundFile] = {}
    problems: list[Problem] = []
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        entries = sorted(here.iterdir())
        if not entries and here != folder:
            name = here.relative_to(folder).as_posix()
            problems.append(Problem(name, f"{name} is a folder that was not released"))
        for entry in entries:
            name = entry.relative_to(folder).as_posix()
            status = entry.lstat()
            if stat.S_ISLNK(status.st_mode):
                problems.append(Problem(name, f"{name} is a link"))
            elif stat.S_ISDIR(status.st_mode):
                waiting.append(entry)
            elif not stat.S_ISREG(status.st_mode):
                problems.append(Problem(name, f"{name} is not a plain file"))
            elif status.st_nlink > 1:
                problems.append(
                    Problem(name, f"{name} is a hard link: it can change from outside the bundle")
                )
            else:
                files[name] = FoundFile(status.st_size, _opener(entry))
    return files, sorted(problems, key=lambda p: p.text)


def _opener(path: Path) -> Callable[[], BinaryIO]:
    return lambda: path.open("rb", buffering=0)


def scan_tar(archive: Path) -> tuple[dict[str, FoundFile], list[Problem], str]:
    """Regular files of a tar below its one folder, found without extracting anything; and that folder's name."""
    files: dict[str, FoundFile] = {}
    problems: list[Problem] = []
    top = ""

    def objection(name: str, text: str) -> None:
        problems.append(Problem(name, text, "bundle-archive"))

    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                # A negative size leads tarfile back to where it was, for ever.
                if member.size < 0 or len(files) + len(problems) >= _MOST_FILES:
                    objection(member.name, f"{member.name} is one file too many, or of {member.size} bytes")
                    break
                if problem := path_problem(member.name):
                    objection(member.name, problem)
                    continue
                head, _, name = member.name.partition("/")
                top = top or head
                if not member.isreg() or member.issparse():
                    kind = "a link" if member.issym() or member.islnk() else "not a plain file"
                    objection(name or head, f"{name or head} is {kind}")
                elif head != top or not name:
                    objection(member.name, f"{member.name} lies outside the bundle's folder '{top}'")
                elif name in files:
                    objection(name, f"{name} is in the archive twice")
                else:
                    files[name] = FoundFile(member.size, _opener(archive), member.offset_data)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as e:
        last = max(files, key=lambda f: files[f].offset, default=archive.name)
        objection(last, f"{last}: the archive is damaged there or after it ({e})")
    return files, problems, top


def check_layout(
    archive: Path, order: Sequence[str], files: Mapping[str, FoundFile], top: str
) -> list[Problem]:
    """Headers, order and padding must be those that ``release`` writes: no byte of the tar is free."""

    def objection(path: str, text: str) -> list[Problem]:
        return [Problem(path, f"{path}: {text}", "bundle-archive")]

    with archive.open("rb") as source:
        for path in order:
            size = files[path].size_bytes
            header = tar_header(f"{top}/{path}", size)
            if source.read(len(header)) != header:
                return objection(path, "its header in the archive was changed or is out of order")
            source.seek(size, 1)
            if any(source.read(padding(size))):
                return objection(path, "the padding after it in the archive was changed")
        end = source.tell() + 2 * BLOCK
        rest = source.read(RECORD + 2 * BLOCK + 1)
        if rest != bytes(2 * BLOCK + padding(end, RECORD)):
            return objection(order[-1], "the end of the archive after it was changed")
    return []
