"""Repetitions of two models in one process, one after the other, as google/benchmark makes them.

``python peer_repetitions.py A.onnx B.onnx REPETITIONS SECONDS`` prints ``{"a": [...], "b": [...]}``: per repetition the
mean time of a call in nanoseconds.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gate_power.sessions import feeds_of, open_session


def repetitions(path: Path, count: int, seconds: float) -> list[float]:
    """Mean nanoseconds per call of ``count`` repetitions, each of at least ``seconds``."""
    session = open_session(path)
    feeds = feeds_of(session)
    begin, calls = time.perf_counter(), 0
    while (
        calls < 3 or time.perf_counter() - begin < seconds
    ):  # warm-up; also says how many calls fill a repetition
        session.run(None, feeds)
        calls += 1
    each = max(1, round(seconds * calls / (time.perf_counter() - begin)))
    means = []
    for _ in range(count):
        start = time.perf_counter_ns()
        for _ in range(each):
            session.run(None, feeds)
        means.append((time.perf_counter_ns() - start) / each)
    return means


if __name__ == "__main__":
    _, a, b, count, seconds = sys.argv
    made = {name: repetitions(Path(p), int(count), float(seconds)) for name, p in (("a", a), ("b", b))}
    print(json.dumps(made))
