"""One look into one file."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.errors import ModelError
from edgekd.files import sha256_file
from edgekd.inspect.formats import ENDINGS, pick
from edgekd.inspect.limits import LIMITS, Limits
from edgekd.inspect.rules import refuse
from edgekd.lfs_pointer import refuse_pointer_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was found.

    Attributes:
        path: the file as it was named.
        format: name of the format.
        size_bytes: of the file.
        sha256: of its bytes, 64 hex digits; empty where it was not asked for.
        facts: what the format's inspector says, as plain JSON values.
        files: other files that it reaches -> size in bytes.
    """

    path: Path
    format: str
    size_bytes: int
    sha256: str
    facts: Mapping[str, Any]
    files: Mapping[Path, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As ``edgekd inspect --json`` prints it."""
        return {
            "path": str(self.path),
            "format": self.format,
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
            "facts": dict(self.facts),
            "files": [{"path": str(p), "size_bytes": n} for p, n in self.files.items()],
        }


def inspect_file(path: Path, *, limits: Limits = LIMITS, digest: bool = True) -> Inspection:
    """Look into a file from outside before any library opens it.

    Args:
        path: a model or data file; links to it are followed, since the user named it.
        limits: caps on size and count.
        digest: hash it too, which reads it whole.

    Raises:
        PolicyError: a rule of :data:`edgekd.inspect.RULES` is broken; its ``rule`` says which.
        ModelError: missing, unreadable, empty, a Git LFS pointer, or a file that it needs is missing.
    """
    with _mapped(path, limits) as data:
        found = pick(path, data)
        facts = dict(found.inspector()(path, data, limits))
        size = len(data)
    return Inspection(
        path=path,
        format=found.name,
        size_bytes=size,
        sha256=sha256_file(path) if digest else "",
        files=dict(facts.pop("files", ())),
        facts=facts,
    )


def inspect_folder(path: Path, *, limits: Limits = LIMITS) -> tuple[Inspection, ...]:
    """Look into every model and data file directly in a folder, by name.

    Raises:
        PolicyError, ModelError: of the first file that is refused.
    """
    names = sorted(p for p in path.iterdir() if p.suffix.lower() in ENDINGS and not p.is_dir())
    # An OpenVINO .bin holds weights and no pickle: its .xml speaks for it.
    beside = {p.with_suffix(".bin") for p in names if p.suffix.lower() == ".xml"}
    return tuple(inspect_file(p, limits=limits) for p in names if p not in beside)


@contextlib.contextmanager
def _mapped(path: Path, limits: Limits) -> Iterator[memoryview]:
    try:
        # Looked at before it is opened: opening a pipe waits for its writer.
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ModelError(f"{path} is a folder, not a file", "name a file in it")
        if not stat.S_ISREG(mode):
            raise refuse("irregular-file", path, "it is no plain file", "name a file")
        file = path.open("rb")
    except (OSError, ValueError) as e:
        if isinstance(e, FileNotFoundError):
            raise ModelError(f"{path} does not exist", "check the path") from e
        reason = e.strerror if isinstance(e, OSError) else e
        raise ModelError(f"cannot read {path}: {reason}", "check the path and its permissions") from e
    with file:
        size = os.fstat(file.fileno()).st_size
        refuse_pointer_file(path, ModelError)
        if size == 0:
            raise ModelError(f"{path} is empty", "export or copy it again")
        if size > limits.file_bytes:
            raise refuse("file-size", path, f"it has {size} bytes, at most {limits.file_bytes} are read")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    view = memoryview(mapped)
    try:
        yield view
    finally:
        # Slices that a traceback still holds keep the mapping; it goes with them.
        with contextlib.suppress(BufferError):
            view.release()
            mapped.close()
