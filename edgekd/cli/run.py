"""``edgekd run RECIPE``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from edgekd.cli import judging, options


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", type=Path, help="a YAML file (see `edgekd init`)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="run folder (default: runs/<utc>-<digest>)")
    parser.add_argument(
        "--only",
        metavar="STAGE",
        choices=["distill", "export", "quantize"],
        help="end after this stage: distill, export or quantize; what it made stays in the cache",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="start over instead of continuing from the cache"
    )
    options.add_trust(parser)
    judging.add_result_options(parser)


def run(args: argparse.Namespace) -> int:
    from edgekd.cli.progress import TrainingBar
    from edgekd.files import digest_of
    from edgekd.pipeline import run as line
    from edgekd.pipeline.launched import refuse_several
    from edgekd.pipeline.students import check_all_written, float_artifact, make_candidates
    from edgekd.pipeline.training import make_models, task_spec
    from edgekd.recipe import load_recipe

    refuse_several("run", os.environ)
    recipe = load_recipe(args.recipe, os.environ)
    base = args.recipe.resolve().parent
    store, bar = options.store(args), TrainingBar()
    if args.only:
        line.check_names(recipe)
        made = make_models(recipe, base, store, bar)
        if args.only == "distill":
            print(f"distilled: {getattr(made.student, 'folder', '')}")
            return 0
        if args.only == "export":
            made_of = float_artifact(
                made.student, recipe.export[0], recipe, store, "student", task_spec(recipe, base)
            )
            print(f"exported: {made_of.folder}")
            return 0
        notes: list[str] = []
        students = make_candidates(recipe, made, task_spec(recipe, base), store, notes=notes)
        for note in notes:
            print(f"edgekd: {note}", file=sys.stderr)
        check_all_written(recipe, students, notes)
        for label, artifact in students:
            print(f"{label}: {artifact.folder}")
        return 0
    out = args.out or line.default_out(recipe.name, digest_of(recipe.model_dump(mode="json")))
    verdict = line.run_recipe(
        recipe, base=base, out=out, store=store, remeasure=args.remeasure,
        first_run=args.first_run == "accept", progress=bar,
    )  # fmt: skip
    return judging.show(verdict, out, args)
