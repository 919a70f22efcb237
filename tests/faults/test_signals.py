"""Ctrl-C, SIGTERM, and two lines at once: the cache stays whole and the next line goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults import check
from faults.line import Place

_LINE = """
import sys, time
from pathlib import Path
sys.path.append(sys.argv[1])
from faults import line
slow, measured = float(sys.argv[3]), line._measured
def slowly(token):
    made = measured(token)
    def measure(*args, **more):
        line.note(place, "measuring")
        time.sleep(slow)
        return made(*args, **more)
    return measure
line._measured = slowly
place = line.Place(Path(sys.argv[2]))
place.prepare()
sys.exit(line.run_line(place, 1))
"""


def start(place: Place, slow_s: float) -> subprocess.Popen[str]:
    bench = Path(__file__).resolve().parents[2] / "bench"
    return subprocess.Popen(
        [sys.executable, "-c", _LINE, str(bench), str(place.base), str(slow_s)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_an_interrupted_line_goes_on(tmp_path: Path, number: signal.Signals, code: int) -> None:
    place = Place(tmp_path)
    with start(place, 600) as process:
        while not place.journal.exists() or "measuring" not in place.journal.read_text():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    if number == signal.SIGINT:
        assert said.splitlines()[-1].endswith("run the same command to continue")
    whole = check.whole_stages(place)
    assert len(whole) >= 3, "both trainings and the quantization had ended"
    assert check.half_documents(place) == []
    since = len(place.journal.read_text().splitlines())
    with start(place, 0) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert check.built_again(place, whole, since) == []
    assert check.temporary_names(place) == []
    assert check.half_documents(place) == []


def test_two_lines_at_once_build_each_stage_once(tmp_path: Path) -> None:
    place = Place(tmp_path)
    both = [start(place, 0.3) for _ in range(2)]
    ended = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    built = [line.split()[0] for line in place.journal.read_text().splitlines() if "/" in line]
    assert sorted(built) == sorted(set(built))
    assert check.half_documents(place) == []
    assert check.temporary_names(place) == []
