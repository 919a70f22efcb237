"""The host's side of a session on a board: connect, look, push the runner, and ask it."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgekd import errors
from edgekd.artifact import Artifact
from edgekd.board import bootstrap
from edgekd.board.bundle import runner_zip
from edgekd.board.link import Link, LinkedDevice, last_words
from edgekd.board.manners import PART_BYTES, PING_S, SILENT_S
from edgekd.board.python import check_hello, modules_of, no_python, start_script
from edgekd.child import wire
from edgekd.data.example import Array
from edgekd.errors import ChildError, EdgeKDError, TargetUnavailableError, UsageError
from edgekd.measure.arm import BUILD_OF
from edgekd.plugins import list_plugins, load_plugin, plugin_path
from edgekd.target import Target

#: What decides timings and answers on a board, for the evidence and for the cache's key.
PACKAGES = (
    "edgekd", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "executorch", "ai-edge-litert",
)  # fmt: skip

#: What the user says here about the board's own hardware.
_PASSED_ON = ("EDGEKD_RAILS",)

#: From the start of the link's program to Python's first word; links give up connecting well before.
_HELLO_S = 60.0
#: More than this before the first word is no login banner.
_NOISE_BYTES = 1 << 20
#: Kept of stderr: what ssh says of a changed host key is some 1200 bytes.
_HEARD_BYTES = 1 << 14
#: The board removes its folder within this time after a goodbye.
_GOODBYE_S = 15.0

FeedsOf = Callable[[str, int], tuple[Mapping[str, Array], Mapping[str, Any]]]


class Board:
    """A board with the runner on it.

    Attributes:
        target: as asked; where: its device.
        machine: :func:`edgekd.measure.ledger.machine` of the board; affinity: CPUs that the runner may use.
        device: that the runtime has over there: ``cpu`` or ``cuda``.
        tools: versions of what runs there; ``runner`` is the sha256 of the sources that were sent.
        python: its interpreter; required: what the profile's requirements found.

    Raises:
        TargetUnavailableError: it cannot be reached, or lacks what a profile requires; MissingDependencyError: it has
            no Python, numpy or runtime; UsageError: not an address, or no such profile.
    """

    def __init__(self, target: Target, link: Link, profile: Mapping[str, Any] | None = None) -> None:
        self.target, self.where, self._link = target, link.where, link
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._folder, self._sent = "", set[str]()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = link.spawn(start_script(), self._log)
        try:
            self._start()
            hello, _ = self.request(
                "hello",
                {
                    "name": target.runtime, "runtime": plugin_path("edgekd.runtimes", target.runtime),
                    "provider": target.provider, "packages": list(PACKAGES), "profile": profile,
                },
            )  # fmt: skip
        except BaseException:
            self.close()
            raise
        self.machine: dict[str, Any] = hello["machine"]
        self.device: str = hello["device"]
        self.affinity: list[int] | None = hello["affinity"]
        self.required: list[dict[str, Any]] = hello["required"]
        self.tools: dict[str, str] = {**hello["tools"], "runner": self._runner}

    @property
    def lost(self) -> bool:
        """Whether this session has ended."""
        return self._closed.is_set()

    def describe(self) -> dict[str, Any]:
        """What evidence that was made here says of it."""
        return {"device": self.where, "python": self.python, "tools": self.tools, "required": self.required}

    def _start(self) -> None:
        """Bootstrap, look at what is there, and only then push the runner.

        Raises:
            TargetUnavailableError, MissingDependencyError: as the class says.
        """
        source = Path(bootstrap.__file__).read_bytes()
        asked = {
            "modules": ["numpy", *modules_of(self.target.runtime)],
            "folder": os.environ.get("EDGEKD_BOARD_TMPDIR", ""),
            "environ": {name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        }
        self._write(source + b"\0" + json.dumps(asked).encode() + b"\n", "starting Python")
        hello = self._marked_line(first=True)
        check_hello(self.where, self.target.runtime, hello)
        self.python: str = hello["executable"]
        zipped, self._runner = runner_zip(self.target.runtime)
        self._write(
            json.dumps({"size": len(zipped), "sha256": self._runner}).encode() + b"\n", "sending the runner"
        )
        self._write(zipped, "sending the runner")
        ready = self._marked_line(first=False)
        if "error" in ready:
            raise TargetUnavailableError(f"{self.where}: {ready['error']}", "look at the link")
        self._folder = str(ready["folder"])
        threading.Thread(target=self._ping, daemon=True).start()

    def _marked_line(self, *, first: bool) -> dict[str, Any]:
        """The next line of the bootstrap; what a login shell said before it is passed over."""
        assert self._process.stdout is not None
        fd, seen = self._process.stdout.fileno(), b""
        deadline = time.monotonic() + _HELLO_S
        mark = bootstrap.MARK.encode()
        while True:
            for line in seen.split(b"\n")[:-1]:
                if line.startswith(mark):
                    return dict(json.loads(line[len(mark) :]))
            ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(fd, 1 << 16) if ready else b""
            if not part or len(seen) > _NOISE_BYTES:
                why = "" if not ready or part else "end"
                raise self._ended(
                    "starting Python" if first else "starting the runner", starting=first and why == "end"
                )
            seen += part

    def _write(self, data: bytes, doing: str) -> None:
        assert self._process.stdin is not None
        try:
            with self._lock:
                _send(self._process.stdin.fileno(), data)
        except wire.WireTimeoutError:
            raise self._ended(doing, said=f"took nothing for {SILENT_S:g} s") from None
        except (OSError, ValueError):
            raise self._ended(doing) from None

    def _ping(self) -> None:
        """Say that this host is still here, as long as it is."""
        assert self._process.stdin is not None
        while not self._closed.wait(PING_S):
            frame = wire.encode({"ping": 1})
            try:
                with self._lock:
                    if not self._closed.is_set():
                        _send(self._process.stdin.fileno(), frame)
            except (OSError, ValueError, wire.WireTimeoutError):
                return  # whoever waits for an answer will see it, too

    def request(
        self,
        do: str,
        args: Mapping[str, Any],
        arrays: list[Array] | None = None,
        *,
        feeds: FeedsOf | None = None,
        progress: Callable[[Any], None] | None = None,
    ) -> tuple[dict[str, Any], list[Array]]:
        """Have the runner do something.

        Args:
            feeds: gives inputs of a label and so many examples, with their record, where the runner asks for some.
            progress: called with what it says meanwhile.

        Raises:
            TargetUnavailableError: the board vanished. Else what was raised over there.
        """
        doing = f"it was asked to {do}" if do in ("measure", "inspect", "run", "open") else "it was spoken to"
        self._write(wire.encode({"do": do, "args": dict(args)}, arrays or []), doing)
        assert self._process.stdout is not None
        refused: EdgeKDError | None = None
        while True:
            try:
                answer, made = wire.decode(
                    wire.receive(self._process.stdout.fileno(), SILENT_S, each_part=True)
                )
            except (wire.WireClosedError, wire.WireTimeoutError, wire.WireError, OSError, ValueError) as e:
                raise self._ended(
                    doing,
                    said=f"said nothing for {SILENT_S:g} s" if isinstance(e, wire.WireTimeoutError) else "",
                ) from None
            if "pong" in answer:
                continue
            if "progress" in answer:
                if progress is not None:
                    progress(answer["progress"])
            elif "feeds" in answer and feeds is not None:
                try:
                    given, record = feeds(answer["feeds"]["label"], answer["feeds"]["count"])
                    reply: dict[str, Any] = {"names": list(given), "record": dict(record)}
                    frame = wire.encode(reply, list(given.values()))
                except EdgeKDError as e:
                    refused, frame = e, wire.encode({"refused": True})
                self._write(frame, doing)
            elif refused is not None:
                raise refused
            elif "error" in answer:
                raise self._error(answer["error"])
            else:
                return answer["ok"], made

    def _error(self, error: Mapping[str, str]) -> EdgeKDError:
        found = getattr(errors, error["class"], None)
        what = error["what"] if self.where in error["what"] else f"{self.where}: {error['what']}"
        if found is ChildError:
            return ChildError(what, error["fix"], outcome=error.get("outcome", ""))
        if isinstance(found, type) and issubclass(found, EdgeKDError):
            return found(what, error["fix"])
        return TargetUnavailableError(what, error["fix"])

    def _ended(self, doing: str, *, starting: bool = False, said: str = "") -> EdgeKDError:
        """Close what is left of the session, and the one line about it."""
        with self._lock, contextlib.suppress(OSError):
            self._closed.set()
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            code: int | None = self._process.wait(timeout=0.1 if said else 5.0)
        except subprocess.TimeoutExpired:
            code = None
        heard = self._heard()
        tail = last_words(heard)
        failed = self._link.failure(code, heard) if code is not None else None
        self._drop(swept=code is not None and failed is None)
        if failed is not None and starting:
            return TargetUnavailableError(f"{self.where} cannot be reached: {failed[0]}", failed[1])
        if starting and code is not None:
            return no_python(self.where, code, tail)
        why = said or (failed[0] if failed else tail or "the connection ended")
        return TargetUnavailableError(
            f"{self.where} vanished while {doing} ({why})",
            "look at its power and network, then run the same command: what was finished before is kept",
        )

    def _heard(self) -> str:
        """What was said on stderr, from its end; empty where that was nothing but white space."""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _HEARD_BYTES))
        return self._log.read().decode(errors="replace").strip()

    def _drop(self, *, swept: bool) -> None:
        """End the link's program; where the runner was killed over there (``swept``), remove its folder for it."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=2.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if swept and bootstrap.PREFIX in self._folder:
            import shlex

            with contextlib.suppress(EdgeKDError, subprocess.TimeoutExpired, OSError):
                done = self._link.spawn(f"rm -rf -- {shlex.quote(self._folder)}", self._log)
                done.communicate(timeout=_GOODBYE_S)

    def close(self) -> None:
        """Have the board remove what was put there, and hang up; safe to call twice."""
        if self._closed.is_set():
            return
        with contextlib.suppress(EdgeKDError):
            if self._folder:
                self._write(wire.encode({"do": "goodbye", "args": {}}), "saying goodbye")
        with self._lock, contextlib.suppress(OSError):
            self._closed.set()
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            code: int | None = self._process.wait(timeout=_GOODBYE_S)
        except subprocess.TimeoutExpired:
            code = None
        self._drop(swept=bool(code) and self._link.failure(code or 0, self._heard()) is None)
        self._log.close()

    def send(self, artifact: Artifact) -> str:
        """Put an artifact's files on the board, each once per session; returns its digest.

        Raises:
            UsageError: a torch module, which is code and no file; StorageError: the board's disk.
        """
        digest = artifact.digest
        if digest in self._sent:
            return digest
        if artifact.format == "torch":
            raise UsageError(
                f"{artifact.path.name} is a torch module, {self.where} opens files",
                "export it first (edgekd export)",
            )
        sources = {f.sha256: artifact.file_path(f.path) for f in artifact.files}
        missing, _ = self.request("has", {"sha256": list(sources)})
        for sha256 in missing["missing"]:
            self._put(sources[sha256], sha256)
        self.request(
            "artifact",
            {
                "digest": digest, "entry": artifact.entry, "format": artifact.format, "dtype": artifact.dtype,
                "files": [f.to_json() for f in artifact.files], "inputs": [s.to_json() for s in artifact.inputs],
                "outputs": [s.to_json() for s in artifact.outputs], BUILD_OF: artifact.lineage.get(BUILD_OF),
            },
        )  # fmt: skip
        self._sent.add(digest)
        return digest

    def _put(self, path: Path, sha256: str) -> None:
        size, offset = path.stat().st_size, 0
        with path.open("rb") as f:
            while offset < size or not offset:
                part = f.read(PART_BYTES)
                self.request(
                    "put", {"sha256": sha256, "size": size, "offset": offset}, [np.frombuffer(part, np.uint8)]
                )
                offset += len(part)
                if not part:
                    break

    def find_meters(self, asked: str) -> dict[str, str]:
        """Find the board's energy meters for a later inspection; returns why others cannot be read there.

        Args:
            asked: as :func:`edgekd.measure.meters.find_meters` takes it; a command runs on the board.

        Raises:
            UsageError: no such meter; TargetUnavailableError: one asked for by name cannot be read there.
        """
        found, _ = self.request("meters", {"asked": asked})
        return dict(found["absent"])

    def fetch(self, name: str, into: Path) -> Path:
        """Bring a result home."""
        path = into / Path(name).name
        with path.open("wb") as f:
            while True:
                _, (part,) = self.request("get", {"name": name, "offset": f.tell()})
                if not part.size:
                    return path
                f.write(part.tobytes())


def _send(fd: int, data: bytes) -> None:
    """Write to a pipe that may stop taking anything.

    Raises:
        WireTimeoutError: it took nothing for :data:`SILENT_S`; OSError: its reader is gone.
    """
    view = memoryview(data)
    while view:
        if not select.select([], [fd], [], SILENT_S)[1]:
            raise wire.WireTimeoutError
        # So much never blocks on a pipe that is ready (pipe(7), PIPE_BUF).
        view = view[os.write(fd, view[: select.PIPE_BUF]) :]


_boards: dict[str, Board] = {}


def open_board(target: Target) -> Board:
    """The session on a target's board: this process's own, opened when it is first asked for.

    Raises:
        UsageError: no such kind of link or profile; else as :class:`Board`.
    """
    found = _boards.get(str(target))
    if found is not None and not found.lost:
        return found
    kind, _, address = target.device.partition("/")
    device: Any = load_plugin("edgekd.devices", kind)()
    if not isinstance(device, LinkedDevice):
        known = [
            n
            for n in list_plugins("edgekd.devices")
            if isinstance(load_plugin("edgekd.devices", n)(), LinkedDevice)
        ]
        raise UsageError(f"target {target}: '{kind}' is no link to a board", f"known: {', '.join(known)}")
    asked = os.environ.get("EDGEKD_BOARD_PROFILE", "")
    board = Board(target, device.link(address), device.requirements(asked) if asked else None)
    if not _boards:
        atexit.register(close_boards)
    _boards[str(target)] = board
    return board


def close_boards() -> None:
    """End every session of this process."""
    while _boards:
        _boards.popitem()[1].close()
