"""The manifest of a bundle and its .tar form. Standard library only: `verify` must run anywhere.

Both forms are canonical: one set of files has one manifest and one tar, byte for byte. So a changed byte is seen
wherever it is, in a file, in the manifest or between the files of the tar.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

MANIFEST_SCHEMA = "edgekd.manifest/1"
MANIFEST_FILE = "manifest.json"

#: Kept from the first version, always null: a signature lies beside the manifest, in ``model.sig``.
RESERVED: Mapping[str, Any] = {"signature": None}

#: A tar ends with two empty blocks, padded to a whole record.
BLOCK = tarfile.BLOCKSIZE
RECORD = tarfile.RECORDSIZE


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """The one serialisation of a manifest."""
    return (
        json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    ).encode()


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """``sha256:…`` over everything but the digest itself and the signature."""
    body = {k: v for k, v in manifest.items() if k not in ("digest", "signature")}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def make_manifest(
    name: str,
    version: str,
    decision: str,
    files: Iterable[Mapping[str, Any]],
    *,
    attestations: Iterable[str] = (),
    bom: str | None = None,
) -> dict[str, Any]:
    """A manifest over ``files`` (path, size_bytes, sha256), sorted by path.

    Args:
        attestations, bom: paths of the statements and of the bill of materials among the files.
    """
    manifest: dict[str, Any] = {
        "schema": MANIFEST_SCHEMA,
        "name": name,
        "edgekd": version,
        "decision": decision,
        "files": sorted((dict(f) for f in files), key=lambda f: str(f["path"])),
        "attestations": sorted(attestations),
        "bom": bom,
        **RESERVED,
    }
    return {**manifest, "digest": manifest_digest(manifest)}


def path_problem(path: object) -> str:
    """Why a path may not stand in a bundle; empty when it may."""
    if not isinstance(path, str) or not path:
        return f"{path!r} is no path"
    pure = PurePosixPath(path)
    if pure.is_absolute() or "\\" in path or (len(path) > 1 and path[1] == ":"):
        return f"{path!r} is not a relative POSIX path"
    if ".." in pure.parts or str(pure) != path or path == ".":
        return f"{path!r} leads out of the bundle or is not in plain form"
    if any(ord(c) < 32 or ord(c) == 127 for c in path):
        return f"{path!r} holds a control character"
    return ""


def tar_header(path: str, size_bytes: int) -> bytes:
    """The header of a regular file: mode 0644, no owner, no time."""
    info = tarfile.TarInfo(path)
    info.size = size_bytes
    info.mode = 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def padding(size_bytes: int, unit: int = BLOCK) -> int:
    """Zero bytes after content of that size."""
    return -size_bytes % unit
