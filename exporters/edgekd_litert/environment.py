"""Where litert-torch is: a folder of packages of its own, made once, that only the converting child imports from.

It cannot be installed beside the rest of EdgeKD (it asks for transformers 5, optimum for less than 4.58), so its
packages are kept in EdgeKD's cache, and the child puts that folder before everything else. torch and numpy are those
of this environment: nothing of 750 MB is installed twice, and parity is checked against the torch that traced.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.errors import MissingDependencyError, StorageError
from edgekd.stages import STAGE_FILE, StageStore, default_cache_root

#: Names an interpreter that has litert-torch already; its packages are used in place of our own.
PYTHON_VARIABLE = "EDGEKD_LITERT_PYTHON"
#: The exporter uses the converter below its public functions (signature names), so no other series will do.
SERIES = "0.10."
REQUIREMENTS = Path(__file__).parent / "requirements.txt"
_KIND = "environments"
#: torch is not in requirements.txt; these must be importable here.
_BASE = ("torch", "safetensors")

_ASK = (
    "import importlib.metadata as m, json, sys, sysconfig\n"
    "try: v = m.version('litert-torch')\n"
    "except m.PackageNotFoundError: v = ''\n"
    "print(json.dumps([list(sys.version_info[:2]), sysconfig.get_path('purelib'), sysconfig.get_path('platlib'), v]))"
)

#: pip ends with the process that started it (prctl(2), PR_SET_PDEATHSIG): it would go on writing after a kill.
_PIP = (
    "import contextlib, ctypes, runpy, signal\n"
    "with contextlib.suppress(OSError, AttributeError): ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"
    "runpy.run_module('pip', run_name='__main__', alter_sys=True)"
)


def converter_packages(*, make: bool = True) -> tuple[Path, ...]:
    """Folders that the converting child imports from first; empty where this environment has litert-torch itself.

    In order: those of the interpreter that ``EDGEKD_LITERT_PYTHON`` names, this environment, the folder in EdgeKD's
    cache, which is made where it is absent (one progress line on standard error).

    Args:
        make: False refuses to make it.

    Raises:
        MissingDependencyError: none of them, with the command that makes one.
    """
    for package in _BASE:
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(
                f"exporting to LiteRT needs the package '{package}', which is not installed",
                "pip install 'edgekd[torch,litert]'",
            )
    if sys.version_info < (3, 11):
        raise MissingDependencyError(
            f"exporting to LiteRT needs Python 3.11 or later, this is {'.'.join(map(str, sys.version_info[:2]))}",
            "export elsewhere: running .tflite files needs no later Python",
        )
    if named := os.environ.get(PYTHON_VARIABLE):
        return _packages_of(named)
    if importlib.util.find_spec("litert_torch") is not None:
        _refuse_other_series(importlib.metadata.version("litert-torch"), sys.executable)
        return ()
    store = StageStore(default_cache_root(os.environ))
    folder = store.folder(_KIND, environment_key())
    # Its 10,000 files are hashed when it is made, not on every use.
    if (folder / STAGE_FILE).is_file():
        return (folder,)
    if not make:
        raise MissingDependencyError(
            "exporting to LiteRT needs litert-torch in an environment of its own, which is not made yet",
            f"run: {command()}",
        )
    return (make_environment(store),)


def converter_key() -> dict[str, Any]:
    """Which litert-torch writes files here, without making one.

    Raises:
        MissingDependencyError: the interpreter that ``EDGEKD_LITERT_PYTHON`` names has none.
    """
    if named := os.environ.get(PYTHON_VARIABLE):
        packages = [str(p) for p in _packages_of(named)]
        versions = {d.name: d.version for d in importlib.metadata.distributions(path=packages)}
        return {
            "litert-torch": versions.get("litert-torch"),
            "litert-converter": versions.get("litert-converter"),
        }
    if importlib.util.find_spec("litert_torch") is not None:
        return {"litert-torch": importlib.metadata.version("litert-torch")}
    return environment_key()


def environment_key() -> dict[str, Any]:
    """What decides the contents of the folder: the pinned packages, the Python and the platform."""
    pins = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    return {
        "requirements": pins,
        "python": sys.implementation.cache_tag,
        "platform": sysconfig.get_platform(),
    }


def command() -> str:
    """What a user runs to make the environment ahead of the first export."""
    return f"{sys.executable} -m edgekd_litert.environment"


def make_environment(store: StageStore) -> Path:
    """Install the pinned packages into the store and return their folder.

    It is filled beside its place and renamed, under a lock: whole or absent. A killed one starts over, from pip's cache.

    Raises:
        MissingDependencyError: pip is not there, or cannot install them; StorageError: no room.
    """

    def build(out: Path, resume: Path) -> None:
        sys.stderr.write(
            f"edgekd: installing litert-torch and what it needs into {store.root / _KIND} (once; about 1 GB on disk)\n"
        )
        _install(out, resume)

    return store.run(_KIND, "litert environment", environment_key(), build).folder


def _install(folder: Path, scratch: Path) -> None:
    """Install the pins into ``folder``; pip unpacks in ``scratch``, which is on the same disk and outlives a kill."""
    if importlib.util.find_spec("pip") is None:
        raise MissingDependencyError(
            f"{sys.executable} has no pip, which installs litert-torch into an environment of its own",
            f"run: {sys.executable} -m ensurepip",
        )
    asked = [
        sys.executable, "-c", _PIP, "install", "--no-deps", "--only-binary=:all:", "--quiet", "--no-input",
        "--disable-pip-version-check", "--progress-bar=off", "--target", str(folder), "-r", str(REQUIREMENTS),
    ]  # fmt: skip
    for left in scratch.iterdir():
        shutil.rmtree(left, ignore_errors=True)
    try:
        done = subprocess.run(
            asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            env={**os.environ, "TMPDIR": str(scratch)},
        )  # fmt: skip
    except OSError as e:
        raise MissingDependencyError(
            f"cannot start pip to install litert-torch ({e.strerror})", f"run: {command()}"
        ) from e
    if done.returncode == 0:
        return
    said = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or ["no reason given"]
    why = " ".join(said[0].removeprefix("ERROR:").split())[:300]
    if "No space left" in done.stderr:
        raise StorageError(
            f"no space left while installing litert-torch into {folder.parent}",
            "free about 1.5 GB (`edgekd cache gc`), or point EDGEKD_CACHE elsewhere",
        )
    raise MissingDependencyError(
        f"pip could not install litert-torch into an environment of its own ({why})",
        f"where a package index is reachable, run: {command()} (or set {PYTHON_VARIABLE} to a Python that has it)",
    )


def _packages_of(python: str) -> tuple[Path, ...]:
    """The package folders of another interpreter, which must be of this very Python."""
    fix = f"set {PYTHON_VARIABLE} to an interpreter with litert-torch {SERIES}*, or unset it"
    try:
        done = subprocess.run(
            [python, "-I", "-c", _ASK], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
            check=True,
        )  # fmt: skip
        version, pure, platform, installed = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as e:
        raise MissingDependencyError(
            f"{PYTHON_VARIABLE} is {python}, which does not run as a Python ({type(e).__name__})", fix
        ) from e
    if tuple(version) != sys.version_info[:2]:
        ours = ".".join(map(str, sys.version_info[:2]))
        raise MissingDependencyError(
            f"{PYTHON_VARIABLE} is {python}, a Python {'.'.join(map(str, version))}; this is {ours}", fix
        )
    _refuse_other_series(installed, python)
    return tuple(dict.fromkeys((Path(platform), Path(pure))))


def _refuse_other_series(version: str, where: str) -> None:
    if not version.startswith(SERIES):
        raise MissingDependencyError(
            f"{where} has {f'litert-torch {version}' if version else 'no litert-torch'}, {SERIES}* is needed",
            f"install litert-torch {SERIES}* there, or let EdgeKD make its own: {command()}",
        )


def main(environ: Mapping[str, str]) -> Path:
    """Make the environment (``python -m edgekd_litert.environment``)."""
    return make_environment(StageStore(default_cache_root(environ)))


if __name__ == "__main__":
    from edgekd.errors import EdgeKDError

    try:
        sys.stdout.write(f"{main(os.environ)}\n")
    except EdgeKDError as e:
        sys.stderr.write(f"edgekd: {e}\n")
        sys.exit(e.exit_code)
