"""``edgekd demo``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from edgekd.cli import options

_MARGIN_NOTE = (
    "The accuracy margin is 3 points because only 450 digits are held back: with so few, a margin of 1 point is "
    "inconclusive in 17 of 20 splits."
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("runs/demo"), help="run folder (default: %(default)s)"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="start over instead of continuing from the cache"
    )
    parser.add_argument("--remeasure", action="store_true", help="measure again, keep the rest")


def run(args: argparse.Namespace) -> int:
    """Exit 0 whatever the verdict is: the demo shows the line, it gates nothing."""
    from edgekd.cli.progress import TrainingBar
    from edgekd.pipeline.run import run_recipe
    from edgekd.recipe import load_recipe
    from edgekd.report import render

    path = Path(__file__).parents[1] / "pipeline" / "recipes" / "demo.yaml"
    print(
        f"edgekd demo: teacher and student on scikit-learn's digits; results go to {args.out}",
        file=sys.stderr,
    )
    run_recipe(
        load_recipe(path, os.environ), base=path.parent, out=args.out, store=options.store(args),
        remeasure=args.remeasure, notes=[_MARGIN_NOTE], progress=TrainingBar(),
    )  # fmt: skip
    print(render(args.out, "text", colour=options.colours()))
    print(f"Report: {args.out / 'report.html'}   Verdict: {args.out / 'verdict.json'}")
    return 0
