"""The manifest of a bundle: is it whole, and does it list what was found? Standard library only."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.errors import EvidenceError
from edgekd.release.manifest import (
    MANIFEST_FILE,
    MANIFEST_SCHEMA,
    manifest_bytes,
    manifest_digest,
    path_problem,
)
from edgekd.release.verify_files import FoundFile, hash_files
from edgekd.release.verify_problem import Problem
from edgekd.release.verify_signature import SIGNATURE_FILE


def is_newer(schema: object, known: str) -> bool:
    """Whether a schema is of the known kind and of a higher number."""
    kind, _, version = str(schema).rpartition("/")
    mine, _, number = known.rpartition("/")
    return kind == mine and version.isdecimal() and version.isascii() and int(version[:9]) > int(number)


def newer(bundle: Path, name: str, schema: object, known: str) -> EvidenceError:
    """The refusal of a bundle that a later EdgeKD wrote."""
    return EvidenceError(
        f"{bundle} has a {name} of schema {str(schema)[:80]!r}, this version reads {known!r}",
        "verify it with the EdgeKD that released it",
    )


def read_manifest(bundle: Path, raw: bytes) -> tuple[list[Problem], dict[str, Any]]:
    """Problems of the manifest itself; it is in canonical form, so any changed byte shows.

    Raises:
        EvidenceError: a newer version wrote it.
    """

    def refused(text: str) -> tuple[list[Problem], dict[str, Any]]:
        return [Problem(MANIFEST_FILE, f"{MANIFEST_FILE} {text}", "bundle-manifest")], {}

    try:
        manifest = json.loads(raw)
    except (ValueError, RecursionError):
        return refused("was changed: it is not JSON")
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != MANIFEST_SCHEMA:
        if is_newer(schema, MANIFEST_SCHEMA):
            raise newer(bundle, "manifest", schema, MANIFEST_SCHEMA)
        return refused(f"has schema {schema!r}, expected {MANIFEST_SCHEMA!r}")
    try:
        if manifest_bytes(manifest) != raw or manifest["digest"] != manifest_digest(manifest):
            return refused("was changed: it does not match its own digest")
    except (KeyError, TypeError, ValueError, RecursionError):
        return refused("was changed: it has no digest")
    if manifest.get("signature") is not None:
        return refused("is signed inside, which no version does")
    files = manifest.get("files")
    said = [manifest.get(k) for k in ("name", "decision", "edgekd")]
    if not isinstance(files, list) or not all(isinstance(text, str) for text in said):
        return refused("is not whole")
    if any(unicodedata.category(c) == "Cc" for text in said for c in str(text)):
        return refused("holds control characters in its name, decision or version")
    problems: list[str] = []
    paths = []
    for entry in files:
        if not isinstance(entry, dict) or type(entry.get("size_bytes")) is not int:
            return refused("is not whole")
        if not isinstance(entry.get("sha256"), str):
            return refused("is not whole")
        if problem := path_problem(entry.get("path")):
            problems.append(f"{MANIFEST_FILE}: {problem}")
        elif entry["path"] in (MANIFEST_FILE, SIGNATURE_FILE):
            problems.append(
                f"{MANIFEST_FILE} lists {'itself' if entry['path'] == MANIFEST_FILE else SIGNATURE_FILE}"
            )
        paths.append(str(entry.get("path")))
    if len(set(paths)) != len(paths) or paths != sorted(paths):
        problems.append(f"{MANIFEST_FILE} lists a path twice or out of order")
    return [Problem(MANIFEST_FILE, p, "bundle-manifest") for p in problems], manifest


def compare_files(files: Mapping[str, FoundFile], manifest: Mapping[str, Any]) -> list[Problem]:
    """What is missing, changed or extra; ``model.sig`` is neither listed nor extra."""
    listed = {str(f["path"]): f for f in manifest["files"]}
    problems = [Problem(path, f"{path} is missing") for path in sorted(listed.keys() - files.keys())]
    same = sorted(listed.keys() & files.keys())
    sized = {p: files[p] for p in same if files[p].size_bytes == listed[p]["size_bytes"]}
    found = hash_files(sized)
    for path in same:
        if path not in sized:
            text = f"{path} has {files[path].size_bytes} bytes, released with {listed[path]['size_bytes']}"
        elif found[path] != listed[path].get("sha256"):
            text = f"{path} was changed: its SHA-256 is not the manifest's"
        else:
            continue
        problems.append(Problem(path, text))
    for path in sorted(files.keys() - listed.keys() - {MANIFEST_FILE, SIGNATURE_FILE}):
        problems.append(Problem(path, f"{path} is not in the manifest"))
    return problems


def signed_hashes(manifest: Mapping[str, Any], raw: bytes) -> dict[str, str]:
    """Path -> sha256 of all that a signature must cover: the listed files and the manifest."""
    listed = {str(f["path"]): str(f["sha256"]) for f in manifest["files"]}
    return {**listed, MANIFEST_FILE: hashlib.sha256(raw).hexdigest()}
