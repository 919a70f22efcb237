"""Boards, hosts and links that end in the middle: one line here, and nothing left running or lying there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fixtures_board import Sshd, command_of, descendants, processes_with, wait_until

from edgekd.artifact import Artifact
from edgekd.board import session as sessions
from edgekd.board.measuring import measure_on_board
from edgekd.board.session import Board, open_board
from edgekd.errors import TargetUnavailableError
from edgekd.measure import Protocol, Scenario, Setting
from edgekd.spec import draw_feeds
from edgekd.target import parse_target

TARGET = parse_target("ssh/board:onnxruntime")
#: Longer than any test waits.
ENDLESS = Protocol(min_restarts=50, max_restarts=50, rounds=50, block_ms=100)


def there(board: Sshd) -> list[int]:
    """Processes of sessions on the board: the runner and its measuring children."""
    return processes_with(str(board.temporary / "edgekd-board-"))


def measuring(board: Sshd) -> bool:
    """Whether a child measures there."""
    return sum("edgekd.child" in command_of(pid) for pid in there(board)) >= 1


def runner(board: Sshd) -> int:
    """The runner: the parent of the children."""
    child = next(pid for pid in there(board) if "edgekd.child" in command_of(pid))
    stat = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    return int(stat[1])


def measure_until(board: Sshd, teacher: Artifact, strike) -> str:  # type: ignore[no-untyped-def]
    """Measure, strike when children run, and the one line that came of it."""
    feeds = draw_feeds(teacher.inputs, seed=0, shapes={}, batch=1)
    opened = open_board(TARGET)

    def when_measuring() -> None:
        wait_until(lambda: measuring(board))
        strike(opened)

    striker = threading.Thread(target=when_measuring)
    striker.start()
    with pytest.raises(TargetUnavailableError) as e:
        measure_on_board(
            opened, Scenario(), ("t", teacher, lambda n: feeds), [], Setting(target=TARGET, runtime_paths={}),
            record=lambda f: {}, protocol=ENDLESS,
        )  # fmt: skip
    striker.join()
    assert e.value.exit_code == 4
    assert "\n" not in str(e.value)
    assert opened.lost
    return str(e.value)


def nothing_is_left(board: Sshd) -> None:
    wait_until(lambda: not there(board))
    wait_until(lambda: not board.left())


def test_sshd_dies_in_the_middle(fresh: Sshd, teacher: Artifact) -> None:
    def strike(opened: Board) -> None:
        for pid in fresh.session_pids():
            os.kill(pid, signal.SIGKILL)

    line = measure_until(fresh, teacher, strike)
    assert line.startswith("ssh/board vanished while it was asked to measure")
    assert "what was finished before is kept" in line
    nothing_is_left(fresh)
    assert open_board(TARGET).device == "cpu"  # the next session is a new one


def test_the_link_ends_in_the_middle(fresh: Sshd, teacher: Artifact) -> None:
    line = measure_until(fresh, teacher, lambda opened: os.kill(opened._process.pid, signal.SIGKILL))
    assert "vanished" in line
    nothing_is_left(fresh)


def test_the_runner_is_killed_and_the_host_removes_its_folder(fresh: Sshd, teacher: Artifact) -> None:
    line = measure_until(fresh, teacher, lambda opened: os.kill(runner(fresh), signal.SIGKILL))
    assert "vanished" in line
    nothing_is_left(fresh)


def test_a_board_that_stands_still_is_given_up(
    fresh: Sshd, teacher: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "PING_S", 0.2)
    stopped: list[int] = []

    def strike(opened: Board) -> None:
        stopped.extend([runner(fresh), *descendants(runner(fresh))])
        monkeypatch.setattr(sessions, "SILENT_S", 1.0)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)

    try:
        # What waits already has the old patience; the first pong is late enough to have the new one.
        monkeypatch.setattr(sessions, "SILENT_S", 2.0)
        line = measure_until(fresh, teacher, strike)
        assert "(said nothing for" in line
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    nothing_is_left(fresh)


def test_a_host_that_stands_still_is_given_up(tmp_path: Path) -> None:
    """The board's end alone, with a host that keeps the pipe open and says nothing: a network that is cut."""
    folder = tmp_path / "edgekd-board-x"
    folder.mkdir()
    code = (
        "import os, signal, sys, time, shutil\n"
        "from pathlib import Path\n"
        "from edgekd.board import line\n"
        "line.SILENT_S = 0.5\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "there = line.Line(Path(sys.argv[1]), 0, 1)\n"
        "try:\n"
        "    there.next()\n"
        "finally:\n"
        "    shutil.rmtree(sys.argv[1])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.wait(timeout=60) == 7
    finally:
        process.kill()
    assert not folder.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_the_host_ends_in_the_middle(
    fresh: Sshd, models: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "measurement.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekd", "bench", "teacher.onnx", "--target", str(TARGET), "--restarts", "50", "-o", str(out)],
        cwd=models, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_until(lambda: measuring(fresh), seconds=60)
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:
        assert said.strip().splitlines()[-1].startswith("edgekd: error: interrupted")
    nothing_is_left(fresh)
    assert not out.exists()


def test_what_a_dead_runner_left_goes_with_the_next_session(fresh: Sshd) -> None:
    left, young, old, alive = (
        fresh.temporary / f"edgekd-board-{n}" for n in ("left", "young", "old", "alive")
    )
    for folder in (left, young, old, alive):
        folder.mkdir()
    (left / "lock").touch()
    (alive / "lock").touch()
    two_days_ago = time.time() - 2 * 86400
    os.utime(old, (two_days_ago, two_days_ago))
    with (alive / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        open_board(TARGET).close()
    assert fresh.left() == ["edgekd-board-alive", "edgekd-board-young"]
    for folder in (young, alive):
        shutil.rmtree(folder)


def test_a_link_that_takes_nothing_is_given_up(fresh: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_board(TARGET)
    monkeypatch.setattr(sessions, "SILENT_S", 0.5)
    os.kill(opened._process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(TargetUnavailableError, match=r"vanished while .*took nothing for 0\.5 s"):
            opened._write(bytes(1 << 22), "it was sent a file")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(opened._process.pid, signal.SIGCONT)
    nothing_is_left(fresh)
