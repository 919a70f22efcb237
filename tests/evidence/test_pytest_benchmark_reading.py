"""pytest-benchmark's files are read as they are, and refused where they are not whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekd.errors import EvidenceError
from edgekd.evidence.pytest_benchmark import read_benchmark_json

pytest_plugins = ["pytester"]

STATS: dict[str, Any] = {
    "min": 1e-3, "max": 3e-3, "mean": 2e-3, "stddev": 1e-4, "median": 2.5e-3, "rounds": 3, "iterations": 7,
    "data": [1e-3, 2e-3, 3e-3],
}  # fmt: skip


def write(path: Path, **changes: Any) -> Path:
    benchmark = {
        "name": "a",
        "fullname": "t.py::a",
        "group": None,
        "extra_info": {"k": 1},
        "stats": {**STATS, **changes},
    }
    path.write_text(json.dumps({"benchmarks": [benchmark], "version": "5.1.0"}), encoding="utf-8")
    return path


def test_a_file_is_read(tmp_path: Path) -> None:
    (found,) = read_benchmark_json(write(tmp_path / "b.json"))
    assert (found.name, found.fullname, found.group, found.extra_info) == ("a", "t.py::a", "", {"k": 1})
    assert (found.min_s, found.median_s, found.mean_s, found.stddev_s) == (1e-3, 2.5e-3, 2e-3, 1e-4)
    assert (found.rounds, found.iterations, found.data_s) == (3, 7, (1e-3, 2e-3, 3e-3))


def test_what_pytest_benchmark_itself_writes_is_read(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "def test_it(benchmark): benchmark.pedantic(sum, args=([1],), rounds=4, iterations=2)"
    )
    assert pytester.runpytest_subprocess("-p", "no:cacheprovider", "--benchmark-json=theirs.json").ret == 0
    (found,) = read_benchmark_json(pytester.path / "theirs.json")
    assert found.name == "test_it"
    assert (found.rounds, found.iterations, len(found.data_s)) == (4, 2, 4)
    assert 0 < found.min_s == min(found.data_s) <= found.median_s


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("{", "is not JSON"),
        ("[]", "is not a whole JSON of pytest-benchmark"),
        ("{}", "KeyError"),
        ('{"benchmarks": [{"name": "a"}]}', "KeyError"),
        ('{"benchmarks": [1]}', "TypeError"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "b.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(EvidenceError, match=message):
        read_benchmark_json(path)


@pytest.mark.parametrize("value", [float("nan"), -1.0, "soon"])
def test_times_that_are_none_are_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(EvidenceError, match=r"is not (a whole )?JSON"):
        read_benchmark_json(write(tmp_path / "b.json", median=value))
