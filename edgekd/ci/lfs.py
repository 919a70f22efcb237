"""Git LFS pointers: refused as models and data, and turned into what they point to."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from edgekd.errors import InfrastructureError, MissingDependencyError, ModelError
from edgekd.files import sha256_file
from edgekd.lfs_pointer import is_pointer_file

_TIMEOUT_S = 1800.0
_OID = re.compile(rb"^oid sha256:([0-9a-f]{64})$", re.M)


def refuse_pointer(path: Path, role: str) -> None:
    """A pointer is no model and no data.

    Args:
        role: what it is; may be empty.
        path: a file, or a folder whose files are looked at; nothing is said of what is not there.

    Raises:
        ModelError: it is a pointer file, or holds one.
    """
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    for file in files:
        if is_pointer_file(file):
            raise ModelError(
                f"{f'the {role} ' if role else ''}{file} is a Git LFS pointer of {file.stat().st_size} bytes, not the file",
                "check out with `lfs: true`, or run `git lfs pull`",
            )


def resolve_pointer(
    pointer: bytes, target: Path, *, repository: Path, environ: Mapping[str, str], name: str
) -> None:
    """Write what a pointer stands for, by ``git lfs smudge``, and check it against the pointer's SHA-256.

    Args:
        pointer: the pointer file's bytes.
        target: the file to write.
        repository: a checkout of the repository that the pointer is from.
        environ: of the git processes.
        name: how errors call it.

    Raises:
        MissingDependencyError: git-lfs is not installed.
        InfrastructureError: the object cannot be had, or is not the one that the pointer names.
    """
    found = _OID.search(pointer)
    if found is None:
        raise InfrastructureError(
            f"{name} is a Git LFS pointer without an oid", "commit the file again with git-lfs"
        )
    # Set, git-lfs would hand the pointer back.
    env = {**environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    env.pop("GIT_LFS_SKIP_SMUDGE", None)
    if subprocess.run(["git", "lfs", "version"], cwd=repository, env=env, capture_output=True).returncode:
        raise MissingDependencyError(
            f"{name} is kept in Git LFS, and git-lfs is not installed",
            "install git-lfs on the runner, or name a release asset as the baseline",
        )
    try:
        with target.open("wb") as file:
            done = subprocess.run(
                ["git", "lfs", "smudge"], cwd=repository, env=env, input=pointer, stdout=file,
                stderr=subprocess.PIPE, timeout=_TIMEOUT_S,
            )  # fmt: skip
    except subprocess.TimeoutExpired as e:
        raise InfrastructureError(
            f"git lfs gave no {name} within {_TIMEOUT_S:g} s", "check the network"
        ) from e
    got = sha256_file(target)
    if done.returncode or got != found.group(1).decode():
        target.unlink()
        said = (
            last_line(done.stderr)
            or f"it gave sha256:{got[:12]}…, not sha256:{found.group(1).decode()[:12]}…"
        )
        raise InfrastructureError(
            f"git lfs cannot fetch {name} ({said})", "check the runner's access to the LFS server"
        )


def last_line(output: bytes) -> str:
    """The last line of a program's complaint that says something, at most 300 characters."""
    lines = [" ".join(line.split()) for line in output.decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")[:300]
