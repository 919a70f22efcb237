"""The child's side: ``python -m edgekd.child READ_FD WRITE_FD SETTINGS``. Needs numpy and nothing else to start."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _confine(settings: dict[str, Any]) -> None:
    """Pin, limit and tie this process to its parent, before anything heavy is imported."""
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if settings["parent"] != os.getppid():
        os._exit(0)  # the parent died before the tie held
    if settings["cpus"] and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, settings["cpus"])
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if settings["file_bytes"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (settings["file_bytes"],) * 2)
        if settings["memory_bytes"]:
            resource.setrlimit(resource.RLIMIT_AS, (settings["memory_bytes"],) * 2)


def _limit_cpu(seconds: float) -> None:
    """Allow that much CPU time from now on; beyond it the kernel ends this process, whatever became of its parent."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        most = int(used.ru_utime + used.ru_stime + seconds) + 1
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (most if hard < 0 else min(most, hard), hard))


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    read_fd, write_fd = int(sys.argv[1]), int(sys.argv[2])
    settings = json.loads(sys.argv[3])
    _confine(settings)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle

    from edgekd.child import wire
    from edgekd.errors import EdgeKDError
    from edgekd.plugins import load_path

    sys.path += settings["search"]  # behind everything: a user's random.py is not the standard one
    state: dict[str, Any] = {}
    while True:
        try:
            request, arrays = wire.decode(wire.receive(read_fd))
        except wire.WireClosedError:
            return
        _limit_cpu(settings["cpu_s"])
        try:
            reply, made = load_path(request["call"])(state, request["args"], arrays)
            answer: dict[str, Any] = {"ok": reply}
        except EdgeKDError as e:
            rule = getattr(e, "rule", "")
            answer, made = (
                {"error": {"class": type(e).__name__, "what": e.what, "fix": e.fix, "rule": rule}},
                [],
            )
        except MemoryError:
            answer, made = {"error": {"class": "MemoryError", "what": "", "fix": ""}}, []
        except Exception as e:  # noqa: BLE001 - reported to the parent, which raises it
            text = f"{type(e).__name__}: {e}"
            memory = any(s in text for s in ("bad_alloc", "BFCArena", "allocate memory", "out of memory"))
            name = "MemoryError" if memory else "Exception"
            answer, made = {"error": {"class": name, "what": text.replace("\n", " ")[:500], "fix": ""}}, []
        try:
            wire.send(write_fd, wire.encode(answer, made))
        except BrokenPipeError:
            return


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # native runtimes sometimes hang or crash in their own tear-down
