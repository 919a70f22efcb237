"""The pytest plugin: fixtures ``edgekd_session`` and ``edgekd_gate``, the marker ``edgekd``, options ``--edgekd-*``.

Loaded by every pytest of an environment that has EdgeKD, so it imports pytest only; the first test that uses a
fixture imports the rest. A gate's failure is raised in its test; nothing here changes the exit code afterwards.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from edgekd.pytest_session import INCONCLUSIVE, Session, shown

if TYPE_CHECKING:
    from edgekd.pytest_gate import EdgekdGate, EdgekdSession

T = TypeVar("T")

#: Where runs go when neither option nor ini says: below the root folder, and ignored by git.
DEFAULT_OUT = ".edgekd"


SESSION = pytest.StashKey[Session]()

_INI = {
    "edgekd_target": "target of edgekd_gate and edgekd_session (default: cpu:onnxruntime)",
    "edgekd_threads": "threads of the runtime (default: 1, or what a sweep found for every model)",
    "edgekd_out": f"folder for the runs of gate tests, relative to the root (default: {DEFAULT_OUT})",
    "edgekd_on_inconclusive": "what an inconclusive gate does to its test: fail, skip or pass (default: fail)",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("edgekd", "gates of distilled models")
    group.addoption("--edgekd-target", metavar="T", help=_INI["edgekd_target"])
    group.addoption("--edgekd-threads", metavar="N", help=_INI["edgekd_threads"])
    group.addoption(
        "--edgekd-out",
        metavar="DIR",
        type=Path,
        help=f"folder for the runs of gate tests (default: {DEFAULT_OUT})",
    )
    group.addoption("--edgekd-on-inconclusive", choices=INCONCLUSIVE, help=_INI["edgekd_on_inconclusive"])
    group.addoption(
        "--edgekd-remeasure", action="store_true", help="measure again even where valid timings are stored"
    )
    group.addoption("--edgekd-skip", action="store_true", help="leave out the tests that use edgekd_gate")
    group.addoption("--edgekd-only", action="store_true", help="run only the tests that use edgekd_gate")
    group.addoption(
        "--edgekd-benchmark-json",
        metavar="F",
        type=Path,
        help="write the timings of all gates here, in pytest-benchmark's JSON",
    )
    group.addoption(
        "--edgekd-reference",
        metavar="F",
        type=Path,
        help="show the numbers of an earlier pytest-benchmark JSON beside this session's; nothing is judged by them",
    )
    for name, text in _INI.items():
        parser.addini(name, text, default="")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "edgekd(target=, threads=, …): defaults of edgekd_gate and edgekd_session in this test"
    )
    if config.getoption("edgekd_only") and config.getoption("edgekd_skip"):
        raise pytest.UsageError("--edgekd-only and --edgekd-skip leave no test; give one of them")
    asked: str = (
        config.getoption("edgekd_on_inconclusive") or config.getini("edgekd_on_inconclusive") or "fail"
    )
    if asked not in INCONCLUSIVE:
        raise pytest.UsageError(f"edgekd_on_inconclusive is {asked!r}; choose {', '.join(INCONCLUSIVE)}")
    threads: str = config.getoption("edgekd_threads") or config.getini("edgekd_threads") or ""
    if threads and (not threads.isdecimal() or int(threads) < 1):
        raise pytest.UsageError(f"edgekd threads is {threads!r}; give a whole number from 1 on")
    out: Path | None = config.getoption("edgekd_out")
    wanted: str = config.getini("edgekd_out")
    for option in ("edgekd_benchmark_json", "edgekd_reference"):
        path: Path | None = config.getoption(option)
        if path is not None and path.is_dir():
            raise pytest.UsageError(f"--{option.replace('_', '-')} {path} is a folder; name a file")
    reference: Path | None = config.getoption("edgekd_reference")
    if reference is not None and not reference.is_file():
        raise pytest.UsageError(
            f"--edgekd-reference {reference} does not exist; name a JSON of an earlier session"
        )
    config.stash[SESSION] = Session(
        target=config.getoption("edgekd_target") or config.getini("edgekd_target") or "cpu:onnxruntime",
        threads=int(threads) if threads else None,
        out=Path(os.path.abspath(out or config.rootpath / (wanted or DEFAULT_OUT))),  # noqa: PTH100 - without ..
        own_out=out is None and not wanted,
        on_inconclusive=asked,
        remeasure=bool(config.getoption("edgekd_remeasure")),
        benchmark_json=config.getoption("edgekd_benchmark_json"),
        reference=reference,
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    only, skip = config.getoption("edgekd_only"), config.getoption("edgekd_skip")
    if not only and not skip:
        return
    # Deselected, not skipped: a session whose gate tests were all renamed must not end in 0.
    gates = [item for item in items if "edgekd_gate" in getattr(item, "fixturenames", ())]
    kept = gates if only else [item for item in items if item not in gates]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """An error of a gate is reported as an error: pytest calls a failed report so whose phase is not the call."""
    report = yield
    raised = call.excinfo.value if call.excinfo is not None else None
    if (
        report.failed
        and report.when == "call"
        and any(e is raised for e in item.config.stash[SESSION].errors)
    ):
        report.when = "setup"
    return report


@pytest.fixture
def edgekd_gate(request: pytest.FixtureRequest) -> EdgekdGate:
    """Judge a student: ``edgekd_gate(teacher=…, student=…, max_latency_ratio=0.5)``.

    Takes every option of ``edgekd gate`` that names models, limits, data or how they run, as a keyword. Returns the
    verdict of a gate that passed; a rejection fails the test.
    """
    if hasattr(request.config, "workerinput"):
        pytest.fail(
            "edgekd_gate does not measure under xdist: workers that run at once disturb each other's timings; "
            "run the gates with -n 0 (--edgekd-only), the other tests with --edgekd-skip",
            pytrace=False,
        )
    from edgekd.pytest_gate import EdgekdGate

    return _usable(lambda: EdgekdGate(request.node, request.config.stash[SESSION]))


@pytest.fixture
def edgekd_session(request: pytest.FixtureRequest) -> Iterator[EdgekdSession]:
    """Open a model: ``edgekd_session("student.onnx", threads=1)`` has ``run``, ``bind`` and ``draw_feeds``.

    What it opened is closed when the test ends.
    """
    from edgekd.pytest_gate import EdgekdSession

    sessions = _usable(lambda: EdgekdSession(request.node, request.config.stash[SESSION]))
    yield sessions
    sessions.close()


def _usable(make: Callable[[], T]) -> T:
    """A fixture's value; a marker that it does not understand is one line at the test's setup."""
    from edgekd.errors import UsageError

    try:
        return make()
    except UsageError as e:
        refusal = str(e)
    pytest.fail(refusal, pytrace=False)  # outside, so that it is shown alone


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    state = session.config.stash.get(SESSION, None)
    if state is None or state.benchmark_json is None or hasattr(session.config, "workerinput"):
        return
    from edgekd.pytest_benchmarks import write_benchmarks

    write_benchmarks(session.config, state)
    if state.trouble and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR  # what was asked for is not there


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The verdicts, for reading: each has had its effect in its own test."""
    state = config.stash.get(SESSION, None)
    if state is None or not (state.judged or state.trouble):
        return
    terminalreporter.section("edgekd")
    for one in state.judged:
        again = f" (call {one.call})" if one.call > 1 else ""
        stored = "; timings of an earlier run on this machine" if one.stored else ""
        colour = {"pass": "green", "inconclusive": "yellow"}.get(one.decision, "red")
        terminalreporter.write(f"{one.decision.upper():12}", bold=True, **{colour: True})
        terminalreporter.line(f"  {one.nodeid}{again}{stored}")
        for line in one.lines:
            terminalreporter.line(f"    {line}")
        if one.decision != "pass" and one.folder is not None:
            terminalreporter.line(f"    evidence: {shown(one.folder, config)}")
    if any(one.folder for one in state.judged):
        terminalreporter.line(f"run folders: {shown(state.out, config)}")
    if state.reference is not None and state.judged:
        from edgekd.pytest_benchmarks import reference_lines

        for line in reference_lines(state):
            terminalreporter.line(line)
    if state.trouble:
        terminalreporter.line(f"edgekd: error: {state.trouble}", red=True)
