"""Boards over ssh: ``--target ssh/HOST:RUNTIME``, with the system's ``ssh`` and the user's own ``ssh_config``."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping
from typing import IO, Any

from edgekd.board.link import last_words
from edgekd.errors import UsageError
from edgekd_devices.profile import requirements_of
from edgekd_devices.program import program, start

#: ssh_config(5). Nothing asks, a dead link is noticed after 15 s, nothing of the user's session is forwarded. Host keys
#: are checked as the user's configuration says: no option here touches that.
_OPTIONS = (
    "-T", "-a", "-x", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5",
    "-o", "ServerAliveCountMax=3", "-o", "EscapeChar=none", "-o", "ClearAllForwardings=yes",
    "-o", "PermitLocalCommand=no", "-o", "RemoteCommand=none", "-o", "LogLevel=ERROR",
)  # fmt: skip

#: What ssh itself ends with on its own errors (ssh(1), EXIT STATUS).
_OWN_FAILURE = 255

_CHANGED_KEY = "ask its owner why its key changed; only then: ssh-keygen -R {host}"

#: What ssh says -> the fix; the first that is found counts (openssh-portable, sshconnect.c).
_FIXES: tuple[tuple[str, str], ...] = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", _CHANGED_KEY),
    ("has changed and you have requested strict checking", _CHANGED_KEY),
    ("Host key verification failed", "connect once by hand and compare its key: ssh {host}"),
    ("Permission denied", "let a key in, nothing asks for a password: ssh-copy-id {host}"),
    ("Could not resolve hostname", "correct the name, or give it a Host entry in ~/.ssh/config"),
    ("Connection refused", "start sshd there, or give its port in ~/.ssh/config"),
    ("timed out", "power it on, and look at its network"),
    ("No route to host", "power it on, and look at its network"),
)


class SshLink:
    """One host that ssh reaches."""

    def __init__(self, host: str) -> None:
        self.host, self.where = host, f"ssh/{host}"

    def spawn(self, script: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """See :class:`edgekd.board.link.Link`."""
        # sh, because the account's login shell may be another; -- because a host may look like an option.
        argv = [
            *program("EDGEKD_SSH", "ssh"),
            *_OPTIONS,
            "--",
            self.host,
            f"exec sh -c {shlex.quote(script)}",
        ]
        return start(argv, log, install="install openssh-client, or name the program in EDGEKD_SSH")

    def failure(self, code: int, said: str) -> tuple[str, str] | None:
        """See :class:`edgekd.board.link.Link`."""
        # With nothing said, 255 is a program over there that a signal ended.
        if (code != _OWN_FAILURE and code >= 0) or (code == _OWN_FAILURE and not said):
            return None
        fix = next((f for text, f in _FIXES if text in said), "try it by hand: ssh {host} true")
        return last_words(_without_advice(said)) or f"ssh ended with {code}", fix.format(host=self.host)


def _without_advice(said: str) -> str:
    """Without ssh's own command that removes a changed key: whoever copies it lets a stranger in."""
    kept = [
        line for line in said.splitlines()
        if line.strip() != "remove with:" and not line.lstrip().startswith("ssh-keygen ")
    ]  # fmt: skip
    return "\n".join(kept)


class SshDevice:
    """The device plugin ``ssh``."""

    name = "ssh"

    def link(self, address: str) -> SshLink:
        """The link to ``HOST`` or ``USER@HOST``, as ssh_config names it.

        Raises:
            UsageError: not a host.
        """
        if not address or address.startswith("-") or "/" in address:
            raise UsageError(f"'ssh/{address}' names no host", "for example ssh/pi5:onnxruntime")
        return SshLink(address)

    def requirements(self, profile: str) -> Mapping[str, Any]:
        """See :class:`edgekd.board.link.LinkedDevice`."""
        return requirements_of(profile)
