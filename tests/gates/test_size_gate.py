"""Sizes are known, not sampled."""

import pytest

from edgekd.gates.size import MIB, judge_size


def test_absolute_limit():
    gate = judge_size(2 * MIB, max_mib=2)
    assert (gate.decision, gate.estimate, gate.interval, gate.unit, gate.against) == (
        "pass",
        2.0,
        None,
        "MiB",
        "",
    )
    assert judge_size(2 * MIB + 1, max_mib=2).decision == "reject"


def test_ratio_to_the_teacher():
    gate = judge_size(600, max_ratio=0.25, baseline_bytes=4000)
    assert (gate.decision, gate.estimate, gate.unit, gate.against) == ("pass", 0.15, "ratio", "teacher")
    assert judge_size(1001, max_ratio=0.25, baseline_bytes=4000).decision == "reject"


def test_a_ratio_without_a_teacher_is_inconclusive():
    assert judge_size(600, max_ratio=0.25).decision == "inconclusive"


@pytest.mark.parametrize(
    "arguments",
    [
        {"size_bytes": 0, "max_mib": 1},
        {"size_bytes": 5, "max_ratio": 1, "baseline_bytes": 0},
        {"size_bytes": 5},
        {"size_bytes": 5, "max_mib": 1, "max_ratio": 1},
    ],
)
def test_nonsense_is_an_error(arguments):
    gate = judge_size(**arguments)
    assert (gate.decision, gate.error_kind) == ("error", "input")
