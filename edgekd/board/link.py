"""How a board is reached: the protocols of a link and of the device plugins that make one."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import IO, Any, Protocol, runtime_checkable


def last_words(said: str) -> str:
    """The end of a program's stderr on one line, at most 300 characters.

    >>> last_words("one\\n\\ntwo\\n three \\nfour\\n")
    'two; three; four'
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return "; ".join(lines[-3:])[-300:]


@runtime_checkable
class Link(Protocol):
    """A way to start a program on a board.

    Attributes:
        where: the device as users write it, ``ssh/HOST``.
    """

    where: str

    def spawn(self, script: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start a line of POSIX shell over there; its stdin and stdout are pipes, binary and unbuffered.

        Args:
            script: one line; the far side's login shell need not be a POSIX one.
            log: takes what it, and the link's own program, say on stderr.

        Raises:
            MissingDependencyError: the link's program is not installed; TargetUnavailableError: no such device.
        """
        ...

    def failure(self, code: int, said: str) -> tuple[str, str] | None:
        """What ended a connection, and the fix; None where the link did its part and the program over there ended.

        Args:
            code: of the link's program; said: its stderr, lines and all; what is given back is one line of it.
        """
        ...


@runtime_checkable
class LinkedDevice(Protocol):
    """A device plugin whose devices are behind a link: targets ``NAME/ADDRESS:RUNTIME``."""

    name: str

    def link(self, address: str) -> Link:
        """The link to one device; nothing is connected yet.

        Raises:
            UsageError: not an address.
        """
        ...

    def requirements(self, profile: str) -> Mapping[str, Any]:
        """``arch`` and ``requires`` of a device profile, as :func:`edgekd.board.requirements.unmet` takes them.

        Raises:
            UsageError: no such profile.
        """
        ...
