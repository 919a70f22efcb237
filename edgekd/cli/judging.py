"""What the judging verbs have in common: result options, and how a verdict is shown and becomes an exit code."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.cli import drop_stdout, options
from edgekd.errors import EXIT_INCONCLUSIVE, EXIT_PASS, EXIT_REJECT

if TYPE_CHECKING:
    from edgekd.gates.verdict import Verdict


def add_result_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("result")
    group.add_argument(
        "--remeasure", action="store_true", help="measure again even where valid timings are stored"
    )
    group.add_argument(
        "--first-run",
        choices=["accept"],
        help="accept that there is no regression baseline yet: recorded as not run, not a pass",
    )
    group.add_argument(
        "--on-inconclusive",
        choices=["fail", "pass"],
        help="exit 1 or 0 instead of 3, for CI systems that know two colours",
    )
    group.add_argument("--junit", metavar="F", type=Path, help="also write JUnit XML here")
    group.add_argument("--markdown", metavar="F", type=Path, help="also write Markdown here")
    group.add_argument(
        "--json", action="store_true", help="print the verdict as JSON on stdout, everything else on stderr"
    )


def show(verdict: Verdict, folder: Path, args: argparse.Namespace) -> int:
    """Print a verdict and give the exit code that goes with it."""
    from edgekd.files import write_bytes
    from edgekd.gates.verdict import exit_code
    from edgekd.report import render

    if args.junit:
        write_bytes(args.junit, render(folder, "junit").encode())
    if args.markdown:
        write_bytes(args.markdown, render(folder, "md").encode())
    try:
        _print(verdict, folder, args)
        sys.stdout.flush()
    except BrokenPipeError:
        drop_stdout()
    if verdict.decision == "error":
        first = next(g for g in verdict.gates if g.decision == "error" and g.target not in verdict.optional)
        print(f"edgekd: error: {first.gate}: {first.reason}", file=sys.stderr)
    code = exit_code(verdict)
    if code == EXIT_INCONCLUSIVE and args.on_inconclusive:
        return EXIT_REJECT if args.on_inconclusive == "fail" else EXIT_PASS
    return code


def _print(verdict: Verdict, folder: Path, args: argparse.Namespace) -> None:
    from edgekd.report import render

    if args.json:
        json.dump(verdict.to_json(), sys.stdout, indent=1, sort_keys=True, ensure_ascii=False)
        print()
        print(f"run folder: {folder}", file=sys.stderr)
    else:
        print(render(folder, "text", colour=options.colours()))
        print(f"Run folder: {folder}")
