"""What a device profile requires of a board (power mode, governor): read, compared, never set."""

from __future__ import annotations

import platform
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.errors import TargetUnavailableError

_TIMEOUT_S = 10.0


def read_state(source: str, root: Path = Path("/")) -> list[str]:
    """What the board says of itself: every file that a pattern names, or what a command prints.

    Args:
        source: ``/sys/…`` with ``*`` allowed, or a command without a shell: ``nvpmodel -q``.
        root: holds the files; another folder in tests.

    Raises:
        TargetUnavailableError: no such file, or a command that is missing or fails.
    """
    if source.startswith("/"):
        try:
            found = [p.read_text().strip() for p in sorted(root.glob(source.lstrip("/")))]
        except OSError as e:
            raise TargetUnavailableError(f"{e.filename} cannot be read ({e.strerror})") from e
        if not found:
            raise TargetUnavailableError(f"there is no {source}")
        return found
    try:
        done = subprocess.run(
            shlex.split(source), stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as e:
        raise TargetUnavailableError(f"`{source}` cannot be run ({e})") from e
    if done.returncode:
        raise TargetUnavailableError(f"`{source}` ended with {done.returncode}")
    return [done.stdout.strip()]


def check_requirements(profile: Mapping[str, Any], root: Path = Path("/")) -> list[dict[str, Any]]:
    """Compare this machine with a profile.

    Args:
        profile: ``name``, ``arch`` (as ``uname -m`` says) and ``requires``: each ``what``, ``read``, ``expect`` (a
            regular expression that every reading has to contain) and ``fix``.

    Returns:
        What each requirement found, for the evidence.

    Raises:
        TargetUnavailableError: the first that does not hold, with what to set; nothing is ever set here.
    """
    name, arch = profile["name"], platform.machine()
    if profile["arch"] != arch:
        raise TargetUnavailableError(
            f"this board is {arch}, the profile {name} is of {profile['arch']}",
            "name the board's own profile",
        )
    found = []
    for requirement in profile["requires"]:
        what, fix = requirement["what"], requirement["fix"]
        try:
            readings = read_state(requirement["read"], root)
        except TargetUnavailableError as e:
            raise TargetUnavailableError(f"the profile {name} requires {what}, and {e.what}", fix) from e
        for text in readings:
            if not re.search(requirement["expect"], text):
                shown = " ".join(text.split())[:80]
                raise TargetUnavailableError(
                    f"the profile {name} requires {what}, {requirement['read']} says '{shown}'", fix
                )
        found.append({"what": what, "read": requirement["read"], "found": sorted(set(readings))})
    return found
