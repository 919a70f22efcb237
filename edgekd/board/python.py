"""Which Python a board is asked for, what it has to have, and what to say where it has not."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import Any

from edgekd.errors import EdgeKDError, MissingDependencyError, TargetUnavailableError

#: Runtime plugin -> its modules, each with what installs it. Of others they are looked for when the runner is there.
_MODULES: Mapping[str, Mapping[str, str]] = {
    "onnxruntime": {"onnxruntime": "onnxruntime"},
    "openvino": {"openvino": "openvino"},
    "executorch": {"executorch": "executorch"},
    "litert": {"ai_edge_litert": "ai-edge-litert"},
    "tensorrt": {"tensorrt": "tensorrt", "cuda.bindings": "cuda-python"},
}
_OLDEST = (3, 10)

#: Reads the bootstrap up to its NUL, byte by byte: what follows is for the bootstrap to read.
_READ_BOOTSTRAP = (
    'f=open(0,"rb",0,closefd=False);'
    'exec(b"".join(iter(lambda:f.read(1)or b"\\0",b"\\0")).decode()+"\\nstart(f)")'
)


def modules_of(runtime: str) -> tuple[str, ...]:
    """The modules that a runtime needs on the board; empty where only the runtime's own code knows."""
    return tuple(_MODULES.get(runtime, ()))


def start_script(environ: Mapping[str, str] | None = None) -> str:
    """A line of POSIX shell that starts the bootstrap: in ``EDGEKD_BOARD_PYTHON``, else in ``~/edgekd/bin/python`` where
    that is, else in ``python3``. ``~/`` is the home over there."""
    asked = (os.environ if environ is None else environ).get("EDGEKD_BOARD_PYTHON", "")
    code = shlex.quote(_READ_BOOTSTRAP)
    if asked:
        # Quoted, ~ is a folder of that name.
        home, rest = ('"$HOME"/', asked[2:]) if asked.startswith("~/") else ("", asked)
        return f"exec {home}{shlex.quote(rest)} -c {code}"
    return f'p="$HOME/edgekd/bin/python"; [ -x "$p" ] || p=python3; exec "$p" -c {code}'


def check_hello(where: str, runtime: str, hello: Mapping[str, Any]) -> None:
    """Refuse a Python that cannot run the protocol, before anything is sent to it.

    Raises:
        TargetUnavailableError: too old; MissingDependencyError: no numpy, or not the runtime.
    """
    python, found = hello["executable"], f"{where} has Python {hello['python']} ({hello['executable']})"
    other = "or name another Python in EDGEKD_BOARD_PYTHON"
    if hello["system"] != "posix":
        raise TargetUnavailableError(f"{where} runs {hello['system']}", "boards run Linux, Android or macOS")
    if tuple(hello["version"]) < _OLDEST:
        raise TargetUnavailableError(
            f"{found}, 3.10 is the oldest that the runner works with", f"install one there, {other}"
        )
    packages = {"numpy": "numpy", **_MODULES.get(runtime, {})}
    missing = [package for module, package in packages.items() if hello["modules"].get(module) is None]
    if missing:
        raise MissingDependencyError(
            f"{found} without {' and '.join(missing)}",
            f"there: {python} -m pip install {' '.join(missing)}, {other}",
        )


def no_python(where: str, code: int, said: str, environ: Mapping[str, str] | None = None) -> EdgeKDError:
    """Why a Python did not start."""
    asked = (os.environ if environ is None else environ).get("EDGEKD_BOARD_PYTHON", "python3")
    if code in (126, 127):
        return MissingDependencyError(
            f"{where} has no {asked}",
            "install Python 3.10 or newer with numpy and the runtime there, or name it in EDGEKD_BOARD_PYTHON",
        )
    return TargetUnavailableError(
        f"{where}: {asked} ended with {code} before it said anything ({said or 'nothing on stderr'})",
        f"run `{asked} -c 1` there by hand",
    )
