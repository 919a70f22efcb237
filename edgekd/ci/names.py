"""The names in a recipe, looked up as ``edgekd run`` does, without opening a model or data or running the user's code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from edgekd.errors import UsageError
from edgekd.recipe import Recipe

_PYTHON = "python:"


def check_names(recipe: Recipe, base: Path) -> None:
    """Look up task, metric, formats, targets and ``python:`` references.

    A target that is not on this machine is fine, one that nobody knows is not. Importing a ``python:`` module would
    run it, and a recipe is only read here: such a module is parsed where it lies beside the recipe, and not looked for
    elsewhere. What its factory makes (and so its metric) is `edgekd run`'s to find out.

    Args:
        base: the recipe's folder.

    Raises:
        UsageError: an unknown name. MissingDependencyError: a plugin that does not load.
    """
    from edgekd.pipeline import run
    from edgekd.pipeline.training import task_spec
    from edgekd.tasks import build_task

    for reference in _references(recipe):
        _check_python(reference, base)
    if not recipe.task.kind.startswith(_PYTHON):
        build_task(task_spec(recipe, base))
    run.check_names(recipe)


def _references(recipe: Recipe) -> Iterator[str]:
    task = recipe.task
    for text in (task.kind, recipe.teacher.model, recipe.student.model, *task.data.values()):
        if text.startswith(_PYTHON):
            yield text.partition("#")[0]


def _check_python(reference: str, base: Path) -> None:
    module, _, attribute = reference.removeprefix(_PYTHON).partition(":")
    if not attribute or not all(part.isidentifier() for part in module.split(".")):
        raise UsageError(f"{reference!r} is not a python reference", "write python:package.module:factory")
    place = base.joinpath(*module.split("."))
    file = next((f for f in (place / "__init__.py", place.with_suffix(".py")) if f.is_file()), None)
    if file is None:
        return
    try:
        names = _bound(ast.parse(file.read_bytes(), filename=str(file)).body)
    except (SyntaxError, ValueError) as e:
        line = f":{e.lineno}" if isinstance(e, SyntaxError) and e.lineno else ""
        raise UsageError(f"{file}{line}: {getattr(e, 'msg', e)}, for {reference!r}", "mend that file") from e
    if attribute not in names and not names & {"*", "__getattr__"}:
        raise UsageError(f"{file} has no '{attribute}'", f"check the name in {reference!r}")


def _bound(body: list[ast.stmt]) -> set[str]:
    """Names that a module's own statements bind; `*` where they cannot be told."""
    names: set[str] = set()
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(statement.name)
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            names |= {a.asname or a.name.partition(".")[0] for a in statement.names}
        else:
            names |= {n.id for n in ast.walk(statement) if isinstance(n, ast.Name)}
            for inner in ("body", "orelse", "finalbody"):
                names |= _bound(getattr(statement, inner, []))
            for handler in getattr(statement, "handlers", []):
                names |= _bound(handler.body)
    return names
