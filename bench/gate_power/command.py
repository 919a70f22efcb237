"""The command line: run a study, report on studies, replay verdicts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from edgekd.errors import EdgeKDError
from gate_power import plan
from gate_power.frozen import go_on_in_copy
from gate_power.journal import JournalError
from gate_power.load import CONDITIONS
from gate_power.peers import PeerError

#: Short mode: everything in about five minutes.
_SHORT_MINUTES = 4.5
_SHORT_CALIBRATION = 4
#: Nine digits, relative.
_REPLAYS_TO = 1e-9


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gate_power", description="How often the latency gate is wrong, beside its peers."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="make trials; goes on where an earlier run stopped")
    run.add_argument(
        "--mode", choices=["short", "full"], default="short", help="five minutes, or hours (default: short)"
    )
    run.add_argument(
        "--condition", choices=list(CONDITIONS), default="quiet", help="what else runs (default: quiet)"
    )
    run.add_argument(
        "--calls", choices=["short", "long"], default="short", help="0.8 or 100 ms (default: short)"
    )
    run.add_argument("--out", metavar="DIR", type=Path, required=True, help="the study's folder")
    run.add_argument("--models", metavar="DIR", type=Path, help="the models' folder (default: beside --out)")
    run.add_argument("--trials", metavar="E=N,…", help="per effect: null, 3, 4, 5, 10 (default: by mode)")
    run.add_argument(
        "--limit", metavar="X", type=float, default=0.02, help="as --max-regression (default: 0.02)"
    )
    run.add_argument("--minutes", metavar="M", type=float, help="begin no trial after so many")
    run.add_argument("--peers-every", metavar="N", type=int, default=2, help="0 for never (default: 2)")
    run.add_argument(
        "--keep-evidence", metavar="N", type=int, default=5, help="of the first trials (default: 5)"
    )
    run.add_argument("--calibration", metavar="N", type=int, help="restarts (default: 40, in short mode 4)")
    run.add_argument(
        "--together",
        action="store_true",
        help="one measurement per trial with a candidate of every effect in it",
    )
    run.add_argument("--seed", metavar="N", type=int, default=1)
    report = verbs.add_parser("report", help="table, summary and plot of studies")
    report.add_argument("studies", metavar="DIR", nargs="+", type=Path)
    report.add_argument("--out", metavar="DIR", type=Path, default=Path("docs/results"))
    replay = verbs.add_parser("replay", help="judge kept evidence again and compare with the stored answers")
    replay.add_argument("studies", metavar="DIR", nargs="+", type=Path)
    scatter = verbs.add_parser("scatter", help="what scatters between restarts of one model")
    scatter.add_argument("model", metavar="MODEL.onnx", type=Path)
    scatter.add_argument("--restarts", metavar="N", type=int, default=20, help="per variant (default: 20)")
    scatter.add_argument(
        "--shape", metavar="NAME=SHAPE", action="append", default=[], help="as edgekd bench's"
    )
    return parser


def _run(args: argparse.Namespace, argv: Sequence[str]) -> int:
    from gate_power.study import Request, run_study

    short = args.mode == "short"
    if not short:
        go_on_in_copy(args.out, argv)
    defaults = (plan.SHORT if short else plan.FULL)[args.calls]
    calibration = args.calibration if args.calibration is not None else _SHORT_CALIBRATION if short else 40
    request = Request(
        out=args.out,
        models=args.models or args.out.parent / f"models-{args.calls}{'-quick' if short else ''}",
        calls=args.calls,
        condition=args.condition,
        trials=plan.parse_trials(args.trials) if args.trials else defaults,
        limit=1 + args.limit,
        minutes=args.minutes if args.minutes is not None else _SHORT_MINUTES if short else None,
        peers_every=args.peers_every,
        keep_evidence=args.keep_evidence,
        calibration=calibration,
        seed=args.seed,
        together=args.together,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    run_study(request, say=lambda line: print(line, file=sys.stderr, flush=True))
    return 0


def _replay(studies: Sequence[Path]) -> int:
    from gate_power.journal import read_journal
    from gate_power.trial import replay

    failed = 0
    for study in studies:
        journal = read_journal(study)
        folders = [(t, study / "evidence" / f"{t.get('group', t['index']):04d}") for t in journal.trials]
        kept = [(t, f) for t, f in folders if f.is_dir()]
        found = [replay(folder, t["edgekd"], float(journal.key["limit"])) for t, folder in kept]
        same = [x for x in found if x is not None and x < _REPLAYS_TO]
        worst = max((x for x in found if x is not None), default=0.0)
        print(
            f"{study}: {len(same)} of {len(kept)} kept verdicts replay to 9 digits (largest difference {worst:.1e})"
        )
        failed += len(kept) - len(same)
    return 1 if failed else 0


def _scatter(args: argparse.Namespace) -> int:
    import tempfile

    from gate_power.scatter import study, table

    with tempfile.TemporaryDirectory() as work:
        found = study(
            args.model, restarts=args.restarts, work=Path(work), shapes=args.shape,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )  # fmt: skip
    print("\n".join(table(found)))
    return 0


def main(argv: Sequence[str]) -> int:
    """Returns the exit code: 0 done, 1 a verdict that does not replay, 2 what cannot be done as asked."""
    args = _parser().parse_args(argv)
    try:
        if args.verb == "run":
            return _run(args, argv)
        if args.verb == "report":
            from gate_power.page import write_report

            for path in write_report(args.studies, args.out):
                print(path)
            return 0
        if args.verb == "scatter":
            return _scatter(args)
        return _replay(args.studies)
    except ModuleNotFoundError as e:
        print(f"gate_power: {e.name} is not installed; pip install '.[ort,bench]'", file=sys.stderr)
    except (JournalError, PeerError, EdgeKDError, ValueError, PermissionError) as e:
        print(f"gate_power: {e}", file=sys.stderr)
    return 2
