"""``verify``: is this bundle, folder or .tar, byte for byte what was released? Standard library only.

Nothing is extracted and nothing in the bundle is run or trusted before its hash is known. This proves that the files
belong together, not who made them: signatures come with a later version.
"""

from __future__ import annotations

import hashlib
import json
import stat
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from edgekd.errors import EvidenceError, InputError, PolicyError
from edgekd.release.manifest import (
    BLOCK,
    MANIFEST_FILE,
    MANIFEST_SCHEMA,
    RECORD,
    manifest_bytes,
    manifest_digest,
    padding,
    path_problem,
    tar_header,
)

_CHUNK = 1 << 20
#: No honest manifest or verdict is larger; bounds what is read into memory before any hash is known.
_MAX_JSON_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What a sound bundle says of itself: its name, decision, the EdgeKD that wrote it, number of files with the manifest."""

    name: str
    decision: str
    edgekd: str
    files: int


@dataclass(frozen=True, slots=True)
class _File:
    """A regular file that was found: its size and how to hash or read it."""

    size_bytes: int
    open: Callable[[], BinaryIO]
    offset: int = 0

    def sha256(self) -> str:
        digest, left = hashlib.sha256(), self.size_bytes
        with self.open() as source:
            source.seek(self.offset)
            while left and (chunk := source.read(min(_CHUNK, left))):
                digest.update(chunk)
                left -= len(chunk)
        return digest.hexdigest()

    def read(self) -> bytes:
        with self.open() as source:
            source.seek(self.offset)
            return source.read(min(self.size_bytes, _MAX_JSON_BYTES))


def verify(bundle: Path) -> Verified:
    """Check a bundle.

    Args:
        bundle: the folder or the .tar that ``release`` wrote.

    Raises:
        PolicyError: it is not as released; names the first file and what is wrong with it.
        EvidenceError: not a bundle, or one of a newer version.
    """
    problems, manifest = _examine(bundle)
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise PolicyError(
            f"{bundle} is not as released: {', '.join(problems[:3])}{more}",
            "do not use it; get the bundle again",
        )
    return Verified(
        name=str(manifest["name"]),
        decision=str(manifest["decision"]),
        edgekd=str(manifest["edgekd"]),
        files=len(manifest["files"]) + 1,
    )


def find_problems(bundle: Path) -> list[str]:
    """Everything that :func:`verify` would object to, one sentence each: links, missing, changed, extra; empty when sound.

    Raises:
        EvidenceError: not a bundle, or one of a newer version.
    """
    return _examine(bundle)[0]


def _examine(bundle: Path) -> tuple[list[str], dict[str, Any]]:
    if not bundle.exists():
        raise EvidenceError(f"{bundle} does not exist", "name a bundle folder or its .tar")
    try:
        files, problems, top = (*_walk(bundle), "") if bundle.is_dir() else _scan(bundle)
        if MANIFEST_FILE in files:
            problems, manifest = _compare(bundle, files, problems, top)
        else:
            manifest = {}
            if not any(p.startswith(MANIFEST_FILE) for p in problems):
                problems.append(f"{MANIFEST_FILE} is missing")
    except OSError as e:
        raise InputError(
            f"cannot read {e.filename or bundle}: {e.strerror}", "check the path and its permissions"
        ) from e
    return [_printable(p) for p in problems], manifest


def _printable(text: str) -> str:
    """Names from outside on one line, whatever they hold."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _compare(
    bundle: Path, files: dict[str, _File], problems: list[str], top: str
) -> tuple[list[str], dict[str, Any]]:
    raw = files[MANIFEST_FILE].read()
    found, manifest = _check_manifest(bundle, raw)
    if found:
        return [*problems, *found], {}
    listed = {str(f["path"]): f for f in manifest["files"]}
    problems += [f"{path} is missing" for path in sorted(listed.keys() - files.keys())]
    for path in sorted(listed.keys() & files.keys()):
        if files[path].size_bytes != listed[path]["size_bytes"]:
            problems.append(
                f"{path} has {files[path].size_bytes} bytes, released with {listed[path]['size_bytes']}"
            )
        elif files[path].sha256() != listed[path]["sha256"]:
            problems.append(f"{path} was changed: its SHA-256 is not the manifest's")
    unlisted = sorted(files.keys() - listed.keys() - {MANIFEST_FILE})
    problems += [f"{path} is not in the manifest" for path in unlisted]
    if not problems:
        problems += _check_story(files, listed, manifest)
    if not problems and not bundle.is_dir():
        problems += _check_layout(bundle, [MANIFEST_FILE, *sorted(listed)], files, top)
    return problems, manifest


def _check_manifest(bundle: Path, raw: bytes) -> tuple[list[str], dict[str, Any]]:
    """Problems of the manifest itself; it is in canonical form, so any changed byte shows."""
    try:
        manifest = json.loads(raw)
    except (ValueError, RecursionError):
        return [f"{MANIFEST_FILE} was changed: it is not JSON"], {}
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != MANIFEST_SCHEMA:
        kind, _, version = str(schema).rpartition("/")
        if kind == MANIFEST_SCHEMA.rpartition("/")[0] and version.isdecimal() and int(version) > 1:
            raise EvidenceError(
                f"{bundle} has a manifest of schema {schema!r}, this version reads {MANIFEST_SCHEMA!r}",
                "verify it with the EdgeKD version that released it",
            )
        return [f"{MANIFEST_FILE} has schema {schema!r}, expected {MANIFEST_SCHEMA!r}"], {}
    try:
        if manifest_bytes(manifest) != raw or manifest["digest"] != manifest_digest(manifest):
            return [f"{MANIFEST_FILE} was changed: it does not match its own digest"], {}
    except (KeyError, TypeError, ValueError, RecursionError):
        return [f"{MANIFEST_FILE} was changed: it has no digest"], {}
    if manifest.get("signature") is not None:
        return [f"{MANIFEST_FILE} is signed, which this version cannot check"], {}
    files = manifest.get("files")
    if not isinstance(files, list) or not all(k in manifest for k in ("name", "decision", "edgekd")):
        return [f"{MANIFEST_FILE} is not whole"], {}
    problems = []
    paths = []
    for entry in files:
        if not isinstance(entry, dict) or not isinstance(entry.get("size_bytes"), int):
            return [f"{MANIFEST_FILE} is not whole"], {}
        if problem := path_problem(entry.get("path")):
            problems.append(f"{MANIFEST_FILE}: {problem}")
        elif entry["path"] == MANIFEST_FILE:
            problems.append(f"{MANIFEST_FILE} lists itself")
        paths.append(str(entry.get("path")))
    if len(set(paths)) != len(paths) or paths != sorted(paths):
        problems.append(f"{MANIFEST_FILE} lists a path twice or out of order")
    return problems, manifest


def _check_story(files: dict[str, _File], listed: dict[str, Any], manifest: dict[str, Any]) -> list[str]:
    """The verdict must say what the manifest says, of the evidence that is here."""
    if "verdict.json" not in files:
        return ["verdict.json is missing"]
    try:
        verdict = json.loads(files["verdict.json"].read())
        decision, evidence = verdict["decision"], dict(verdict["evidence"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ["verdict.json is not a verdict"]
    if decision != manifest["decision"]:
        return [f"verdict.json says {decision!r}, the manifest {manifest['decision']!r}"]
    if decision != "pass":
        return [f"verdict.json says {decision!r}: such a run is not released"]
    for path, digest in sorted(evidence.items()):
        if path not in listed:
            return [f"{path} is missing, on which the verdict rests"]
        if f"sha256:{listed[path]['sha256']}" != digest:
            return [f"{path} is not the evidence on which the verdict rests"]
    return []


def _walk(folder: Path) -> tuple[dict[str, _File], list[str]]:
    """Regular files below a folder; links, specials and empty folders are problems."""
    files: dict[str, _File] = {}
    problems: list[str] = []
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        entries = sorted(here.iterdir())
        if not entries and here != folder:
            problems.append(f"{here.relative_to(folder).as_posix()} is a folder that was not released")
        for entry in entries:
            name = entry.relative_to(folder).as_posix()
            status = entry.lstat()
            if stat.S_ISLNK(status.st_mode):
                problems.append(f"{name} is a link")
            elif stat.S_ISDIR(status.st_mode):
                waiting.append(entry)
            elif not stat.S_ISREG(status.st_mode):
                problems.append(f"{name} is not a plain file")
            elif status.st_nlink > 1:
                problems.append(f"{name} is a hard link: it can change from outside the bundle")
            else:
                files[name] = _File(status.st_size, _opener(entry))
    return files, sorted(problems)


def _opener(path: Path) -> Callable[[], BinaryIO]:
    return lambda: path.open("rb")


def _scan(archive: Path) -> tuple[dict[str, _File], list[str], str]:
    """Regular files of a tar below its one folder, found without extracting anything."""
    files: dict[str, _File] = {}
    problems: list[str] = []
    top = ""
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if problem := path_problem(member.name):
                    problems.append(problem)
                    continue
                head, _, name = member.name.partition("/")
                top = top or head
                if not member.isreg() or member.issparse():
                    kind = "a link" if member.issym() or member.islnk() else "not a plain file"
                    problems.append(f"{name or head} is {kind}")
                elif head != top or not name:
                    problems.append(f"{member.name} lies outside the bundle's folder '{top}'")
                elif name in files:
                    problems.append(f"{name} is in the archive twice")
                else:
                    files[name] = _File(member.size, _opener(archive), member.offset_data)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as e:
        last = max(files, key=lambda f: files[f].offset, default=archive.name)
        problems.append(f"{last}: the archive is damaged there or after it ({e})")
    return files, problems, top


def _check_layout(archive: Path, order: list[str], files: dict[str, _File], top: str) -> list[str]:
    """Headers, order and padding must be those that ``release`` writes: no byte of the tar is free."""
    with archive.open("rb") as source:
        for path in order:
            size = files[path].size_bytes
            header = tar_header(f"{top}/{path}", size)
            if source.read(len(header)) != header:
                return [f"{path}: its header in the archive was changed or is out of order"]
            source.seek(size, 1)
            if any(source.read(padding(size))):
                return [f"{path}: the padding after it in the archive was changed"]
        end = source.tell() + 2 * BLOCK
        rest = source.read(RECORD + 2 * BLOCK + 1)
        if rest != bytes(2 * BLOCK + padding(end, RECORD)):
            return [f"{order[-1]}: the end of the archive after it was changed"]
    return []
