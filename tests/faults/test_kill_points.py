"""A seeded sample of the kill study: a line that is killed anywhere, and run again, is as if it had not been."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faults import check
from faults.kill_study import Outcome, in_child, read_outcomes, table
from faults.line import Place

from edgekd.files import write_json

RunStudy = Callable[..., "subprocess.CompletedProcess[str]"]


def test_a_killed_line_is_continued(run_study: RunStudy) -> None:
    """Twelve of about two thousand points; the whole study is ``bench/faults/kill_study.py``."""
    done = run_study("kill_study.py", "--most", "12")
    assert done.returncode == 0, done.stdout + done.stderr
    counted = done.stdout.splitlines()[-1]
    assert counted.startswith("| all | 12 |")
    assert counted.endswith("| 0 |")
    assert int(counted.split("|")[3]) >= 9, f"hardly any of them was killed in time: {counted}"


def test_a_table_counts_what_went_wrong() -> None:
    mode = "killed before an operation"
    text = table([Outcome(mode, 1, True, 0, []), Outcome(mode, 2, False, 0, ["left behind: x"])])
    assert text.splitlines()[2] == f"| {mode} | 2 | 1 | 1 |"


def test_an_outcome_that_was_cut_off_is_tried_again(tmp_path: Path) -> None:
    kept = json.dumps({"mode": "m", "at": 1, "killed": True, "whole_stages": 0, "problems": []})
    (tmp_path / "points.jsonl").write_text(f'{kept}\n{{"mode": "m", "at"')
    assert [o.at for o in read_outcomes(tmp_path / "points.jsonl")] == [1]


def test_a_forked_line_tells_how_it_ended(tmp_path: Path) -> None:
    def fail() -> int:
        raise ValueError("said")

    assert in_child(lambda: 3, tmp_path / "log") == 3
    assert in_child(fail, tmp_path / "log") == 99
    assert "ValueError: said" in (tmp_path / "log").read_text()
    assert in_child(lambda: os.kill(os.getpid(), 9) or 0, tmp_path / "log") == -9


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("cache/train/.abc.7.ff.tmp", True),
        ("tmp/edgekd-evaluate.7.ff.tmp", True),
        (".run.7.ff.old", True),
        ("cache/work/train-abc", True),
        ("cache/train/abc", False),
        ("run", False),
    ],
)
def test_what_is_left_behind_is_seen(tmp_path: Path, name: str, found: bool) -> None:
    place = Place(tmp_path)
    (place.root / name).mkdir(parents=True)
    assert bool(check.temporary_names(place)) == found


def test_half_a_stage_and_half_a_document_are_seen(tmp_path: Path) -> None:
    place = Place(tmp_path)
    (place.cache / "train" / "a").mkdir(parents=True)
    write_json(
        place.cache / "train" / "a" / "stage.json", {"schema": "edgekd.stage/1", "files": [], "key": {}}
    )
    assert check.half_documents(place) == []
    (place.cache / "train" / "b").mkdir()
    (place.root / "half.json").write_text('{"a":')
    assert [problem.split(":")[0] for problem in check.half_documents(place)] == [
        "half a stage",
        "half a document",
    ]


def test_files_are_compared_by_content(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    before = check.files_of(tmp_path)
    np.save(tmp_path / "a.npy", np.arange(4))
    assert before.keys() == check.files_of(tmp_path).keys()
    assert before != check.files_of(tmp_path)
    assert check.untimed({"run/verdict.json": "1", "run/recipe.json": "2"}) == {"run/recipe.json": "2"}
