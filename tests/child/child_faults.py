"""Operations that go wrong on purpose; found by the child through its search path."""

import os
import subprocess
import sys
import time

import numpy as np


def echo(state, args, arrays):
    return {"args": args, "pid": os.getpid(), "affinity": sorted(os.sched_getaffinity(0))}, [
        a * 2 for a in arrays
    ]


def remember(state, args, arrays):
    state["n"] = state.get("n", 0) + 1
    return {"n": state["n"]}, []


def crash(state, args, arrays):
    os.abort()


def hang(state, args, arrays):
    time.sleep(600)


def ignore_sigterm_and_hang(state, args, arrays):
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def eat_memory(state, args, arrays):
    state["eaten"] = np.ones(args["bytes"] // 8)
    return {}, []


def print_garbage(state, args, arrays):
    print("garbage on stdout")
    sys.stderr.write("garbage on stderr\n")
    sys.stdout.flush()
    os.write(1, b"\x00\xff" * 1000)
    return {"fine": True}, []


def write_garbage_into_the_pipe(state, args, arrays):
    os.write(int(sys.argv[2]), b"this is no frame" * 10)
    time.sleep(600)


def leave(state, args, arrays):
    sys.stderr.write("about to leave\n")
    sys.stderr.flush()
    os._exit(7)


def be_killed(state, args, arrays):
    os.kill(os.getpid(), 9)


def fork_and_return(state, args, arrays):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    return {"grandchild": process.pid}, []


def refuse(state, args, arrays):
    from edgekd.errors import DataError

    raise DataError("row 3 is wrong", "mend row 3")


def raise_other(state, args, arrays):
    raise KeyError("unexpected")
