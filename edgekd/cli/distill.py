"""``edgekd distill RECIPE``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from edgekd.cli import options


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", type=Path, help="a YAML file with a `distill:` block")
    parser.add_argument(
        "-o",
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("student"),
        help="folder for model.json and student.safetensors (default: %(default)s)",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="start over instead of continuing from the cache"
    )
    options.add_trust(parser)


def run(args: argparse.Namespace) -> int:
    from edgekd.cli.outputs import check_new_folder
    from edgekd.cli.progress import TrainingBar
    from edgekd.distill.group import join
    from edgekd.errors import UsageError
    from edgekd.model import Model
    from edgekd.pipeline.launched import following
    from edgekd.pipeline.run import copy_model
    from edgekd.pipeline.training import make_models
    from edgekd.recipe import load_recipe

    group = join(os.environ)
    with following(group):
        recipe = load_recipe(args.recipe, os.environ)
        if recipe.distill is None:
            raise UsageError(f"{args.recipe} has no `distill:` block", "add one; see docs/recipe.md")
        if group.leads:
            check_new_folder(args.out, "model.json")
        # The naive controls are for the chain report: `edgekd run` trains them.
        recipe = recipe.model_copy(update={"student": recipe.student.model_copy(update={"naive": 0})})
        bar = TrainingBar() if group.leads else None
        made = make_models(recipe, args.recipe.resolve().parent, options.store(args), bar, group=group)
        if not isinstance(made.student, Model):
            raise UsageError(
                f"the student {recipe.student.model} is not a torch module", "name a zoo: or python: student"
            )
        if group.leads:
            copy_model(made.student, args.out)
        losses = made.student.lineage.get("losses") or [float("nan")]
        print(f"{args.out}: {made.student.parameters:,} parameters, last epoch's loss {losses[-1]:.4f}")
    return 0
