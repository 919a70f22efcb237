"""JSON Schemas (2020-12) of every document that EdgeKD reads or writes.

Unknown fields are allowed in written documents: a later version may add some. A removed field raises the number in
the document's ``schema``. ``recipe`` and ``policy`` are made from the pydantic models, which refuse unknown keys; after
changing those run ``python -m edgekd.schemas``.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgekd.errors import UsageError

#: Documents with a schema written by hand, then those generated from the recipe's models.
WRITTEN = (
    "artifact",
    "comparison",
    "evaluation",
    "manifest",
    "measurement",
    "model",
    "placement",
    "provenance",
    "run",
    "search",
    "speedup",
    "stage",
    "terms",
    "thumbnails",
    "tuned",
    "verdict",
)
GENERATED = ("policy", "recipe")

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def load_schema(name: str) -> dict[str, Any]:
    """The schema of a document, e.g. ``load_schema("verdict")``.

    Raises:
        UsageError: no such document.
    """
    if name not in WRITTEN + GENERATED:
        raise UsageError(
            f"there is no schema '{name}'", f"choose one of {', '.join(sorted(WRITTEN + GENERATED))}"
        )
    text = files("edgekd.schemas").joinpath(f"{name}.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def generate_schema(name: str) -> dict[str, Any]:
    """The schema of a recipe or policy, from its pydantic model.

    Raises:
        UsageError: another name.
    """
    from edgekd.recipe import GatesBlock, Recipe

    if name == "recipe":
        schema = Recipe.model_json_schema()
        title = "An EdgeKD recipe"
    elif name == "policy":
        block = GatesBlock.model_json_schema(ref_template="#/$defs/{model}")
        definitions = block.pop("$defs", {})
        schema = {
            "$defs": {**definitions, "GatesBlock": block},
            "anyOf": [
                {"$ref": "#/$defs/GatesBlock"},
                {
                    "type": "object",
                    "properties": {"gates": {"$ref": "#/$defs/GatesBlock"}},
                    "required": ["gates"],
                    "additionalProperties": False,
                },
            ],
        }
        title = "An EdgeKD policy: a recipe's gates block, with or without the word `gates:` around it"
    else:
        raise UsageError(f"'{name}' is not generated", f"choose one of {', '.join(GENERATED)}")
    return {**schema, "$schema": DIALECT, "title": title}


def write_generated(folder: Path) -> None:
    """Write the generated schemas into ``folder``."""
    for name in GENERATED:
        text = json.dumps(generate_schema(name), indent=1, sort_keys=True, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
