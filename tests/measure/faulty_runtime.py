"""A runtime whose sessions go wrong on purpose, once they have been warmed up; numpy only, as a child imports it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from edgekd.target import SessionOptions
from edgekd.testing import FakeRuntime, FakeSession

#: Calls before the fault: past the warm-up of the tests' protocol (at most 58 calls), within the race (80 more).
_AFTER = 70


class FaultyRuntime(FakeRuntime):
    """Opens ``.fake`` files; their key ``fault`` says what goes wrong."""

    def open(self, path: Path, options: SessionOptions) -> FakeSession:
        session = super().open(path, options)
        fault = json.loads(path.read_bytes()).get("fault", "")
        if fault == "other provider":
            session.placement = replace(session.placement, provider="OtherProvider", device="npu")
        elif fault == "other threads":
            session.placement = replace(session.placement, threads=options.threads + 1)
        elif fault:
            if fault == "clock":
                time.perf_counter_ns = lambda: _real_clock() - _step_ns[0]  # type: ignore[assignment]
            spend = session.wait
            session.wait = lambda ns: (spend(ns), _go_wrong(fault, session.calls))  # type: ignore[assignment]
        return session


_kept: list[bytearray] = []
_real_clock = time.perf_counter_ns
_step_ns = [0]


def _go_wrong(fault: str, calls: int) -> None:
    if fault.startswith("leak"):
        kib = 64 if fault == "leak" else 8192
        _kept.append(bytearray(os.urandom(1024)) * kib)
    if calls == 2 and fault == "fork":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        with Path(os.environ["EDGEKD_TEST_PIDS"]).open("a") as f:
            f.write(f"{child.pid}\n")
    if calls == 2 and fault == "garbage":
        os.write(1, b"\x00\xff garbage" * 1000)
    if calls != _AFTER:
        return
    if fault == "die":
        os.abort()
    elif fault == "hang":
        time.sleep(600)
    elif fault == "garbage in the pipe":
        os.write(int(sys.argv[2]), b"this is no frame" * 10)
        time.sleep(600)
    elif fault == "clock":
        _step_ns[0] = 5_000_000_000
