"""The corpus in children: one that dies or hangs loses its own case, and the next one goes on behind it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hostile_case import Case

#: What a refusal may cost. CPU seconds: other processes' work on this machine is not the file's.
LONGEST_S = 1.0
MEMORY_MIB = 512.0
_CHILD_S = 600


def run_cases(cases: Sequence[Case], folder: Path) -> dict[str, dict[str, Any]]:
    """What came of each case, by name; see :func:`hostile_child.measure`."""
    results: dict[str, dict[str, Any]] = {}
    waiting = [c.name for c in cases]
    while waiting:
        told, begun, died = _child(folder, waiting)
        results |= told
        if died and begun is not None and begun not in told:
            results[begun] = {"name": begun, "code": None, "stderr": f"the process died: {died}"}
        if not told and begun is None:
            raise AssertionError(f"no case could be run: {died}")
        waiting = [n for n in waiting if n not in results]
    return results


def _child(folder: Path, names: Sequence[str]) -> tuple[dict[str, dict[str, Any]], str | None, str]:
    command = [sys.executable, str(Path(__file__).with_name("hostile_child.py")), str(folder), *names]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_CHILD_S, check=False, cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ""},
        )  # fmt: skip
        text, died = done.stdout, f"exit {done.returncode}: {done.stderr[-400:]}" if done.returncode else ""
    except subprocess.TimeoutExpired as e:
        text, died = (e.stdout or b"").decode(), f"no end after {_CHILD_S} s"
    told, begun = {}, None
    for line in text.splitlines():
        value = json.loads(line)
        if "begin" in value:
            begun = value["begin"]
        else:
            told[value["name"]] = value
    return told, begun, died


def problems(case: Case, found: Mapping[str, Any]) -> list[str]:
    """What is wrong with how a case was met; empty where it was refused as is due."""
    said = found["stderr"]
    wrong = []
    if found["code"] is None:
        return [said]
    if found["code"] != case.code:
        wrong.append(f"exit {found['code']}, due was {case.code}")
    if found["ran"]:
        wrong.append(f"it ran: {found['ran']}")
    if case.code:
        lines = said.removesuffix("\n").split("\n")
        if len(lines) != 1:
            wrong.append(f"{len(lines)} lines")
        if "unexpected" in said:
            wrong.append("nobody expected it")
        named = found["path"] if case.names is None else case.names
        if named not in said:
            wrong.append(f"{named!r} is not named")
        if case.rule and f"(rule {case.rule})" not in said:
            wrong.append(f"not by the rule {case.rule}")
        if case.word not in said:
            wrong.append(f"{case.word!r} is not said")
    raw = [c for c in said + found["stdout"] if c != "\n" and not c.isprintable()]
    if raw:
        wrong.append(f"{raw[0]!r} reaches the terminal")
    if found["cpu_s"] > LONGEST_S:
        wrong.append(f"{found['cpu_s']:.1f} s")
    if found["peak_mib"] > MEMORY_MIB:
        wrong.append(f"{found['peak_mib']:.0f} MiB")
    return wrong
