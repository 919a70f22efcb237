"""The smallest bundle that `verify` accepts, as a folder and as a .tar, and its manifest made to fit what was changed."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekd.release.manifest import manifest_bytes, manifest_digest, tar_header

_EVIDENCE = b"{}\n"
_DIGEST = "sha256:" + "a" * 64


def small_bundle(folder: Path) -> Path:
    """A run and a verdict that passed, an artifact, one piece of evidence and their manifest, in ``folder``."""
    (folder / "evidence").mkdir(parents=True)
    (folder / "evidence/a.json").write_bytes(_EVIDENCE)
    (folder / "artifacts/a").mkdir(parents=True)
    (folder / "artifacts/a/artifact.json").write_text(json.dumps({"digest": _DIGEST}))
    same = {"selected": {"cpu": _DIGEST}, "optional": [], "collected_at": ""}
    run = {"schema": "edgekd.run/1", "name": "b", "artifacts": {_DIGEST: {}}, "candidates": [], **same}
    (folder / "run.json").write_text(json.dumps(run))
    gate = {"gate": "size", "decision": "pass", "target": "cpu", "artifact": _DIGEST}
    verdict = {
        "schema": "edgekd.verdict/1", "decision": "pass", "gates": [gate], "candidates": [], **same,
        "not_run": [], "policy": {"size": {"max_mib": 1}}, "environment": {}, "edgekd": "0.1.0",
        "evidence": {"evidence/a.json": "sha256:" + hashlib.sha256(_EVIDENCE).hexdigest()},
    }  # fmt: skip
    (folder / "verdict.json").write_text(json.dumps(verdict))
    seal(folder)
    return folder


def seal(bundle: Path, change: Callable[[Any], Any] | None = None) -> None:
    """Write a manifest over what is there; ``change`` edits it before its digest is made, as a forger would."""
    found = sorted(p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file())
    files = [
        {
            "path": name,
            "size_bytes": (bundle / name).stat().st_size,
            "sha256": hashlib.sha256((bundle / name).read_bytes()).hexdigest(),
        }
        for name in found
        if name != "manifest.json"
    ]
    manifest: Any = {
        "schema": "edgekd.manifest/1", "name": "b", "edgekd": "0.1.0", "decision": "pass", "files": files,
        "attestations": [], "bom": None, "signature": None,
    }  # fmt: skip
    if change is not None:
        manifest = change(manifest)
    try:
        if isinstance(manifest, dict):
            manifest = {**manifest, "digest": manifest_digest(manifest)}
        text = manifest_bytes(manifest)
    except (ValueError, TypeError, RecursionError):  # nothing that a manifest could hold
        text = json.dumps(manifest).encode()
    (bundle / "manifest.json").write_bytes(text)


def as_tar(bundle: Path) -> bytes:
    """The bundle's one .tar."""
    names = sorted(p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file())
    out = b""
    for name in ("manifest.json", *(n for n in names if n != "manifest.json")):
        data = (bundle / name).read_bytes()
        out += tar_header(f"b/{name}", len(data)) + data + bytes(-len(data) % tarfile.BLOCKSIZE)
    return out + bytes(1024 + -(len(out) + 1024) % tarfile.RECORDSIZE)
