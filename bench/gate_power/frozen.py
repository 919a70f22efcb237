"""A study of hours runs on a copy of the code made at its start, so that work on the tree can go on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[2]
#: Where edgekd, its vendor packages and this study are, in the repository and in a copy of it.
_FOLDERS = ("edgekd", "exporters", "devices", "bench/gate_power")
_COMMIT = "COMMIT"


def commit_of_code() -> str | None:
    """The commit that this code is, with ``+`` where files were changed since; None where nobody knows."""
    noted = _REPOSITORY / _COMMIT
    if noted.is_file():
        return noted.read_text(encoding="utf-8").strip() or None
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", *_FOLDERS)
    return None if commit is None else commit + ("+" if changes else "")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=_REPOSITORY, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def copy_code(out: Path) -> Path:
    """Copy the code to ``out/code`` unless an earlier start did; whole or absent."""
    code = out / "code"
    if code.is_dir():
        return code
    making = out / f"code.{os.getpid()}"
    shutil.rmtree(making, ignore_errors=True)
    for name in _FOLDERS:
        shutil.copytree(_REPOSITORY / name, making / name, ignore=shutil.ignore_patterns("__pycache__"))
    (making / _COMMIT).write_text((commit_of_code() or "") + "\n", encoding="utf-8")
    making.rename(code)
    return code


def go_on_in_copy(out: Path, argv: Sequence[str]) -> None:
    """Replace this process by the copy's; returns only where this already is a copy."""
    if (_REPOSITORY / _COMMIT).is_file():
        return
    code = copy_code(out).resolve()
    paths = [str(code), str(code / "exporters"), str(code / "devices")]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, str(code / "bench" / "gate_power"), *argv], env)
