"""``edgekd ci``: what a job does around a gate."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ACTIONS = ("check", "name", "baseline", "decision", "comment")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=ACTIONS,
        help="check: read recipes and policies, run nothing; name: what a gate is called; baseline: bring last "
        "release's model and print its path; decision: what a run folder came to; comment: tell it",
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
    from edgekd.ci.plan import check_models, read_plan, refuse_training
    from edgekd.errors import EdgeKDError, UsageError, worst_exit

    if not args.what and not args.model:
        raise UsageError("nothing to check", "name recipes, policies or --model files")
    codes = []
    for file in map(Path, args.what):
        try:
            plan = read_plan(file, os.environ)
            if args.no_train:
                refuse_training(plan)
            if plan.kind == "recipe":
                check_models(file, os.environ)
            print(plan.line)
        except EdgeKDError as e:
            codes.append(_told(e))
    for file in map(Path, args.model):
        try:
            refuse_pointer(file, "model")
        except EdgeKDError as e:
            codes.append(_told(e))
    return worst_exit(codes)


def _told(error: Exception) -> int:
    from edgekd.errors import EdgeKDError

    print(f"edgekd: error: {' '.join(str(error).split())}", file=sys.stderr)
    return error.exit_code if isinstance(error, EdgeKDError) else 4


def _name(args: argparse.Namespace) -> int:
    from edgekd.ci.plan import read_plan
    from edgekd.pipeline.folder import slug

    path = Path(args.what[0])
    is_recipe = path.suffix in (".yaml", ".yml")
    print(slug(read_plan(path, os.environ).name if is_recipe else path.stem))
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
    from edgekd.gates.verdict import VERDICT_FILE, load_verdict
    from edgekd.report.words import HEADLINES

    folder = Path(args.what[0])
    if has_verdict(folder):
        verdict = load_verdict(folder / VERDICT_FILE)
        reasons = [g.reason for g in verdict.gates if g.decision == verdict.decision != "pass"]
        print(verdict.decision)
        print(" ".join([HEADLINES[verdict.decision], *reasons[:1]]))
        return 0
    print("error")
    print(last_error(_log(args)) or f"no verdict: the gate ended with exit code {args.code}")
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
    told = tell(outcome, environ=os.environ, comments=not args.summary_only, say=_say)
    if not told and not os.environ.get("GITHUB_STEP_SUMMARY"):
        print(report_of(outcome))
    return 0


def _log(args: argparse.Namespace) -> str:
    if args.log is None or not args.log.is_file():
        return ""
    return str(args.log.read_text(encoding="utf-8", errors="replace"))


def _say(line: str) -> None:
    mark = "::warning::" if os.environ.get("GITHUB_ACTIONS") == "true" else "edgekd: "
    print(f"{mark}{' '.join(line.split())}", file=sys.stderr if mark == "edgekd: " else sys.stdout)
