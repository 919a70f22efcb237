"""Faults at the n-th file operation: by a preloaded library where there is a C compiler, else by Python's audit events."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("shim.c")
#: Everything that changes what is on disk.
CHANGES = "create,write,fsync,rename,mkdir,unlink,chmod"
KILL = 0
TEAR = -1
NEVER = 1 << 40


def compiler() -> str:
    """The C compiler; empty where there is none."""
    return shutil.which("gcc") or shutil.which("cc") or ""


def build_shim(folder: Path) -> Path:
    """Compile the library into ``folder``.

    Raises:
        CalledProcessError: the compiler refuses it.
    """
    made = folder / "shim.so"
    if not made.is_file() or made.stat().st_mtime < SOURCE.stat().st_mtime:
        folder.mkdir(parents=True, exist_ok=True)
        command = [compiler(), "-shared", "-fPIC", "-O1", "-o", str(made), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True)
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens at the ``at``-th of some operations.

    Attributes:
        ops: ``create``, ``open``, ``read``, ``write``, ``fsync``, ``rename``, ``mkdir``, ``unlink``, ``chmod``; with commas.
        error: an errno; ``KILL`` before it; ``TEAR``: half of a write, then killed.
        sticky: also every one after it.
    """

    root: Path
    ops: str
    at: int
    error: int = KILL
    sticky: bool = False

    def environment(self) -> str:
        """``EDGEKD_FAULT`` of a process that loads the library."""
        return f"{self.ops}:{self.at}:{self.error}:{int(self.sticky)}:{self.root}"


def is_loaded() -> bool:
    """Whether this process has the library."""
    return hasattr(ctypes.CDLL(None), "fault_arm")


def arm(fault: Fault) -> None:
    """Set the fault in this process, by whichever way it has."""
    if is_loaded():
        call = ctypes.CDLL(None).fault_arm
        call.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int]
        call(os.fsencode(fault.root), fault.ops.encode(), fault.at, fault.error, int(fault.sticky))
    else:
        _AUDITED.update(root=str(fault.root), at=fault.at, seen=0)
        sys.addaudithook(_audit)


def seen() -> int:
    """Operations so far."""
    if is_loaded():
        call = ctypes.CDLL(None).fault_seen
        call.restype = ctypes.c_long
        return int(call())
    return int(_AUDITED["seen"])


#: Of the audit hook, which cannot be taken away again: only ever armed in a process that is about to die.
_AUDITED: dict[str, Any] = {"root": "", "at": 0, "seen": 0}
_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod")


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event not in _EVENTS:
        return
    if event == "open" and not int(args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return
    names = [os.fsdecode(a) for a in args[:2] if isinstance(a, str | bytes | os.PathLike)]
    if not any(n.startswith(_AUDITED["root"]) for n in names):
        return
    _AUDITED["seen"] += 1
    if _AUDITED["seen"] == _AUDITED["at"]:
        os.kill(os.getpid(), signal.SIGKILL)
