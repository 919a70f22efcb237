"""Sessions over a pretended adb: a device that is there, one that is not, and one that is unplugged in the middle."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fixtures_board import command_of, fake_adb, processes_with, wait_until

from edgekd.artifact import Artifact
from edgekd.board.measuring import measure_on_board
from edgekd.board.session import close_boards, open_board
from edgekd.errors import MissingDependencyError, TargetUnavailableError, UsageError
from edgekd.measure import Protocol, Scenario, Setting
from edgekd.spec import draw_feeds
from edgekd.target import parse_target
from edgekd_devices.adb import AdbDevice, AdbLink

TARGET = parse_target("adb/FAKE1:onnxruntime")


@dataclass
class Phone:
    """The device: what it says of itself, and where sessions make their folders."""

    state: Path
    temporary: Path


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Phone]:
    command, state = fake_adb(tmp_path)
    temporary = tmp_path / "data-local-tmp"
    temporary.mkdir()
    for name, value in {
        "EDGEKD_ADB": command,
        "FAKE_ADB_STATE": str(state),
        "EDGEKD_BOARD_PYTHON": sys.executable,
        "EDGEKD_BOARD_TMPDIR": str(temporary),
    }.items():
        monkeypatch.setenv(name, value)
    yield Phone(state, temporary)
    close_boards()


def test_a_measurement_over_adb(phone: Phone, student: Artifact) -> None:
    opened = open_board(TARGET)
    feeds = draw_feeds(student.inputs, seed=0, shapes={}, batch=1)
    found = measure_on_board(
        opened, Scenario(min_duration_s=0.001, min_count=1), ("s", student, lambda n: feeds), [],
        Setting(target=TARGET, runtime_paths={}), record=lambda f: {"kind": "drawn"}, limits={},
        protocol=Protocol(min_restarts=1, max_restarts=1, rounds=2, block_ms=2, warm_s=0.01, warm_calls=5),
    )  # fmt: skip
    assert found.target == "adb/FAKE1:onnxruntime"
    assert found.environment["board"]["device"] == "adb/FAKE1"
    assert len(found.calls_ns("baseline")) > 0
    # Every byte value goes both ways unchanged.
    every = np.arange(256, dtype=np.uint8).repeat(1000)
    sha256 = hashlib.sha256(every.tobytes()).hexdigest()
    opened.request("put", {"sha256": sha256, "size": every.size, "offset": 0}, [every])
    assert opened.request("has", {"sha256": [sha256]})[0] == {"missing": []}
    opened.close()
    assert list(phone.temporary.iterdir()) == []


def test_a_device_that_is_unplugged_in_the_middle(phone: Phone, student: Artifact) -> None:
    opened = open_board(TARGET)
    feeds = draw_feeds(student.inputs, seed=0, shapes={}, batch=1)

    def there() -> list[int]:
        return processes_with(str(phone.temporary / "edgekd-board-"))

    def unplug() -> None:
        wait_until(lambda: any("edgekd.child" in command_of(p) for p in there()))
        phone.state.write_text("unplugged")

    striker = threading.Thread(target=unplug)
    striker.start()
    with pytest.raises(TargetUnavailableError, match="adb/FAKE1 vanished while it was asked to measure") as e:
        measure_on_board(
            opened, Scenario(), ("s", student, lambda n: feeds), [], Setting(target=TARGET, runtime_paths={}),
            record=lambda f: {}, protocol=Protocol(min_restarts=50, max_restarts=50),
        )  # fmt: skip
    striker.join()
    assert "error: device offline" in str(e.value)
    assert "\n" not in str(e.value)
    wait_until(lambda: not there())
    wait_until(lambda: not list(phone.temporary.iterdir()))


@pytest.mark.parametrize(
    ("state", "line"),
    [
        ("offline", "adb/FAKE1 cannot be reached: device offline; plug it in again"),
        ("unauthorized", "adb/FAKE1 cannot be reached: device unauthorized.*accept this computer's key"),
    ],
)
def test_a_device_that_is_not_ready(phone: Phone, state: str, line: str) -> None:
    phone.state.write_text(state)
    with pytest.raises(TargetUnavailableError, match=line):
        open_board(TARGET)


def test_no_such_device_and_no_adb(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TargetUnavailableError, match="device 'OTHER' not found; see `adb devices`"):
        open_board(parse_target("adb/OTHER:onnxruntime"))
    monkeypatch.setenv("EDGEKD_ADB", "/nowhere/adb")
    with pytest.raises(MissingDependencyError, match=r"/nowhere/adb cannot be started .*platform tools"):
        open_board(TARGET)
    for address in ("", "-s", "a/b"):
        with pytest.raises(UsageError, match="names no device"):
            AdbDevice().link(address)


def test_a_program_that_fails_there_is_no_failure_of_the_link() -> None:
    link = AdbLink("X")
    assert link.failure(127, "sh: python3: not found") is None
    assert link.failure(1, "Traceback: x") is None
    assert link.failure(1, "error: device offline") == (
        "error: device offline",
        "plug it in again, or restart it",
    )
    assert link.failure(-9, "") is not None


def test_a_phone_without_python(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_BOARD_PYTHON", "/data/local/tmp/python/bin/python3")
    with pytest.raises(MissingDependencyError, match="adb/FAKE1 has no /data/local/tmp/python/bin/python3"):
        open_board(TARGET)


def test_a_line_runs_in_a_posix_shell(phone: Phone, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        out, _ = AdbLink("FAKE1").spawn('printf "%s" "$HOME $0"', log).communicate()
    assert out.decode() == f"{os.environ['HOME']} sh"
