"""Clocks that are wrong or jump: evidence is used again, ages are right, nothing earlier is replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekd.pipeline.run import default_out
from edgekd.stages import StageStore, collect_garbage, is_whole

_YEAR = 365 * 86400

_LINE = """
import json, sys, time
from pathlib import Path
sys.path.append(sys.argv[1])
from faults.line import Place, run_line
from edgekd.stages import StageStore
place = Place(Path(sys.argv[2]))
place.prepare()
took = []
started = time.monotonic()
result = StageStore(place.cache).run("clock", "c", {"k": sys.argv[3]}, lambda out, resume: (out / "f").write_text("x"))
code = run_line(place, int(sys.argv[4]))
print(json.dumps({"code": code, "year": time.gmtime().tm_year, "seconds": result.seconds, "took": time.monotonic() - started}))
"""


def line(place: Path, clock: str, token: int, preloaded: dict[str, str]) -> dict[str, float]:
    """A line in a process whose clock is ``clock``: an offset, and another one after so many readings."""
    bench = Path(__file__).resolve().parents[2] / "bench"
    done = subprocess.run(
        [sys.executable, "-c", _LINE, str(bench), str(place), clock, str(token)],
        env={**preloaded, "EDGEKD_CLOCK": clock, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_evidence_is_used_again_whatever_the_clock_says(tmp_path: Path, preloaded: dict[str, str]) -> None:
    """1970, then hours back and forth in the middle of a line, then 2100: one line builds, the others find it all."""
    now = int(time.time())
    to_2100 = 4102444800 - now + 86400
    first = line(tmp_path, f"{-now + 1000}:{-now + 1000}:0", 1, preloaded)
    journal = (tmp_path / "journal").read_text()
    assert (first["code"], first["year"]) == (0, 1970)
    for clock in ("-7200:7200:9", f"{to_2100}:{to_2100}:0"):
        found = line(tmp_path, clock, 2, preloaded)
        assert found["code"] == 0
        assert 0 <= found["seconds"] <= found["took"], "a stage's seconds are those of the monotonic clock"
        assert (tmp_path / "journal").read_text() == journal, "nothing was built or measured again"


def test_a_run_never_takes_the_name_of_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board without a battery starts in the same second of 1970 every time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "gmtime", lambda: time.struct_time((1970, 1, 1, 0, 0, 9, 3, 1, 0)))
    names = []
    for _ in range(3):
        out = default_out("name", "sha256:" + "a" * 64)
        out.mkdir(parents=True)
        names.append(out.name)
    assert names == [
        "19700101T000009Z-aaaaaaaa",
        "19700101T000009Z-aaaaaaaa-2",
        "19700101T000009Z-aaaaaaaa-3",
    ]


def test_a_killed_run_of_another_second_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / ".19990101T000000Z-aaaaaaaa.999999999.ff.tmp").mkdir(parents=True)
    default_out("name", "sha256:" + "b" * 64)
    assert list((tmp_path / "runs").iterdir()) == []


def _stage(root: Path, key: int, age_s: float) -> Path:
    folder = (
        StageStore(root)
        .run("train", "t", {"k": key}, lambda out, resume: (out / "f").write_bytes(b"x"))
        .folder
    )
    then = time.time() - age_s
    os.utime(folder, (then, then))
    return folder


def test_a_stage_from_the_future_ages_from_today(tmp_path: Path) -> None:
    """Made when the clock said 2100: it is neither removed at once nor kept until then."""
    future = _stage(tmp_path, 1, -74 * _YEAR)
    assert collect_garbage(tmp_path, older_than_days=30).removed == 0
    assert is_whole(future)
    assert abs(future.stat().st_mtime - time.time()) < 60
    then = time.time() - 31 * 86400
    os.utime(future, (then, then))
    assert collect_garbage(tmp_path, older_than_days=30).removed == 1


def test_a_clock_in_1970_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [_stage(tmp_path, k, age) for k, age in enumerate((0, 90 * 86400))]
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    assert collect_garbage(tmp_path, older_than_days=30).removed == 0
    assert all(is_whole(folder) for folder in kept)


def test_everything_goes_where_all_is_asked(tmp_path: Path) -> None:
    _stage(tmp_path, 1, 1)
    _stage(tmp_path, 2, -_YEAR)
    assert collect_garbage(tmp_path, older_than_days=0).removed == 2
