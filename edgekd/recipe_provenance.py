"""The ``provenance`` block of a recipe, or of a file of its own: shapes for editors, and errors with file, line and key.

What the values mean is :func:`edgekd.provenance.declared.parse_declaration`'s; this reads them from YAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    Field,
    JsonValue,
    StrictBool,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from edgekd.errors import RecipeError
from edgekd.policy import Block
from edgekd.provenance.declared import Declaration, parse_declaration, read_texts
from edgekd.recipe_refusal import refusal
from edgekd.strict_yaml import read_yaml

#: The shortest file that says all: work made in-house.
SHORTEST = "{teacher: {name: NAME, licence: own}, data: {name: NAME, licence: own}}"

#: For editors; what is empty is refused in words of our own.
Name = Annotated[str, Field(json_schema_extra={"minLength": 1})]


class _Block(BaseModel):
    model_config = Block.model_config


class OriginBlock(_Block):
    """A data set, or what a data set or a teacher derives from."""

    name: Name
    version: str | int | float = ""
    digest: str = ""
    licence: str = ""
    source: str = ""
    terms: str | list[str] = []
    attribution: str = ""
    derived_from: dict[str, JsonValue] | list[dict[str, JsonValue]] = []
    licence_file: str | list[str] = []
    notice_file: str | list[str] = []

    @field_validator("version")
    @classmethod
    def _as_text(cls, value: str | int | float) -> str:
        return str(value)


class OriginTeacherBlock(OriginBlock):
    """A teacher: an origin, and how its knowledge was reached."""

    access: Literal["weights", "outputs-of-weights", "api-outputs", "dataset"] | None = None


class WaiverBlock(_Block):
    """``provenance.waivers``: a person takes one rule upon themselves, until a day."""

    rule: Name
    by: Name
    reason: Name
    expires: Name
    subject: str = ""


class ProvenanceBlock(_Block):
    """``provenance:`` whose knowledge is in the student."""

    teacher: OriginTeacherBlock | list[OriginTeacherBlock] | None = None
    data: OriginBlock | list[OriginBlock] | None = None
    use: Literal["commercial", "research"] = "commercial"
    competing: StrictBool | None = None
    waivers: list[WaiverBlock] = []

    @model_validator(mode="after")
    def _means_something(self) -> ProvenanceBlock:
        try:
            parse_declaration(self._plain())
        except RecipeError as e:
            key, _, said = e.what.partition(" ")
            steps = [int(s) if s.isdigit() else s for s in key.split(".")[1:]]
            raise PydanticCustomError(
                "provenance", "{said}", {"said": f"{said}; {e.fix}", "steps": steps}
            ) from e
        return self

    def _plain(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_defaults=True)

    def declaration(self, base: Path) -> Declaration:
        """What the block declares, with the texts that it names.

        Args:
            base: folder of the recipe; relative paths start there.

        Raises:
            RecipeError: a licence or notice file that cannot be read.
        """
        return read_texts(parse_declaration(self._plain()), base)


def load_provenance(path: Path, environ: Mapping[str, str]) -> Declaration:
    """Read a file that holds a recipe's ``provenance:`` block, with or without the word around it.

    Raises:
        RecipeError: not such a file; names file, line and key. Or a text that it names cannot be read.
    """
    if not path.exists():
        raise RecipeError(f"there is no {path}", f"write one, which holds at least {SHORTEST}")
    value, root = read_yaml(path, environ)
    if set(value) == {"provenance"} and isinstance(root, yaml.MappingNode):
        value, root = value["provenance"], root.value[0][1]
    try:
        block = ProvenanceBlock.model_validate(value)
    except ValidationError as e:
        raise refusal(e, path, root, ProvenanceBlock) from e
    return block.declaration(path.parent)
