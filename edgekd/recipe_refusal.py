"""What is wrong with a recipe or a policy, in one line: file, line, key, and what was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from edgekd.errors import RecipeError
from edgekd.strict_yaml import line_of, shown


def _nearest(key: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}"


def _known_keys(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Keys that are allowed in the block around ``location``."""
    for step in location[:-1]:
        if isinstance(step, int):
            continue  # the list's own step has found the model of its items
        info = model.model_fields.get(step)
        inner = None if info is None else _block_in(info.annotation)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _block_in(annotation: Any) -> type[BaseModel] | None:
    """The block inside ``X``, ``X | None``, ``list[str | X]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_block_in, getattr(annotation, "__args__", ()))), None)


#: Types that a key may take; pydantic names them in the places of its errors.
_BRANCHES = frozenset(
    {
        "str",
        "int",
        "float",
        "[key]",
        "TargetBlock",
        "AccuracyGate",
        "QuantizeBlock",
        "OriginBlock",
        "OriginTeacherBlock",
    }
)


def _is_branch(step: object) -> bool:
    """Whether a step of pydantic's location names a branch of a union, not a key of the recipe."""
    return isinstance(step, str) and (
        step in _BRANCHES or step.startswith(("literal[", "list[", "function-after["))
    )


def _named_key(message: str) -> tuple[str, ...]:
    """The key that a check of the whole recipe starts its sentence with, e.g. ``gates.accuracy.max_drop is 2``."""
    word = message.removeprefix("Value error, ").split(" ", 1)[0]
    return tuple(word.split(".")) if "." in word else ()


def refusal(
    error: ValidationError, path: Path, root: yaml.Node | None, model: type[BaseModel]
) -> RecipeError:
    """The error that tells a user what to mend first.

    Args:
        error: what pydantic found; path: of the file.
        root: its composed YAML, for line numbers; model: what it was validated as.
    """
    errors = error.errors()
    # A misspelt key also makes the right one missing: the misspelling is the news.
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    if first["loc"] and _is_branch(first["loc"][-1]) and isinstance(first["input"], (dict, list)):
        # Some keys take text or a block, or a block or a list: what is wrong inside is the news, not that it is no text.
        first = next((e for e in errors[1:] if not _is_branch(e["loc"][-1])), first)
    steps = first.get("ctx", {}).get("steps", ())  # the place within a block that was checked as a whole
    location = (*(s for s in first["loc"] if not _is_branch(s)), *steps) or _named_key(first["msg"])
    key = ".".join(map(str, location)) or "the recipe"
    where = f"{path}:{line_of(root, location)}"
    if first["type"] == "extra_forbidden":
        return RecipeError(
            f"{where}: unknown key '{key}'", _nearest(str(location[-1]), _known_keys(model, location))
        )
    if first["type"] == "missing":
        return RecipeError(
            f"{where}: '{key}' is missing", "see docs/recipe.md, or `edgekd init` for one that runs"
        )
    message = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] == "value_error" or steps else f", got {shown(first['input'])}"
    return RecipeError(f"{where}: '{key}': {message}{got}", "see docs/recipe.md")
