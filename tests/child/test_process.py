"""A child that crashes, hangs, eats memory, forks or prints garbage is one clear error, and is gone afterwards."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from edgekd.child import ChildProcess, Limits
from edgekd.child.wire import encode
from edgekd.errors import ChildError, DataError

HERE = Path(__file__).parent


def child(**limits: object) -> ChildProcess:
    return ChildProcess("running the test model", Limits(**limits), (HERE,))  # type: ignore[arg-type]


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie that nobody reaps has ended too)."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False


def test_arguments_arrays_and_state_travel() -> None:
    with child() as c:
        reply, arrays = c.request("child_faults:echo", {"a": [1, "ü"]}, [np.arange(6.0).reshape(2, 3)])
        assert reply["args"] == {"a": [1, "ü"]}
        np.testing.assert_array_equal(arrays[0], np.arange(6.0).reshape(2, 3) * 2)
        assert [c.request("child_faults:remember", {})[0]["n"] for _ in range(3)] == [1, 2, 3]


def test_the_child_is_pinned_before_it_runs() -> None:
    cpu = sorted(os.sched_getaffinity(0))[-1]
    with child(cpus=(cpu,)) as c:
        assert c.request("child_faults:echo", {})[0]["affinity"] == [cpu]


@pytest.mark.parametrize(
    ("operation", "outcome", "words"),
    [
        ("crash", "signal 6", "SIGABRT"),
        ("leave", "exit 7", "last words: about to leave"),
        ("be_killed", "out of memory", "SIGKILL"),
        ("write_garbage_into_the_pipe", "bad output", "garbage"),
        ("raise_other", "exception", "KeyError"),
    ],
)
def test_how_a_child_failed_is_said(operation: str, outcome: str, words: str) -> None:
    with child() as c, pytest.raises(ChildError) as caught:
        c.request(f"child_faults:{operation}", {})
    assert caught.value.outcome == outcome
    assert words in caught.value.what
    assert "running the test model" in caught.value.what
    assert caught.value.exit_code == 4
    assert gone(c.pid)


@pytest.mark.parametrize("operation", ["hang", "ignore_sigterm_and_hang"])
def test_a_child_that_hangs_is_stopped(operation: str) -> None:
    with child() as c, pytest.raises(ChildError) as caught:
        c.request(f"child_faults:{operation}", {}, timeout_s=0.3)
    assert caught.value.outcome == "time-out"
    assert "0.3 s" in caught.value.what
    assert gone(c.pid)


def test_a_child_that_runs_out_of_memory_says_within_what() -> None:
    with child(memory_bytes=1 << 31) as c, pytest.raises(ChildError) as caught:
        c.request("child_faults:eat_memory", {"bytes": 1 << 33})
    assert caught.value.outcome == "out of memory"
    assert "2048 MiB" in caught.value.what


def test_garbage_on_stdout_does_not_disturb_the_answer() -> None:
    with child() as c:
        assert c.request("child_faults:print_garbage", {})[0] == {"fine": True}


def test_what_the_child_forked_goes_with_it() -> None:
    with child() as c:
        grandchild = c.request("child_faults:fork_and_return", {})[0]["grandchild"]
        assert not gone(c.pid)
    assert gone(grandchild)


def test_our_own_errors_come_home_as_they_were_raised() -> None:
    with child() as c:
        with pytest.raises(DataError) as caught:
            c.request("child_faults:refuse", {})
        assert (caught.value.what, caught.value.fix) == ("row 3 is wrong", "mend row 3")
        assert c.request("child_faults:remember", {})[0]["n"] == 1


def test_closing_twice_is_harmless_and_ends_the_child() -> None:
    c = child()
    c.request("child_faults:remember", {})
    c.close()
    c.close()
    assert gone(c.pid)


def test_replies_may_be_read_later_and_say_the_same() -> None:
    with child() as c:
        remember, refuse = (encode({"call": f"child_faults:{n}", "args": {}}) for n in ("remember", "refuse"))
        replies = [c.exchange(remember), c.exchange(refuse), c.exchange(remember)]
        assert c.read(replies[2])[0] == {"n": 2}
        assert c.read(replies[0])[0] == {"n": 1}
        with pytest.raises(DataError, match="row 3 is wrong"):
            c.read(replies[1])
        damaged = bytearray(replies[0])
        damaged[-1] ^= 1
        with pytest.raises(ChildError, match="answered with garbage") as caught:
            c.read(bytes(damaged))
        assert caught.value.outcome == "bad output"
    assert gone(c.pid)
