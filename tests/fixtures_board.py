"""A real sshd on loopback, with keys and a configuration of its own, as the board of a test."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

HOST = "board"


@dataclass
class Sshd:
    """A running sshd and how to reach it.

    Attributes:
        config: the ssh_config that knows it as ``board``.
        temporary: where sessions make their folders.
    """

    folder: Path
    process: subprocess.Popen[bytes]
    port: int

    @property
    def config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def temporary(self) -> Path:
        return self.folder / "board-tmp"

    def left(self) -> list[str]:
        """What sessions left on the board."""
        return sorted(p.name for p in self.temporary.iterdir())

    def session_pids(self) -> list[int]:
        """The sshd processes that serve connections."""
        return [pid for pid in descendants(self.process.pid) if "sshd" in command_of(pid)]

    def environ(self) -> dict[str, str]:
        """What makes ``ssh/board`` this sshd."""
        return {
            "EDGEKD_SSH": f"ssh -F {self.config}",
            "EDGEKD_BOARD_PYTHON": sys.executable,
            "EDGEKD_BOARD_TMPDIR": str(self.temporary),
        }


def descendants(pid: int) -> list[int]:
    """Every process below ``pid``."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, todo = [], [pid]
    while todo:
        new = children.get(todo.pop(), [])
        found += new
        todo += new
    return found


def command_of(pid: int) -> str:
    """The command line of a process; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def processes_with(text: str) -> list[int]:
    """Processes whose environment names ``text``: everything that a session with this folder started."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if text.encode() in environ.read_bytes() and command_of(int(environ.parent.name)):
                found.append(int(environ.parent.name))
        except OSError:
            continue
    return found


def wait_until(true: object, *, seconds: float = 20.0) -> None:
    """Until a callable answers truly; fails the test otherwise."""
    deadline = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {true}")
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def running_sshd(folder: Path) -> Iterator[Sshd]:
    """An sshd for this user alone; skips, by name, where the programs are not installed."""
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if sshd is None or shutil.which("ssh") is None:
        pytest.skip("no sshd or ssh on this machine (apt install openssh-server)")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # root's sshd separates privileges there
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    port, me = _free_port(), pwd.getpwuid(os.getuid()).pw_name
    (folder / "board-tmp").mkdir()
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host\nPidFile none\nStrictModes no\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"PermitRootLogin yes\nAllowUsers {me}\nMaxStartups 100\n"
    )
    key = (folder / "host.pub").read_text().split()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {key[0]} {key[1]}\n")
    (folder / "ssh_config").write_text(
        f"Host {HOST}\n HostName 127.0.0.1\n Port {port}\n User {me}\n IdentityFile {folder}/user\n"
        f" IdentitiesOnly yes\n UserKnownHostsFile {folder}/known_hosts\n GlobalKnownHostsFile none\n"
        " StrictHostKeyChecking yes\n"
    )
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen(
            [sshd, "-D", "-e", "-f", str(folder / "sshd_config")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"sshd did not start: {(folder / 'sshd.log').read_text()}")
                time.sleep(0.05)
        yield Sshd(folder, process, port)
    finally:
        below = descendants(process.pid)
        process.terminate()
        process.wait()
        for pid in below:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


#: Does what adb does for one device, ``FAKE1``, on this machine. The file named by FAKE_ADB_STATE holds its state.
_FAKE_ADB = """
import os, subprocess, sys, threading, time
from pathlib import Path
state_file = Path(os.environ["FAKE_ADB_STATE"])
args = sys.argv[1:]
assert args[0] == "-s", args
serial, verb, rest = args[1], args[2], args[3:]
state = state_file.read_text().strip()
if serial != "FAKE1":
    sys.exit(f"error: device '{serial}' not found")
if state == "offline":
    sys.exit("error: device offline")
if state == "unauthorized":
    sys.exit("error: device unauthorized.\\nThis adb server's $ADB_VENDOR_KEYS is not set")
if verb == "get-state":
    print("device")
    sys.exit(0)
assert verb == "shell" and rest[0] == "-T", args
process = subprocess.Popen(
    ["sh", "-c", rest[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
)

def copy(source, target):
    while part := os.read(source, 65536):
        view = memoryview(part)
        while view:
            view = view[os.write(target, view):]

def forward():
    try:
        copy(0, process.stdin.fileno())
    except OSError:
        pass
    process.stdin.close()

def watch():
    while True:
        if state_file.read_text().strip() == "unplugged":
            os.write(2, b"error: device offline\\n")
            os._exit(1)  # the far side's pipes close with this process, as adbd's do
        time.sleep(0.05)

threading.Thread(target=forward, daemon=True).start()
threading.Thread(target=watch, daemon=True).start()
copy(process.stdout.fileno(), 1)
code = process.wait()
os._exit(code if code >= 0 else 128 - code)
"""


def fake_adb(folder: Path) -> tuple[str, Path]:
    """The command of a pretended adb, and the file that holds the state of its device: ``device``, ``offline``,
    ``unauthorized``, or ``unplugged`` in the middle."""
    (folder / "adb.py").write_text(_FAKE_ADB)
    (folder / "state").write_text("device")
    return f"{sys.executable} {folder / 'adb.py'}", folder / "state"
