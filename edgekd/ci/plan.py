"""What a recipe or a policy would do, read without running it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekd.ci.lfs import refuse_pointer
from edgekd.ci.names import check_names
from edgekd.errors import InputError, UsageError
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


def gate_name(path: Path, environ: Mapping[str, str]) -> str:
    """What a recipe calls itself, also where it is broken: its comment must find the one of the run before.

    The key ``name`` of what can be read, else a line that begins with ``name:``, else the file's stem.
    """
    try:
        name = read_yaml(path, environ)[0].get("name")
    except InputError:
        name = _name_line(path)
    return name if isinstance(name, str) and name else path.stem


def _name_line(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""
    found = re.search(
        r"""^(["']?)name\1\s*:\s*["']?([A-Za-z0-9][A-Za-z0-9._-]*)["']?\s*(?:#.*)?$""", text, re.M
    )
    return found.group(2) if found else ""


def check_recipe(path: Path, environ: Mapping[str, str]) -> None:
    """Refuse what `edgekd run` would refuse before any work: unknown names, and files that are Git LFS pointers.

    Files that are not there yet are not looked for.

    Raises:
        UsageError: an unknown task, metric, format or target. InputError: a pointer.
        MissingDependencyError: a plugin that does not load.
    """
    recipe = load_recipe(path, environ)
    base = path.resolve().parent
    check_names(recipe, base)
    for role, reference in _files(recipe):
        refuse_pointer(base / reference, role)


def _files(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(role, path) of the files that a recipe names."""
    for role, block in (("teacher", recipe.teacher), ("student", recipe.student)):
        for reference in filter(None, (block.model, block.weights)):
            if not reference.startswith(("zoo:", "python:")):
                yield role, reference
    if recipe.gates.baseline:
        yield "baseline", recipe.gates.baseline
    for split, reference in recipe.task.data.items():
        for file in data_files(reference):
            yield f"{split} data", file


def data_files(reference: str) -> tuple[str, ...]:
    """Paths that a data reference may mean: a file's name may hold the signs that else pick rows and columns.

    >>> data_files("test.npz#0:500"), data_files("coco:a.json:images"), data_files("sklearn:digits")
    (('test.npz#0:500', 'test.npz'), ('a.json', 'images'), ())
    """
    if reference.startswith(("python:", "sklearn:")):
        return ()
    if reference.startswith("coco:"):
        return tuple(filter(None, reference.removeprefix("coco:").partition("#")[0].split(":")))
    bare = reference.rpartition("#")[0] or reference
    return tuple(dict.fromkeys((reference, bare, bare.rpartition("?")[0] or bare)))
