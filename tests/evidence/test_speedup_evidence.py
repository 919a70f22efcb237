"""What is written of a speedup is read back as it was, and refused where it is not whole."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from fixtures_run import make_run

from edgekd.errors import EvidenceError
from edgekd.evidence.run import load_run
from edgekd.evidence.speedup import Speedup, load_speedup, save_speedup
from edgekd.quantize.reason import Reason

FOUND = Speedup(
    label="q", artifact="sha256:a", dtype="int8", twin_label="f", twin="sha256:b", twin_dtype="float32",
    target="cpu:onnxruntime", ratio=(1.2, 1.1, 1.3), batch=2, threads=1, operators=(3, 5), operator_ns=(1e6, 2e6),
    reasons=(
        Reason(kind="reformat", sentence="s", nodes=("t", "u"), time_share=0.25, fix="f"),
        Reason(kind="symmetric_on_cpu", sentence="s"),
    ),
    problem="p", measurement="evidence/m.json", environment={"detail": {"cpu": 1}},
)  # fmt: skip


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    save_speedup(FOUND, tmp_path / "s.json")
    assert load_speedup(tmp_path / "s.json") == FOUND


def test_one_restart_has_no_bounds(tmp_path: Path) -> None:
    alone = Speedup(
        label="q", artifact="a", dtype="int8", twin_label="f", twin="b", twin_dtype="float32", target="t",
        ratio=(0.5, 0.0, math.inf), batch=1, threads=1,
    )  # fmt: skip
    assert alone.answer == "undecided"
    save_speedup(alone, tmp_path / "s.json")
    assert load_speedup(tmp_path / "s.json") == alone


@pytest.mark.parametrize(
    ("ratio", "answer"),
    [((0.9, 0.8, 0.99), "faster"), ((1.1, 1.01, 1.2), "slower"), ((0.9, 0.8, 1.0), "undecided")],
)
def test_the_interval_decides(ratio: tuple[float, float, float], answer: str) -> None:
    made = Speedup(
        label="q", artifact="a", dtype="int8", twin_label="f", twin="b", twin_dtype="float32", target="t",
        ratio=ratio, batch=1, threads=1,
    )  # fmt: skip
    assert made.answer == answer


@pytest.mark.parametrize(
    "change", [{"ratio": {"estimate": "NaN", "lower": 0, "upper": 1}}, {"reasons": [{}]}, {"operators": [1]}]
)
def test_what_is_not_whole_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    save_speedup(FOUND, tmp_path / "s.json")
    value = json.loads((tmp_path / "s.json").read_text())
    (tmp_path / "s.json").write_text(json.dumps({**value, **change}))
    with pytest.raises(EvidenceError, match=r"not (a whole speedup|whole)"):
        load_speedup(tmp_path / "s.json")


def test_runs_of_before_have_none(tmp_path: Path) -> None:
    make_run(tmp_path)
    value = json.loads((tmp_path / "run.json").read_text())
    for candidate in value["candidates"]:
        del candidate["speedup"]
    (tmp_path / "run.json").write_text(json.dumps(value))
    assert {c.speedup for c in load_run(tmp_path).candidates} == {""}
    value["candidates"][0]["speedup"] = "../elsewhere.json"
    (tmp_path / "run.json").write_text(json.dumps(value))
    with pytest.raises(EvidenceError, match="outside the run folder"):
        load_run(tmp_path)
