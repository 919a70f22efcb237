"""Target x precision over the zoo: one bound call each, in pytest-benchmark's words, and the gate beside it.

    pytest bench/suites --edgekd-target cpu:openvino --benchmark-json timings.json

What a target or a format cannot do is skipped with its own reason. Numbers of one session are comparable with each
other only by the gate, which measures both arms side by side.
"""

from __future__ import annotations

from typing import Any

import pytest

PRECISIONS = ("float32", "int8", "float16")
#: An INT8 twin this much slower than its float32 is a broken build, not a slow runtime.
MAX_INT8_RATIO = 2.0


def _sizes(shapes: tuple[str, ...]) -> dict[str, str]:
    """The usual size of each dynamic input."""
    return {name: sizes.split(":")[1] for name, _, sizes in (s.partition("=") for s in shapes)}


@pytest.mark.parametrize("precision", PRECISIONS)
def bench_student(
    benchmark: Any, edgekd_session: Any, build_student: Any, architecture: str, precision: str
) -> None:
    built = build_student(architecture, precision)
    session = edgekd_session(
        built.artifact.folder if built.artifact.format != "torch" else built.artifact.path
    )
    placement, parity = session.placement, built.artifact.lineage.get("parity")
    benchmark.group = architecture
    benchmark.extra_info.update(
        architecture=architecture, precision=built.artifact.dtype, format=built.artifact.format,
        size_bytes=built.artifact.size_bytes, provider=placement.provider, runtime=placement.runtime,
        threads=placement.threads, parity=parity.get("max_abs_error") if isinstance(parity, dict) else None,
    )  # fmt: skip
    benchmark(session.bind(session.draw_feeds(shape=_sizes(built.shapes))))


@pytest.mark.edgekd(on_inconclusive="pass")
def bench_int8_beside_float32(edgekd_gate: Any, build_student: Any, architecture: str) -> None:
    """The gate's fixture: INT8 beside the same student in float32, on the same target, interleaved."""
    float32, int8 = (build_student(architecture, p) for p in ("float32", "int8"))
    edgekd_gate(
        teacher=float32.artifact.folder, student=int8.artifact.folder, max_latency_ratio=MAX_INT8_RATIO,
        shape=_sizes(float32.shapes),
    )  # fmt: skip
