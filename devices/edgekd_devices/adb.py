"""Boards over adb: ``--target adb/SERIAL:RUNTIME``, with the system's ``adb``."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping
from typing import IO, Any

from edgekd.board.link import last_words
from edgekd.errors import MissingDependencyError, TargetUnavailableError, UsageError
from edgekd_devices.profile import requirements_of
from edgekd_devices.program import program, start

_INSTALL = "install Android's platform tools (apt install adb), or name the program in EDGEKD_ADB"
_STATE_S = 20.0

#: What adb says -> the fix (adb's error texts, packages/modules/adb: transport.cpp).
_FIXES: tuple[tuple[str, str], ...] = (
    ("unauthorized", "accept this computer's key on its screen, or plug it in again"),
    ("no permissions", "let your user open the USB device (udev rules), then: adb kill-server"),
    ("offline", "plug it in again, or restart it"),
    ("not found", "see `adb devices`"),
    ("no devices", "see `adb devices`"),
)

#: Android has no /tmp; adb's own user may write here and run what it writes.
_TEMPORARY = '[ -n "$TMPDIR" ] || [ ! -d /data/local/tmp ] || export TMPDIR=/data/local/tmp; '


def _fix(said: str) -> str:
    return next((fix for text, fix in _FIXES if text in said), "see `adb devices`")


class AdbLink:
    """One device that adb reaches."""

    def __init__(self, serial: str) -> None:
        self.serial, self.where = serial, f"adb/{serial}"

    def spawn(self, script: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """See :class:`edgekd.board.link.Link`.

        Raises:
            TargetUnavailableError: the device is offline, unauthorized or not there.
        """
        adb = [*program("EDGEKD_ADB", "adb"), "-s", self.serial]
        try:
            state = subprocess.run(
                [*adb, "get-state"], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=_STATE_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as e:
            raise TargetUnavailableError(
                f"{self.where} cannot be reached: adb said nothing for {_STATE_S:g} s", "adb kill-server"
            ) from e
        except OSError as e:
            raise MissingDependencyError(f"{adb[0]} cannot be started ({e.strerror})", _INSTALL) from e
        found = state.stdout.strip()
        if state.returncode or found != "device":
            said = " ".join((state.stderr or found).split()).removeprefix("error: ") or "no answer"
            raise TargetUnavailableError(f"{self.where} cannot be reached: {said}", _fix(said))
        # -T: no terminal, so that bytes stay as they are.
        argv = [*adb, "shell", "-T", f"{_TEMPORARY}exec sh -c {shlex.quote(script)}"]
        return start(argv, log, install=_INSTALL)

    def failure(self, code: int, said: str) -> tuple[str, str] | None:
        """See :class:`edgekd.board.link.Link`; adb ends with 1 or 255 on its own errors, and says ``error:`` or ``adb:``."""
        own = any(line.strip().startswith(("error:", "adb:")) for line in said.splitlines())
        if code >= 0 and not own and code != 255:
            return None
        return last_words(said) or "adb ended", _fix(said)


class AdbDevice:
    """The device plugin ``adb``."""

    name = "adb"

    def link(self, address: str) -> AdbLink:
        """The link to the device with this serial number; one on the network without its port: ``192.168.1.20``.

        Raises:
            UsageError: not a serial number.
        """
        if not address or address.startswith("-") or "/" in address:
            raise UsageError(
                f"'adb/{address}' names no device", "for example adb/R3CT20:litert, see `adb devices`"
            )
        return AdbLink(address)

    def requirements(self, profile: str) -> Mapping[str, Any]:
        """See :class:`edgekd.board.link.LinkedDevice`."""
        return requirements_of(profile)
