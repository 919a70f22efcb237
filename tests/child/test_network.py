"""Children have no network, and say so where they have."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.child import ChildProcess, Limits
from edgekd.errors import ChildError

HERE = Path(__file__).parent


def _can_unshare() -> bool:
    """Whether this system lets a process leave its network."""
    code = "import sys; from edgekd.no_network import leave_network as l; sys.exit(l() != 'none')"
    return (
        sys.platform == "linux" and subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    )


needs_namespaces = pytest.mark.skipif(not _can_unshare(), reason="network namespaces are not allowed here")


def _state(**limits: object) -> dict[str, object]:
    with ChildProcess("looking around", Limits(), (HERE,)) as child:
        told, _ = child.request("edgekd.child.sessions:network", {})
        seen, _ = child.request("network_faults:look", {"port": limits.get("port", 0)})
    return {**told, **seen}


@needs_namespaces
def test_a_child_reaches_nothing_but_itself() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            pass  # it can be reached from here
        found = _state(port=port)
    assert found["network"] == "none"
    assert found["interfaces"] == ["lo"]
    assert found["reached"] is False
    assert found["own_loopback"] is True
    assert found["uid"] == os.getuid()


def test_the_network_can_be_left_to_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_CHILD_NETWORK", "allow")
    assert _state()["network"] == "shared: EDGEKD_CHILD_NETWORK=allow"


def test_a_system_that_forbids_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekd import no_network

    monkeypatch.setattr(no_network, "_unshare", lambda flags: "Operation not permitted")
    if sys.platform == "linux":
        assert no_network.leave_network() == "shared: Operation not permitted"


@needs_namespaces
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_without_root_a_namespace_of_users_does() -> None:
    code = (
        "import ctypes, fcntl, os, socket; from edgekd.no_network import leave_network; "
        "os.setgid(65534); os.setuid(65534); "
        "print(leave_network(), os.getuid(), os.getgid())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if "Permission" in done.stderr or "not permitted" in done.stdout:
        pytest.skip("namespaces of users are not allowed here")
    assert done.stdout.split() == ["none", "65534", "65534"], done.stderr


def test_a_request_that_spins_is_stopped_by_the_kernel() -> None:
    with ChildProcess("spinning", Limits(cpu_s=0.5, timeout_s=60.0), (HERE,)) as child:
        assert child.request("network_faults:look", {"port": 0})[0]["uid"] == os.getuid()
        with pytest.raises(ChildError, match="more CPU time than one request may") as caught:
            child.request("network_faults:spin", {})
    assert caught.value.outcome == "time-out"


def test_the_rule_of_a_refusal_travels() -> None:
    from edgekd.errors import PolicyError

    with ChildProcess("refusing", Limits(), (HERE,)) as child, pytest.raises(PolicyError) as caught:
        child.request("network_faults:refuse", {})
    assert caught.value.rule == "nesting"


def test_libc_is_what_this_file_thinks() -> None:
    if sys.platform == "linux":
        assert hasattr(ctypes.CDLL(None), "unshare")
