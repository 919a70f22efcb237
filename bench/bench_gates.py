"""Gates as a team writes them, on the plugin: what one costs in time, and what it says of models whose answer is known.

`edgekd_gate` fails a suite whose student is too slow; a false alarm of the null case fails it, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

#: METHOD 5: wall time of one comparison.
WALL_S = 15

TEACHER, STUDENT = "zoo:digits-cnn-teacher", "zoo:digits-cnn-student"

GATES: dict[str, dict[str, Any]] = {
    "student beside teacher": {"teacher": TEACHER, "student": STUDENT, "max_latency_ratio": 0.7},
    "student beside its own release": {"baseline": STUDENT, "student": STUDENT, "max_regression": 0.02},
    "resnet20 beside resnet56": {
        "teacher": "zoo:cifar-resnet56", "student": "zoo:cifar-resnet20", "max_latency_ratio": 0.7,
    },
}  # fmt: skip


@pytest.mark.edgekd(remeasure=True, on_inconclusive="pass")
@pytest.mark.parametrize("name", GATES)
def bench_gate(
    benchmark: Any, report_figure: Callable[..., None], edgekd_gate: Any, edgekd_session: Any, name: str
) -> None:
    for role in ("teacher", "student", "baseline"):  # exported now: what is timed is the gate
        if role in GATES[name]:
            edgekd_session(GATES[name][role]).close()
    took: list[float] = []

    def judge() -> Any:
        start = time.perf_counter()
        made = edgekd_gate(**GATES[name])
        took.append(time.perf_counter() - start)
        return made

    verdict = benchmark.pedantic(judge, rounds=1, iterations=1)
    (gate,) = verdict.gates
    benchmark.extra_info.update(gate.to_json())
    report_figure(
        f"wall time, {name}", took[0], "s", below=WALL_S,
        note=f"{gate.decision}: {gate.estimate:.3f}x, limit {gate.limit:g}x, {gate.n} restarts",
    )  # fmt: skip
    if gate.interval is not None:
        width = 50 * (gate.interval[1] - gate.interval[0]) / gate.estimate
        report_figure(f"half-width of its interval, {name}", width, "%")


@pytest.mark.parametrize("reference", [TEACHER, STUDENT])
def bench_bound_call(benchmark: Any, edgekd_session: Any, reference: str) -> None:
    """One call in this process, as pytest-benchmark times it."""
    session = edgekd_session(reference)
    benchmark.extra_info.update(placement=session.placement.runtime, threads=session.placement.threads)
    benchmark(session.bind(session.draw_feeds()))


def bench_opening(benchmark: Any, edgekd_session: Any) -> None:
    """A session from file to ready; the page cache is warm."""
    session = edgekd_session(STUDENT)
    path: Path = session.artifact.path
    session.close()
    benchmark(lambda: edgekd_session(path).close())
