"""Doors to executorch's packages, and silence around them: they warn on import, and their C++ half logs to stderr."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from edgekd.lazy import require
from edgekd_onnx.writing import one_line
from edgekd_onnx.writing import quiet as quiet_python

EXTRA = "executorch"
RUNNING = "running ExecuTorch programs"
WRITING = "exporting to ExecuTorch"

# Standard error belongs to the process: one block at a time may point it elsewhere.
_ONE_AT_A_TIME = threading.RLock()


@dataclass
class NativeLog:
    """What ExecuTorch's C++ half wrote while a :func:`quiet` block ran; filled when the block ends."""

    lines: list[str] = field(default_factory=list)

    def reason(self, error: BaseException) -> str:
        """The cause of ``error`` on one line: ExecuTorch raises a number and logs the words first.

        >>> NativeLog(lines=["[method.cpp:1243] Missing operator: [0] a::b.out"]).reason(RuntimeError("0x14"))
        'Missing operator: [0] a::b.out'
        """
        told = [_words(s) for s in self.lines if "cpuinfo" not in s and "Resetting threadpool" not in s]
        return told[0] if told else one_line(error)


def _words(line: str) -> str:
    """A log line without its ``[file.cpp:12]``, and at most 300 characters of it."""
    text = line.partition("] ")[2] if line.startswith("[") and ".cpp:" in line.partition("]")[0] else line
    return text.strip().rstrip(".")[:300]


@contextlib.contextmanager
def quiet() -> Iterator[NativeLog]:
    """Keep Python's and the C++ half's output off the terminal while the block runs; the latter is kept to quote."""
    log = NativeLog()
    handlers = list(logging.root.handlers)
    with _ONE_AT_A_TIME, quiet_python():
        try:
            if sys.__stderr__ is not None:
                sys.__stderr__.flush()
            saved = os.dup(2)
        except (OSError, ValueError):  # no standard error: nothing to silence
            yield log
            return
        try:
            with tempfile.TemporaryFile() as sink:
                os.dup2(sink.fileno(), 2)
                try:
                    yield log
                finally:
                    os.dup2(saved, 2)
                    sink.seek(0)
                    text = sink.read().decode(errors="replace")
                    log.lines += [s.strip() for s in text.splitlines() if s.strip()]
                    # The XNNPACK partitioner configures the root logger when it is imported.
                    logging.root.handlers[:] = handlers
        finally:
            os.close(saved)


def load(module: str, purpose: str) -> Any:
    """Import a module of executorch (or of what it needs) without its noise.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if module in sys.modules:
        return sys.modules[module]
    with quiet():
        return require(module, extra=EXTRA, purpose=purpose)


def bindings() -> Any:
    """The C++ runtime's Python module: thread pool and operator registry are only there."""
    return load("executorch.extension.pybindings.portable_lib", RUNNING)


def runtime() -> Any:
    """ExecuTorch's ``Runtime``, of which a process has one."""
    return load("executorch.runtime", RUNNING).Runtime.get()


def version() -> str:
    """Of the installed executorch."""
    return importlib.metadata.version("executorch")
