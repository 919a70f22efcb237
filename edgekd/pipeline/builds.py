"""Several builds of one model: a builder that chooses by timing need not make the same file twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from edgekd.artifact import Artifact, FileRecord, record_file
from edgekd.errors import ModelError
from edgekd.measure.arm import BUILD_OF


def other_builds(label: str, artifact: Artifact) -> list[tuple[str, Artifact]]:
    """The builds that lie beside an artifact's own file, as artifacts that say whose builds they are.

    An exporter that builds more than once lists every file in ``lineage["builds"]["files"]``, the entry first.

    Returns:
        (label, artifact) of each but the first; empty where there was one build.

    Raises:
        ModelError: one is missing, altered, or outside the folder.
    """
    builds = artifact.lineage.get("builds")
    listed = builds.get("files", ()) if isinstance(builds, Mapping) else ()
    return [
        (f"{label} (build {number})", _build(artifact, listed_file))
        for number, listed_file in enumerate(listed, start=1)
        if listed_file["path"] != artifact.entry
    ]


def _build(artifact: Artifact, listed: Mapping[str, Any]) -> Artifact:
    path = PurePosixPath(str(listed["path"]))
    if path.is_absolute() or ".." in path.parts:
        raise ModelError(f"{artifact.folder} names a build outside its folder: {path}", "do not use it")
    if not (artifact.folder / path).is_file():
        raise ModelError(f"{artifact.folder / path} is missing", "build the engine again")
    found = record_file(artifact.folder, str(path))
    if found.sha256 != listed["sha256"]:
        raise ModelError(
            f"{artifact.folder / path} was altered: sha256 {found.sha256[:12]}…, recorded {str(listed['sha256'])[:12]}…",
            "build the engine again",
        )
    return replace(
        artifact,
        entry=str(path),
        files=_files_of(artifact, path),
        lineage={**artifact.lineage, BUILD_OF: artifact.digest},
        prepare={},
    )


def _files_of(artifact: Artifact, entry: PurePosixPath) -> tuple[FileRecord, ...]:
    """A build's file with what lies in its folder: its own record, external data, what a stripped plan is refitted from.

    In the artifact's own folder, which is the first build's, only files that carry its name are its own.
    """
    folder = artifact.folder / entry.parent
    beside = folder.glob(f"{entry.name}*") if entry.parent == PurePosixPath() else folder.rglob("*")
    names = {p.relative_to(artifact.folder).as_posix() for p in beside if p.is_file()}
    return tuple(record_file(artifact.folder, name) for name in sorted({str(entry), *names}))
