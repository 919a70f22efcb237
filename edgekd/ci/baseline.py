"""Where a gate's baseline comes from: a path, a git ref or a release asset. Always a model, never a stored number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekd.ci.api import Api
from edgekd.ci.gitref import read_ref
from edgekd.ci.lfs import resolve_pointer
from edgekd.ci.release_asset import read_asset
from edgekd.errors import PolicyError, UsageError
from edgekd.files import building, digest_of, sha256_file
from edgekd.lfs_pointer import is_pointer_file

_FORMS = "PATH, ref:REF:PATH, release:latest:FILE or release:TAG:FILE, each with @sha256:DIGEST if wanted"
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a baseline is.

    Attributes:
        kind: ``path``, ``ref`` or ``release``.
        at: the ref or the release's tag; empty for a path.
        file: the path, or the asset's name.
        sha256: what the file must have; empty where nothing was asked.
    """

    kind: Literal["path", "ref", "release"]
    at: str
    file: str
    sha256: str = ""

    @property
    def is_model_name(self) -> bool:
        """``zoo:`` and ``python:`` models are no files."""
        return self.kind == "path" and self.file.startswith(("zoo:", "python:"))


def parse_source(text: str) -> Source:
    """Read a baseline as it is written on the command line.

    >>> parse_source("ref:main:models/student.onnx")
    Source(kind='ref', at='main', file='models/student.onnx', sha256='')

    Raises:
        UsageError: none of the forms.
    """
    rest, found, digest = text.partition("@sha256:")
    if found and not _DIGEST.fullmatch(digest):
        raise UsageError(f"{digest!r} is not a SHA-256 of 64 hex digits", f"write the baseline as {_FORMS}")
    kind, _, where = rest.partition(":")
    if kind in ("ref", "release"):
        at, _, file = where.partition(":")
        if not at or not file:
            raise UsageError(f"the baseline {text!r} is not whole", f"write it as {_FORMS}")
        if kind == "release" and ("/" in file or file in (".", "..")):
            raise UsageError(f"{file!r} is not the name of a release asset", "an asset's name has no folder")
        return Source(kind="ref" if kind == "ref" else "release", at=at, file=file, sha256=digest)
    if not rest:
        raise UsageError("the baseline is empty", f"write it as {_FORMS}")
    return Source(kind="path", at="", file=rest, sha256=digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A baseline that was looked for.

    Attributes:
        reference: what `--baseline` takes; where nothing was found, a path that does not exist.
        found: whether it is there.
    """

    reference: str
    found: bool


def fetch_baseline(
    source: Source, into: Path, *, repository: Path, environ: Mapping[str, str], api: Api | None = None
) -> Baseline:
    """Bring a baseline to this machine. A path stays where it is; the others are written below ``into``.

    Args:
        source: where it is.
        into: a folder; a baseline gets a folder of its own in it, which is replaced.
        repository: the checkout that refs and paths are of.
        environ: the job's environment: tokens, addresses.

    Raises:
        UsageError: a wrong ref, tag or repository. InfrastructureError: network, git or git-lfs failed.
        PolicyError: the file is not the one whose SHA-256 was given.
    """
    if source.is_model_name:
        return Baseline(reference=source.file, found=True)
    own = into.resolve() / digest_of([source.kind, source.at, source.file]).removeprefix("sha256:")[:16]
    target = own / Path(source.file.rstrip("/")).name
    if source.kind == "path" and not is_pointer_file(repository / source.file):
        path = repository / source.file
        if path.exists():
            _check_digest(source, path)
        return Baseline(reference=source.file, found=path.exists())
    # Replaces what an earlier job left there: that is not this job's baseline.
    with building(own) as root:
        new = root / target.name
        if source.kind == "path":
            pointer = (repository / source.file).read_bytes()
            resolve_pointer(pointer, new, repository=repository, environ=environ, name=source.file)
            found = True
        elif source.kind == "ref":
            found = read_ref(source.at, source.file, new, repository=repository, environ=environ)
        else:
            found = read_asset(source.at, source.file, new, environ=environ, api=api)
        if found:
            _check_digest(source, new)
    return Baseline(reference=str(target), found=found)


def _check_digest(source: Source, path: Path) -> None:
    if not source.sha256:
        return
    if not path.is_file():
        raise UsageError(f"{source.file} is a folder, and a SHA-256 is of a file", "leave @sha256: out")
    got = sha256_file(path)
    if got != source.sha256:
        raise PolicyError(
            f"the baseline {source.file} has sha256:{got}, expected sha256:{source.sha256}",
            "correct the digest, or find out who changed the file",
        )
