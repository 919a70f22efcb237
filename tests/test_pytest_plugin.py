"""The pytest plugin, in sessions of its own: a gate's failure is its test's failure, and nothing else's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures_pytest import Pytest, cases, outcome, properties

pytest_plugins = ["pytester", "fixtures_pytest"]

SIZES = """
    import pytest

    def test_small(edgekd_gate):
        verdict = edgekd_gate(student="student.onnx", max_size_mib=8)
        assert verdict.decision == "pass" and verdict.gates[0].gate == "size"

    @pytest.mark.parametrize("limit", [0.1])
    def test_large(edgekd_gate, limit):
        edgekd_gate(student="student.onnx", max_size_mib=8)
        edgekd_gate(student="student.onnx", max_size_mib=limit)
        assert False, "not reached"

    def test_without_a_gate():
        pass
"""


def test_a_rejection_is_its_test_s_failure_and_junit_says_so(
    run_suite: Pytest, pytester: pytest.Pytester
) -> None:
    done = run_suite(SIZES, "--junitxml=junit.xml")
    done.assert_outcomes(passed=2, failed=1)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    found = cases(pytester.path / "junit.xml")
    assert {name: outcome(case) for name, case in found.items()} == {
        "test_small": "passed", "test_large[0.1]": "failure", "test_without_a_gate": "passed",
    }  # fmt: skip
    message = found["test_large[0.1]"].find("failure").attrib["message"]  # type: ignore[union-attr]
    mib = (pytester.path / "student.onnx").stat().st_size / 2**20
    assert message.startswith(f"Failed: rejected: size: student is {mib:.3f} MiB (limit 0.1 MiB)")
    assert "not reached" not in message
    told = properties(found["test_large[0.1]"])
    assert told["edgekd.decision"] == "pass"
    assert told["edgekd.2.decision"] == told["edgekd.2.size.decision"] == "reject"
    assert told["edgekd.2.size.limit"] == "0.1"
    assert float(told["edgekd.2.size.estimate"]) == pytest.approx(mib)
    assert properties(found["test_without_a_gate"]) == {}
    # The failure names a run folder that the command line can judge again.
    folder = told["edgekd.2.evidence"]
    assert folder == ".edgekd/test_student.py-test_large-0.1-2"
    done.stdout.fnmatch_lines([f"Evidence: {folder}"])
    again = subprocess.run(
        [sys.executable, "-m", "edgekd", "gate", folder], cwd=pytester.path, capture_output=True, check=False
    )
    assert again.returncode == 1
    assert "*" in (pytester.path / ".edgekd" / ".gitignore").read_text()
    done.stdout.fnmatch_lines(
        [
            "*= edgekd =*",
            "PASS          test_student.py::test_small",
            "REJECT        test_student.py::test_large*(call 2)",
            "    size: student is * MiB (limit 0.1 MiB)",
            "run folders: .edgekd",
        ]
    )
    assert "Traceback" not in done.stdout.str()
    assert "PytestWarning" not in done.stdout.str()


TIMINGS = """
    def test_small(edgekd_gate):
        edgekd_gate(student="student.onnx", max_size_mib=8)

    def test_slower(edgekd_gate):
        edgekd_gate(baseline="teacher.onnx", student="slow.onnx", max_regression=0.02)
"""


def test_a_planted_slow_down_fails_and_its_timings_are_pytest_benchmark_s(
    run_suite: Pytest, pytester: pytest.Pytester
) -> None:
    done = run_suite(TIMINGS, "--junitxml=junit.xml", "--edgekd-benchmark-json=made/now.json")
    done.assert_outcomes(passed=1, failed=1)
    case = cases(pytester.path / "junit.xml")["test_slower"]
    assert outcome(case) == "failure"
    told = properties(case)
    assert told["edgekd.decision"] == told["edgekd.regression.decision"] == "reject"
    assert told["edgekd.regression.limit"] == "1.02"
    assert float(told["edgekd.regression.estimate"]) > 1.5
    lower, upper = json.loads(told["edgekd.regression.interval"])
    assert 1.02 < lower < upper
    stored = json.loads((pytester.path / "made/now.json").read_text())
    names = ["test_slower[regression:baseline]", "test_slower[regression:student]"]
    assert [b["name"] for b in stored["benchmarks"]] == names
    # pytest-benchmark was there: the file names the machine in its words.
    assert {"node", "cpu", "python_version"} <= set(stored["machine_info"])

    command = str(Path(sys.executable).parent / "pytest-benchmark")
    compared = subprocess.run(
        [command, "compare", "made/now.json"], cwd=pytester.path, capture_output=True, text=True, check=False
    )
    assert compared.returncode == 0, compared.stderr
    assert "Failed to load" not in compared.stdout + compared.stderr
    for name in names:
        assert re.search(rf"^{re.escape(name)} +\d", compared.stdout, re.M), compared.stdout

    # The same models a second time, now without pytest-benchmark: stored timings are used, and it is said.
    again = run_suite(
        TIMINGS,
        "-p",
        "no:benchmark",
        "--edgekd-benchmark-json=later.json",
        "--edgekd-reference=made/now.json",
    )
    again.assert_outcomes(passed=1, failed=1)
    again.stdout.fnmatch_lines(
        [
            "REJECT        test_student.py::test_slower; timings of an earlier run on this machine",
            "beside made/now.json, whose numbers are of another run: shown, never judged by",
            "  test_student.py::test_slower[[]regression:student[]] *s *s *s *s",
        ]
    )
    assert len(json.loads((pytester.path / "later.json").read_text())["benchmarks"]) == 2


UNDECIDED = """
    import pytest

    ASKED = dict(teacher="teacher.onnx", student="student.onnx", data="few.npz", max_accuracy_drop=0.01)

    def test_default(edgekd_gate):
        assert edgekd_gate(**ASKED).decision == "inconclusive"

    def test_fails(edgekd_gate):
        edgekd_gate(**ASKED, on_inconclusive="fail")

    def test_skips(edgekd_gate):
        edgekd_gate(**ASKED, on_inconclusive="skip")

    @pytest.mark.edgekd(on_inconclusive="skip", data="few.npz")
    class TestMarked:
        def test_closest(self, edgekd_gate):
            edgekd_gate(teacher="teacher.onnx", student="student.onnx", max_accuracy_drop=0.01)

        @pytest.mark.edgekd(on_inconclusive="pass")
        def test_nearer(self, edgekd_gate):
            assert edgekd_gate(**ASKED).decision == "inconclusive"
"""


@pytest.mark.parametrize(
    ("options", "ini", "wanted"),
    [
        ((), "", "failure"),
        (("--edgekd-on-inconclusive=skip",), "edgekd_on_inconclusive = pass", "skipped"),
    ],
)
def test_what_is_inconclusive_fails_unless_told_otherwise(
    run_suite: Pytest, pytester: pytest.Pytester, options: tuple[str, ...], ini: str, wanted: str
) -> None:
    done = run_suite(UNDECIDED, "-rs", "--junitxml=junit.xml", *options, ini=ini)
    found = cases(pytester.path / "junit.xml")
    assert {name: outcome(case) for name, case in found.items()} == {
        "test_default": wanted, "test_fails": "failure", "test_skips": "skipped", "test_closest": "skipped",
        "test_nearer": "passed",
    }  # fmt: skip
    assert {properties(c)["edgekd.decision"] for c in found.values()} == {"inconclusive"}
    reason = "inconclusive: accuracy: student is 0.00 points above the teacher*about * examples would decide"
    done.stdout.fnmatch_lines([f"SKIPPED * test_student.py:*: {reason}"])
    done.stdout.fnmatch_lines([reason, "It fails because it was not decided (--edgekd-on-inconclusive=*"])
    assert (
        done.stdout.str().count("INCONCLUSIVE  test_student.py::") == 5
    )  # a pass is summed up as what it was


def test_xdist_is_refused_by_gates_only(run_suite: Pytest) -> None:
    done = run_suite(SIZES, "-n", "2")
    done.assert_outcomes(passed=1, errors=2)
    done.stdout.fnmatch_lines(
        ["edgekd_gate does not measure under xdist: workers that run at once disturb each *"]
    )
    run_suite(SIZES, "-n", "0", "--edgekd-only").assert_outcomes(passed=1, failed=1, deselected=1)


BESIDE = """
    def test_gate(edgekd_gate):
        edgekd_gate(student="student.onnx", max_size_mib=8)

    def test_call(benchmark, edgekd_session):
        session = edgekd_session("student.onnx")
        benchmark.pedantic(session.bind(session.draw_feeds()), rounds=3)

    def test_both(benchmark, edgekd_gate):
        benchmark.pedantic(edgekd_gate, kwargs={"student": "student.onnx", "max_size_mib": 8}, rounds=1)
"""


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--benchmark-only",), {"passed": 2, "skipped": 1}),
        (("--benchmark-skip",), {"passed": 1, "skipped": 2}),
        (("--benchmark-disable", "--edgekd-only"), {"passed": 2, "deselected": 1}),
        (("--benchmark-json=theirs.json", "--edgekd-skip"), {"passed": 1, "deselected": 2}),
        (("-p", "no:benchmark", "--edgekd-only", "-k", "not both"), {"passed": 1, "deselected": 2}),
    ],
)
def test_beside_pytest_benchmark(
    run_suite: Pytest, pytester: pytest.Pytester, options: tuple[str, ...], wanted: dict[str, int]
) -> None:
    run_suite(BESIDE, *options).assert_outcomes(**wanted)
    if "--benchmark-json=theirs.json" in options:
        theirs = json.loads((pytester.path / "theirs.json").read_text())
        assert [b["name"] for b in theirs["benchmarks"]] == ["test_call"]


def test_a_session_without_its_gates_does_not_end_in_0(run_suite: Pytest) -> None:
    assert run_suite("def test_renamed(): pass", "--edgekd-only").ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_timings_that_were_asked_for_and_are_not_there_do_not_end_in_0(
    run_suite: Pytest, pytester: pytest.Pytester
) -> None:
    done = run_suite(BESIDE, "--edgekd-only", "--edgekd-benchmark-json=now.json", "--edgekd-out=runs")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stdout.fnmatch_lines(
        ["edgekd: error: --edgekd-benchmark-json now.json was not written: no gate has measured"]
    )
    assert not (pytester.path / "now.json").exists()
    assert (pytester.path / "runs/test_student.py-test_gate/verdict.json").is_file()
    assert not (pytester.path / "runs/.gitignore").exists()


SESSIONS = """
    import gc, pytest

    kept = []

    @pytest.mark.edgekd(threads=2, data="few.npz")
    def test_marked(edgekd_session):
        assert edgekd_session("student.onnx").placement.threads == 2
        assert edgekd_session("student.onnx", threads=1).placement.threads == 1

    def test_opened(edgekd_session):
        session = edgekd_session("student.onnx", settings={"graph_level": "basic"})
        feeds = session.draw_feeds(batch=3)
        assert session.run(feeds)["logits"].shape == (3, 10)
        call = session.bind(feeds)
        call()
        assert call.outputs()["logits"].tolist() == session.run(feeds)["logits"].tolist()
        assert session.draw_feeds(seed=1)["x"].tolist() != session.draw_feeds()["x"].tolist()
        assert session.draw_feeds(shape={"x": (1, 10)})["x"].shape == (1, 10)
        assert session.placement.provider == "CPUExecutionProvider"
        assert session.placement.detail["graph_level"] == "ORT_ENABLE_BASIC"
        assert session.placement.threads == 1
        kept.append(session)

    def test_closed():
        from edgekd import EdgeKDError

        with pytest.raises(EdgeKDError, match="is closed"):
            kept[0].run(kept[0].draw_feeds())
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one CPU: two threads are refused")
def test_sessions_are_opened_as_asked_and_closed(run_suite: Pytest) -> None:
    run_suite(SESSIONS).assert_outcomes(passed=3)


def test_without_the_plugin_other_tests_run(run_suite: Pytest) -> None:
    done = run_suite("def test_plain(): pass\ndef test_gate(edgekd_gate): pass", "-p", "no:edgekd")
    done.assert_outcomes(passed=1, errors=1)
    done.stdout.fnmatch_lines(["*fixture 'edgekd_gate' not found*"])


def test_the_plugin_brings_pytest_and_nothing_heavy() -> None:
    script = (
        "import sys, pytest; before = set(sys.modules)\n"
        "import edgekd.pytest_plugin\n"
        "print(*sorted({m for m in set(sys.modules) - before if not m.startswith('_pytest')}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    brought = {m for m in done.stdout.split() if m.partition(".")[0] not in sys.stdlib_module_names}
    assert brought == {"edgekd", "edgekd.pytest_plugin", "edgekd.pytest_session"}


def test_a_session_that_uses_no_fixture_imports_no_numpy(run_suite: Pytest) -> None:
    run_suite(
        "import sys\ndef test_plain(): assert not {'numpy', 'pydantic', 'edgekd.cli'} & set(sys.modules)"
    ).assert_outcomes(passed=1)


def test_every_option_is_documented(repository: Path) -> None:
    source = (repository / "edgekd/pytest_plugin.py").read_text(encoding="utf-8")
    page = (repository / "docs/pytest.md").read_text(encoding="utf-8")
    rows = "".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    options = set(re.findall(r'"(--edgekd-[a-z-]+)"', source))
    assert len(options) == 9
    assert options == set(re.findall(r"--edgekd-[a-z-]+", rows))
    ini = set(re.findall(r'"(edgekd_(?:target|threads|out|on_inconclusive))": ', source))
    assert ini == set(re.findall(r"edgekd_[a-z_]+(?=`)", rows)) - {"edgekd_gate", "edgekd_session"}


def test_children_are_not_traced_while_they_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekd.pytest_gate import untraced_children

    monkeypatch.setenv("COVERAGE_PROCESS_START", "rc")
    monkeypatch.setenv("COV_CORE_SOURCE", "edgekd")

    with untraced_children():
        assert not {"COVERAGE_PROCESS_START", "COV_CORE_SOURCE"} & set(os.environ)
    assert os.environ["COVERAGE_PROCESS_START"] == "rc"
