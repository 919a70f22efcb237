"""What a recipe or a policy would do, read without running it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekd.ci.lfs import refuse_pointer
from edgekd.errors import UsageError
from edgekd.recipe import Recipe, load_policy, load_recipe
from edgekd.strict_yaml import read_yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was read.

    Attributes:
        path: the file; kind: ``recipe`` or ``policy``.
        name: the recipe's name; empty for a policy.
        gates: the gates asked, by their keys.
        trains: the keys that make a run train; empty where it starts from models that are there.
    """

    path: Path
    kind: str
    name: str
    gates: tuple[str, ...]
    trains: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """In one line, for a log."""
        trains = f"; trains ({', '.join(self.trains)})" if self.trains else ""
        name = f" {self.name}" if self.name else ""
        return f"{self.path}: {self.kind}{name}: {', '.join(self.gates)}{trains}"


def read_plan(path: Path, environ: Mapping[str, str]) -> Plan:
    """Read a recipe (it has the key ``edgekd``) or a policy.

    Raises:
        RecipeError: unreadable, or a key is unknown, missing or wrong.
    """
    value, _ = read_yaml(path, environ)
    if "edgekd" not in value:
        return Plan(path=path, kind="policy", name="", gates=tuple(load_policy(path, environ).asked))
    recipe = load_recipe(path, environ)
    return Plan(
        path=path,
        kind="recipe",
        name=recipe.name,
        gates=tuple(recipe.gates.asked),
        trains=training_of(recipe),
    )


def training_of(recipe: Recipe) -> tuple[str, ...]:
    """Keys of a recipe that make a run train."""
    keys = {
        "distill": recipe.distill,
        "teacher.train": recipe.teacher.train,
        "student.naive": recipe.student.naive,
    }
    return tuple(key for key, value in keys.items() if value)


def refuse_training(plan: Plan) -> None:
    """A pull request gates what was built before; nobody retrains on every push.

    Raises:
        UsageError: the recipe trains.
    """
    if plan.trains:
        raise UsageError(
            f"{plan.path} trains ({', '.join(plan.trains)}), and training was not asked",
            "gate the built student (a recipe without those keys, or --student), or ask for it: `train: true`",
        )


def check_models(path: Path, environ: Mapping[str, str]) -> None:
    """Refuse a recipe whose model files are Git LFS pointers; files that are not there yet are not looked for.

    Raises:
        ModelError: a pointer.
    """
    recipe = load_recipe(path, environ)
    for role, block in (("teacher", recipe.teacher), ("student", recipe.student)):
        for reference in filter(None, (block.model, block.weights)):
            if not reference.startswith(("zoo:", "python:")):
                refuse_pointer(path.resolve().parent / reference, role)
