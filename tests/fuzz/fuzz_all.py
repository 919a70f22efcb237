"""`make fuzz`: every target in a process of its own, and a table at the end; exits with 1 where anything crashed.

``python tests/fuzz/fuzz_all.py --executions 10000 --page docs/results/fuzz.md`` also writes the page.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE))

#: Seconds by the wall after which a target that says nothing is given up.
PATIENCE_S = 3600
_HEAD = (
    "target",
    "reads",
    "engine",
    "executions",
    "accepted",
    "per CPU second",
    "slowest, ms",
    "peak, MiB",
    "crashes",
)


def fuzz(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One target's result; a process that died is a crash of its own."""
    result = args.work / f"{name}.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / "fuzz_one.py"), name, "--work", str(args.work)]
    command += ["--executions", str(args.executions), "--seed", str(args.seed)]
    command += ["--engine", args.engine] if args.engine else []
    begin = time.monotonic()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
        )  # fmt: skip
        said, code = (done.stderr or done.stdout)[-2000:], done.returncode
    except subprocess.TimeoutExpired:
        said, code = f"no end after {PATIENCE_S} s", -1
    if code in (0, 1) and result.is_file():
        return dict(json.loads(result.read_text()))
    crash = {"kind": f"exit {code}", "where": name, "message": said, "input": "", "times": 1}
    return {
        "target": name, "reads": "", "engine": args.engine or "", "executions": 0, "accepted": 0, "per_s": 0.0,
        "wall_s": time.monotonic() - begin, "slowest_ms": 0.0, "peak_mib": 0.0, "crashes": [crash],
    }  # fmt: skip


def row(result: Mapping[str, Any]) -> tuple[str, ...]:
    keys = ("target", "reads", "engine")
    return (
        *(str(result[k]) for k in keys),
        f"{result['executions']:,}",
        f"{result['accepted']:,}",
        f"{result['per_s']:,.0f}",
        f"{result['slowest_ms']:.0f}",
        f"{result['peak_mib']:.0f}",
        str(len(result["crashes"])),
    )


def markdown(results: Sequence[Mapping[str, Any]], executions: int, seed: int) -> str:
    """The page of results."""
    names = ("atheris", "hypothesis", "numpy", "PyYAML", "pydantic")
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in names if _installed(n))
    crashes = sum(len(r["crashes"]) for r in results)
    lines = [
        "# Fuzzing: what came of it",
        "",
        f"{sum(r['executions'] for r in results):,} executions of {len(results)} targets, {crashes} crashes. A crash is",
        "any exception but an error of EdgeKD's own (`trials` has one of its own), more than 1 s of CPU time in one",
        "execution, an execution that does not end, or more than 512 MiB in the target's process, the interpreter and the",
        "fuzzer included. *Accepted* are inputs that were read without a refusal.",
        "",
        f"Python {platform.python_version()}, {versions}, {platform.system()} {platform.machine()};",
        f"{executions:,} executions each, seed {seed}, one process per target, `OMP_NUM_THREADS=1`.",
        "",
        "```bash no-run",
        "make fuzz",
        "```",
        "",
        "| " + " | ".join(_HEAD) + " |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|",
        *("| " + " | ".join(row(r)) + " |" for r in results),
        "",
    ]
    found = [(r["target"], c) for r in results for c in r["crashes"]]
    if found:
        lines += ["## Crashes", ""]
        lines += [
            f"- `{name}`: {c['kind']} at {c['where']} ({c['times']} times): {c['message']}"
            for name, c in found
        ]
        lines.append("")
    return "\n".join(lines)


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main() -> int:
    from fuzz_one import load_targets

    parser = argparse.ArgumentParser(description="Fuzz every door that outside bytes come through.")
    parser.add_argument("--executions", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=("atheris", "hypothesis"), default=None)
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--work", type=Path, default=Path("runs/fuzz"), help="inputs that crash stay there")
    parser.add_argument("--page", type=Path, default=None, help="also write the table as a page of docs/")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    results = []
    for name in load_targets():
        if args.only and name not in args.only:
            continue
        results.append(fuzz(name, args))
        print(shlex.join(row(results[-1])), flush=True)
        for crash in results[-1]["crashes"]:
            print(
                f"    {crash['kind']} at {crash['where']}, {crash['times']} times: {crash['message']}",
                flush=True,
            )
    page = markdown(results, args.executions, args.seed)
    print(page)
    if args.page is not None:
        args.page.write_text(page, encoding="utf-8")
    return 1 if any(r["crashes"] for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
