"""A model as it is at a git ref, without touching the checkout."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from edgekd.ci.lfs import last_line, resolve_pointer
from edgekd.errors import InfrastructureError, UsageError
from edgekd.lfs_pointer import LARGEST_POINTER, is_pointer

_TIMEOUT_S = 1800.0
_SHA = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_UNSAFE = re.compile(r"^-|[\x00-\x20\x7f\\:?*\[]|\.\.|@\{")
#: Exit code of `git ls-remote --exit-code` where the remote answered and has no such ref (its manual page).
_NO_SUCH_REF = 2


def read_ref(ref: str, path: str, target: Path, *, repository: Path, environ: Mapping[str, str]) -> bool:
    """Write the file (or folder) ``path`` of ``ref`` to ``target``.

    A branch or tag of ``origin`` is fetched first, so that ``main`` is what it is now and a shallow checkout serves; a
    commit, ``origin/main`` or ``HEAD~1`` is what the checkout has.

    Args:
        ref: branch, tag, commit or revision.
        path: from the repository's root, with ``/``.
        target: the file or folder to write; its parent exists.
        repository: the checkout, or a folder in it.
        environ: of the git processes.

    Returns:
        False where the ref exists and has no such file.

    Raises:
        UsageError: no checkout, an unknown ref, a path that is neither file nor folder.
        InfrastructureError: the remote cannot be reached, or git failed.
    """
    if not ref or _UNSAFE.search(ref):
        raise UsageError(f"{ref!r} is not a git ref", "e.g. ref:main:models/student.onnx")
    parts = path.split("/")
    if not path or path.startswith("/") or ".." in parts:
        raise UsageError(f"{path!r} is not a path inside the repository", "e.g. ref:main:models/student.onnx")
    git = _Git(repository, environ)
    commit = git.commit(ref)
    name = f"{path} at {ref}"
    entries = git.entries(commit, path.rstrip("/"))
    if not entries:
        return False
    ((kind, digest, _),) = entries
    if kind == "blob":
        git.write(digest, target, name)
        return True
    if kind != "tree":
        raise UsageError(f"{name} is a {kind}, not a file", "name the file itself")
    root = path.rstrip("/") + "/"
    for kind, digest, inner in git.entries(commit, root, recursive=True):
        if kind != "blob":
            raise UsageError(f"{inner} at {ref} is a {kind}, not a file", "name a folder of plain files")
        file = target / inner.removeprefix(root)
        file.parent.mkdir(parents=True, exist_ok=True)
        git.write(digest, file, f"{inner} at {ref}")
    return True


class _Git:
    def __init__(self, repository: Path, environ: Mapping[str, str]) -> None:
        self.environ = {**environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        self.top = repository
        done = self._run("rev-parse", "--show-toplevel")
        if done.returncode:
            raise UsageError(
                f"{repository} is not a git checkout ({last_line(done.stderr)})",
                "check the repository out first, or name the baseline by its path",
            )
        self.top = Path(done.stdout.decode().rstrip("\n"))

    def _run(
        self, *arguments: str, stdout: int | IO[bytes] = subprocess.PIPE
    ) -> subprocess.CompletedProcess[bytes]:
        command = ["git", "--literal-pathspecs", *arguments]
        try:
            return subprocess.run(
                command,
                cwd=self.top,
                env=self.environ,
                stdout=stdout,
                stderr=subprocess.PIPE,
                timeout=_TIMEOUT_S,
            )
        except FileNotFoundError as e:
            raise InfrastructureError(
                "git is not installed, and the baseline is at a git ref", "install git on the runner"
            ) from e
        except subprocess.TimeoutExpired as e:
            raise InfrastructureError(
                f"git {arguments[0]} did not end within {_TIMEOUT_S:g} s", "check the network"
            ) from e

    def _ask(self, *arguments: str) -> bytes:
        done = self._run(*arguments)
        if done.returncode:
            raise self._failed(arguments[0], done.stderr)
        return done.stdout

    @staticmethod
    def _failed(verb: str, stderr: bytes) -> InfrastructureError:
        return InfrastructureError(
            f"git {verb} failed ({last_line(stderr)})",
            "check the runner's access to the repository (persist-credentials, fetch-depth)",
        )

    def _local(self, revision: str) -> str:
        done = self._run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        return "" if done.returncode else done.stdout.decode().strip()

    def commit(self, ref: str) -> str:
        remote = "origin" in self._ask("remote").decode().split()
        if _SHA.fullmatch(ref) or ref.startswith(("origin/", "refs/")):
            if found := self._local(ref):
                return found
            if remote and _SHA.fullmatch(ref):
                done = self._run("fetch", "--quiet", "--no-tags", *self._depth(), "origin", ref)
                if done.returncode == 0:
                    return self._local(ref)
                if b"not our ref" not in done.stderr:
                    raise self._failed("fetch", done.stderr)
        elif remote and not re.search(r"[~^@]|^HEAD$", ref):
            for full in (f"refs/heads/{ref}", f"refs/tags/{ref}"):
                done = self._run("ls-remote", "--exit-code", "origin", full)
                if done.returncode == _NO_SUCH_REF:
                    continue
                if done.returncode:
                    raise InfrastructureError(
                        f"git cannot ask origin for {ref} ({last_line(done.stderr)})",
                        f"check the runner's access, or fetch in the checkout step and name ref:origin/{ref}:…",
                    )
                self._ask("fetch", "--quiet", "--no-tags", *self._depth(), "origin", full)
                return self._local("FETCH_HEAD")
        if found := self._local(ref):
            return found
        raise UsageError(
            f"the ref {ref!r} does not exist in this repository", "correct the branch, tag or commit"
        )

    def _depth(self) -> list[str]:
        """Only a shallow checkout is fetched shallowly: --depth would cut a full one's history."""
        shallow = self._ask("rev-parse", "--is-shallow-repository").strip() == b"true"
        return ["--depth=1"] if shallow else []

    def entries(self, commit: str, path: str, *, recursive: bool = False) -> list[tuple[str, str, str]]:
        """(kind, digest, path) of what the commit has at ``path``."""
        flags = ["-r"] if recursive else []
        listed = self._ask("ls-tree", "-z", "--full-tree", *flags, commit, "--", path)
        found = []
        for line in filter(None, listed.split(b"\0")):
            head, _, name = line.partition(b"\t")
            mode, kind, digest = head.decode().split()
            kind = {"120000": "symbolic link", "160000": "submodule"}.get(mode, kind)
            found.append((kind, digest, name.decode(errors="surrogateescape")))
        return found

    def write(self, digest: str, target: Path, name: str) -> None:
        """Write a blob; what a Git LFS pointer stands for in place of the pointer."""
        size = int(self._ask("cat-file", "-s", digest))
        if size <= LARGEST_POINTER and is_pointer(data := self._ask("cat-file", "blob", digest)):
            resolve_pointer(data, target, repository=self.top, environ=self.environ, name=name)
            return
        with target.open("wb") as file:
            done = self._run("cat-file", "blob", digest, stdout=file)
        if done.returncode:
            raise self._failed("cat-file", done.stderr)
