"""What of TensorRT works on this machine, probed rather than guessed: for ``edgekd doctor``.

``trt-build`` is ok only after a builder was really made, ``trt-run`` only after a runtime was. Both happen in a child:
a library that crashes is then a finding and not the end of the doctor.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

from edgekd.child import ChildProcess, Limits
from edgekd.data.example import Array
from edgekd.errors import EdgeKDError, MissingDependencyError, TargetUnavailableError
from edgekd_tensorrt.cuda import Cuda
from edgekd_tensorrt.library import Log, load, logger, make

_TIMEOUT_S = 60.0
#: Capability -> what is made to show it.
_CAPABILITIES = (("trt-build", "builder"), ("trt-run", "runtime"))
_LIBRARY = re.compile(r"(lib[\w.+-]+\.so[.\d]*)")

Row = dict[str, str]


def _row(name: str, state: str, evidence: str, fix: str = "") -> Row:
    return {"name": name, "state": state, "evidence": evidence, "fix": fix}


def make_builder(
    state: dict[str, Any], args: dict[str, Any], arrays: list[Array]
) -> tuple[dict[str, Any], list[Array]]:
    """In a child: make a builder (or a runtime) and say which version it is; a stub library fails here."""
    trt, version = load("a probe")
    log = Log()
    log_object = logger(trt, log)
    if args["what"] == "builder":
        make("builder", trt.Builder, log_object)
    else:
        make("runtime", trt.Runtime, log_object)
    return {"version": str(version)}, []


def probe() -> list[Row]:
    """Findings as ``{"name", "state", "evidence", "fix"}``: the bindings, CUDA, a builder, a runtime, trtexec."""
    bound, cuda = _bindings(), _cuda()
    rows = [bound, cuda, *(_made(*made, bound, cuda) for made in _CAPABILITIES), _trtexec()]
    whole = all(row["state"] == "ok" for row in rows if row["name"] in dict(_CAPABILITIES))
    return [*rows, _row("for TensorRT", "ok" if whole else "missing", can_and_cannot(rows))]


def can_and_cannot(rows: list[Row]) -> str:
    """One line: what can be done here for TensorRT, and what cannot, with the reason.

    >>> can_and_cannot([_row("trt-build", "missing", "not installed"), _row("trt-run", "missing", "not installed")])
    'can: quantize, export ONNX, lint, numerics on the CPU; cannot: build engines (not installed), run engines (not installed)'
    """
    states = {row["name"]: row for row in rows}
    can, cannot = ["quantize", "export ONNX", "lint", "numerics on the CPU"], []
    for name, doing in (("trt-build", "build engines"), ("trt-run", "run engines")):
        row = states.get(name)
        if row is not None and row["state"] == "ok":
            can.append(doing)
        else:
            cannot.append(f"{doing} ({row['evidence'] if row else 'not probed'})")
    return f"can: {', '.join(can)}" + (f"; cannot: {', '.join(cannot)}" if cannot else "")


def _bindings() -> Row:
    try:
        _, version = load("a probe")
    except MissingDependencyError as e:
        library = _LIBRARY.search(e.what)
        if library:
            return _row(
                "tensorrt", "broken", f"the bindings are installed, {library[1]} is not found",
                "pip install tensorrt (from NVIDIA's index), or put TensorRT's lib folder on LD_LIBRARY_PATH",
            )  # fmt: skip
        return _row("tensorrt", "missing", "not installed; for building and running engines", e.fix)
    except TargetUnavailableError as e:
        return _row("tensorrt", "broken", e.what, e.fix)
    return _row("tensorrt", "ok", f"{version}, for building and running engines")


def _cuda() -> Row:
    try:
        cuda = Cuda()
        device = cuda.device()
    except MissingDependencyError as e:
        return _row("cuda-bindings", "missing", "not installed; memory and streams of engines", e.fix)
    except EdgeKDError as e:
        return _row("cuda-bindings", "missing", e.what, e.fix)
    return _row(
        "cuda-bindings", "ok",
        f"{device.name}, SM {device.sm}, driver {device.driver}, CUDA {_cuda_version(device.cuda_driver)} (driver) "
        f"and {_cuda_version(device.cuda_runtime)} (runtime)",
    )  # fmt: skip


def _cuda_version(number: int) -> str:
    """``13.0`` of 13000 (cudaDriverGetVersion: 1000 major + 10 minor)."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _made(name: str, what: str, bound: Row, cuda: Row) -> Row:
    """Whether a builder or runtime can be made; only then has anything been shown."""
    if bound["state"] != "ok":
        return _row(name, bound["state"], f"tensorrt: {bound['evidence'].partition(';')[0]}", bound["fix"])
    try:
        with ChildProcess(f"making a TensorRT {what}", Limits(timeout_s=_TIMEOUT_S)) as child:
            made, _ = child.request("edgekd_tensorrt.probe:make_builder", {"what": what})
    except EdgeKDError as e:
        return _row(name, "broken", e.what, e.fix)
    if cuda["state"] != "ok":
        return _row(name, cuda["state"], cuda["evidence"], cuda["fix"])
    return _row(name, "ok", f"a {what} of TensorRT {made['version']} was made")


def _trtexec() -> Row:
    found = shutil.which("trtexec")
    if found is None:
        return _row("trtexec", "not applicable", "not on the path; EdgeKD does not need it")
    try:
        done = subprocess.run(
            [found, "--help"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        return _row("trtexec", "broken", f"does not run ({e})", "install it again")
    version = re.search(r"\[TensorRT v(\d+)\]", done.stdout + done.stderr)
    return _row("trtexec", "ok", f"TensorRT v{version[1]}" if version else "runs, names no version")
