"""Sessions over a real sshd: what is looked at, what is pushed, what comes back, and that nothing stays."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures_board import Sshd, processes_with, wait_until

from edgekd.artifact import Artifact
from edgekd.board import session as sessions
from edgekd.board.measuring import measure_on_board
from edgekd.board.session import Board, close_boards, open_board
from edgekd.errors import (
    ChildError,
    DataError,
    MissingDependencyError,
    ModelError,
    StorageError,
    TargetUnavailableError,
    UsageError,
)
from edgekd.evidence import load_measurement, save_measurement
from edgekd.measure import Protocol, Scenario, Setting, ledger
from edgekd.placement import PlacingRuntime
from edgekd.spec import draw_feeds
from edgekd.target import SessionOptions, parse_target
from edgekd_devices import remote
from edgekd_devices.ssh import SshDevice, SshLink

TARGET = parse_target("ssh/board:onnxruntime")
#: As METHOD's, but so short that a test can wait for it.
BRIEF = Protocol(min_restarts=1, max_restarts=1, rounds=3, block_ms=2, warm_s=0.01, warm_calls=5)


def wrapper(folder: Path, *lines: str) -> str:
    """A Python that is started by these lines of shell."""
    path = folder / "python"
    path.write_text("\n".join(["#!/bin/sh", *lines, f'exec {sys.executable} "$@"', ""]))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_session_knows_the_board_and_leaves_nothing(fresh: Sshd) -> None:
    opened = open_board(TARGET)
    assert opened.machine == ledger.machine()  # loopback: the board is this machine
    assert opened.device == "cpu"
    assert opened.python == sys.executable
    assert opened.tools["onnxruntime"] != "absent"
    assert opened.affinity == sorted(os.sched_getaffinity(0))
    assert len(fresh.left()) == 1
    assert (fresh.temporary / fresh.left()[0]).stat().st_mode & 0o077 == 0
    assert open_board(TARGET) is opened
    close_boards()
    assert fresh.left() == []
    wait_until(lambda: not processes_with(str(fresh.temporary / "edgekd-board-")))
    assert open_board(TARGET) is not opened


def test_the_whole_protocol_runs_there(
    board: Sshd, teacher: Artifact, student: Artifact, tmp_path: Path
) -> None:
    opened = open_board(TARGET)
    asked: list[tuple[str, int]] = []

    def maker(label: str, artifact: Artifact):  # type: ignore[no-untyped-def]
        def feeds(count: int) -> dict[str, np.ndarray]:
            asked.append((label, count))
            return draw_feeds(artifact.inputs, seed=0, shapes={}, batch=count)

        return feeds

    steps: list[int] = []
    setting = Setting(target=TARGET, runtime_paths={}, threads=1, batch=2)
    found = measure_on_board(
        opened, Scenario(min_duration_s=0.001, min_count=1), ("t", teacher, maker("t", teacher)), [("s", student, maker("s", student))],
        setting, record=lambda feeds: {"kind": "drawn", "rows": len(feeds["x"])}, protocol=BRIEF,
        progress=lambda done, most: steps.append(done),
    )  # fmt: skip
    assert list(found.arms) == ["baseline", "baseline_twin", "candidate"]
    assert found.target == "ssh/board:onnxruntime"
    assert found.arms["candidate"]["artifact"] == student.digest
    assert found.inputs["t"] == {"kind": "drawn", "rows": 2}
    assert len(found.restarts) == 1
    assert len(found.restarts[0].blocks["candidate"]) == BRIEF.rounds
    assert (found.calls_ns("candidate") > 0).all()
    assert found.restarts[0].ledger["seconds"] > 0
    assert found.restarts[0].children["candidate"]["placement"]["provider"] == "CPUExecutionProvider"
    assert {k: found.environment[k] for k in opened.machine} == opened.machine
    assert found.environment["board"]["device"] == "ssh/board"
    assert asked == [("t", 2), ("s", 2)]  # the twin is fed what the baseline is
    assert steps == [1]
    save_measurement(found, tmp_path / "measurement.json")
    assert load_measurement(tmp_path / "measurement.json").environment == found.environment


def test_what_the_host_cannot_give_is_the_hosts_error(board: Sshd, teacher: Artifact) -> None:
    def broken(count: int) -> dict[str, np.ndarray]:
        raise DataError("the data ends early", "mend it")

    opened = open_board(TARGET)
    with pytest.raises(DataError, match="the data ends early; mend it"):
        measure_on_board(
            opened, Scenario(), ("t", teacher, broken), [], Setting(target=TARGET, runtime_paths={}), record=dict, protocol=BRIEF
        )  # fmt: skip
    assert open_board(TARGET) is opened
    assert opened.request("has", {"sha256": []})[0] == {"missing": []}


def test_files_arrive_whole_and_once(fresh: Sshd, teacher: Artifact) -> None:
    opened = open_board(TARGET)
    done: list[str] = []
    request = opened.request

    def watched(do: str, *args, **more):  # type: ignore[no-untyped-def]
        done.append(do)
        return request(do, *args, **more)

    opened.request = watched  # type: ignore[method-assign]
    opened.send(teacher)
    opened.send(teacher)
    assert done == ["has", "put", "artifact"]
    sha256 = teacher.files[0].sha256
    blob = fresh.temporary / fresh.left()[0] / "blobs" / sha256
    assert blob.read_bytes() == teacher.path.read_bytes()
    wrong = "0" * 64
    with pytest.raises(StorageError, match="ssh/board: a file of 3 bytes arrived damaged"):
        request("put", {"sha256": wrong, "size": 3, "offset": 0}, [np.zeros(3, np.uint8)])
    assert [p.name for p in blob.parent.iterdir()] == [sha256]
    with pytest.raises(UsageError, match="not a SHA-256"):
        request("put", {"sha256": "../../../etc/passwd", "size": 0, "offset": 0}, [np.zeros(0, np.uint8)])
    with pytest.raises(StorageError, match="was to be put there"):
        request("put", {"sha256": wrong, "size": 1 << 60, "offset": 0}, [np.zeros(3, np.uint8)])


def test_an_artifacts_files_stay_in_their_folder(board: Sshd, teacher: Artifact) -> None:
    opened = open_board(TARGET)
    file = {**teacher.files[0].to_json(), "path": "../../escaped"}
    empty = {"entry": "x", "format": "onnx", "dtype": "float32", "inputs": [], "outputs": []}
    with pytest.raises(ModelError, match="outside its folder"):
        opened.request("artifact", {"digest": "sha256:0", "files": [file], **empty})


def test_a_remote_session_answers_as_a_local_one(board: Sshd, teacher: Artifact) -> None:
    from edgekd_onnx.runtime import OnnxRuntime

    feeds = draw_feeds(teacher.inputs, seed=3, shapes={}, batch=5)
    options = SessionOptions(device="ssh/board", threads=1)
    far = remote.onnxruntime().open(teacher.path, options)  # type: ignore[operator]
    near = OnnxRuntime().open(teacher.path, SessionOptions())
    assert far.inputs == near.inputs
    assert far.outputs == near.outputs
    np.testing.assert_array_equal(far.run(feeds)["logits"], near.run(feeds)["logits"])
    assert far.placement.device == "ssh/board"
    assert far.placement.provider == "CPUExecutionProvider"
    assert far.placement.detail["machine"]["boot_id"] == ledger.machine()["boot_id"]
    with pytest.raises(DataError):
        far.run({"x": np.zeros((1, 3), np.float32)})
    far.close()
    with pytest.raises(ModelError, match="closed"):
        far.run(feeds)


def test_a_child_that_dies_there_is_told_here(board: Sshd, teacher: Artifact) -> None:
    session = remote.onnxruntime().open(teacher.path, SessionOptions(device="ssh/board"))  # type: ignore[operator]
    for pid in processes_with(board.left()[0]):
        if b"edgekd.child" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, 11)
    with pytest.raises(
        ChildError, match=r"ssh/board: running teacher.onnx on the board crashed with SIGSEGV"
    ):
        session.run(draw_feeds(teacher.inputs, seed=3, shapes={}, batch=1))
    assert not open_board(TARGET).lost


def test_where_operators_ran_is_told_from_there(board: Sshd, teacher: Artifact) -> None:
    from edgekd_onnx.runtime import OnnxRuntime

    feeds = draw_feeds(teacher.inputs, seed=3, shapes={}, batch=2)
    far = remote.onnxruntime()  # type: ignore[operator]
    assert isinstance(far, PlacingRuntime)
    told = far.place(teacher.path, SessionOptions(device="ssh/board"), feeds)
    here = OnnxRuntime().place(teacher.path, SessionOptions(), feeds)
    assert [replace(op, time_ns=None) for op in told] == [replace(op, time_ns=None) for op in here]
    assert {op.place for op in told} == {"CPUExecutionProvider"}
    with pytest.raises(DataError, match="ssh/board"):
        far.place(teacher.path, SessionOptions(device="ssh/board"), {"x": np.zeros((1, 3), np.float32)})


def test_a_runtime_that_does_not_tell_is_not_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        formats = ("onnx",)

    monkeypatch.setattr(remote, "load_plugin", lambda group, name: Silent)
    assert not isinstance(remote.onnxruntime(), PlacingRuntime)  # type: ignore[operator]


def test_more_threads_than_the_board_has(board: Sshd, teacher: Artifact) -> None:
    with pytest.raises(UsageError, match="ssh/board: 4096 threads were asked for"):
        remote.onnxruntime().open(teacher.path, SessionOptions(device="ssh/board", threads=4096))  # type: ignore[operator]


def test_a_profile_is_checked_before_anything_runs(fresh: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    other = "generic-x86-64" if os.uname().machine == "aarch64" else "generic-aarch64"
    monkeypatch.setenv("EDGEKD_BOARD_PROFILE", other)
    with pytest.raises(TargetUnavailableError, match=rf"ssh/board: this board is \w+, the profile {other}"):
        open_board(TARGET)
    assert fresh.left() == []
    monkeypatch.setenv("EDGEKD_BOARD_PROFILE", "nosuch")
    with pytest.raises(UsageError, match="no device profile is called 'nosuch'"):
        open_board(TARGET)


def test_nothing_is_pushed_to_a_python_without_numpy_or_runtime(
    fresh: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # -S: no site-packages; -I would hide the environment, too.
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setenv("EDGEKD_BOARD_PYTHON", str(tmp_path / "python"))
    sent: list[bytes] = []
    write = Board._write
    monkeypatch.setattr(
        Board, "_write", lambda self, data, doing: (sent.append(data), write(self, data, doing))[1]
    )
    with pytest.raises(
        MissingDependencyError,
        match=r"without numpy and onnxruntime; there: .* -m pip install numpy onnxruntime",
    ):
        open_board(TARGET)
    assert len(sent) == 1  # the bootstrap, which only looks
    assert fresh.left() == []


def test_an_old_python_and_none_at_all(fresh: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "check_hello", _as_python_38(sessions.check_hello))
    with pytest.raises(TargetUnavailableError, match=r"ssh/board has Python 3\.8\.10 .*3\.10 is the oldest"):
        open_board(TARGET)
    monkeypatch.undo()
    for name, value in fresh.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EDGEKD_BOARD_PYTHON", "/nowhere/python3")
    with pytest.raises(MissingDependencyError, match="ssh/board has no /nowhere/python3; install Python"):
        open_board(TARGET)
    assert fresh.left() == []


def _as_python_38(check):  # type: ignore[no-untyped-def]
    return lambda where, runtime, hello: check(
        where, runtime, {**hello, "python": "3.8.10", "version": [3, 8]}
    )


def test_what_a_login_shell_says_is_passed_over(
    fresh: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = wrapper(tmp_path, 'echo "Welcome to the board"; printf "no newline"', "echo to stderr >&2")
    monkeypatch.setenv("EDGEKD_BOARD_PYTHON", noisy)
    assert open_board(TARGET).device == "cpu"


def test_a_runner_of_numpy_and_one_runtime(
    fresh: Sshd, teacher: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The board needs no package but these, and uses the sources that were sent, not an edgekd that it has."""
    root = Path(sessions.__file__).resolve().parents[2]
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        # The environment itself may lie in the checkout.
        f"sys.path[:] = [p for p in sys.path if 'site-packages' in p or not p.startswith({str(root)!r})]\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('pydantic', 'yaml', 'onnx', 'torch', 'scipy', 'sklearn', 'PIL', 'pytest',\n"
        "                                      'transformers', 'ml_dtypes', 'tokenizers', 'openvino'):\n"
        "            raise ImportError(name + ' is not on this board')\n"
        "sys.meta_path.insert(0, Refuse())\n"
    )
    monkeypatch.setenv("EDGEKD_BOARD_PYTHON", wrapper(tmp_path, f"export PYTHONPATH={tmp_path}"))
    session = remote.onnxruntime().open(teacher.path, SessionOptions(device="ssh/board"))  # type: ignore[operator]
    feeds = draw_feeds(teacher.inputs, seed=0, shapes={}, batch=1)
    assert session.run(feeds)["logits"].shape == (1, 10)
    found = measure_on_board(
        open_board(TARGET), Scenario(min_duration_s=0.001, min_count=1), ("t", teacher, lambda n: feeds), [],
        Setting(target=TARGET, runtime_paths={}), record=lambda f: {}, limits={}, protocol=BRIEF,
    )  # fmt: skip
    assert len(found.restarts) == 1


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ("ssh: Could not resolve hostname x: Name or service not known", "Host entry"),
        ("Host key verification failed.", "compare its key: ssh x"),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @; Host key verification failed.",
            "ssh-keygen -R x",
        ),
        ("Host key for x has changed and you have requested strict checking.", "ask its owner"),
        ("x@y: Permission denied (publickey).", "ssh-copy-id x"),
        ("ssh: connect to host x port 22: Connection refused", "start sshd"),
        ("ssh: connect to host x port 22: Connection timed out", "power it on"),
        ("something new", "ssh x true"),
    ],
)
def test_why_a_host_cannot_be_reached(said: str, fix: str) -> None:
    what, how = SshLink("x").failure(255, said) or ("", "")
    assert what == said
    assert fix in how
    assert SshLink("x").failure(1, said) is None


def test_an_unknown_host_key_is_refused(fresh: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "known_hosts").touch()
    config = fresh.config.read_text().replace(
        str(fresh.folder / "known_hosts"), str(tmp_path / "known_hosts")
    )
    (tmp_path / "config").write_text(config)
    monkeypatch.setenv("EDGEKD_SSH", f"ssh -F {tmp_path / 'config'}")
    with pytest.raises(
        TargetUnavailableError, match=r"Host key verification failed.*compare its key: ssh board"
    ):
        open_board(TARGET)
    assert (tmp_path / "known_hosts").read_text() == ""


def test_a_changed_host_key_is_refused_without_the_command_that_removes_it(
    fresh: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = (fresh.folder / "user.pub").read_text().split()  # a key that is not the host's
    known = f"[127.0.0.1]:{fresh.port} {other[0]} {other[1]}\n"
    (tmp_path / "known_hosts").write_text(known)
    config = fresh.config.read_text().replace(
        str(fresh.folder / "known_hosts"), str(tmp_path / "known_hosts")
    )
    (tmp_path / "config").write_text(config)
    monkeypatch.setenv("EDGEKD_SSH", f"ssh -F {tmp_path / 'config'}")
    with pytest.raises(TargetUnavailableError, match="has changed and you have requested strict") as e:
        open_board(TARGET)
    assert "ssh-keygen" not in e.value.what and "\n" not in str(e.value)
    assert e.value.fix.startswith("ask its owner why its key changed")
    assert (tmp_path / "known_hosts").read_text() == known


def test_a_python_in_the_home_folder(fresh: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(tempfile.mkdtemp(prefix=".edgekd test ", dir=Path.home()))
    try:
        wrapper(folder)
        monkeypatch.setenv("EDGEKD_BOARD_PYTHON", f"~/{folder.name}/python")
        assert open_board(TARGET).device == "cpu"
        close_boards()
    finally:
        shutil.rmtree(folder)


def test_a_key_that_is_not_let_in(fresh: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text(fresh.config.read_text().replace("IdentityFile", "#"))
    monkeypatch.setenv("EDGEKD_SSH", f"ssh -F {tmp_path / 'config'} -o IdentityAgent=none")
    with pytest.raises(TargetUnavailableError, match=r"Permission denied.*ssh-copy-id board"):
        open_board(TARGET)


@pytest.mark.parametrize("address", ["", "-oProxyCommand", "a/b"])
def test_what_names_no_host(address: str) -> None:
    with pytest.raises(UsageError, match="names no host"):
        SshDevice().link(address)


def test_no_ssh_program(fresh: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_SSH", "/nowhere/ssh")
    with pytest.raises(MissingDependencyError, match="/nowhere/ssh cannot be started"):
        open_board(TARGET)
    monkeypatch.setenv("EDGEKD_SSH", "ssh 'unclosed")
    with pytest.raises(UsageError, match="close the quotation"):
        open_board(TARGET)
