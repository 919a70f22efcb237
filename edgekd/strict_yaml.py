"""YAML read strictly, from a file to plain values, with the line of every key.

Duplicate keys, keys without a value, infinite numbers and alias bombs are refused; dates stay text. ``${NAME}`` and
``${NAME:-default}`` are filled in before the YAML is read, so that a number may come from the environment.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from edgekd.documents import read_plain_file
from edgekd.errors import RecipeError

#: What would start a new line, a comment or a key where a variable is filled in.
_STRUCTURE = re.compile(r"[\x00-\x1f\x85\u2028\u2029]|\s#|:\s|:$")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


#: Nodes that a recipe may have once its aliases are written out; real ones have about a hundred.
_MAX_NODES = 10_000
#: Bytes that it may have; real ones have thousands. PyYAML reads about a megabyte in a second.
_MAX_BYTES = 256 << 10
#: Digits that a whole number may have: as many as a number of 64 bits in base 2.
_MAX_DIGITS = 70


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys and infinite numbers, and leaves dates as text."""

    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        # Counted as they come: a document of a million takes seconds before it is whole.
        self.nodes += 1
        if self.nodes > _MAX_NODES:
            raise yaml.composer.ComposerError(None, None, f"more than {_MAX_NODES} values", self.get_mark())
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    value = loader.construct_yaml_float(node)
    if not math.isfinite(value):
        raise yaml.constructor.ConstructorError(
            None, None, f"{node.value} is not a finite number", node.start_mark
        )
    return value


_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    if len(node.value) > _MAX_DIGITS:
        raise yaml.constructor.ConstructorError(
            None, None, f"a whole number of more than {_MAX_DIGITS} digits", node.start_mark
        )
    return int(loader.construct_yaml_int(node))


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    value = str(loader.construct_yaml_str(node))
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise yaml.constructor.ConstructorError(
            None, None, "half of a surrogate pair, which is no text", node.start_mark
        )
    return value


_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:str", _text)


def _check_size(root: yaml.Node | None, path: Path) -> None:
    """Refuse a document that is huge once its aliases are written out, or that contains itself."""
    sizes: dict[int, int] = {}
    open_: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        if id(node) in open_:
            raise RecipeError(f"{path}:{node.start_mark.line + 1}: an alias contains itself", "write it out")
        open_.add(id(node))
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [n for pair in node.value for n in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        sizes[id(node)] = 1 + sum(map(size, children))
        open_.discard(id(node))
        return sizes[id(node)]

    if root is not None and size(root) > _MAX_NODES:
        raise RecipeError(
            f"{path}: more than {_MAX_NODES} values once its aliases are written out", "shorten it"
        )


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, (str, int, float, bool)):
            raise yaml.constructor.ConstructorError(
                None, None, "keys must be plain text", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key '{key}' is given twice", key_node.start_mark
            )
        if (
            isinstance(value_node, yaml.ScalarNode)
            and value_node.tag.endswith(":null")
            and not value_node.value
        ):
            # A gate whose lines are all commented out would otherwise not be asked, without a word.
            raise yaml.constructor.ConstructorError(
                None, None, f"key '{key}' has no value (write `null` to mean none)", key_node.start_mark
            )
        seen[key] = loader.construct_object(value_node, deep=True)
    return seen


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _expand(text: str, environ: Mapping[str, str], path: Path) -> str:
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):

        def fill(match: re.Match[str], where: str = f"{path}:{number}") -> str:
            name, default = match.group(1), match.group(2)
            if default is not None and "${" in default:
                raise RecipeError(
                    f"{where}: the default of ${{{name}}} holds another variable, which is not filled in",
                    "give plain text as the default, or leave it out",
                )
            given = environ.get(name)
            value = given or default
            if value is None:
                raise RecipeError(f"{where}: ${{{name}}} is not set", f"set the environment variable {name}")
            if given and _STRUCTURE.search(given):
                raise RecipeError(
                    f"{where}: ${{{name}}} holds {shown(given)}, which YAML would not read as one value",
                    f"set {name} to plain text without line breaks, ' #' and ': '",
                )
            return value

        if not line.lstrip().startswith("#"):
            lines[number - 1] = _VARIABLE.sub(fill, line)
    return "\n".join(lines)


def line_of(node: yaml.Node | None, location: tuple[Any, ...]) -> int:
    """Line (from 1) of a key path in a composed document; of its nearest ancestor where it is absent."""
    line = 1
    for step in location:
        if isinstance(node, yaml.MappingNode):
            for key_node, value_node in node.value:
                if str(key_node.value) == str(step):
                    node, line = value_node, key_node.start_mark.line + 1
                    break
            else:
                break
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
        else:
            break
    return line


def shown(value: Any) -> str:
    """A value as it is quoted in a message: on one line, and short."""
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def read_yaml(path: Path, environ: Mapping[str, str]) -> tuple[dict[Any, Any], yaml.Node | None]:
    """Read a file of keys and values.

    Args:
        path: a YAML file.
        environ: what ``${NAME}`` is filled in from.

    Returns:
        The values, and the composed document for :func:`line_of`.

    Raises:
        RecipeError: unreadable, or not such a file; names the file and, where there is one, the line.
    """
    try:
        text = read_plain_file(path, RecipeError, largest_bytes=_MAX_BYTES).decode("utf-8")
    except OSError as e:
        raise RecipeError(
            f"cannot read {path}: {e.strerror}", "check the path, or write one with `edgekd init`"
        ) from e
    except UnicodeDecodeError as e:
        raise RecipeError(f"{path} is not UTF-8 text ({e.reason})", "is this a recipe?") from e
    text = _expand(text, environ, path)
    try:
        root = yaml.compose(text, Loader=_Loader)
        _check_size(root, path)
        value = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise RecipeError(f"{where}: {e.problem or e.context}", "mend the YAML") from e
    except (yaml.YAMLError, RecursionError, ValueError) as e:
        raise RecipeError(f"{path} is not YAML ({' '.join(str(e).split())})", "mend the file") from e
    if not isinstance(value, dict):
        raise RecipeError(
            f"{path}:1: expected keys and values, got {type(value).__name__}", "see docs/recipe.md"
        )
    return value, root
