"""``edgekd ci``: what a job does around a gate."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekd.errors import EdgeKDError

ACTIONS = ("check", "name", "baseline", "decision", "comment")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=ACTIONS,
        help="check: read recipes and policies, run nothing; name: what a gate is called, also where its recipe is "
        "broken; baseline: bring last release's model and print its path; decision: what a run folder came to; "
        "comment: tell it",
    )
    parser.add_argument(
        "what",
        metavar="WHAT",
        nargs="*",
        help="check: recipe and policy files; name: a recipe or a model; baseline: PATH, ref:REF:PATH or "
        "release:TAG:FILE; decision, comment: a run folder",
    )
    group = parser.add_argument_group("check")
    group.add_argument("--no-train", action="store_true", help="refuse a recipe that trains")
    group.add_argument(
        "--model",
        metavar="FILE",
        action="append",
        default=[],
        help="refuse it if it is a Git LFS pointer (repeatable)",
    )
    group.add_argument(
        "--data",
        metavar="DATA",
        action="append",
        default=[],
        help="the same of data as `edgekd gate --data` takes it, or of any other file (repeatable)",
    )
    group = parser.add_argument_group("baseline")
    group.add_argument(
        "--into",
        metavar="DIR",
        type=Path,
        default=Path(".edgekd/baseline"),
        help="where it is written (default: %(default)s)",
    )
    group.add_argument(
        "--first-run",
        choices=["accept"],
        help="a baseline that is not there yet is no error: the path printed does not exist",
    )
    group = parser.add_argument_group("decision and comment")
    group.add_argument(
        "--name", metavar="N", default="", help="what the gate is called (default: the run's name)"
    )
    group.add_argument("--code", metavar="N", type=int, help="the exit code of the gate")
    group.add_argument("--log", metavar="F", type=Path, help="what the gate wrote to stderr")
    group.add_argument(
        "--junit", metavar="F", type=Path, help="decision: write JUnit XML here where there is no verdict"
    )
    group.add_argument("--evidence-url", metavar="URL", default="", help="where the run folder was uploaded")
    group.add_argument("--summary-only", action="store_true", help="write the job's summary and no comment")


def run(args: argparse.Namespace) -> int:
    from edgekd.errors import UsageError

    if args.action != "check" and len(args.what) != 1:
        raise UsageError(f"edgekd ci {args.action} takes one argument", "see `edgekd ci --help`")
    if args.action == "check":
        return _check(args)
    return {"name": _name, "baseline": _baseline, "decision": _decision, "comment": _comment}[args.action](
        args
    )


def _check(args: argparse.Namespace) -> int:
    """Every file is read, so that one call shows all that is wrong; the worst exit code counts."""
    from edgekd.ci.lfs import refuse_pointer
    from edgekd.ci.plan import check_recipe, data_files, read_plan, refuse_training
    from edgekd.errors import EdgeKDError, UsageError, worst_exit

    files = [("model", file) for file in args.model]
    files += [("", file) for reference in args.data for file in data_files(reference)]
    if not args.what and not args.model and not args.data:
        raise UsageError("nothing to check", "name recipes, policies, --model or --data files")
    codes = []
    for file in map(Path, args.what):
        try:
            plan = read_plan(file, os.environ)
            if args.no_train:
                refuse_training(plan)
            if plan.kind == "recipe":
                check_recipe(file, os.environ)
            print(plan.line)
        except EdgeKDError as e:
            codes.append(_told(e, str(file)))
    for role, name in files:
        try:
            refuse_pointer(Path(name), role)
        except EdgeKDError as e:
            codes.append(_told(e, name))
    return worst_exit(codes)


def _told(error: EdgeKDError, file: str) -> int:
    """One line, which names the file: several are checked."""
    text = " ".join(str(error).split())
    print(f"edgekd: error: {text if file in text else f'{file}: {text}'}", file=sys.stderr)
    return error.exit_code


def _name(args: argparse.Namespace) -> int:
    from edgekd.ci.plan import gate_name
    from edgekd.pipeline.folder import slug

    path = Path(args.what[0])
    is_recipe = path.suffix in (".yaml", ".yml")
    print(slug(gate_name(path, os.environ) if is_recipe else path.stem))
    return 0


def _baseline(args: argparse.Namespace) -> int:
    from edgekd.ci.baseline import fetch_baseline, parse_source
    from edgekd.errors import UsageError

    text = args.what[0]
    found = fetch_baseline(parse_source(text), args.into, repository=Path.cwd(), environ=os.environ)
    if not found.found:
        if args.first_run != "accept":
            raise UsageError(
                f"there is no baseline {text}",
                "correct it, or accept that there is none yet: --first-run accept",
            )
        print(f"no baseline yet: {text} is not there, and a first run was accepted", file=sys.stderr)
    print(found.reference)
    return 0


def _decision(args: argparse.Namespace) -> int:
    """Two lines: the decision, and one sentence about it. Without a verdict, `error` and the log's last error."""
    from edgekd.ci.comment import has_verdict, last_error
    from edgekd.ci.no_verdict import junit_of
    from edgekd.files import write_bytes
    from edgekd.gates.verdict import VERDICT_FILE, load_verdict
    from edgekd.report.words import HEADLINES

    folder = Path(args.what[0])
    if has_verdict(folder):
        verdict = load_verdict(folder / VERDICT_FILE)
        reasons = [g.reason for g in verdict.gates if g.decision == verdict.decision != "pass"]
        print(verdict.decision)
        print(" ".join([HEADLINES[verdict.decision], *reasons[:1]]))
        return 0
    why = last_error(_log(args)) or f"no verdict: the gate ended with exit code {args.code}"
    if args.junit is not None:
        write_bytes(args.junit, junit_of(args.name or folder.name, why).encode())
    print("error")
    print(why)
    return 0


def _comment(args: argparse.Namespace) -> int:
    from edgekd.ci.comment import has_verdict
    from edgekd.ci.tell import Outcome, report_of, tell
    from edgekd.evidence.run import load_run

    folder = Path(args.what[0])
    name = args.name or (load_run(folder).name if has_verdict(folder) else folder.name)
    outcome = Outcome(
        name=name, folder=folder, code=args.code, log=_log(args), evidence_url=args.evidence_url
    )
    told = tell(outcome, environ=os.environ, comments=not args.summary_only, say=_say, warn=_warn)
    if not told and not os.environ.get("GITHUB_STEP_SUMMARY"):
        print(report_of(outcome))
    return 0


def _log(args: argparse.Namespace) -> str:
    if args.log is None or not args.log.is_file():
        return ""
    return str(args.log.read_text(encoding="utf-8", errors="replace"))


def _say(line: str) -> None:
    print(f"edgekd: {' '.join(line.split())}", file=sys.stderr)


def _warn(line: str) -> None:
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print(f"::warning::{' '.join(line.split())}")
    else:
        _say(line)
