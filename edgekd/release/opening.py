"""A bundle as a model, or as a run: verified first, unpacked after that, never written into."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgekd.artifact import Artifact, load_artifact
from edgekd.errors import EvidenceError, PolicyError, UsageError
from edgekd.evidence.run import RUN_FILE, Run, load_run
from edgekd.files import building, read_json, write_json
from edgekd.release.declared import PROVENANCE_FILE, PROVENANCE_SCHEMA
from edgekd.release.manifest import MANIFEST_FILE, MANIFEST_SCHEMA
from edgekd.release.trust import Trust, read_trust
from edgekd.release.verify import Verified, verify
from edgekd.release.verify_files import FoundFile, scan_tar
from edgekd.release.verify_signature import SIGNATURE_FILE
from edgekd.stages import default_cache_root

#: What of a bundle is a run: judged and reported again. The rest is about the bundle.
_RUN_PARTS = ("artifacts", "evidence", "run.json", "recipe.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBundle:
    """A bundle that was verified.

    Attributes:
        path: as it was named; folder: its files, for a .tar in the cache.
        verified: what was found.
    """

    path: Path
    folder: Path
    verified: Verified


def is_bundle(path: Path) -> bool:
    """Whether a path is a bundle: a .tar, or a folder whose ``manifest.json`` is of EdgeKD."""
    if path.is_file():
        return path.suffix == ".tar"
    try:
        value = json.loads((path / MANIFEST_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        # A manifest beside a run is a bundle's, however damaged: `verify` says what is wrong with it.
        return (path / MANIFEST_FILE).is_file() and (path / "run.json").is_file()
    kind = MANIFEST_SCHEMA.rpartition("/")[0]
    schema = value.get("schema") if isinstance(value, dict) else None
    return str(schema).startswith(f"{kind}/") or (path / "run.json").is_file()


def open_bundle(path: Path, *, trust: Trust | None = None, cache: Path | None = None) -> OpenBundle:
    """Verify a bundle and make its files readable.

    A .tar is unpacked, after it was verified, into the cache under the digest of its content, and verified there
    again; what is there already is verified before it is used.

    Args:
        path: folder or .tar.
        trust: keys that must have signed; None: those of the environment (:func:`edgekd.release.trust.read_trust`).
        cache: the cache's root; None: the default one.

    Raises:
        PolicyError: it is not as released, or not signed by a trusted key; EvidenceError: not a bundle, or newer.
    """
    trust = read_trust(os.environ) if trust is None else trust
    verified = verify(path, trust=trust)
    if path.is_dir():
        return OpenBundle(path=path, folder=path, verified=verified)
    files, problems, _ = scan_tar(path)
    if problems:
        raise PolicyError(f"{path} changed while it was opened", "get the bundle again", "bundle-archive")
    signature = files[SIGNATURE_FILE].read() if SIGNATURE_FILE in files else b""
    name = hashlib.sha256(verified.digest.encode() + signature).hexdigest()
    folder = (cache or default_cache_root(os.environ)) / "bundles" / name
    if not _is_same(folder, trust, verified.digest):
        with building(folder) as out:
            _unpack(files, out)
            if verify(out, trust=trust).digest != verified.digest:
                raise PolicyError(
                    f"{path} changed while it was unpacked", "get the bundle again", "bundle-archive"
                )
    return OpenBundle(path=path, folder=folder, verified=verified)


def _is_same(folder: Path, trust: Trust, digest: str) -> bool:
    """Whether the cache holds that bundle, whole."""
    if not (folder / MANIFEST_FILE).is_file():
        return False
    try:
        return verify(folder, trust=trust).digest == digest
    except (PolicyError, EvidenceError):
        return False


def _unpack(files: Mapping[str, FoundFile], out: Path) -> None:
    """Write plain files, whose paths were found to stay inside."""
    for name, found in files.items():
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as sink:
            for chunk in found.chunks():
                sink.write(chunk)


def artifact_of(
    bundle: OpenBundle, *, formats: Sequence[str] = (), target: str = "", role: str = "model"
) -> Artifact:
    """The artifact of a bundle that a target opens.

    Args:
        formats: what the caller opens, the best first; empty: any.
        target: ``device:runtime``; the artifact that was selected for it goes before others of a format.

    Raises:
        UsageError: the bundle holds several and nothing says which.
    """
    folders = {p.name: p for p in sorted((bundle.folder / "artifacts").iterdir()) if p.is_dir()}
    artifacts = {name: load_artifact(folder) for name, folder in folders.items()}
    if not artifacts:
        raise UsageError(f"{bundle.path} holds no artifact", "name a model file")
    selected = _selected(bundle.folder)
    openable = {n: a for n, a in artifacts.items() if not formats or a.format in formats}
    for artifact in openable.values():
        if artifact.digest == selected.get(target):
            return artifact
    if not openable:
        # Some other format may be converted, an ONNX file before all.
        openable = {n: a for n, a in artifacts.items() if a.format == "onnx"} or artifacts
    best = min(_rank(formats, a.format) for a in openable.values())
    left = {n: a for n, a in openable.items() if _rank(formats, a.format) == best}
    if len(left) > 1:
        raise UsageError(
            f"{bundle.path} holds {len(left)} artifacts that would do as the {role}: {', '.join(left)}",
            f"name one of them: {bundle.folder / 'artifacts' / next(iter(left))}",
        )
    return next(iter(left.values()))


def _rank(formats: Sequence[str], name: str) -> int:
    return list(formats).index(name) if name in formats else len(formats)


def _selected(folder: Path) -> dict[str, str]:
    """Target -> digest of the verdict."""
    try:
        value = json.loads((folder / "verdict.json").read_bytes())["selected"]
        return {str(k): str(v) for k, v in value.items()}
    except (OSError, ValueError, KeyError, AttributeError, RecursionError) as e:
        raise EvidenceError(
            f"{folder}/verdict.json names no selected artifact ({e!r})", "release it again"
        ) from e


def run_of(bundle: OpenBundle) -> Run:
    """The run in a bundle, with the provenance that was declared at release where its own index declares none.

    Raises:
        EvidenceError: a damaged index or provenance.
    """
    run = load_run(bundle.folder)
    stated = bundle.folder / PROVENANCE_FILE
    if isinstance(run.provenance.get("declared"), dict) or not stated.is_file():
        return run
    document = read_json(stated, PROVENANCE_SCHEMA)
    kept = ("declared", "records", "terms", "given_by")
    return replace(run, provenance={key: document.get(key) for key in kept})


def copy_run(bundle: OpenBundle, out: Path) -> None:
    """Copy what of a bundle is a run, as :func:`run_of` has it, into a folder: it can be judged and reported there."""
    for name in _RUN_PARTS:
        source = bundle.folder / name
        if source.is_dir():
            shutil.copytree(source, out / name)
        elif source.is_file():
            shutil.copyfile(source, out / name)
    run = run_of(bundle)
    if run.provenance:
        index = json.loads((out / RUN_FILE).read_bytes())
        if index.get("provenance") != run.provenance:
            write_json(out / RUN_FILE, {**index, "provenance": run.provenance})


def is_trusted(path: Path) -> bool:
    """Whether a file lies in a bundle that is sound and signed by a trusted key of the environment."""
    trust = read_trust(os.environ)
    if not trust.keys:
        return False
    for folder in path.resolve().parents:
        if (folder / MANIFEST_FILE).is_file() and (folder / SIGNATURE_FILE).is_file():
            try:
                return verify(folder, trust=trust).trusted
            except (PolicyError, EvidenceError):
                return False
    return False
