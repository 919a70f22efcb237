"""The parent's side of a child: start it, ask it, and say what became of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgekd import errors
from edgekd.child import wire
from edgekd.data.example import Array
from edgekd.errors import ChildError, DamagedFileError, EdgeKDError, PolicyError
from edgekd.files import disk_cause, storage_error

#: A child that ignores SIGTERM for this long is killed.
_GRACE_S = 2.0

#: Absent on Windows.
_SIGXCPU = getattr(signal, "SIGXCPU", 24)

#: Not ``-m``: that would put the current folder first, where a file named like a standard module breaks everything.
_START = (
    "import sys; sys.path[:] = [p for p in sys.path if p]; "
    "import os; from edgekd import no_network as n; os.environ[n.STATE_VARIABLE] = {state}; "
    "import runpy; runpy.run_module('edgekd.child', run_name='__main__', alter_sys=True)"
)
_LINKED = "'shared: its device is behind a link'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a child may use.

    Attributes:
        timeout_s: for one request.
        memory_bytes: address space; None leaves it open (some runtimes reserve far more than they use).
        cpu_s: CPU time for one request, of all its threads; None: ``timeout_s`` on every CPU that it may use.
        file_bytes: largest file it may write.
        cpus: CPU numbers it is pinned to; empty for all.
        threads: handed to the common thread-pool variables.
        network: keep this machine's network; else there is none where the system allows that.
    """

    timeout_s: float = 300.0
    memory_bytes: int | None = None
    cpu_s: float | None = None
    file_bytes: int = 1 << 36
    cpus: tuple[int, ...] = ()
    threads: int | None = None
    network: bool = False

    @classmethod
    def on(
        cls,
        device: str,
        *,
        timeout_s: float,
        memory_bytes: int | None = None,
        threads: int | None = None,
        cpus: tuple[int, ...] = (),
    ) -> Limits:
        """The limits of a child that opens models on ``device``.

        CUDA reserves as much address space as there is memory anywhere, so its children have no ``memory_bytes``
        (CUDA C++ Programming Guide, *Unified Virtual Address Space*). A device behind a link (``ssh/HOST``) is reached
        from the child, which keeps the network for it.
        """
        return cls(
            timeout_s=timeout_s,
            memory_bytes=None if device == "cuda" else memory_bytes,
            cpus=cpus,
            threads=threads,
            network="/" in device,
        )


class ChildProcess:
    """A fresh process in its own session and process group.

    Args:
        purpose: what it does, for messages: ``"measuring student.onnx"``.
        limits: see :class:`Limits`.
        search: folders put first on its import path (for ``python:`` references).
    """

    def __init__(self, purpose: str, limits: Limits | None = None, search: Sequence[Path] = ()) -> None:
        self.purpose = purpose
        self.limits = limits or Limits()
        try:
            self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        except OSError as e:
            raise storage_error(e, Path(e.filename or tempfile.gettempdir())) from e
        child_in, self._write = os.pipe()
        self._read, child_out = os.pipe()
        settings = {
            "parent": os.getpid(),
            "cpus": list(self.limits.cpus),
            "memory_bytes": self.limits.memory_bytes,
            "cpu_s": self.limits.cpu_s
            or self.limits.timeout_s * (len(self.limits.cpus) or os.cpu_count() or 1),
            "file_bytes": self.limits.file_bytes,
            "search": [str(p) for p in search],
        }
        env = dict(os.environ)
        if self.limits.threads is not None:
            for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
                env[name] = str(self.limits.threads)
        env["PYTHONHASHSEED"] = "0"
        env["TMPDIR"] = tempfile.gettempdir()  # what a killed child leaves goes with the parent's own
        start = _START.format(state=_LINKED if self.limits.network else "n.leave_network()")
        command = [sys.executable, "-c", start, str(child_in), str(child_out), json.dumps(settings)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, env=env,
                pass_fds=(child_in, child_out), start_new_session=True,
            )  # fmt: skip
        except OSError as e:
            os.close(self._write)
            os.close(self._read)
            raise ChildError(
                f"cannot start a child for {purpose}: {e.strerror}", "free memory or processes"
            ) from e
        finally:
            os.close(child_in)
            os.close(child_out)
        self._closed = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(
        self, call: str, args: Mapping[str, Any], arrays: Sequence[Array] = (), timeout_s: float | None = None
    ) -> tuple[dict[str, Any], list[Array]]:
        """Run ``module:function`` in the child and return its reply.

        Raises:
            EdgeKDError: the very error that the operation raised there.
            ChildError: it crashed, hung, ran out of memory or answered garbage; the message says which.
        """
        return self.read(self.exchange(wire.encode({"call": call, "args": dict(args)}, arrays), timeout_s))

    def exchange(self, frame: bytes, timeout_s: float | None = None) -> bytes:
        """Send an encoded request and wait for the reply, to be read later: while others measure, nothing is parsed.

        Raises:
            ChildError: it crashed, hung or wrote garbage.
        """
        limit = timeout_s or self.limits.timeout_s
        try:
            wire.send(self._write, frame)
            return wire.receive(self._read, limit)
        except wire.WireTimeoutError:
            self._kill()
            raise ChildError(
                f"{self.purpose} did not answer within {limit:g} s and was stopped",
                "raise measure.timeout_s (--timeout), or look for a hang in the model or runtime",
                outcome="time-out",
            ) from None
        except (wire.WireClosedError, BrokenPipeError, ConnectionResetError):
            raise self._died() from None
        except wire.WireError as e:
            raise self._garbage(e) from e

    def read(self, reply: bytes) -> tuple[dict[str, Any], list[Array]]:
        """What a reply of :meth:`exchange` says.

        Raises:
            EdgeKDError, ChildError: as :meth:`request`.
        """
        try:
            answer, made = wire.decode(reply)
        except wire.WireError as e:
            raise self._garbage(e) from e
        if "error" in answer:
            raise self._error(answer["error"])
        return answer["ok"], made

    def _garbage(self, error: wire.WireError) -> ChildError:
        self._kill()
        return ChildError(
            f"{self.purpose} answered with garbage ({error})", "look at what the runtime does to file descriptors",
            outcome="bad output",
        )  # fmt: skip

    def _error(self, error: Mapping[str, str]) -> EdgeKDError:
        if error["class"] == "MemoryError":
            limit = self.limits.memory_bytes
            within = f" within {limit / 2**20:.0f} MiB" if limit else ""
            return ChildError(
                f"{self.purpose} ran out of memory{within}",
                "raise measure.memory_limit_mib, or use a smaller batch or model",
                outcome="out of memory",
            )
        found = getattr(errors, error["class"], None)
        if found is PolicyError or found is DamagedFileError:
            return found(error["what"], error["fix"], error.get("rule", ""))
        if isinstance(found, type) and issubclass(found, EdgeKDError):
            return found(error["what"], error["fix"])
        folder = Path(tempfile.gettempdir())
        if (cause := disk_cause(OSError(error["what"]), folder)) is not None:
            return storage_error(cause, folder)  # this machine's disk says nothing about the model
        return ChildError(f"{self.purpose} failed: {error['what']}", "see the message", outcome="exception")

    def _died(self) -> ChildError:
        try:
            code = self._process.wait(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            self._kill()
            return ChildError(f"{self.purpose} closed its pipe and hung", "report it", outcome="bad output")
        tail = self._tail()
        hint = f" (last words: {tail})" if tail else ""
        if code == -signal.SIGKILL:
            return ChildError(
                f"{self.purpose} was killed by SIGKILL, most likely for memory{hint}",
                "free memory, or use a smaller batch or model", outcome="out of memory",
            )  # fmt: skip
        if any(s in tail for s in ("bad_alloc", "MemoryError", "allocate memory", "out of memory")):
            return ChildError(
                f"{self.purpose} ran out of memory{hint}", "raise the limit", outcome="out of memory"
            )
        if code == -_SIGXCPU:
            return ChildError(
                f"{self.purpose} used more CPU time than one request may and was stopped{hint}",
                "raise measure.timeout_s (--timeout), or look for an endless loop in the model or runtime",
                outcome="time-out",
            )
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            return ChildError(
                f"{self.purpose} crashed with {name}{hint}",
                "the runtime cannot run this model: try another graph level or runtime version",
                outcome=f"signal {-code}",
            )
        limit = self.limits.memory_bytes
        fix = (
            f"the memory limit of {limit / 2**20:.0f} MiB may be too small for it"
            if limit
            else "see the message"
        )
        return ChildError(f"{self.purpose} ended early with exit {code}{hint}", fix, outcome=f"exit {code}")

    def _tail(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            size = self._log.seek(0, os.SEEK_END)
            self._log.seek(max(0, size - 4096))
            lines = [s.strip() for s in self._log.read().decode(errors="replace").splitlines() if s.strip()]
            return lines[-1][-300:] if lines else ""
        return ""

    def _signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _kill(self) -> None:
        """SIGTERM, then SIGKILL, to the whole group: whatever the model forked goes too."""
        self._signal_group(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_GRACE_S)
        self._signal_group(signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End the child and everything it started; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        os.close(self._write)
        try:
            self._process.wait(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            self._kill()
        self._signal_group(signal.SIGKILL)
        os.close(self._read)
        self._log.close()
