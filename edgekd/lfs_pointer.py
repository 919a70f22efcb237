"""Git LFS pointers, told from the files that they stand for."""

from __future__ import annotations

from pathlib import Path

from edgekd.errors import DataError, EdgeKDError

#: First line and size limit of a pointer file (git-lfs, docs/spec.md); the older name is still read by it.
_VERSIONS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
LARGEST_POINTER = 1024


def is_pointer(data: bytes) -> bool:
    """Whether these bytes are a pointer file, or its beginning.

    >>> is_pointer(b"version https://git-lfs.github.com/spec/v1\\noid sha256:00\\nsize 5\\n")
    True
    """
    return len(data) <= LARGEST_POINTER and data.startswith(_VERSIONS)


def is_pointer_file(path: Path) -> bool:
    """Whether a file is a pointer; False where there is no file, or none that can be read."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_POINTER:
            return False
        return is_pointer(path.read_bytes())
    except (OSError, ValueError):
        return False


def refuse_pointer_file(path: Path, kind: type[EdgeKDError] = DataError) -> None:
    """A pointer is not the file that it stands for.

    Raises:
        DataError: ``path`` is one; or another ``kind`` of error.
    """
    if is_pointer_file(path):
        raise kind(f"{path} is a Git LFS pointer, not the file", "run `git lfs pull`")
