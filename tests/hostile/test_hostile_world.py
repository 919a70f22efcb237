"""Every hostile file of the corpus is refused by its rule, in one line, quickly and in little memory."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from hostile_case import Case, all_cases, written
from hostile_run import problems, run_cases

CASES = {case.name: case for case in all_cases()}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return run_cases(list(CASES.values()), tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_refused(results, name):
    case, found = CASES[name], results[name]
    assert not problems(case, found), f"{case.trick}: {found['stderr']}"


def test_the_corpus_is_as_large_as_was_asked():
    assert len(CASES) >= 100
    assert len({c.door for c in CASES.values()}) == 13
    assert len(list(all_cases())) == len(CASES), "two cases have one name"


def test_a_file_that_is_taken_shows(tmp_path):
    """A corpus that nothing can fail proves nothing: a sound table given as hostile, and one that kills its child."""

    def kill(folder: Path) -> Path:
        import os

        os.kill(os.getpid(), 9)
        return folder

    sound = Case(name="sound", trick="", door="read data", make=written(b"x,label\n1,0\n", "rows.csv"))
    found = {
        "code": 0,
        "stderr": "",
        "stdout": "",
        "ran": [],
        "cpu_s": 2.0,
        "peak_mib": 600.0,
        "path": "rows.csv",
    }
    wrong = problems(sound, found)
    assert "exit 0, due was 5" in wrong
    assert "2.0 s" in wrong
    assert "600 MiB" in wrong
    loud = {**found, "code": 5, "stderr": "rows.csv \x1b[2J\n"}
    assert "'\\x1b' reaches the terminal" in problems(sound, loud)
    assert problems(sound, {"code": None, "stderr": "the process died: exit -9"}) == [
        "the process died: exit -9"
    ]
