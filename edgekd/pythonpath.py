"""``python:package.module:name`` references: the user's own code, found beside the recipe or on the path."""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path
from typing import Any

from edgekd.errors import UsageError
from edgekd.files import sha256_file


def resolve_python(reference: str, search: Path | None) -> Any:
    """Import what a ``python:`` reference names.

    Args:
        reference: ``python:package.module:attribute``.
        search: a folder to look in first (the recipe's, or the current one); None for the import path alone.

    Raises:
        UsageError: not of that form, not importable, or no such attribute.
    """
    scheme, _, rest = reference.partition(":")
    module_name, _, attribute = rest.partition(":")
    if scheme != "python" or not module_name or not attribute:
        raise UsageError(f"{reference!r} is not a python reference", "write python:package.module:factory")
    if search is not None and str(search) not in sys.path:
        sys.path.insert(0, str(search))
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise UsageError(
            f"{reference!r}: '{module_name}' is not a module name",
            "write python:package.module:factory, without a path and without .py",
        )
    try:
        module = importlib.import_module(module_name)
    except SyntaxError as e:
        raise UsageError(
            f"cannot import '{module_name}' for {reference!r}: {e.filename}:{e.lineno}: {e.msg}",
            "mend that line",
        ) from e
    except ImportError as e:
        raise UsageError(
            f"cannot import '{module_name}' for {reference!r} ({e})",
            f"put {module_name.partition('.')[0]} beside the recipe, or install it",
        ) from e
    if not hasattr(module, attribute):
        raise UsageError(f"module '{module_name}' has no '{attribute}'", f"check the name in {reference!r}")
    return getattr(module, attribute)


def python_source_digest(reference: str, search: Path | None) -> str:
    """SHA-256 of the source behind a ``python:`` reference, so that edited code is new input.

    That is the file which defines the value; where the reference names it in another one (an import, a ``partial``),
    both.
    """
    value = resolve_python(reference, search)
    modules = [reference.split(":")[1]]
    if defined := getattr(getattr(value, "func", value), "__module__", None):
        modules.insert(0, defined)
    files = [getattr(sys.modules.get(m), "__file__", None) for m in dict.fromkeys(modules)]
    found = [sha256_file(Path(f)) for f in dict.fromkeys(files) if f]
    if len(found) < 2:
        return found[0] if found else "none"
    return hashlib.sha256("".join(found).encode()).hexdigest()
