"""Artifacts: files on disk that a runtime can open, with their digests, specs and lineage."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from edgekd.documents import is_file_name
from edgekd.errors import EvidenceError, ModelError
from edgekd.files import digest_of, read_json, sha256_file, write_json
from edgekd.prepare import bring_files, carried_files, locate_inside, relative_prepare
from edgekd.spec import TensorSpec

ARTIFACT_SCHEMA = "edgekd.artifact/1"
ARTIFACT_FILE = "artifact.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """One file of an artifact: POSIX path relative to its folder, size in bytes, SHA-256 in hex."""

    path: str
    size_bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, "size_bytes": self.size_bytes, "sha256": self.sha256}


def record_file(folder: Path, name: str) -> FileRecord:
    """Measure one file of ``folder``.

    Raises:
        InputError: it cannot be read.
    """
    path = folder / name
    digest = sha256_file(path)
    return FileRecord(path=name, size_bytes=path.stat().st_size, sha256=digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A model that a runtime can open.

    Attributes:
        folder: where the files are.
        entry: the file that the runtime opens, relative to ``folder``.
        format: ``"onnx"``, ``"torch"``, ...: what exporters make and runtimes accept.
        dtype: precision in ONNX spelling: ``"float32"``, ``"int8"``, ...
        files: every file that belongs to it, sorted by path.
        inputs, outputs: the tensors at its boundary.
        prepare: how an example becomes feeds (the task's keys: ``mean``, ``layout``, ``tokenizer``, ...); files that it
            names belong to ``files``, wherever they are (:mod:`edgekd.prepare`).
        output: ``{"name": ..., "kind": "logits" | "probs"}`` of the output that holds the answer; may be empty.
        lineage: which model, recipe, calibration set and tool versions made it.
        settings: session settings chosen for it (graph level, arena); may be empty.
        tuned: target -> session settings that sweeps found best there; see :mod:`edgekd.tuned`.
    """

    folder: Path
    entry: str
    format: str
    dtype: str
    files: tuple[FileRecord, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    prepare: Mapping[str, Any] = field(default_factory=dict)
    output: Mapping[str, str] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The file that the runtime opens."""
        return self.folder / self.entry

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(f.size_bytes for f in self.files)

    @property
    def digest(self) -> str:
        """``sha256:…`` over format, entry and the files' digests: names the bytes, not the folder."""
        return digest_of(
            {"format": self.format, "entry": self.entry, "files": [[f.path, f.sha256] for f in self.files]}
        )

    @property
    def fixed_batch(self) -> int | None:
        """The batch size of a model that takes only one, else None."""
        sizes = {s.shape[0] for s in self.inputs if s.shape and isinstance(s.shape[0], int)}
        return int(next(iter(sizes))) if len(sizes) == 1 else None

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": ARTIFACT_SCHEMA,
            "digest": self.digest,
            "format": self.format,
            "entry": self.entry,
            "dtype": self.dtype,
            "size_bytes": self.size_bytes,
            "files": [f.to_json() for f in self.files],
            "inputs": [s.to_json() for s in self.inputs],
            "outputs": [s.to_json() for s in self.outputs],
            "prepare": relative_prepare(self.prepare, self.folder),
            "output": dict(self.output),
            "lineage": dict(self.lineage),
            "settings": dict(self.settings),
            "tuned": {target: [dict(r) for r in records] for target, records in self.tuned.items()},
        }

    def with_prepare(self, prepare: Mapping[str, Any]) -> Artifact:
        """The same model, prepared otherwise: the files of the old ``prepare`` go, those of the new one come.

        Raises:
            InputError: a file that cannot be read.
        """
        old = {name for name, _ in carried_files(self.prepare, self.folder).values()}
        records = [f for f in self.files if f.path not in old]
        for name, source in carried_files(prepare, self.folder).values():
            if name in {f.path for f in records}:
                raise ModelError(f"{source} has the name of another file of the model", "rename it")
            records.append(replace(record_file(source.parent, source.name), path=name))
        return replace(self, prepare=prepare, files=tuple(sorted(records, key=lambda f: f.path)))

    def file_path(self, name: str) -> Path:
        """Where the file of this name in ``files`` is; a recipe's tokenizer need not be in ``folder`` yet."""
        carried = dict(carried_files(self.prepare, self.folder).values())
        return carried.get(name, self.folder / name)

    def save(self) -> None:
        """Write ``artifact.json`` beside the files, and copy the files of ``prepare`` there."""
        whole = self.with_prepare(self.prepare)
        bring_files(whole.prepare, whole.folder)
        write_json(whole.folder / ARTIFACT_FILE, whole.to_json())

    def companions(self) -> tuple[str, ...]:
        """Files that ``lineage["companions"]`` (``[{"path", "sha256"}]``) names and that lie here; no part of the model.

        They may be gone, and the digest says nothing of them: whoever reads one compares its SHA-256 first.

        Raises:
            ModelError: one outside the folder.
        """
        names = [str(listed["path"]) for listed in self.lineage.get("companions", ())]
        for name in names:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ModelError(f"{self.folder} names the file {name!r} outside its folder", "do not use it")
        return tuple(name for name in names if (self.folder / name).is_file())

    def copy_to(self, folder: Path, *, companions: bool = False) -> Artifact:
        """Copy the files into ``folder`` (which exists) and write ``artifact.json`` there.

        Args:
            companions: copy :meth:`companions` as well; they may hold paths of this machine, evidence has none of them.
        """
        extra = self.companions() if companions else ()
        # A torch model's entry is its model.json, which does not count as a file of the model.
        for name in sorted({self.entry, *(f.path for f in self.files), *extra}):
            dst = folder / name
            dst.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.file_path(name), dst)
        prepare = {
            k: str(folder.resolve() / name)
            for k, (name, _) in carried_files(self.prepare, self.folder).items()
        }
        moved = replace(self, folder=folder, prepare={**self.prepare, **prepare})
        moved.save()
        return moved


def load_artifact(folder: Path, *, check: bool = True) -> Artifact:
    """Read an artifact folder back.

    Args:
        folder: holds ``artifact.json``.
        check: also compare every file's size and SHA-256.

    Raises:
        ModelError: a file is missing, altered or outside the folder; EvidenceError: no valid artifact.json.
    """
    value = read_json(folder / ARTIFACT_FILE, ARTIFACT_SCHEMA)
    try:
        files = tuple(
            FileRecord(path=str(f["path"]), size_bytes=int(f["size_bytes"]), sha256=str(f["sha256"]))
            for f in value["files"]
        )
        artifact = Artifact(
            folder=folder,
            entry=str(value["entry"]),
            format=str(value["format"]),
            dtype=str(value["dtype"]),
            files=files,
            inputs=tuple(TensorSpec.from_json(s) for s in value["inputs"]),
            outputs=tuple(TensorSpec.from_json(s) for s in value["outputs"]),
            prepare=dict(value.get("prepare", {})),
            output=value.get("output", {}),
            lineage=value.get("lineage", {}),
            settings=value.get("settings", {}),
            # Written since 0.2.
            tuned={str(t): [dict(r) for r in records] for t, records in dict(value.get("tuned", {})).items()},
        )
    except (KeyError, TypeError, ValueError) as e:
        raise EvidenceError(
            f"{folder / ARTIFACT_FILE} is incomplete ({e!r})", "export the model again"
        ) from e
    for name in (artifact.entry, *(f.path for f in files)):
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or not is_file_name(name):
            raise ModelError(
                f"{folder / ARTIFACT_FILE} names the file {name!r} outside its folder", "do not use it"
            )
    if not artifact.path.is_file():
        raise ModelError(f"{artifact.path} is missing", "export the model again")
    # A torch model's entry is its model.json, which does not count as a file of the model.
    if not files or (artifact.format != "torch" and artifact.entry not in {f.path for f in files}):
        raise EvidenceError(
            f"{folder / ARTIFACT_FILE} does not list {artifact.entry} among its files, so its digest says nothing of it",
            "export the model again",
        )
    if (recorded := value.get("digest")) is not None and recorded != artifact.digest:
        raise EvidenceError(
            f"{folder / ARTIFACT_FILE} records the digest {str(recorded)[:19]}…, its files make {artifact.digest[:19]}…",
            "export the model again",
        )
    for f in files:
        if not (folder / f.path).is_file():
            raise ModelError(f"{folder / f.path} is missing", "export the model again")
        if check and (found := record_file(folder, f.path)) != f:
            raise ModelError(
                f"{folder / f.path} was altered: sha256 {found.sha256[:12]}…, recorded {f.sha256[:12]}…",
                "export the model again",
            )
    return artifact.with_prepare(locate_inside(artifact.prepare, folder, ARTIFACT_FILE))
