"""The TensorRT library itself: its bindings, its version, and what it logs."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from edgekd.errors import MissingDependencyError, TargetUnavailableError
from edgekd.lazy import require

#: First version that is taken, and the first major that is not; see contract.json for those that were read. 10.3, of
#: JetPack 6, lacks IBuilderConfig.tiling_optimization_level and l2_limit_for_tiling (new in 10.8, its release notes).
OLDEST = (10, 13)
NEXT_MAJOR = 12

#: Kept of the log; VERBOSE is millions of lines for a large network.
KEPT = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO")
_TROUBLE = ("INTERNAL_ERROR", "ERROR")


class Version(NamedTuple):
    """A TensorRT version, as in ``11.4.0.106``."""

    major: int
    minor: int
    patch: int
    build: int

    def __str__(self) -> str:
        return ".".join(map(str, self))


def parse_version(text: str) -> Version:
    """Read ``11.4.0.106``; what is left out is 0.

    >>> parse_version("10.16.1").minor
    16

    Raises:
        TargetUnavailableError: not a version.
    """
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?(?:\.(\d+))?", text)
    if found is None:
        raise TargetUnavailableError(f"TensorRT calls itself version {text!r}", "install it again")
    return Version(*(int(part or 0) for part in found.groups()))


def bindings(purpose: str) -> Any:
    """The bindings under either of their names, whatever their version.

    Raises:
        MissingDependencyError: neither imports; the message is that of ``tensorrt``.
    """
    try:
        return require("tensorrt", extra="tensorrt", purpose=purpose)
    except MissingDependencyError as first:
        try:
            return require("tensorrt_bindings", extra="tensorrt", purpose=purpose)
        except MissingDependencyError as second:
            # The second says more where it is installed and one of its libraries is not.
            raise (first if "No module named" in second.what else second) from None


def load(purpose: str) -> tuple[Any, Version]:
    """The bindings and their version.

    Args:
        purpose: as of :func:`edgekd.lazy.require`.

    Raises:
        MissingDependencyError: not installed, or a library is missing; TargetUnavailableError: another version.
    """
    trt = bindings(purpose)
    version = parse_version(str(trt.__version__))
    if version[:2] < OLDEST or version.major >= NEXT_MAJOR:
        raise TargetUnavailableError(
            f"TensorRT {version} is installed, {OLDEST[0]}.{OLDEST[1]} to {NEXT_MAJOR - 1}.x is supported",
            "install one of these",
        )
    return trt, version


class Log:
    """What TensorRT says while it works, as (severity, line).

    Attributes:
        lines: in order; VERBOSE is left out.
    """

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def trouble(self) -> str:
        """The last error, on one line; empty without any."""
        found = [text for severity, text in self.lines if severity in _TROUBLE]
        return " ".join(found[-1].split())[:400] if found else ""

    def text(self) -> str:
        """All of it."""
        return "\n".join(f"[{severity}] {line}" for severity, line in self.lines)

    def out_of_memory(self) -> bool:
        """Whether an error speaks of memory (cudaErrorMemoryAllocation, OutOfMemory, ...)."""
        return any(
            severity in _TROUBLE and re.search(r"out ?of ?memory|MemoryAllocation|insufficient memory", text, re.I)
            for severity, text in self.lines
        )  # fmt: skip


def logger(trt: Any, log: Log) -> Any:
    """A ``trt.ILogger`` that fills ``log``; TensorRT holds no reference, so the caller must."""

    class Capture(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity.name in KEPT:
                log.lines.append((severity.name, str(msg)))

    return Capture()


def make(kind: str, maker: Any, *args: Any) -> Any:
    """An object of the library, or the reason why there is none.

    pybind11 raises TypeError where the factory behind the constructor returned nothing: no GPU, no driver, or a
    library that is only a stub.

    Raises:
        TargetUnavailableError: it could not be made.
    """
    try:
        return maker(*args)
    except (TypeError, RuntimeError) as e:
        raise TargetUnavailableError(
            f"TensorRT could not make a {kind} ({' '.join(str(e).split())})",
            "check the GPU, its driver and libnvinfer (`edgekd doctor --need trt-build`)",
        ) from e
