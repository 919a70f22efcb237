"""Takes the network from this process: a new network namespace, in which only its own loopback exists (Linux).

Imported by children before anything else, so that no thread runs yet: a user namespace wants a single-threaded process
(unshare(2)). Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

#: ``allow`` leaves children the network of this machine.
VARIABLE = "EDGEKD_CHILD_NETWORK"
#: Set in a child: ``none``, or ``shared: why``.
STATE_VARIABLE = "_EDGEKD_NETWORK_STATE"

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h
_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 0x1, 0x40  # linux/sockios.h, linux/if.h


def leave_network() -> str:
    """Leave this machine's network for good, as far as the system allows; says ``none`` or ``shared: why``."""
    if os.environ.get(VARIABLE) == "allow":
        return f"shared: {VARIABLE}=allow"
    if not sys.platform.startswith("linux"):
        return f"shared: {sys.platform} has no network namespaces"
    user, group = os.getuid(), os.getgid()
    first = _unshare(_CLONE_NEWNET)
    if first:
        # Without the right to, a namespace of users gives it.
        why = _unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
        if why:
            return f"shared: {why}"
        _keep_ids(user, group)
    with contextlib.suppress(OSError):
        _raise_loopback()
    return "none"


def _unshare(flags: int) -> str:
    """Empty where it worked, else the system's reason."""
    import ctypes

    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.unshare(flags) == 0:
            return ""
    except (OSError, AttributeError) as e:
        return str(e)
    return os.strerror(ctypes.get_errno())


def _keep_ids(user: int, group: int) -> None:
    """The ids of before, which would read as nobody's."""
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _raise_loopback() -> None:
    """Processes of the child may still talk to each other by 127.0.0.1."""
    import fcntl
    import socket
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh22x", b"lo", _IFF_UP | _IFF_RUNNING)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)
