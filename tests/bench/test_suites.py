"""The suites as a lab runs them, on small students, and the page of architectures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")


def run_suite(repository: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", str(repository / "bench/suites"), "-q", "--suite-size", "tiny", *args],
        cwd=repository, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip


def test_target_by_precision_with_pytest_benchmarks_own_json(repository: Path, tmp_path: Path) -> None:
    done = run_suite(
        repository, "--edgekd-target", "cpu:onnxruntime", "--suite-students", "cnn_rnn_less", "--edgekd-skip",
        "--benchmark-min-rounds=1", "--benchmark-max-time=0.001", f"--benchmark-json={tmp_path / 't.json'}",
        "--edgekd-out", str(tmp_path / "out"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    timed = json.loads((tmp_path / "t.json").read_text())["benchmarks"]
    assert {b["name"] for b in timed} == {
        f"bench_student[cnn_rnn_less-{precision}]" for precision in ("float32", "int8", "float16")
    }
    told = {b["extra_info"]["precision"]: b["extra_info"] for b in timed}
    assert set(told) == {"float32", "int8", "float16"}
    assert all(t["provider"] == "CPUExecutionProvider" and t["size_bytes"] > 0 for t in told.values())
    assert 0 < told["float32"]["parity"] < 1e-4


def test_what_is_not_there_is_said(repository: Path, tmp_path: Path) -> None:
    asked = ("--edgekd-out", str(tmp_path / "out"))
    absent = run_suite(
        repository, "--edgekd-target", "cuda:tensorrt", "--suite-students", "cnn_rnn_less", *asked
    )
    assert absent.returncode == 4
    assert "target cuda:tensorrt is not available" in absent.stdout + absent.stderr
    unknown = run_suite(repository, "--suite-students", "nosuch", *asked)
    assert unknown.returncode != 0
    assert "--suite-students nosuch is not known: resnet_less" in unknown.stdout + unknown.stderr


def test_the_page_names_every_reason(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "bench/suites"))
    import table

    cells = [
        table.Cell(architecture="resnet18", target="onnx", outcome="ok", text="1.00e-06", seconds=3.2),
        table.Cell(
            architecture="resnet18", target="litert", outcome="refused", text="no such op", seconds=1.0
        ),
    ]
    page = table.page(cells, ["resnet18", "bert_small"], ["onnx", "litert"])
    assert "| `resnet18` | 1.00e-06 (3 s) | refused [1] |" in page
    assert "| `bert_small` | not tried | not tried |" in page
    assert "1. resnet18, LiteRT: no such op" in page
