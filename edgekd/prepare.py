"""Files that a model's ``prepare`` names, such as a tokenizer: they belong to the model and travel with it.

In memory their paths are absolute, in ``artifact.json`` and ``model.json`` relative to that folder, and in the keys
of stages they are their content's SHA-256.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from edgekd.errors import ModelError, UsageError
from edgekd.files import sha256_file

#: The keys of ``prepare`` whose values are files.
FILE_KEYS = ("tokenizer",)
#: What export tools write beside an ONNX file, and what is taken where ``prepare`` says nothing.
TOKENIZER_FILE = "tokenizer.json"
_OURS = ("artifact.json", "model.json", "stage.json")


def locate_files(prepare: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """``prepare`` with its files as absolute paths.

    Args:
        base: where relative paths start: the recipe's folder.

    Raises:
        UsageError: a value that is no path, or a file that does not exist.
    """
    found = dict(prepare)
    for key in FILE_KEYS:
        if key not in found:
            continue
        if not isinstance(found[key], str) or not found[key]:
            raise UsageError(f"prepare.{key} {found[key]!r} is not a path", f"for example {TOKENIZER_FILE}")
        path = base / found[key]
        if not path.is_file():
            raise UsageError(
                f"prepare.{key} {path} does not exist",
                "check the path (relative paths start at the recipe, in artifact.json at its own folder)",
            )
        found[key] = str(path.resolve())
    return found


def locate_inside(prepare: Mapping[str, Any], folder: Path, document: str) -> dict[str, Any]:
    """The same for what a document beside the files says, which may name files below its own folder only.

    Raises:
        ModelError: a path that leads outside.
    """
    for key in FILE_KEYS:
        pure = PurePosixPath(str(prepare.get(key, "")))
        inside = (folder / pure).resolve().is_relative_to(folder.resolve())
        if pure.is_absolute() or ".." in pure.parts or not inside:
            raise ModelError(
                f"{folder / document} names the {key} {str(pure)!r} outside its folder",
                f"copy the {key} beside the model",
            )
    return locate_files(prepare, folder)


def carried_files(prepare: Mapping[str, Any], folder: Path) -> dict[str, tuple[str, Path]]:
    """Key -> (name below the model's ``folder``, where the file is now).

    Raises:
        UsageError: a file whose name is one of our own documents'.
    """
    made: dict[str, tuple[str, Path]] = {}
    for key in FILE_KEYS:
        if key not in prepare:
            continue
        # A relative name stays what it is: it was written for this folder.
        source = folder.resolve() / str(prepare[key])
        inside = source.is_relative_to(folder.resolve())
        name = source.relative_to(folder.resolve()).as_posix() if inside else source.name
        if name in _OURS:
            raise UsageError(f"the {key} {source} has a name that is taken", "rename the file")
        made[key] = (name, source)
    return made


def relative_prepare(prepare: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """``prepare`` as it is written into ``folder``."""
    return {**prepare, **{key: name for key, (name, _) in carried_files(prepare, folder).items()}}


def bring_files(prepare: Mapping[str, Any], folder: Path) -> None:
    """Copy the files that are not in ``folder`` yet."""
    for name, source in carried_files(prepare, folder).values():
        if source != folder.resolve() / name:
            shutil.copyfile(source, folder / name)


def prepare_key(prepare: Mapping[str, Any]) -> dict[str, Any]:
    """What decides how examples are prepared, for stage keys: files by their content, wherever they are.

    Raises:
        InputError: a file that cannot be read.
    """
    return {k: f"sha256:{sha256_file(Path(v))}" if k in FILE_KEYS else v for k, v in prepare.items()}
