"""Runs cases in this process, one after the other, and writes one JSON line for each: its own time and memory.

``python tests/hostile/hostile_child.py FOLDER [NAME ...]``. A case that takes the process with it is started again by
:mod:`hostile_run`, after it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parents[1]))

import hostile_case as case

import edgekd.cli

#: What the tuned settings of the corpus say that they belong to.
TUNED_DIGEST = "sha256:" + "0" * 64
#: Seconds after which a case hangs, and MiB of data that a child may have.
HANG_S = 30
DATA_MIB = 1024


class HangError(BaseException):
    """A case that did not end."""


def _open(path: Path) -> object:
    from edgekd.models import open_reference
    from edgekd.stages import StageStore

    return open_reference(str(path), weights=None, base=None, store=StageStore(path.parent / "cache"))


def _data(path: Path) -> object:
    from edgekd.data.sources import open_source

    return sum(1 for _ in open_source(str(path)))


def _recipe(path: Path) -> object:
    from edgekd.recipe import load_recipe

    return load_recipe(path, {})


def _policy(path: Path) -> object:
    from edgekd.recipe import load_policy

    return load_policy(path, {})


def _benchmarks(path: Path) -> object:
    from edgekd.evidence.pytest_benchmark import read_benchmark_json

    return read_benchmark_json(path)


def _evaluation(path: Path) -> object:
    from edgekd.evidence.evaluation import load_evaluation

    return load_evaluation(path)


def _run(folder: Path) -> object:
    from edgekd.evidence.run import load_run
    from edgekd.gates.judge import judge_run
    from edgekd.recipe import stored_policy

    run = load_run(folder)
    return judge_run(folder, run, stored_policy(folder, run))


def _tokenizer(path: Path) -> object:
    from edgekd.tasks.tokenizer import TextEncoder

    encoder = TextEncoder({"tokenizer": str(path), "pad": "longest"}, None)
    return encoder.encode("a" * 40 + "!")


def _tuned(path: Path) -> object:
    from types import SimpleNamespace

    from edgekd.tuned import TUNED_ENDING, read_beside

    bare = path.with_name(path.name.removesuffix(TUNED_ENDING))
    stand_in: Any = SimpleNamespace(path=bare, digest=TUNED_DIGEST)
    return read_beside(stand_in)


def _event(path: Path) -> object:
    from edgekd.ci.github import commit_of, event_of, pull_request_of

    environ = {"GITHUB_EVENT_PATH": str(path)}
    event = event_of(environ)
    if pull_request_of(event) is not None or commit_of(event, environ):
        raise AssertionError("an event was read out of this")
    return event


def _baseline(path: Path) -> object:
    from edgekd.ci.baseline import fetch_baseline, parse_source

    return fetch_baseline(
        parse_source(path.read_text()), path.parent / "into", repository=path.parent, environ=dict(os.environ)
    )


DOORS: Mapping[str, Callable[[Path], object]] = {
    case.OPEN: _open,
    case.DATA: _data,
    case.RECIPE: _recipe,
    case.POLICY: _policy,
    case.BENCHMARKS: _benchmarks,
    case.EVALUATION: _evaluation,
    case.RUN: _run,
    case.TOKENIZER: _tokenizer,
    case.TUNED: _tuned,
    case.EVENT: _event,
    case.BASELINE: _baseline,
}
#: Doors that are verbs of their own.
VERBS = {case.INSPECT: "inspect", case.VERIFY: "verify"}


def _hung(signum: int, frame: FrameType | None) -> None:
    raise HangError


def _through(door: str, path: Path) -> int:
    """The exit code, by way of the command line's own last door."""
    if door in VERBS:
        return edgekd.cli.main([VERBS[door], str(path)])

    def dispatch(argv: object) -> int:
        DOORS[door](path)
        return 0

    kept = edgekd.cli._dispatch
    edgekd.cli._dispatch = dispatch
    try:
        return edgekd.cli.main([door])
    finally:
        edgekd.cli._dispatch = kept


def peak_mib() -> float:
    """The greatest resident size since :func:`forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def forget_peak() -> None:
    """Start the peak anew (proc(5), clear_refs); where that is not to be had the peak is the process's."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def measure(one: case.Case, folder: Path) -> dict[str, object]:
    """Make a case, give it to its door, and say what came."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = one.make(folder)
    out, err = io.StringIO(), io.StringIO()
    forget_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    signal.alarm(HANG_S)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = _through(one.door, path)
    except HangError:
        code = -1
    finally:
        signal.alarm(0)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = peak_mib()
    pwned = [str(p) for p in (folder / "pwned", Path("pwned")) if p.exists()]
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "name": one.name, "code": code, "stdout": out.getvalue()[:4000], "stderr": err.getvalue()[:4000],
        "cpu_s": cpu, "wall_s": wall, "peak_mib": peak, "path": path.name, "ran": pwned,
    }  # fmt: skip


def main() -> int:
    folder, wanted = Path(sys.argv[1]), set(sys.argv[2:])
    cases = [c for c in case.all_cases() if not wanted or c.name in wanted]
    # What the doors import is no part of what a file costs.
    for first in (case.Case(name="warm", trick="", door=d, make=_absent, code=2) for d in (*VERBS, *DOORS)):
        measure(first, folder / "warm")
    signal.signal(signal.SIGALRM, _hung)
    resource.setrlimit(resource.RLIMIT_DATA, (DATA_MIB << 20, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    results = sys.__stdout__
    for one in cases:
        print(json.dumps({"begin": one.name}), file=results, flush=True)
        print(json.dumps(measure(one, folder / one.name)), file=results, flush=True)
    return 0


def _absent(folder: Path) -> Path:
    return folder / "absent.onnx"


if __name__ == "__main__":
    sys.exit(main())
