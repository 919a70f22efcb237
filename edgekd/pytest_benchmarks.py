"""The gates' timings beside pytest-benchmark's: written in its JSON, and shown beside an earlier one; never judged by.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from typing import Any

import pytest

from edgekd.errors import EdgeKDError
from edgekd.pytest_session import Session


def write_benchmarks(config: pytest.Config, session: Session) -> None:
    """Write ``--edgekd-benchmark-json``; what keeps it from being written is the session's trouble, told at its end."""
    from edgekd.files import write_bytes
    from edgekd.report.pytest_benchmark import benchmark_document, commit_info, machine_info

    path = session.benchmark_json
    if path is None:
        return
    rows = _rows(session)
    if not rows:
        session.trouble = f"--edgekd-benchmark-json {path} was not written: no gate has measured"
        return
    hook = config.hook
    beside = config.pluginmanager.hasplugin("benchmark")
    # pytest-benchmark's own description, so that its compare finds both files made on one machine.
    machine = hook.pytest_benchmark_generate_machine_info(config=config) if beside else machine_info()
    commit = hook.pytest_benchmark_generate_commit_info(config=config) if beside else commit_info()
    try:
        write_bytes(path, benchmark_document(rows, machine=machine, commit=commit))
    except EdgeKDError as e:
        session.trouble = f"--edgekd-benchmark-json {e}"


def _rows(session: Session) -> list[dict[str, Any]]:
    from edgekd.report.pytest_benchmark import benchmark_rows

    rows = []
    for one in session.judged:
        if one.folder is not None:
            rows += benchmark_rows(one.folder, one.nodeid if one.call == 1 else f"{one.nodeid}#{one.call}")
    return rows


def reference_lines(session: Session) -> list[str]:
    """This session's timings beside those of ``--edgekd-reference``, by name; for reading only."""
    from edgekd.evidence.pytest_benchmark import read_benchmark_json
    from edgekd.report.text import table
    from edgekd.report.words import milliseconds

    if session.reference is None:
        return []
    try:
        stored = {b.fullname: b for b in read_benchmark_json(session.reference)}
    except EdgeKDError as e:
        return [f"--edgekd-reference: {e}"]
    shown_rows = []
    for row in _rows(session):
        then = stored.get(row["fullname"])
        now = [milliseconds(1e9 * row["stats"][k]) for k in ("min", "median")]
        before = ["–", "–"] if then is None else [milliseconds(1e9 * s) for s in (then.min_s, then.median_s)]
        shown_rows.append((row["fullname"], *now, *before))
    title = f"beside {session.reference}, whose numbers are of another run: shown, never judged by"
    return [title, *table(("arm", "min", "median", "then: min", "median"), shown_rows)]
