"""A run's arms as benchmarks: the statistics are pytest-benchmark's own, the names find their test."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures_run import make_run
from pytest_benchmark.stats import Stats

from edgekd.errors import EvidenceError
from edgekd.evidence.measurement import BASELINE, Measurement, load_measurement
from edgekd.evidence.pytest_benchmark import read_benchmark_json
from edgekd.gates.judge import judge_run
from edgekd.recipe import GatesBlock
from edgekd.report import pytest_benchmark, render
from edgekd.report.pytest_benchmark import (
    _stats,
    benchmark_document,
    benchmark_rows,
    commit_info,
    machine_info,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run") / "run"
    policy = {"latency": {"max_ratio": 0.8}, "regression": {"baseline": "a.onnx", "max_regression": 0.02}}
    run = make_run(root, policy=policy, regression=0.9, regression_baseline="present")
    judge_run(root, run, GatesBlock.model_validate(run.policy)).save(root / "verdict.json")
    return root


@pytest.mark.parametrize("n", [1, 2, 5, 100, 1001])
def test_statistics_are_those_of_pytest_benchmark(n: int) -> None:
    calls = (1e6 * np.random.default_rng(n).exponential(size=n)).astype(np.int64) + 1
    theirs = Stats()
    for ns in calls:
        theirs.update(float(ns) * 1e-9)
    ours, wanted = _stats(calls), theirs.as_dict()
    assert set(ours) == {*wanted, "iterations"}
    for name in ("min", "max", "mean", "median", "stddev", "total", "rounds", "ops", "stddev_outliers"):
        assert ours[name] == pytest.approx(wanted[name], rel=1e-9), name
    # Their quartiles are halves' medians; ours are interpolated: between the same neighbours.
    for name in ("q1", "q3"):
        near = np.sort(calls)[
            [int(f(0.25 * (n - 1) if name == "q1" else 0.75 * (n - 1))) for f in (np.floor, np.ceil)]
        ]
        assert near[0] * 1e-9 - 1e-12 <= ours[name] <= near[1] * 1e-9 + 1e-12
    assert ours["outliers"] == f"{ours['stddev_outliers']};{ours['iqr_outliers']}"


def test_every_arm_but_the_hidden_twin_is_a_benchmark(folder: Path) -> None:
    rows = benchmark_rows(folder, "tests/test_a.py::test_b[int8]")
    assert [r["fullname"] for r in rows] == [
        f"tests/test_a.py::test_b[int8-{label}]"
        for label in (
            "latency:teacher",
            "latency:student-int8",
            "regression:teacher",
            "regression:student-int8",
        )
    ]
    assert {r["group"] for r in rows} == {"tests/test_a.py::test_b[int8]"}
    assert rows[0]["name"] == "test_b[int8-latency:teacher]"
    assert benchmark_rows(folder, "t.py::test_b")[0]["name"] == "test_b[latency:teacher]"
    student = rows[1]
    assert student["stats"]["min"] == pytest.approx(0.5e-3, rel=0.05)
    judged = [(g["gate"], g["decision"], g["limit"]) for g in student["extra_info"]["gates"]]
    assert judged == [("latency", "pass", 0.8), ("regression", "pass", 1.02)]
    assert rows[0]["extra_info"]["gates"] == []


def test_an_arm_of_queries_without_blocks_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: Path) -> Measurement:
        found = load_measurement(path)
        restarts = [replace(r, blocks={BASELINE: r.blocks[BASELINE]}) for r in found.restarts]
        return replace(found, restarts=tuple(restarts))

    monkeypatch.setattr(pytest_benchmark, "load_measurement", load)
    assert [r["name"] for r in benchmark_rows(folder, "t.py::test_b")] == [
        "test_b[latency:teacher]", "test_b[regression:teacher]",
    ]  # fmt: skip


def test_the_document_is_read_back(folder: Path, tmp_path: Path) -> None:
    rows = benchmark_rows(folder, "t.py::test_b")
    path = tmp_path / "b.json"
    path.write_bytes(benchmark_document(rows, machine=machine_info(), commit=commit_info()))
    found = read_benchmark_json(path)
    assert [b.fullname for b in found] == [r["fullname"] for r in rows]
    assert found[1].median_s == rows[1]["stats"]["median"]
    written = json.loads(path.read_text())
    assert {"machine_info", "commit_info", "benchmarks", "datetime", "version"} == set(written)


def test_a_run_folder_is_read_by_pytest_benchmark_itself(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "0001_run.json"
    path.write_text(render(folder, "pytest-benchmark"), encoding="utf-8")
    written = json.loads(path.read_text())
    assert written["datetime"] == "2026-11-22T12:00:00Z"
    assert written["machine_info"]["cpu"] == {"count": 2, "brand_raw": "synthetic"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", "compare", str(path), "--columns=min,median,rounds"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ("synthetic[latency:teacher]", "synthetic[regression:student-int8]"):
        assert name in done.stdout


def test_targets_are_told_apart(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    candidate = run.candidates[1]
    other = replace(candidate, target="cuda:onnxruntime")
    both = replace(
        run, candidates=(*run.candidates, other), selected={**run.selected, other.target: other.artifact}
    )
    both.save(tmp_path)
    judge_run(tmp_path, both, GatesBlock.model_validate(run.policy)).save(tmp_path / "verdict.json")
    names = [r["fullname"] for r in benchmark_rows(tmp_path, "t.py::test_b")]
    assert names == [
        f"t.py::test_b[{target}:latency:{arm}]"
        for target in ("cpu:onnxruntime", "cuda:onnxruntime")
        for arm in ("teacher", "student-int8")
    ]


def test_a_run_without_timings_has_none(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", policy={"size": {"max_mib": 1}}, with_latency=False)
    judge_run(tmp_path / "run", run, GatesBlock.model_validate(run.policy)).save(
        tmp_path / "run/verdict.json"
    )
    assert benchmark_rows(tmp_path / "run", "t.py::test_b") == []
    with pytest.raises(EvidenceError, match="not a run folder"):
        benchmark_rows(tmp_path, "t.py::test_b")
