"""Scenarios and limits on latency from the command line: what they print, and what they refuse in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fixtures_models import classifier

from edgekd.cli import main
from edgekd.measure import ledger


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenarios")
    classifier(folder / "teacher.onnx", layers=8)
    classifier(folder / "student.onnx", layers=2)
    return folder


class Edgekd:
    """Runs a verb in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, *args: str) -> int:
        try:
            code = main(args)
        except SystemExit as e:  # argparse's own refusal
            code = int(e.code or 0)
        self.out, self.err = self._capsys.readouterr()
        return code


@pytest.fixture
def edgekd(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Edgekd:
    monkeypatch.chdir(place)
    return Edgekd(capsys)


GATE = ("gate", "--student", "student.onnx")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("bench", "student.onnx", "--scenario", "singlestream"), "invalid choice: 'singlestream'"),
        (("bench", "student.onnx", "--percentile", "99"), "'99' is not a percentile; write p50"),
        (("bench", "student.onnx", "--min-duration", "0"), "0 is not above 0"),
        (("bench", "student.onnx", "--min-count", "none"), "none is not a whole number from 1 on"),
        (("bench", "student.onnx", "--samples-per-query", "8"), "belongs to the multi-stream scenario"),
        (("bench", "student.onnx", "--max-batch", "8"), "belongs to the offline scenario"),
        (("bench", "student.onnx", "--bound-ms", "8"), "belongs to the server scenario"),
        (("bench", "student.onnx", "--target-qps", "8"), "belongs to the server scenario"),
        (("bench", "student.onnx", "--arrival-seed", "-1"), "not a whole number from 0 on"),
        (("bench", "student.onnx", "--scenario", "server"), "--bound-ms 10"),
        (
            ("bench", "student.onnx", "--scenario", "server", "--bound-ms", "5", "--min-count", "50"),
            "at least 459 (--min-count 459)",
        ),
        (("bench", "student.onnx", "--scenario", "server", "--target-qps", "5", "--batch", "2"), "one sample"),
        (("bench", "student.onnx", "--scenario", "offline", "--batch", "2"), "--max-batch"),
        (("bench", "student.onnx", "--scenario", "offline", "--percentile", "p99"), "samples per second"),
        (("bench", "student.onnx", "--sessions", "2"), "belongs to the offline scenario"),
        (("bench", "student.onnx", "--scenario", "offline", "--sessions", "2", "--sweep"), "leave one of them out"),
        (("bench", "student.onnx", "--scenario", "multi-stream", "--batch", "2"), "--samples-per-query"),
        ((*GATE, "--max-latency-ms", "q99:3"), "'q99' is not a percentile"),
        ((*GATE, "--max-latency-ms", "p99:fast"), "'fast' is not a number"),
        ((*GATE, "--max-latency-ms", "p99:0"), "0 is not above 0"),
        ((*GATE, "--max-tail-ratio", "p99:1.2"), "--max-tail-ratio needs a teacher"),
        ((*GATE, "--max-tail-ratio", "1.2", "--teacher", "teacher.onnx", "--scenario", "offline"), "tail cannot"),
        ((*GATE, "--max-latency-ms", "5", "--scenario", "server", "--bound-ms", "5"), "--target-qps 100"),
        ((*GATE, "--max-latency-ms", "5", "--policy", "p.yaml"), "both as options and by --policy"),
        (("gate", "nowhere", "--max-latency-ms", "5"), "limits of a stored run come from --policy"),
        (("gate", "nowhere", "--scenario", "offline"), "--scenario says how to collect evidence, and a stored run is only judged"),
        (("gate", "nowhere", "--threads", "1"), "--threads says how to collect evidence"),
    ],
)  # fmt: skip
def test_misuse_is_one_line_and_exit_2(edgekd: Edgekd, place: Path, args: tuple[str, ...], says: str) -> None:
    out = ("-o", "never.json") if args[0] == "bench" else ("--out", "never")
    assert edgekd(*args, *out) == 2
    lines = [line for line in edgekd.err.splitlines() if not line.startswith("  ✓")]
    assert len(lines) == 1, edgekd.err
    assert lines[0].startswith("edgekd: error: ")
    assert says in lines[0]
    assert not (place / "never").exists()
    assert not (place / "never.json").exists()


def test_an_absolute_limit_alone_needs_no_teacher(
    edgekd: Edgekd, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A limit in milliseconds is rejected on a quiet machine only: this one is, whatever runs beside the tests.
    monkeypatch.setattr(ledger, "ledger_between", lambda before, after: {"steal": 0.0, "pressure_some": 0.0})
    assert edgekd(*GATE, "--max-latency-ms", "p90:1000", "--out", "alone", "--junit", "alone.xml") == 0
    (gate,) = json.loads((place / "alone/verdict.json").read_text())["gates"]
    assert (gate["gate"], gate["metric"], gate["unit"], gate["limit"]) == (
        "latency_absolute",
        "p90",
        "ms",
        1000,
    )
    assert gate["interval"][1] <= 1000
    assert gate["scenario"] == "single-stream"
    assert "took longer than the limit" in edgekd.out
    assert 'testcase name="latency_absolute' in (place / "alone.xml").read_text()
    run = json.loads((place / "alone/run.json").read_text())
    assert [a["name"] for a in run["artifacts"].values()] == ["student"]

    # Judged again under another policy: rejected, and where calls are missing their number is printed.
    (place / "fast.yaml").write_text("latency_absolute: {percentile: p90, max_ms: 0.0001}\n")
    assert edgekd("gate", "alone", "--policy", "fast.yaml", "--out", "rejected") == 1
    (place / "rare.yaml").write_text("latency_absolute: {percentile: p99.9999, max_ms: 1000}\n")
    assert edgekd("gate", "alone", "--policy", "rare.yaml", "--out", "rare") == 3
    assert "with 0 over 4,605,168 calls are needed" in edgekd.out
    (place / "tail.yaml").write_text("tail: {max_ratio: 2}\n")
    assert edgekd("gate", "alone", "--policy", "tail.yaml", "--out", "tail") == 3
    assert "the run holds no timings of student and teacher" in edgekd.out
    for kind in ("html", "md"):
        assert edgekd("report", "rare", "--format", kind) == 0


def test_a_server_is_judged_at_a_rate(edgekd: Edgekd, place: Path) -> None:
    server = ("--scenario", "server", "--target-qps", "2000", "--min-count", "80", "--min-duration", "0.02")
    assert edgekd(*GATE, "--max-latency-ms", "p50:500", *server, "--out", "served") == 0
    (gate,) = json.loads((place / "served/verdict.json").read_text())["gates"]
    assert (gate["scenario"], gate["n"]) == ("server", 80)
    assert "server at 2000 queries/s" in edgekd.out


def test_bench_writes_each_scenario(edgekd: Edgekd, place: Path) -> None:
    short = ("--restarts", "1", "--no-resources", "--min-duration", "0.01", "--min-count", "20")
    server = ("--scenario", "server", "--target-qps", "2000")
    assert edgekd("bench", "teacher.onnx", "student.onnx", *short, *server, "-o", "server.json") == 0
    assert "server at 2000 queries/s (Poisson)" in edgekd.out
    document = json.loads((place / "server.json").read_text())
    assert [t["arm"] for t in document["scenario_detail"]["trials"]].count("candidate") == 1
    multi = ("--scenario", "multi-stream", "--samples-per-query", "4")
    assert edgekd("bench", "student.onnx", *short, *multi, "-o", "multi.json") == 0
    assert "multi-stream (p99), batch 4" in edgekd.out
    assert json.loads((place / "multi.json").read_text())["arms"]["baseline"]["batch"] == 4
