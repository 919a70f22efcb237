"""The board's end of the link: frames in and out, and a thread that notices at once that the host is gone."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

from edgekd.board.manners import SILENT_S
from edgekd.child import wire
from edgekd.data.example import Array

#: How long the main thread has to end its children before the process ends without it.
_GRACE_S = 10.0

Message = tuple[dict[str, Any], list[Array]]


class Line:
    """The runner's line to its host.

    When the host closes the line, says nothing for :data:`SILENT_S`, or sends garbage, this process gets SIGTERM; its
    handler leaves through every ``finally``: children end, the folder goes.

    Args:
        folder: removed by force where the main thread does not come to it in time.
    """

    def __init__(self, folder: Path, read_fd: int, write_fd: int) -> None:
        self._folder, self._read, self._write = folder, read_fd, write_fd
        self._lock = threading.Lock()
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._ended = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def say(self, message: dict[str, Any], arrays: list[Array] | None = None) -> None:
        """Send one message.

        Raises:
            BrokenPipeError: the host is gone.
        """
        frame = wire.encode(message, arrays or [])
        with self._lock:
            wire.send(self._write, frame)

    def next(self) -> Message:
        """The next message; waits for it."""
        return self._messages.get()

    def end(self) -> None:
        """From now on a closed line is no reason to hurry."""
        self._ended.set()

    def _listen(self) -> None:
        try:
            while True:
                message, arrays = wire.decode(wire.receive(self._read, SILENT_S, each_part=True))
                if "ping" in message:
                    self.say({"pong": message["ping"]})
                else:
                    self._messages.put((message, arrays))
        except (wire.WireClosedError, wire.WireTimeoutError, wire.WireError, OSError):
            self._leave()

    def _leave(self) -> None:
        if self._ended.is_set():
            return
        os.kill(os.getpid(), signal.SIGTERM)
        if not self._ended.wait(_GRACE_S):
            shutil.rmtree(self._folder, ignore_errors=True)
            os._exit(1)  # children are tied to this process and end with it
